"""`imdb-serving capacity`: how many nodes of which thread count a load takes, with interval and doubts."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import Milliseconds, as_engine, complete_engines
from imdb_serving.errors import ConfigError, DataError

if TYPE_CHECKING:
    from imdb_serving.analysis import usl
    from imdb_serving.analysis.capacity import Answer, TooFar, Way
    from imdb_serving.cell import Row


SHOWN = 4


def run_capacity(
    folder: Path,
    *,
    rate: float,
    p95: float,
    mode: str,
    engine: str,
    server_threads: int,
    extrapolate: bool,
    cores: int = 0,
) -> int:
    """Print how many nodes hold a rate within a 95th percentile (ms); returns the exit code: 0, or 1 when none do.

    With `cores` the nodes have so many, computed from the CPU time of a request. Raises `DataError` without valid
    closed-loop cells, `ConfigError` when it is too far from what was measured.
    """
    from imdb_serving.analysis.capacity import Answer, TooFar, answer, on_cores, ways
    from imdb_serving.cell import varying
    from imdb_serving.report.frames import rows_of

    every = ways(rows_of(folder), lambda row: _times(folder, row))
    chosen = [
        way
        for way in every
        if mode in {"", way.cell.mode}
        and engine in {"", way.cell.engine}
        and server_threads in {0, way.cell.server_threads}
    ]
    if not chosen:
        raise DataError(f"{folder} has no valid closed-loop cell of that kind on one node; run the sweep again")
    if cores:
        by_threads = sorted(chosen, key=lambda way: way.cell.server_threads)
        wide = {way.cell.without("server_threads", "server_processes"): on_cores(way, cores) for way in by_threads}
        chosen = list(wide.values())
    told = {"mode", "engine", *varying([way.cell for way in every])} - {"samples", "passes", "model", "server_threads"}
    found = [answer(way, rate, p95 / 1000, extrapolate=extrapolate) for way in chosen]
    held = sorted((one for one in found if isinstance(one, Answer) and one.nodes), key=_cost)
    if not held and (far := [one for one in found if isinstance(one, TooFar)]):
        raise ConfigError(_too_far(min(far, key=lambda one: one.nodes), rate))
    if not held:
        least = min(one.least_p95_s for one in found if isinstance(one, Answer))
        print(
            f"No number of nodes holds p95 within {p95:g} ms: with next to nothing to do it is {least * 1000:.3g} ms."
        )
        return 1
    for line in _in_words(held, rate, p95, told):
        print(line)
    return 0


def _times(folder: Path, row: Row) -> list[float]:
    from imdb_serving.measurement.ledger import read_samples

    return list(read_samples(folder, row.raw, ["client_infer_ns"])["client_infer_ns"])


def _cost(found: Answer) -> tuple[int, int, float]:
    """Return the order of answers: fewer nodes, then fewer threads, then the shorter tail."""
    return found.nodes or 0, found.way.cell.server_threads, found.p95_s


def _name(way: Way, told: set[str]) -> str:
    from imdb_serving.cell import plural

    return f"{plural(way.cell.server_threads, 'server thread')}, {way.cell.label(told)}"


def _in_words(held: Sequence[Answer], rate: float, p95: float, told: set[str]) -> list[str]:
    from imdb_serving.cell import plural

    best = held[0]
    nodes = best.nodes or 0
    share = rate / nodes / best.node.most
    between = "" if best.interval is None or best.interval[0] == best.interval[1] else _range(*best.interval)
    if not best.p95_interval:
        tail = ", one round: no interval"
    else:
        tail = f" ({best.p95_interval[0] * 1000:.3g} to {best.p95_interval[1] * 1000:.3g})"
    lines = [
        f"{rate:,.0f} requests/s with p95 within {p95:g} ms: {plural(nodes, 'node')}{between} "
        f"of {_name(best.way, told)}.",
        f"Each then has {rate / nodes:,.0f} of the {best.node.most:,.0f} requests/s that it gives at most "
        f"({share:.0%}); p95 {best.p95_s * 1000:.3g} ms{tail}.",
        _one_less(best),
        *_others(held[1:], told),
        f"From: {_law(best.law)}; {plural(_rounds(best.way), 'round')} of "
        f"{plural(len(best.way.clients), 'client count')}; queues simulated, requests arriving by chance.",
        *_doubts(best),
    ]
    return [line for line in lines if line]


def _range(low: int, high: int) -> str:
    return f" ({low:,} to {high:,})"


def _one_less(best: Answer) -> str:
    if best.nodes == 1:
        return ""
    if math.isinf(best.fewer_p95_s):
        return "One node less would be full."
    return f"One node less: p95 {best.fewer_p95_s * 1000:.3g} ms."


def _others(others: Sequence[Answer], told: set[str]) -> list[str]:
    from imdb_serving.cell import plural

    words = [f"{plural(one.nodes or 0, 'node')} of {_name(one.way, told)}" for one in others[:SHOWN]]
    return [f"Or {'; '.join(words)}."] if words else []


def _law(law: usl.Law | str) -> str:
    if isinstance(law, str):
        return f"the measured rates, without a law ({law})"
    if not law.fits:
        return f"the measured rates (the law does not fit, a residual of {law.residual:.0%})"
    return f"the law (contention {law.alpha:.3f}, coherency {law.beta:.4f}, residual {law.residual:.1%})"


def _rounds(way: Way) -> int:
    return min(map(len, way.clients.values()))


def _doubts(best: Answer) -> list[str]:
    from imdb_serving.analysis import usl
    from imdb_serving.cell import plural

    doubts = []
    if best.way.open_loops:
        loops = plural(len(best.way.open_loops), "open loop")
        doubts.append(f"times are {best.factor:.2f} of those simulated, as {loops} of this sweep were")
    else:
        doubts.append("no open loop of this sweep says whether requests that come by chance take as long as simulated")
    if best.way.cores:
        cpu = max(best.way.cpu)
        intake = f", of which one process does {cpu.intake_us:,.0f} for all" if cpu.intake_us else ""
        doubts.append(
            f"COMPUTED for {plural(best.way.cores, 'core')} from the CPU time of a request ({cpu.whole_us:,.0f} us"
            f"{intake}), and not measured"
        )
    elif not best.way.cell.client_nodes:
        doubts.append("clients took cores of the node that was measured; on nodes of their own they would not")
    if best.way.most_nodes == 1 and (best.nodes or 0) > 1:
        doubts.append("several nodes were not measured, and are taken not to disturb each other")
    if (best.nodes or 0) > usl.FURTHEST * best.way.most_nodes:
        measured = plural(best.way.most_nodes, "node")
        doubts.append(f"EXTRAPOLATED, as you asked: {measured} measured, and this is more than twice that")
    return [f"Mind: {'; '.join(doubts)}."] if doubts else []


def _too_far(found: TooFar, rate: float) -> str:
    from imdb_serving.analysis import usl
    from imdb_serving.cell import plural

    steps = [count for count in (1, 2, 4, 8, 16, 32) if count * usl.FURTHEST < 2 * found.nodes]
    return (
        f"{rate:,.0f} requests/s would take about {plural(found.nodes, 'node')}, and {plural(found.measured, 'node')} "
        f"measured: more than twice that is not told; measure `server_nodes: {steps}` with `placement: apart` "
        "(docs/cluster.md), or give --extrapolate"
    )


@group.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), required=True, help="Requests/s to serve.")
@click.option("--p95", type=Milliseconds(), required=True, help="The p95 to hold, for example 20ms or 1s.")
@click.option("--mode", default="", help="The cells' mode; default: any.")
@click.option(
    "--engine", default="", shell_complete=complete_engines, callback=as_engine,
    help="The cells' engine; default: any.",
)  # fmt: skip
@click.option("--server-threads", type=click.IntRange(min=0), default=0, help="With so many; 0: any.")
@click.option(
    "--cores",
    type=click.IntRange(0, 1024),
    default=0,
    help="Of a node, for its server alone: computed from the CPU time of a request; 0: as measured.",
)
@click.option("--extrapolate", is_flag=True, help="Also extrapolate beyond twice the nodes that were measured.")
def capacity(folder: Path, **options: Any) -> None:
    """Say how many nodes of which thread count a load takes, from a sweep's closed loops.

    FOLDER is a sweep's folder with its raw samples. The Universal Scalability Law gives what a node does with so many
    requests under way, and a simulation how long they take when they arrive by chance.

    \b
    Example:
      imdb-serving capacity outputs/default --rate 5000 --p95 20ms
    """
    sys.exit(run_capacity(folder, **options))

"""The gates: checks that a round must pass for its numbers to be believed. Owns the limits and their wording.

A round that fails one is invalid: it is drawn hollow and no verdict uses it. Works on rows; docs/method.md says where
the limits come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from imdb_serving.cell import CLOSED, FOREIGN, LOCAL_MODES, OFFLINE, Finding, Row

OF_CEILING = 0.7
STAGES_SHARE, STAGES_US = 0.01, 50.0
LITTLE = 0.03
ACHIEVED = 0.99
TOLERANCE = 1e-4
FOREIGN_CORES, FOREIGN_SECONDS = 0.25, 0.05
STEAL_CORES = 0.25
THROTTLED_SHARE, THROTTLED_SECONDS = 0.01, 0.01

Gate = Callable[[Row], Iterator[Finding]]


def judge(row: Row) -> tuple[Finding, ...]:
    """Return all that is wrong with a measured round; nothing for a sound one."""
    return tuple(finding for gate in GATES for finding in gate(row))


def errors(row: Row) -> Iterator[Finding]:
    """Tell of requests that got no answer: late, refused or dropped."""
    if row.failed_requests:
        yield Finding(
            "errors",
            f"{row.failed_requests:,} of {row.requests:,} requests got no answer",
            "see the cell's error; raise `timeout` if they were late, or offer less",
        )


def answers(row: Row) -> Iterator[Finding]:
    """Tell of answers that are not the bare engine's, or not the first one to the same: wrong answers are no speed."""
    if row.difference is None or row.difference <= TOLERANCE:
        return
    if row.cell.mode != FOREIGN:
        whose, remedy = (
            "the bare engine's",
            "a worker computes something else: restart the server, check the model's files",
        )
    elif row.cell.engine:
        whose = "the bare engine's"
        remedy = "if the server runs a model of its own, leave `engine` out; else check `answer` and the model's files"
    else:
        whose = "the first one to the same input"
        remedy = "have the server answer alike whatever else it does, or name in `answer` what does not change"
    if row.difference < inf:
        seen = f"an answer is {row.difference:.1e} from {whose}, more than {TOLERANCE:g}"
    else:
        seen = f"an answer is another than {whose}"
    yield Finding("answers", seen, remedy)


def stages(row: Row) -> Iterator[Finding]:
    """Tell of time that no stage accounts for: at the median more than 1 % of a request, and more than 50 µs."""
    residual, total = row.figures.residual_us, row.means_us.get("total", 0.0)
    if residual is not None and residual > max(STAGES_SHARE * total, STAGES_US):
        yield Finding(
            "stages",
            f"{residual:,.0f} µs of a request's {total:,.0f} lie in no stage",
            "a server or a proxy reports no stages, or overlapping ones",
        )


def little(row: Row) -> Iterator[Finding]:
    """Tell of clients that were not always at a request: then N clients measured is not what was measured."""
    figures, clients = row.figures, row.cell.client_threads
    if row.cell.arrivals != CLOSED or figures.in_flight is None or row.cell.mode in LOCAL_MODES:
        return  # loops without a server do not queue
    missing = abs(clients - figures.in_flight) / clients
    if missing > LITTLE:
        yield Finding(
            "little",
            f"{clients} clients, but {figures.in_flight:.2f} requests were under way on average (Little's law)",
            "raise `samples`, so that all clients are at work together for longer",
        )


def rate(row: Row) -> Iterator[Finding]:
    """Tell of an offered rate that was not reached, and of requests that were never sent."""
    offered, achieved = row.figures.offered, row.figures.achieved
    if row.unsent:
        yield Finding("rate", f"{row.unsent:,} of {row.requests:,} requests were never sent", "offer a lower rate")
    if (
        row.cell.arrivals not in {CLOSED, OFFLINE}
        and offered
        and achieved is not None
        and achieved < ACHIEVED * offered
    ):
        yield Finding(
            "rate",
            f"{achieved:,.0f} of {offered:,.0f} requests/s were reached",
            "offer a lower rate, or give it more clients if they were all waiting",
        )


def ceiling(row: Row) -> Iterator[Finding]:
    """Tell of clients near the most they can send: the load generator was measured, not the server."""
    share = row.figures.of_ceiling
    if share is not None and share > OF_CEILING:
        yield Finding(
            "clients",
            f"the clients sent {share:.0%} of the most they can, more than {OF_CEILING:.0%}: you measured the clients",
            "use more client threads or cores, or a batch above 1",
        )


def alone(row: Row) -> Iterator[Finding]:
    """Tell of others that took the cores meanwhile: processes of this machine, or the hypervisor."""
    figures = row.figures
    foreign, steal = figures.foreign_cores or 0.0, figures.steal_cores or 0.0
    if foreign > FOREIGN_CORES and foreign * figures.wall_s > FOREIGN_SECONDS:
        yield Finding(
            "alone",
            f"other processes used {foreign:.1f} cores meanwhile",
            "end them (`imdb-serving doctor` names the busiest), then measure another round",
        )
    if steal > STEAL_CORES and steal * figures.wall_s > FOREIGN_SECONDS:
        yield Finding(
            "alone",
            f"the hypervisor gave {steal:.1f} cores to others meanwhile",
            "measure at another time or on another machine",
        )


def throttled(row: Row) -> Iterator[Finding]:
    """Tell of a quota of CPU time that stopped the processes meanwhile: then its stops were measured."""
    stopped, wall = row.figures.throttled_s or 0.0, row.figures.wall_s
    if wall and stopped > max(THROTTLED_SHARE * wall, THROTTLED_SECONDS):
        yield Finding(
            "throttled",
            f"the quota of CPU time stopped the processes for {stopped:.2f} of {wall:.2f} s",
            "raise the container's CPU limit, or pin it to whole cores (--cpuset-cpus); or take fewer threads",
        )


GATES: tuple[Gate, ...] = (errors, answers, stages, little, rate, ceiling, alone, throttled)

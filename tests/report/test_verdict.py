"""The verdict: on made-up sweeps whose answer is known, in its form, and refused where it must be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ledger_rows import failed, row, table

from imdb_serving.analysis.noise import unsettled
from imdb_serving.cell import Figures, Finding, Row
from imdb_serving.experiment.ladder import RUNGS
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement.ledger import store_samples
from imdb_serving.report import ways
from imdb_serving.report.verdict import MOST_LINES, verdict

NOISE = (0.0, 0.004, -0.004)
"""By which share a round is off."""

COUNTS = (1, 2, 4, 8)


def rate(servers: int, clients: int, engine: str) -> float:
    """Two cores: a second worker pays, a third does not; `folded` is four times as fast."""
    return min(clients, servers, 2) * 1000.0 * (4 if engine == "folded" else 1)


def measured(servers: int, clients: int, round_: int, *, throughput: float, folder: Path, **changes: Any) -> Row:
    made = row(servers, clients, round_, **changes)
    means = dict.fromkeys(made.means_us, 10.0) | {"op1": 800.0, "encode": 20.0, "decode": 10.0}
    figures = Figures(
        wall_s=1.0, window_s=1.0, throughput=throughput, request_rate=throughput, p50_us=clients * 1e6 / throughput,
        mean_us=clients * 1e6 / throughput, server_cpu_us=900.0, client_cpu_us=60.0, load_before=0.1, load_after=0.2,
        in_flight=float(clients),
    )  # fmt: skip
    times = np.full((700, 1), 2_000_000)
    raw = store_samples(
        folder, made.cell.slug, [ClientRecord(("client_infer",), list(range(700)), np.arange(700), times)]
    )
    return msgspec.structs.replace(made, means_us=means, figures=figures, raw=raw)


def sweep(folder: Path, engines: tuple[str, ...] = ("paddle",), rounds: int = 3) -> list[Row]:
    """A sweep with an A/A pair and, of each rung, the ladder."""
    rows = []
    for number in range(1, rounds + 1):
        off = 1 + NOISE[(number - 1) % 3]
        for engine, servers, clients in itertools.product(engines, (1, 2, 4), COUNTS):
            throughput = rate(servers, clients, engine) * off
            rows.append(measured(servers, clients, number, engine=engine, throughput=throughput, folder=folder))
        for clients in COUNTS:
            throughput, twin = rate(2, clients, engines[0]) * (2 - off), {"series": "twin", "engine": engines[0]}
            rows.append(measured(2, clients, number, throughput=throughput, folder=folder, **twin))
        for place, (mode, endpoint, kind) in enumerate(RUNGS.values()):
            rung = measured(
                2, 1, number, series="ladder", engine=engines[0], mode=mode, endpoint=endpoint, client_kind=kind,
                throughput=1e6 / (800 + 100 * place + number), folder=folder,
            )  # fmt: skip
            rows.append(rung)
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cards").mkdir()
    card = {"cores_allowed": 2, "wake_up_us": 41.0}
    (tmp_path / "cards" / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return tmp_path


def test_it_says_what_to_run_why_and_how_sure_it_is(folder: Path) -> None:
    made = verdict(table(sweep(folder)), folder)
    what, best, why, cost, engines, edge, sure, mind = made.lines
    assert what.startswith("Run rpc, engine paddle, 2 server threads, 2 clients: 2,000 reviews/s (1,9")
    assert what.endswith("p99 2 ms (2 to 2; 3 rounds, 95%).")
    assert best.startswith("It is the best measured; it falls short of the best by at most 0.2%, within the 5%")
    assert best.endswith("Not told apart from the best: 2 x 4, 2 x 8, 4 x 2 and 2 more.")
    assert "both cores are busy (server 94%, clients 6%; op1 is 98% of the ops' time)" in why
    assert "4 server threads change +0.0% (-0.2% to +0.2%, 95%)" in why
    assert cost.startswith("Serving costs 0.4 (0.4 to 0.4) ms a review over the bare model's 0.8 ms (95%; one client,")
    assert "2 server threads): transport 0.27, client 0.03, ops 0.1." in cost
    assert "Flask costs 0.1 ms more." in cost
    assert "Only engine paddle was measured" in engines
    assert edge.startswith("Measured to the edge: rpc, engine paddle with no more than 4 server threads and 8 clients;")
    assert "--also '{mode: rpc, engine: paddle, server_threads: [8], client_threads: [1, 2, 4, 8, 16]}'" in edge
    assert "3 rounds, 12 of 12 cells valid, A/A pairs differ by" in sure
    assert "clients and server share 2 cores" in mind
    assert len(made.lines) <= MOST_LINES
    assert made.key in {one.key for one in sweep(folder) if one.cell.server_threads == 2}


def test_another_engine_is_weighed_against_another_thread(folder: Path) -> None:
    made = verdict(table(sweep(folder, ("paddle", "folded"))), folder)
    assert made.lines[0].startswith("Run rpc, engine folded, 2 server threads, 2 clients: 8,000")
    (line,) = [line for line in made.lines if "instead of" in line]
    assert line.startswith(
        "At the same 2 x 2 over rpc, folded gives 4 times (3.99 to 4.01) what paddle gives (99%), same"
    )
    assert "same answers, to six decimals; 4 instead of 2 server threads gave paddle 1 times" in line


def test_workers_are_weighed_against_math_threads(folder: Path) -> None:
    """Two math threads give one worker 1.5 times what one gives it; two workers give twice as much."""
    rows = []
    for number, servers, math, clients in itertools.product((1, 2, 3), (1, 2), (1, 2), COUNTS):
        off = 1 + NOISE[number - 1]
        throughput = rate(servers, clients, "paddle") * off * (1.5 if math > servers and clients > 1 else 1)
        one = measured(
            servers, clients, number, engine="paddle", math_threads=math, throughput=throughput, folder=folder
        )
        rows.append(one)
    made = verdict(table(rows), folder)
    what, best, why, *_, edge, _, _ = made.lines
    assert what.startswith("Run rpc, engine paddle, 2 server threads x 1 math thread, 2 clients: 2,000 reviews/s (1,9")
    assert "2 x 4 with 2 math threads and 2 more" in best
    assert "2 math threads change +0.0% (-0.2% to +0.2%, 95%)" in why
    assert "no more than 2 server threads, 2 math threads and 8 clients" in edge
    assert "math_threads: [1, 2, 4]" in edge
    (way,) = made.answer.ways
    assert (way.place.setup, way.place.panel) == ("", "1 math thread")
    assert "2 x 1 math" in ways.text(made.answer.ways)


def with_tails(folder: Path) -> list[Row]:
    """A sweep whose p99 is 2 ms a client, and whose server takes more CPU time the more workers it has."""

    def one(made: Row) -> Row:
        off = 1 + NOISE[(made.round - 1) % 3]
        cell, tail, cpu = made.cell, 2000.0 * off, 800.0 * off
        own = {"p99_us": tail * cell.client_threads, "server_cpu_us": cpu * cell.server_threads}
        return msgspec.structs.replace(made, figures=msgspec.structs.replace(made.figures, **own))

    return [one(made) for made in sweep(folder)]


def test_under_a_limit_the_most_throughput_is_run_whose_p99_is_shown_to_hold_it(folder: Path) -> None:
    """One client, 1,000/s, has 2 ms; two clients, 2,000/s with two workers, have 4 ms."""
    rows = table(with_tails(folder))
    loose, tight, none = (verdict(rows, folder, select=f"p99: {limit}ms") for limit in (5, 3, 1))
    assert loose.lines[0].startswith("Run rpc, engine paddle, 2 server threads, 2 clients: 2,000 reviews/s")
    assert loose.lines[1].startswith(
        "6 of 12 cells are shown to hold a p99 of 5 ms (95%, all cells together). Of these"
    )
    assert loose.answer.select == "p99: 5ms"
    assert tight.lines[0].startswith("Run rpc, engine paddle, 1 server thread, 1 client: 1,000 reviews/s")
    assert none.lines[0] == "No verdict: none of 12 cells is shown to hold a p99 of 1 ms (95%, all cells together)."
    assert "1 server thread, 1 client: p99 2 ms (1.98 to 2.02), 1,000 samples/s" in none.lines[1]
    assert none.lines[-1].startswith("Measure fewer clients, or a faster engine")
    near = verdict(rows, folder, select="p99: 4ms")
    assert near.lines[0].startswith("Run rpc, engine paddle, 1 server thread, 1 client")
    assert "May hold it too, and give more: 2 x 2 and 4 x 2." in near.lines[1]


def test_the_least_cpu_time_is_run_of_what_is_near_the_best_rate(folder: Path) -> None:
    """Two and four workers give 2,000/s, four take twice the CPU time; one takes half and gives 1,000/s."""
    made = verdict(table(with_tails(folder)), folder, select="efficiency")
    assert made.lines[0].startswith("Run rpc, engine paddle, 2 server threads, 2 clients: 2,000 reviews/s")
    assert "6 of 12 cells are shown to be within 10% of the best rate (" in made.lines[1]
    assert "its server takes 1,600 µs (1,58" in made.lines[1]
    assert "CPU [µs]" in ways.text(made.answer.ways, by_cpu=True)
    (way,) = made.answer.ways
    assert way.server_cpu_us is not None
    assert way.server_cpu_us.value == pytest.approx(1600, rel=0.01)


def test_engines_that_answer_otherwise_are_not_said_to_agree(folder: Path) -> None:
    rows = [
        msgspec.structs.replace(one, answers=one.cell.engine, accuracy=0.9 if one.cell.engine == "folded" else 0.8)
        for one in sweep(folder, ("paddle", "folded"))
    ]
    (line,) = [line for line in verdict(table(rows), folder).lines if "instead of" in line]
    assert "right in 90.00% and 80.00%" in line


def test_engines_are_not_compared_over_different_modes(folder: Path) -> None:
    rows = [one for one in sweep(folder, ("paddle", "folded")) if one.cell.series == "grid"]
    rows = [
        msgspec.structs.replace(one, cell=msgspec.structs.replace(one.cell, mode="socket"), key=f"socket {one.key}")
        if one.cell.engine == "folded"
        else one
        for one in rows
    ]
    made = verdict(table(rows), folder)
    assert any("folded and paddle were not measured at the same mode, threads and clients" in x for x in made.lines)
    assert made.answer.engines == []


def test_of_cells_that_give_the_same_with_as_many_threads_the_fastest_is_run(folder: Path) -> None:
    """One mode gives eight per cent less, which is less than noise shows: neither is within the zone for sure."""
    rows = []
    for mode, throughput in (("rpc", 1840.0), ("socket", 2000.0)):
        for number, off in enumerate((0.9, 1.0, 1.1), start=1):
            made = measured(1, 4, number, mode=mode, throughput=throughput * off, folder=folder)
            rows.append(made)
    made = verdict(table(rows), folder)
    assert made.lines[0].startswith("Run socket")
    assert made.answer.best == made.answer.recommended


def test_one_round_is_no_verdict(folder: Path) -> None:
    made = verdict(table(sweep(folder, rounds=1)), folder)
    assert made.key == ""
    assert made.lines[0].startswith("No verdict: one round has no interval")
    assert "--rounds 3" in made.lines[1]


Change = Callable[[Row], Row]


def changed(rows: list[Row], servers: int, change: Change) -> list[Row]:
    return [change(one) if one.cell.server_threads == servers and one.cell.series == "grid" else one for one in rows]


def invalid(one: Row) -> Row:
    finding = Finding("alone", "other processes used 0.9 cores meanwhile", "end them")
    return msgspec.structs.replace(one, status="invalid", findings=(finding,))


def slower(one: Row, factor: float = 0.8) -> Row:
    figures = msgspec.structs.replace(one.figures, throughput=factor * one.figures.throughput)
    return msgspec.structs.replace(one, figures=figures)


def halved(*rounds: int) -> Change:
    """Halve what two clients got in some rounds."""
    return lambda one: slower(one, 0.5) if one.round in rounds and one.cell.client_threads == 2 else one


def test_invalid_cells_that_may_be_the_best_are_named_with_what_to_do(folder: Path) -> None:
    made = verdict(table(changed(changed(sweep(folder), 2, invalid), 4, slower)), folder)
    assert made.key == ""
    assert made.lines[0].startswith("No verdict: 4 of 12 cells cannot be believed, and")
    assert any("rpc" in line and "2 server threads" in line and "end them" in line for line in made.lines)
    assert "--rounds 4" in made.lines[-1]
    assert any("12 measurements cannot be believed; alone: other processes" in line for line in made.warnings)
    assert made.answer.status == "refused"
    assert any(one.decides for one in made.answer.doubtful)


def test_a_mere_tie_with_cells_that_cannot_be_believed_is_no_reason_to_refuse(folder: Path) -> None:
    made = verdict(table(changed(sweep(folder), 2, invalid)), folder)
    assert made.lines[0].startswith("Run rpc, engine paddle, 4 server threads, 2 clients: 2,000 reviews/s")
    assert not any(one.decides for one in made.answer.doubtful)
    assert max(one.most or 0 for one in made.answer.doubtful) < 2100, "more than both cores have time for"


def test_a_cell_that_failed_in_every_round_may_be_the_best(folder: Path) -> None:
    """Its neighbours bound it: twice as many workers could give twice as much, were there cores for them."""
    (folder / "cards" / "card.json").write_text(json.dumps({"cores_allowed": 16}), encoding="utf-8")
    rows = [one for one in sweep(folder) if one.cell.server_threads < 4]
    rows += [failed(4, 4, number, engine="paddle") for number in (1, 2, 3)]
    made = verdict(table(rows), folder)
    assert made.key == ""
    assert "rpc, engine paddle, 4 server threads, 4 clients, at most 4,0" in made.lines[1]
    assert "ServerUnavailable: gone" in made.lines[1]


def test_nothing_bounds_a_mode_that_failed_as_a_whole_and_that_is_said(folder: Path) -> None:
    rows = [*sweep(folder), *(failed(1, 2, number, engine="paddle", mode="socket") for number in (1, 2, 3))]
    made = verdict(table(rows), folder)
    assert made.lines[0].startswith("Run rpc")
    assert "nothing is known of socket, paddle 1 x 2, so that 5% cannot be shown" in made.lines[1]
    assert not made.answer.shown


def test_invalid_cells_that_cannot_be_the_best_do_not_stop_it(folder: Path) -> None:
    made = verdict(table(changed(sweep(folder), 1, invalid)), folder)
    assert made.lines[0].startswith("Run rpc, engine paddle, 2 server threads")
    assert any("8 of 12 cells valid" in line for line in made.lines)


def test_when_nothing_is_valid_there_is_no_verdict(folder: Path) -> None:
    rows = sweep(folder)
    for servers in (1, 2, 4):
        rows = changed(rows, servers, invalid)
    assert verdict(table(rows), folder).lines[0].startswith("No verdict: 12 of 12 cells")


def test_a_cell_that_failed_in_every_round_counts(folder: Path) -> None:
    rows = [*sweep(folder), *(failed(8, 1, number, engine="paddle") for number in (1, 2, 3))]
    made = verdict(table(rows), folder)
    assert any("12 of 13 cells valid" in line for line in made.lines)
    assert made.warnings[0] == "3 measurements failed, the first: ServerUnavailable: gone"


def test_without_a_pair_the_noise_is_known_still(folder: Path) -> None:
    made = verdict(table([one for one in sweep(folder) if one.cell.series != "twin"]), folder)
    assert any("no A/A pair, noise of a cell in a round 0.1%" in line for line in made.lines)


def test_a_round_far_off_makes_its_cell_unstable(folder: Path) -> None:
    made = verdict(table(changed(sweep(folder), 4, halved(2))), folder)
    assert any(line.startswith("unstable: rpc, paddle, 4 x 2: a round is 10") for line in made.warnings)
    assert any("measure another round" in line for line in made.warnings)
    assert any("11 of 12 cells valid, unstable: 4 x 2 (rpc, engine paddle)" in line for line in made.lines)


def test_an_odd_round_of_four_is_set_aside_and_said(folder: Path) -> None:
    made = verdict(table(changed(sweep(folder, rounds=4), 2, halved(2))), folder)
    assert made.lines[0].startswith("Run rpc, engine paddle, 2 server threads, 2 clients: 2,00")
    assert any("set aside: rpc, paddle, 2 x 2 (round 2)" in line for line in made.warnings)


def test_the_p99_leaves_out_what_is_set_aside(folder: Path) -> None:
    """The disturbed round's requests took a hundred times as long."""
    rows = changed(sweep(folder, rounds=4), 2, halved(2))
    slow = ClientRecord(("client_infer",), list(range(700)), np.arange(700), np.full((700, 1), 200_000_000))
    apart = [
        msgspec.structs.replace(one, raw=store_samples(folder, "slow", [slow])) if one.round == 2 else one
        for one in rows
    ]
    assert "p99 2 ms (2 to 2; 4 rounds, 95%)" in verdict(table(apart), folder).lines[0]


def test_a_fourth_round_settles_a_cell_that_one_round_made_unstable(folder: Path) -> None:
    three, four = sweep(folder), sweep(folder, rounds=4)
    assert len(unsettled(table(changed(three, 4, halved(2))))) == 1
    assert unsettled(table(changed(four, 4, halved(2)))) == {}
    assert len(unsettled(table(changed(four, 4, halved(2, 3))))) == 1


def test_what_makes_some_rounds_invalid_may_pass_and_what_makes_all_does_not(folder: Path) -> None:
    def busy(one: Row) -> Row:
        if one.round not in rounds or one.cell.client_threads != 2:
            return one
        finding = Finding("alone", "other processes used 0.7 cores meanwhile", "end them")
        return msgspec.structs.replace(one, status="invalid", findings=(finding,))

    rounds = {2}
    (why,) = unsettled(table(changed(sweep(folder), 4, busy))).values()
    assert why.startswith("alone: other processes used 0.7 cores meanwhile")
    assert unsettled(table(changed(sweep(folder, rounds=4), 4, busy))) == {}
    rounds = {1, 2, 3}
    assert unsettled(table(changed(sweep(folder), 4, busy))) == {}


def test_drift_that_all_cells_share_makes_none_unstable(folder: Path) -> None:
    def drifted(one: Row) -> Row:
        figures = msgspec.structs.replace(one.figures, throughput=one.figures.throughput * (1 - 0.2 * (one.round - 1)))
        return msgspec.structs.replace(one, figures=figures)

    made = verdict(table([drifted(one) for one in sweep(folder)]), folder)
    assert any("12 of 12 cells valid" in line for line in made.lines)


def test_clients_that_took_most_of_the_cpu_are_named(folder: Path) -> None:
    rows = [
        msgspec.structs.replace(one, figures=msgspec.structs.replace(one.figures, client_cpu_us=1400.0))
        for one in sweep(folder)
    ]
    made = verdict(table(rows), folder)
    assert any(
        line.startswith("clients used 61% of the CPU") and "you measured the client" in line for line in made.warnings
    )


def test_an_echo_is_a_limit_of_which_clients_may_take_most(folder: Path) -> None:
    rows = sweep(folder)
    cell = msgspec.structs.replace(rows[0].cell, mode="echo-socket", engine="", net="", worker_kind="")
    figures = msgspec.structs.replace(rows[0].figures, client_cpu_us=9000.0)
    rounds = [msgspec.structs.replace(one, key="echo", cell=cell, figures=figures) for one in rows[:3]]
    made = verdict(table([*rows, *rounds]), folder)
    assert not any("clients used" in line for line in made.warnings)
    assert not any(", ," in line for line in made.warnings)


def test_too_few_requests_certify_no_p99(folder: Path) -> None:
    rows = sweep(folder)
    short = ClientRecord(("client_infer",), [0], np.arange(1), np.full((1, 1), 2_000_000))
    for one in rows:
        store_samples(folder, one.cell.slug, [short])
    assert "p99 not certifiable with n 3 (needs 662)" in verdict(table(rows), folder).lines[0]


def test_rounds_of_the_ladder_are_no_rounds_of_the_grid(folder: Path) -> None:
    rows = sweep(folder)
    more = [msgspec.structs.replace(one, round=8) for one in rows if one.cell.series == "ladder" and one.round == 3]
    made = verdict(table([*rows, *more]), folder)
    assert any(line.startswith("Sure: 3 rounds, ") for line in made.lines)


def test_without_ladder_and_bare_cells_it_says_how_to_learn_the_cost(folder: Path) -> None:
    made = verdict(table([one for one in sweep(folder) if one.cell.series != "ladder"]), folder)
    assert any("was not measured: set ladder_rounds, or add the mode bare" in line for line in made.lines)
    bare = [
        measured(1, 1, number, mode="bare", endpoint="", engine="paddle", throughput=1250.0, folder=folder)
        for number in (1, 2, 3)
    ]
    rows = [one for one in sweep(folder) if one.cell.series != "ladder"]
    made = verdict(table([*rows, *bare]), folder)
    words = "Serving costs 0.2 (0.19 to 0.21) ms a review over the bare model's 0.8 ms (95%; one client, 2 server th"
    assert any(words in line for line in made.lines)

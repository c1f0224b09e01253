"""Two sweeps compared: noise is no difference, a real one is called by its name, and machines must be alike."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from ledger_rows import table
from made_sweeps import sweep, write

from imdb_serving.analysis.compare import BETTER, SAME, WORSE, compare_rows
from imdb_serving.cell import Row
from imdb_serving.cli.reading import run_compare
from imdb_serving.report import compare
from imdb_serving.report.compare import LOSS


def compared(first: list[Row], second: list[Row]) -> list[str]:
    return [one.called for one in compare_rows(table(first), table(second)).cells]


def test_two_sweeps_of_the_same_differ_in_at_most_one_of_twenty() -> None:
    clean = sum(set(compared(sweep(2 * seed), sweep(2 * seed + 1))) == {SAME} for seed in range(20))
    assert clean >= 19


def test_a_sweep_and_its_own_pair_differ_in_at_most_one_of_twenty() -> None:
    """The A/A pair taken for a second sweep of the cells that it repeats."""
    clean = 0
    for seed in range(20):
        rows = sweep(seed)
        twins = [
            msgspec.structs.replace(one, cell=msgspec.structs.replace(one.cell, series="grid"))
            for one in rows
            if one.cell.series == "twin"
        ]
        clean += set(compared(rows, twins + [one for one in rows if one.cell.series == "twin"])) == {SAME}
    assert clean >= 19


@pytest.mark.parametrize(("factor", "called"), [(0.8, WORSE), (1.25, BETTER)])
def test_a_real_difference_is_called_by_its_name(factor: float, called: str) -> None:
    assert set(compared(sweep(1), sweep(2, factor))) == {called}


def test_one_slower_cell_is_called_and_no_other() -> None:
    def change(one: Row) -> Row:
        if (one.cell.server_threads, one.cell.client_threads) != (2, 4):
            return one
        figures = msgspec.structs.replace(one.figures, throughput=0.9 * one.figures.throughput)
        return msgspec.structs.replace(one, figures=figures)

    second = [change(one) for one in sweep(2, rounds=3, spread=0.01)]
    assert compared(sweep(1, rounds=3, spread=0.01), second) == [SAME] * 5 + [WORSE]


def test_what_some_cells_lose_the_others_do_not_gain() -> None:
    def change(one: Row) -> Row:
        figures = msgspec.structs.replace(one.figures, throughput=0.9 * one.figures.throughput)
        return msgspec.structs.replace(one, figures=figures) if one.cell.server_threads == 2 else one

    second = [change(one) for one in sweep(4, rounds=5, spread=0.005)]
    assert compared(sweep(3, rounds=5, spread=0.005), second) == [SAME] * 3 + [WORSE] * 3


def test_a_cell_that_an_intruder_slowed_is_not_compared_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(one: Row) -> Row:
        if (one.cell.server_threads, one.cell.client_threads, one.round) != (2, 4, 2):
            return one
        figures = msgspec.structs.replace(one.figures, throughput=0.5 * one.figures.throughput)
        return msgspec.structs.replace(one, figures=figures)

    first = sweep(1, rounds=3, spread=0.01)
    second = [change(one) for one in sweep(2, rounds=3, spread=0.01)]
    assert compared(first, second) == [SAME] * 5
    folders = write(tmp_path / "a", first), write(tmp_path / "b", second)
    assert run_compare(*folders, LOSS) == 0
    assert "not compared: 1 cell unstable in A or B" in capsys.readouterr().out


def test_what_all_cells_share_is_of_the_cells_that_both_have() -> None:
    """Cells of one sweep alone make the change of the others no surer."""
    second = table(sweep(2, spread=0.05, clients=(1,)))
    few = compare_rows(table(sweep(1, spread=0.05, clients=(1,))), second)
    many = compare_rows(table(sweep(1, spread=0.05, clients=(1, 2, 4, 8, 16, 32))), second)
    assert [one.cell for one in few.cells] == [one.cell for one in many.cells]
    assert many.least > 0.5 * few.least


def test_the_least_loss_that_could_have_been_seen_grows_with_the_noise() -> None:
    least = []
    for spread in (0.01, 0.05):
        made = compare_rows(table(sweep(1, spread=spread)), table(sweep(2, spread=spread)))
        least.append(made.cells[0].least)
        assert made.least < made.cells[0].least
    assert 3 < least[1] / least[0] < 6


def test_sweeps_of_one_cell_are_compared_by_their_rounds() -> None:
    def alone(rows: list[Row]) -> list[Row]:
        return [
            one for one in rows if (one.cell.series, one.cell.server_threads, one.cell.client_threads) == ("grid", 1, 1)
        ]

    assert compared(alone(sweep(1)), alone(sweep(2))) == [SAME]
    assert compared(alone(sweep(1)), alone(sweep(2, 0.7))) == [WORSE]


def test_one_round_tells_nothing_and_is_no_pair() -> None:
    assert compared(sweep(1, rounds=1), sweep(2, 0.5, rounds=1)) == []


def test_the_exit_code_says_what_came_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path / "before", sweep(1))
    assert run_compare(before, write(tmp_path / "same", sweep(2), packages={"numpy": "2.1"}), LOSS) == 0
    said = capsys.readouterr().out
    assert "different: numpy 2.0 and 2.1" in said
    assert "6 cells no difference" in said
    assert (tmp_path / "same" / "figures" / "compared-with-before.png").is_file()
    assert run_compare(before, write(tmp_path / "worse", sweep(3, 0.7)), LOSS) == 1
    assert "6 cells worse" in capsys.readouterr().out
    assert run_compare(before, write(tmp_path / "better", sweep(3, 1.5)), LOSS) == 0
    assert "6 cells better" in capsys.readouterr().out


def test_what_could_not_have_been_seen_has_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, same = (write(tmp_path / name, sweep(seed, rounds=3, spread=0.06)) for seed, name in enumerate("ab", 7))
    assert run_compare(before, same, LOSS) == 3
    said = capsys.readouterr().out
    assert "a loss of 10% could not have been seen in 6 cells of 6" in said
    assert "measure more rounds of both" in said
    assert run_compare(before, same, 0.6) == 0


def test_other_machines_and_other_cells_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path / "before", sweep(1))
    assert run_compare(before, write(tmp_path / "elsewhere", sweep(2), cpu="Other", cores_allowed=8), LOSS) == 2
    said = capsys.readouterr().out
    assert "not comparable: cpu: One and Other; cores_allowed: 2 and 8" in said
    assert run_compare(before, write(tmp_path / "others", sweep(2, clients=(3,))), LOSS) == 2
    assert "no cell that both have" in capsys.readouterr().out


def test_the_figure_has_an_interval_a_cell_and_the_floor(tmp_path: Path) -> None:
    made = compare.compare(write(tmp_path / "a", sweep(1)), write(tmp_path / "b", sweep(2, 0.7)))
    figure = compare.changes(made).figure()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "all cells together",
        *compare.table(made)["cell"],
    ]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"no difference", "better", "worse"} <= set(labels)
    assert axes.get_xlabel() == "change of throughput from A to B"

"""Charts that a report has drawn before: drawn again when rows, code or files have changed, and only then."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from ledger_rows import row, rows_of

from imdb_serving.measurement.ledger import Ledger
from imdb_serving.report import drawn, frames
from imdb_serving.report.chart import Chart, Charts, Sheet
from imdb_serving.report.drawn import Drawings
from imdb_serving.report.style import FORMATS


def draw(sheet: Sheet) -> None:
    sheet.axes.plot([1, 2], [1, 2])


class Maker:
    """Makes charts, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Charts:
        self.count += 1
        return Charts([Chart(f"chart {self.count}", draw)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path)
    for one in rows_of(rounds=1):
        ledger.append(one, [])
    return tmp_path


@pytest.fixture
def maker() -> Maker:
    return Maker()


def of(folder: Path, maker: Maker, *depends: object, figures: bool = False) -> str:
    return Drawings(folder, figures=figures).of("one", maker, "heading", *depends).markup


def test_what_has_not_changed_is_not_drawn_again(folder: Path, maker: Maker) -> None:
    first = of(folder, maker)
    assert "<img" in first
    assert of(folder, maker) == first
    assert maker.count == 1
    assert not (folder / "figures").exists()


def test_new_rows_other_code_and_other_reasons_have_it_drawn_again(
    folder: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(folder, maker)
    of(folder, maker, "another cell")
    assert maker.count == 2
    Ledger(folder).append(row(4, 4, 2), [])
    of(folder, maker, "another cell")
    assert maker.count == 3
    monkeypatch.setattr(drawn, "_code", lambda make: b"other")
    of(folder, maker, "another cell")
    assert maker.count == 4


def test_the_code_of_a_chart_is_its_module_and_all_that_it_imports() -> None:
    report = drawn.PACKAGE / "report"
    bars = drawn._imported(report / "charts" / "bars.py")
    assert report / "chart.py" in bars
    assert report / "charts" / "latency.py" not in bars
    assert drawn._code(partial(frames.load, Path())) == drawn._code(frames.load)
    assert drawn._code(frames.load) != drawn._code(Drawings)


def test_figures_that_are_there_are_kept_up_to_date(folder: Path, maker: Maker) -> None:
    of(folder, maker)
    of(folder, maker, figures=True)
    files = [folder / "figures" / f"one.{suffix}" for suffix in FORMATS]
    assert all(file.is_file() for file in files)
    assert maker.count == 2
    of(folder, maker, figures=True)
    assert maker.count == 2
    before = files[0].read_bytes()
    of(folder, maker, "changed")
    assert maker.count == 3
    assert files[0].read_bytes() != before, "the title says which time it was drawn"
    files[1].unlink()
    of(folder, maker, "changed")
    assert maker.count == 4
    assert files[1].is_file()

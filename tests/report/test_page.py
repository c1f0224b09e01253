"""`report.html` in a browser, as a person opens it: on a desk, on a phone, in the dark, on paper, without scripts."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browsing import keep_screenshot, overflow, point_at
from playwright.sync_api import Browser, Page, expect

from imdb_serving.cell import GRID
from imdb_serving.cli.reading import write_report
from imdb_serving.experiment.grid import run_grid
from imdb_serving.measurement import texts
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.text.formats import Line

DESKTOP, PHONE = 1280, 360
MOST_BYTES = 2_000_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small sweep over two modes and two engines that need no model."""
    outputs = tmp_path_factory.mktemp("outputs")
    lines = [Line("made", number, "2 8 9 1") for number in range(1, 41)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "measurement_lines", lambda samples, seed, vocabulary: lines)
        each = functools.partial(
            GridParams, client_threads=[1, 2], samples=40, sweep="small", run="one", outputs=str(outputs)
        )
        for mode in ("rpc", "flask"):
            for servers in (1, 2):
                run_grid(each(mode=mode, engine="none", server_threads=servers), lambda text: None)
        simulated = each(engine="simulated", service_time_ms=0.5, server_threads=1)
        run_grid(simulated, lambda text: None)
    write_report(outputs / "small", 0.05, "", figures=True)
    return outputs / "small" / "report.html"


def test_the_report_writes_cells_and_figures(report: Path) -> None:
    folder = report.parent
    cells = pd.read_csv(folder / "cells.csv")
    grid_cells = cells[cells["series"] == GRID]
    found = grid_cells[["mode", "engine", "server_threads", "client_threads"]].itertuples(index=False, name=None)
    measured = [("rpc", "none"), ("flask", "none")]
    expected = [(*cell, servers, clients) for cell in measured for servers in (1, 2) for clients in (1, 2)]
    assert sorted(found) == sorted([*expected, ("rpc", "simulated", 1, 1), ("rpc", "simulated", 1, 2)])
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    named = {name.rsplit(".", 1)[0] for name in figures}
    assert figures == sorted(f"{name}.{suffix}" for name in named for suffix in ("pdf", "png", "svg"))
    drawn = {"stages", "throughput-vs-threads", "time-vs-threads", "cpu-time", "heat-map", "latency", "one-request"}
    assert drawn <= named
    page = report.read_text(encoding="utf-8")
    assert page.count('<figure class="chart') > 5
    assert "3.45" in page  # the published table
    assert "object&gt;" not in page  # what shows nothing has no words for itself either
    assert " object at 0x" not in page
    assert "<title>imdb-serving: small</title>" in page


class Reading:
    """The open page, and what went wrong on it."""

    def __init__(self, page: Page, report: Path) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", lambda said: self.problems.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda asked: self._asked(asked.url, report.as_uri()))
        page.goto(report.as_uri(), wait_until="load")

    def _asked(self, url: str, own: str) -> None:
        if url != own and not url.startswith("data:"):
            self.problems.append(f"the page asked for {url}")

    def points(self, **data: str) -> int:
        """How many groups with this data can be seen."""
        chosen = "".join(f'[data-{name}="{value}"]' for name, value in data.items())
        return self.page.locator(f".chart g{chosen}:not(.hidden)").count()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, scheme, scripts = getattr(request, "param", (DESKTOP, "light", True))
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts
    )
    page = context.new_page()
    yield page
    context.close()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param((DESKTOP, "light", True), id="desktop"),
        pytest.param((PHONE, "light", True), id="phone"),
        pytest.param((DESKTOP, "dark", True), id="dark"),
        pytest.param((PHONE, "dark", True), id="phone-dark"),
    ],
    indirect=True,
)
def test_the_page_reads_well_and_loads_nothing(
    page: Page, report: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    here = Reading(page, report)
    expect(page.locator(".chart svg").first).to_be_visible()
    assert page.locator(".chart img").count() == 0
    assert overflow(page) == 0
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.locator(".verdict").first.is_visible()
    for fold in page.locator("summary").all():
        fold.click()
    assert overflow(page) == 0, "an opened table must scroll by itself"
    assert here.problems == []
    keep_screenshot(page, tmp_path, f"report-{request.node.callspec.id}")


@pytest.mark.parametrize("page", [pytest.param((PHONE, "light", True), id="phone")], indirect=True)
def test_a_long_name_in_a_note_is_broken(page: Page, report: Path) -> None:
    """Raw samples that are gone are named with their file, which may be in any folder."""
    Reading(page, report)
    page.locator(".chart-note").first.evaluate("note => note.append('a_long_name'.repeat(20))")
    assert overflow(page) == 0


def test_a_point_says_its_cell(page: Page, report: Path) -> None:
    here = Reading(page, report)
    point_at(page.locator('.chart [data-mode="flask"] [data-tip]').first, "samples/s")
    tip = page.locator(".chart-tip")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.locator(".chart [data-tip]").nth(3).focus()
    expect(tip).to_be_visible()  # the keyboard is enough
    assert here.problems == []


def test_modes_and_engines_can_be_hidden_and_shown_again(page: Page, report: Path) -> None:
    here = Reading(page, report)
    before = {mode: here.points(mode=mode) for mode in ("rpc", "flask", "published")}
    assert all(before.values())
    page.get_by_label("flask", exact=True).uncheck()
    assert here.points(mode="flask") == 0
    assert here.points(mode="rpc") == before["rpc"]
    page.get_by_label("simulated", exact=True).uncheck()
    assert here.points(engine="simulated") == 0
    page.get_by_label("flask", exact=True).check()
    page.get_by_label("simulated", exact=True).check()
    assert {mode: here.points(mode=mode) for mode in before} == before
    assert here.problems == []


@pytest.mark.parametrize("page", [pytest.param((DESKTOP, "light", False), id="no scripts")], indirect=True)
def test_without_scripts_still_figures_stand(page: Page, report: Path) -> None:
    Reading(page, report)
    images = page.locator(".chart img")
    assert images.count() > 4
    for image in images.all():
        image.scroll_into_view_if_needed()
        box = image.bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 60


def test_it_can_be_printed(page: Page, report: Path, tmp_path: Path) -> None:
    Reading(page, report)
    page.emulate_media(media="print")
    expect(page.locator(".chart-toggles")).to_be_hidden()
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert len(printed) > 20_000


def test_it_is_one_small_file_whose_links_lead_somewhere(page: Page, report: Path) -> None:
    assert report.stat().st_size < MOST_BYTES
    Reading(page, report)
    links = [link.get_attribute("href") or "" for link in page.locator("a").all()]
    assert any(link.startswith("#") for link in links)
    inside = [link for link in links if link.startswith("#")]
    assert all(page.locator(f'[id="{link[1:]}"]').count() == 1 for link in inside)
    files = [link for link in links if not link.startswith("#")]
    assert {"ledger.jsonl", "cells.csv", "figures/time-vs-threads.pdf"} <= set(files)
    assert [link for link in files if not (report.parent / link).exists()] == []

"""A grid of a thousand cells: a page that can be read and sent, with the map of all and the curves that matter."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from oracle import Noise, truth_of, write_sweep

from imdb_serving.report import frames
from imdb_serving.report.sweep_report import Report

SERVERS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24)
CLIENTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32)
WAYS = (
    *itertools.product(("rpc", "flask"), ("paddle", "onnxruntime")),
    *(("rpc", "folded"), ("socket", "folded"), ("flask", "folded")),
)
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    layout = [(mode, engine, servers, clients) for mode, engine in WAYS for servers in SERVERS for clients in CLIENTS]
    folder = tmp_path_factory.mktemp("large")
    write_sweep(folder, truth_of(layout, cores=16), Noise(0.03, 2), 1)
    return Report(folder)


def test_the_map_of_all_stands_first_and_few_curves_are_drawn(report: Report) -> None:
    assert len(report.cells) == len(WAYS) * len(SERVERS) * len(CLIENTS) == 1008
    shown = frames.charted(report.cells)
    curves = shown.drop_duplicates(["line", "panel", "threads"])
    assert len(WAYS) <= len(curves) <= 3 * len(WAYS)
    best = report.cells.sort_values("throughput").groupby(["line", "panel"]).tail(1)
    assert set(best["key"]) <= set(shown["key"])
    overview = report.overview()._repr_html_()
    assert overview.count("<figure") == len(WAYS)
    assert f"{len(curves)} of {len(WAYS) * len(SERVERS)} curves" in overview
    assert "stands above" in report.heat_map()._repr_html_()
    assert report.stages()._repr_html_().count("<figure") == len(WAYS)


def test_a_page_of_it_is_of_moderate_size(report: Report) -> None:
    parts = [
        report.verdict(), report.what_to_run(), report.setting(), report.overview(), report.time(), report.throughput(),
        report.stages(), report.latency(), report.cost(), report.limits(), report.published_tables(), report.failures(),
    ]  # fmt: skip
    assert sum(len(part._repr_html_()) for part in parts if part is not None) < MOST_BYTES


def test_a_small_grid_has_all_its_curves(tmp_path: Path) -> None:
    write_sweep(tmp_path, truth_of(), Noise(0.03, 2), 1)
    report = Report(tmp_path)
    assert report.overview() is None
    assert len(frames.charted(report.cells)) == len(report.cells)
    assert "<figure" in report.heat_map()._repr_html_()

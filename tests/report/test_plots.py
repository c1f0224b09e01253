"""Figures: drawn from rows, labelled with units, told apart by a legend, saved as PNG and SVG."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from ledger_rows import failed, grid
from matplotlib.figure import Figure

from imdb_serving.messages import Reply
from imdb_serving.report import curves, plots, tables
from imdb_serving.timing import CLIENT_STAGES, STAGES, Stage


def reply() -> Reply:
    return Reply({}, [Stage(name, 1000 * n, 1000 * n + 900) for n, name in enumerate(CLIENT_STAGES)])


BOTH = grid(modes=("rpc", "flask"))

FIGURES: dict[str, Callable[[], Figure]] = {
    "grid": lambda: plots.grid_figure(grid(servers=(2,))),
    "time": lambda: curves.time_figure(BOTH, tables.published_rpc(), tables.published_flask()),
    "throughput": lambda: curves.throughput_figure(grid()),
    "stage": lambda: curves.stage_figure(BOTH),
    "timeline": lambda: plots.timeline_figure(reply()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_as_png_and_svg(name: str, tmp_path: Path) -> None:
    figure = FIGURES[name]()
    assert plots.save(figure, tmp_path / "figures", name) is figure
    assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FIGURES)
def test_axes_say_what_they_show_with_its_unit(name: str, tmp_path: Path) -> None:
    figure = plots.save(FIGURES[name](), tmp_path, name)
    labels = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel()) if label]
    assert any(re.search(r"\[(s|ms|µs|samples/s)\]$", label) for label in labels)
    assert all(label == "client threads" or label.endswith("]") for label in labels)
    assert all(axes.get_xlabel() for axes in figure.axes)


def legend(figure: Figure) -> list[str]:
    boxes = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for box in boxes for text in box.get_texts()]


@pytest.mark.parametrize("name", ["time", "throughput"])
def test_curves_are_told_apart_by_server_threads(name: str, tmp_path: Path) -> None:
    figure = plots.save(FIGURES[name](), tmp_path, name)
    assert {"1 server thread", "2 server threads"} <= set(legend(figure))


def test_the_published_curves_stand_beside_ours(tmp_path: Path) -> None:
    figure = plots.save(FIGURES["time"](), tmp_path, "time")
    (axes,) = figure.axes  # one pair of axes for both modes
    grey = [line for line in axes.lines if line.get_color() == curves.PUBLISHED_GREY]
    assert (len(grey), len(axes.lines)) == (6 + 1, 6 + 1 + 2 * 2)
    assert sum("published 2020" in text for text in legend(figure)) == 2


def test_modes_are_told_apart_by_the_line_and_server_threads_by_the_colour(tmp_path: Path) -> None:
    figure = plots.save(FIGURES["time"](), tmp_path, "time")
    ours = {str(line.get_label()): line for line in figure.axes[0].lines if "server thread" in str(line.get_label())}
    styles = {name: (line.get_linestyle(), line.get_color()) for name, line in ours.items()}
    for count in ("1 server thread", "2 server threads"):
        rpc, flask = styles[f"rpc, {count}"], styles[f"flask, {count}"]
        assert (rpc[0], flask[0]) == ("-", "--")
        assert rpc[1] == flask[1]
    assert len({colour for _, colour in styles.values()}) == 2
    assert {"rpc", "flask"} <= set(legend(figure))


@pytest.mark.parametrize("name", ["grid", "stage"])
def test_every_stage_is_in_the_legend_with_a_colour_of_its_own(name: str, tmp_path: Path) -> None:
    figure = plots.save(FIGURES[name](), tmp_path, name)
    assert set(STAGES) <= set(legend(figure))
    assert len({plots.STAGE_COLOURS[stage] for stage in STAGES}) == len(STAGES)


def test_stacked_stages_reach_the_total(tmp_path: Path) -> None:
    rows = grid(servers=(2,), rounds=1)
    figure = plots.save(plots.grid_figure(rows), tmp_path, "grid")
    stacks = zip(*figure.axes[0].containers, strict=True)
    tops = [max(bar.get_y() + bar.get_height() for bar in stack) for stack in stacks]
    assert tops == pytest.approx(list(rows["total_s"]))


def test_a_curve_is_the_measured_medians(tmp_path: Path) -> None:
    figure = plots.save(curves.throughput_figure(grid()), tmp_path, "throughput")
    clients, spread = tables.by_client(grid(), 1, "throughput")
    line = next(line for line in figure.axes[0].lines if line.get_label() == "rpc, 1 server thread")
    assert list(line.get_xdata()) == list(clients)
    assert list(line.get_ydata()) == pytest.approx(list(spread["median"]))


@pytest.mark.parametrize("draw", [curves.throughput_figure, curves.stage_figure])
def test_failed_cells_are_left_out(draw: Callable[[pd.DataFrame], Figure], tmp_path: Path) -> None:
    rows = pd.DataFrame([*grid().to_dict("records"), *[failed(1, 8)]])
    plots.save(draw(rows), tmp_path, "some-failed")


@pytest.mark.parametrize("draw", [curves.throughput_figure, curves.stage_figure])
def test_a_server_count_of_which_all_cells_failed_leaves_the_others(
    draw: Callable[[pd.DataFrame], Figure], tmp_path: Path
) -> None:
    rows = pd.DataFrame([*grid().to_dict("records"), *[failed(4, 1), failed(4, 2)]])
    plots.save(draw(rows), tmp_path, "one-gone")


def several() -> pd.DataFrame:
    rows = pd.concat([grid(modes=("rpc", "socket", "flask")).assign(engine=engine) for engine in ("folded", "paddle")])
    return tables.named_ways(rows)


@pytest.mark.parametrize("name", ["time", "throughput"])
def test_each_engine_has_a_panel_and_each_mode_a_line(name: str, tmp_path: Path) -> None:
    rows = several()
    figure = (
        curves.time_figure(rows, tables.published_rpc(), tables.published_flask())
        if name == "time"
        else curves.throughput_figure(rows)
    )
    plots.save(figure, tmp_path, name)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["engine paddle", "engine folded"]
    for axes, engine in zip(figure.axes, ("paddle", "folded"), strict=True):
        ours = [line for line in axes.lines if "server thread" in str(line.get_label())]
        assert {str(line.get_label()).split(", ")[1] for line in ours} == {engine}
        assert len({str(line._unscaled_dash_pattern) for line in ours}) == 3
    assert {"rpc", "socket", "flask"} <= set(legend(figure))
    assert len(legend(figure)) == len(set(legend(figure)))


def test_more_modes_than_common_line_styles_are_drawn_apart() -> None:
    rows = pd.concat([grid(modes=("rpc", "flask")), grid(modes=("socket", "flask-gateway", "flask-dev"))])
    rows = pd.concat([rows, grid(modes=("flask",)).assign(mode="flask + curl")])
    figure = curves.throughput_figure(rows)
    assert len({str(line._unscaled_dash_pattern) for line in figure.axes[0].lines}) == 6


def test_the_stages_of_several_engines_have_a_row_a_mode_and_a_column_an_engine_and_count(tmp_path: Path) -> None:
    figure = plots.save(curves.stage_figure(several()), tmp_path, "stages")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    counts = ("1 server thread", "2 server threads")
    assert titles == [
        f"{mode}, {engine}, {count}"
        for mode in ("rpc", "socket", "flask")
        for engine in ("paddle", "folded")
        for count in counts
    ]

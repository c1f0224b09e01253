"""Charts for a page: what they show, what they say on hover, and what a script may hide."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from ledger_rows import grid, row, table
from matplotlib.figure import Figure

from imdb_serving.analysis.bounds import utilisation
from imdb_serving.cell import Finding
from imdb_serving.load.closed_loop import ClientRecord
from imdb_serving.measurement.ledger import store_samples
from imdb_serving.report import costs
from imdb_serving.report.chart import Charts, Legend, svg_of
from imdb_serving.report.charts import bars, latency, threads
from imdb_serving.report.charts.curves import curves_legend, styles
from imdb_serving.report.frames import cells

THIS_MACHINE = Path(__file__).parent
"""A folder without cards and samples."""

BOTH = grid(modes=("rpc", "flask"))


def drawings(charts: Charts) -> list[ET.Element]:
    """The charts' own drawings, as a page's script finds them."""
    markup = charts._repr_html_()
    images = re.findall(r'src="data:image/svg\+xml,([^"]+)"', markup)
    return [ET.fromstring(unquote(image)) for image in images]


def titles(drawing: ET.Element) -> list[str]:
    return [str(title.text) for title in drawing.iter("{http://www.w3.org/2000/svg}title")]


def data(drawing: ET.Element, name: str) -> set[str]:
    return {value for group in drawing.iter() if (value := group.get(f"data-{name}"))}


def test_each_point_says_its_cell_and_can_be_hidden_by_mode() -> None:
    (drawing,) = drawings(threads.time(BOTH, THIS_MACHINE))
    said = titles(drawing)
    own = [words for words in said if "samples/s" in words]
    assert len(own) == len(cells(BOTH))
    assert any(words.startswith("rpc, 2 server threads, none, 4 clients\n") for words in own)
    assert any(words.startswith("published rpc, 12 threads, 12 clients: 3.45 s") for words in said)
    assert data(drawing, "mode") == {"rpc", "flask", "published"}
    assert data(drawing, "engine") == {"none"}


def test_a_cell_that_is_not_valid_says_why() -> None:
    finding = Finding("alone", "other processes used 1.0 cores meanwhile")
    rows = table([row(1, 1), row(1, 2, status="invalid", findings=(finding,))])
    (drawing,) = drawings(threads.throughput(rows, THIS_MACHINE))
    assert [words for words in titles(drawing) if "not valid: alone: other processes used 1.0 cores" in words]


def test_each_engine_has_a_chart_and_a_name_for_a_reader() -> None:
    rows = table([row(1, clients, engine=engine) for engine in ("paddle", "none") for clients in (1, 2)])
    found = drawings(threads.time(rows, THIS_MACHINE))
    assert [drawing.get("aria-label") for drawing in found] == ["Time, engine paddle", "Time, engine none"]


def test_the_heat_map_has_a_field_a_cell_and_leaves_single_rows_out() -> None:
    rows = table([*(row(servers, clients) for servers in (1, 2) for clients in (1, 2, 4)), row(1, 1, mode="flask")])
    shown = threads.heat(rows, THIS_MACHINE)
    (drawing,) = drawings(shown)
    assert len(titles(drawing)) == 6
    assert "1 of one server-thread count is left out" in shown.note
    alone = threads.heat(table([row(1, 1), row(1, 2)]), THIS_MACHINE)
    assert len(drawings(alone)) == 1


def test_math_threads_have_a_map_against_server_threads() -> None:
    counts = itertools.product((1, 2), (1, 2), (1, 4))
    shown = threads.heat(table([row(s, c, math_threads=m) for s, m, c in counts]), THIS_MACHINE)
    best, every = drawings(shown)
    assert best.get("aria-label") == "rpc: samples/s, at the best number of clients (in brackets)"
    assert len(titles(best)) == 4
    assert len(titles(every)) == 8
    assert any("1 server thread x 2 math threads, none, 4 clients" in words for words in titles(best))


def test_the_stages_of_a_request_add_up_on_hover() -> None:
    (drawing,) = drawings(bars.stages(table([row(1, 1), row(1, 2)]), THIS_MACHINE))
    shares = [int(found) for words in titles(drawing) for found in re.findall(r"(\d+)% of a request", words)]
    assert sum(shares) == pytest.approx(200, abs=12)


def test_who_took_the_cpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = grid(servers=(1,)).assign(server_cpu_us=300.0, client_cpu_us=100.0)
    (drawing,) = drawings(bars.cost(rows, THIS_MACHINE))
    assert any("clients: 100 µs, 25%" in words for words in titles(drawing))


def with_samples(folder: Path, clients: int = 1) -> pd.DataFrame:
    """One cell with its raw samples below `folder`: requests of 1 to 10 ms, 1,000 of them."""
    plain = row(1, clients)
    names = ("prepro", "client_infer", *plain.stages, "postpro", "total")
    infer = np.linspace(1_000_000, 10_000_000, 1000).astype(np.int64)
    stages = np.repeat((infer // len(plain.stages))[:, None], len(plain.stages), axis=1)
    durations = np.column_stack([np.full(1000, 50), infer, stages, np.full(1000, 20), infer + 70])
    starts = np.cumsum(infer + 70)
    record = ClientRecord(names, list(range(1000)), starts, durations)
    raw = store_samples(folder, "one", [record])
    return table([row(1, clients, raw=raw)])


def test_a_distribution_marks_what_is_certified(tmp_path: Path) -> None:
    shown = latency.ecdf(with_samples(tmp_path), tmp_path)
    (drawing,) = drawings(shown)
    assert [words.split("\n")[1].split(" ")[0] for words in titles(drawing)] == ["p50", "p90", "p95", "p99"]
    assert "p50 5.5 ms, n 1,000" in titles(drawing)[0]


def test_without_raw_samples_it_says_so() -> None:
    assert "raw samples are not here" in latency.ecdf(BOTH, THIS_MACHINE)._repr_html_()
    assert "No request can be drawn" in latency.timeline(BOTH, THIS_MACHINE)._repr_html_()


def test_one_request_is_drawn_stage_by_stage(tmp_path: Path) -> None:
    (drawing,) = drawings(latency.timeline(with_samples(tmp_path), tmp_path))
    said = titles(drawing)
    assert [words.split("\n")[0] for words in said] == ["prepro", *row(1, 1).stages, "postpro"]
    assert said[0] == "prepro\n0.1 µs, from 0.0 µs on"


def test_colours_tell_lines_apart_where_each_has_one_count_of_threads() -> None:
    shown = cells(BOTH)
    one = shown[shown["threads"] == shown["threads"].min()]
    found = styles(one)
    assert len({(style.dashes, style.colour) for style in found.values()}) == len(found) == 2
    assert len({style.colour for style in found.values()}) == 2
    assert [artist.get_label() for artist in curves_legend(one)] == ["rpc", "flask"]
    many = pd.concat([one.assign(line=f"server {number}") for number in range(20)])
    assert len({(style.dashes, style.colour) for style in styles(many).values()}) == 20


def test_the_key_explains_lines_and_colours() -> None:
    key = Legend(curves_legend(cells(BOTH)), [("queue", "#D55E00")])
    assert [str(artist.get_label()) for artist in key.artists][-1] == "queue"
    markup = key.markup
    words = re.findall(r"</(?:svg|i)>([^<]+)</li>", markup)
    assert words[:3] == ["rpc", "flask", "1 server thread"]
    assert words[-1] == "queue"
    assert "stroke-dasharray" in markup


def test_charts_are_saved_as_one_figure_with_heading_and_legend(tmp_path: Path) -> None:
    rows = table([row(1, clients, engine=engine) for engine in ("paddle", "none") for clients in (1, 2)])
    charts = threads.time(rows, THIS_MACHINE)
    figure = charts.figure("two engines")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Time, engine paddle", "Time, engine none"]
    assert (figure.get_suptitle(), len(figure.legends)) == ("two engines", 1)
    assert charts.save(tmp_path, "time") is charts
    assert {path.name for path in tmp_path.iterdir()} == {"time.pdf", "time.png", "time.svg"}
    assert not Charts([]).save(tmp_path, "none").charts
    assert not list(tmp_path.glob("none*"))


def test_letters_drawn_as_outlines_keep_their_size() -> None:
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, "words", fontsize=7)
    with mpl.rc_context({"svg.fonttype": "path"}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
        drawn = svg_of(figure, {}, "words")
    scales = re.findall(r"scale\([^)]*\)", stream.getvalue())
    assert scales
    assert re.findall(r"scale\([^)]*\)", drawn) == scales


def test_commands_in_a_note_are_code() -> None:
    assert Charts((), note="see `a < b`")._repr_html_() == '<p class="chart-none">see <code>a &lt; b</code></p>'


def test_a_drawing_follows_the_page_and_loads_nothing() -> None:
    markup = threads.time(BOTH, THIS_MACHINE)._repr_html_()
    image = unquote(re.findall(r'src="data:image/svg\+xml,([^"]+)"', markup)[0])
    assert "prefers-color-scheme: dark" in image
    assert "var(--ink" in image
    assert not re.findall(r'(?:href|src)="(?!#)[^"]*"', image)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", image)


def test_a_server_whose_processes_cannot_be_seen_has_a_verdict_and_figures() -> None:
    """What is not known is said to be, and nothing is called busy or idle for it."""
    unseen = grid(modes=("http",), server="far", engine="", stages=("encode", "remote", "decode"))
    shown = cells(unseen).assign(client_cpu_us=50.0, in_flight=1.0, residual_us=0.0)
    assert shown["server_cpu_us"].isna().all()
    busy = utilisation(shown.sort_values("client_threads").iloc[-1], 2.0)
    assert (busy.limit, busy.workers, busy.front) == ("unknown", 0.0, 0.0)
    assert "not known" in bars.cost(unseen, THIS_MACHINE)._repr_html_()
    table = costs.of_cells(shown, 2.0).to_html()
    assert "not known" in table
    assert "nan" not in table.lower()
    for drawn in (threads.time, threads.throughput, bars.stages):
        assert '<figure class="chart' in drawn(unseen, THIS_MACHINE)._repr_html_()

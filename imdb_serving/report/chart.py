"""A chart: a function that draws on axes. A page shows it as an SVG with tooltips; papers get it as a file.

Every figure of the project is drawn here, except the live one of the lab. A chart knows no cell. On a page, artists
with a `gid` become groups that the page's script finds again; without a script the image is a still one. Its colours
follow the page's, light or dark.
"""

from __future__ import annotations

import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree as ET

from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch

from imdb_serving.report.markup import inline_markup
from imdb_serving.report.style import STYLE, own_style, save

SVG = "http://www.w3.org/2000/svg"
INK, FAINT, PAPER = "#2f3437", "#dcdfe1", "#fdfdfe"
"""What is drawn in these colours takes the page's: text and axes, the grid, and what is empty inside."""

COLOURS = {INK: f"var(--ink, {INK})", FAINT: f"var(--faint, {FAINT})", PAPER: f"var(--paper, {PAPER})"}
DARK_INKS = "--ink: #dfe3e6; --faint: #41474b; --paper: #1b1e20"
OWN_STYLE = (
    f":root {{ --ink: {INK}; --faint: {FAINT}; --paper: {PAPER} }} "
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {DARK_INKS} }} }}"
)

GEOMETRY = ("d", "transform", "x", "y", "points", "width", "height")
LONG_NUMBER = re.compile(r"([1-9]\d*\.\d\d)\d+")
"""A coordinate with more digits than a screen shows; what is below one may be a scale, which needs its digits."""

ET.register_namespace("", SVG)
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")


class Tooltip(NamedTuple):
    """A group's tooltips, one text or one for each of its markers in order, and its `data-` attributes."""

    words: tuple[str, ...]
    data: Mapping[str, str] = {}


def svg_of(
    figure: Figure, tooltips: Mapping[str, Tooltip], label: str, colours: Mapping[str, str] = COLOURS, style: str = ""
) -> str:
    """Return a figure as one `svg` element, as wide as its place, which a screen reader calls `label`.

    The group of each `gid` in `tooltips` gets its words as titles, which browsers show on hover. `colours` replaces
    colours by what a style sheet may say; `style` is the figure's own sheet. Whether letters are text or outlines is
    matplotlib's setting at the moment, which is not changed here: other threads may be drawing.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    root = ET.fromstring(_plain(stream.getvalue(), style))  # noqa: S314 - drawn a moment ago
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    for element in root.iter():
        for name in GEOMETRY:
            if value := element.get(name):
                element.set(name, LONG_NUMBER.sub(r"\1", value).replace("\n", " "))
        if element.tag == f"{{{SVG}}}g" and (tooltip := tooltips.get(element.get("id", ""))):
            _add_titles(element, tooltip)
    text = ET.tostring(root, encoding="unicode")
    for colour, instead in colours.items():
        text = text.replace(colour, instead)
    return re.sub(r">\s+<", "><", text)


def _add_titles(group: ET.Element, tooltip: Tooltip) -> None:
    for name, value in tooltip.data.items():
        group.set(f"data-{name}", value)
    markers = list(group.iter(f"{{{SVG}}}use"))
    places = [group] if len(tooltip.words) == 1 else markers
    if len(places) == len(tooltip.words):
        for place, words in zip(places, tooltip.words, strict=True):
            title = ET.Element(f"{{{SVG}}}title")
            title.text = words
            place.insert(0, title)


def _plain(text: str, style: str) -> str:
    """Return the element with its own style sheet."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return text.replace("*{stroke-linejoin", f"{style} svg *{{stroke-linejoin", 1)


WIDTH, HEIGHT, MARKER = 34.0, 12.0, 4.0
DARK = {"#444444": INK, "#000000": INK}
"""What would not be seen on a dark page."""


class Legend(NamedTuple):
    """What explains a chart: lines with their labels, and colours with their names."""

    handles: Sequence[Line2D] = ()
    swatches: Sequence[tuple[str, str]] = ()

    @property
    def markup(self) -> str:
        """The legend as HTML, empty when there is nothing to explain."""
        entries = [f"<li>{_line(handle)}{_words(str(handle.get_label()))}</li>" for handle in self.handles]
        entries += [f'<li><i style="background:{colour}"></i>{_words(name)}</li>' for name, colour in self.swatches]
        return f'<ul class="chart-key">{"".join(entries)}</ul>' if entries else ""

    @property
    def artists(self) -> list[Artist]:
        """The same for a figure's own legend."""
        return [*self.handles, *(Patch(color=colour, label=name) for name, colour in self.swatches)]

    @property
    def size(self) -> tuple[float, int]:
        """The width of a figure's own legend of one column, in inches, and its number of lines."""
        lines = [line for artist in self.artists for line in str(artist.get_label()).split("\n")]
        return 0.8 + max(map(len, lines), default=0) / LETTERS_AN_INCH, len(lines)


def _words(label: str) -> str:
    return html.escape(label.replace("\n", " "))


def _line(handle: Line2D) -> str:
    colour = to_hex(handle.get_color())
    colour = DARK.get(colour, colour)
    colour = COLOURS.get(colour, colour)
    parts = []
    if handle.get_linestyle() != "None":
        style = f"stroke:{colour};stroke-width:{handle.get_linewidth():g};opacity:{handle.get_alpha() or 1:g}"
        dashes = _dashes(handle)
        parts.append(f'<line x1="0" y1="6" x2="{WIDTH:g}" y2="6" style="{style}"{dashes}/>')
    if handle.get_marker() not in {"None", "", " ", "."}:
        empty = to_hex(handle.get_markerfacecolor()) == "#ffffff"
        inside = "none" if empty else colour
        parts.append(f'<path d="{_outline(handle.get_marker())}" style="fill:{inside};stroke:{colour}"/>')
    return f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" aria-hidden="true">{"".join(parts)}</svg>'


def _dashes(handle: Line2D) -> str:
    """Return a line's dashes as an SVG's."""
    named: dict[str, Sequence[float]] = {"--": (3.7, 1.6), ":": (1, 1.65), "-.": (6.4, 1.6, 1, 1.6)}
    style: Any = handle.get_linestyle()
    own: Any = getattr(handle, "_unscaled_dash_pattern", (0, None))[1]
    pattern = own or named.get(style)
    scale = max(handle.get_linewidth(), 2.0)  # dots that can be told from a line
    return f' stroke-dasharray="{" ".join(f"{part * scale:g}" for part in pattern)}"' if pattern else ""


def _outline(marker: Any) -> str:
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    polygons: Any = path.to_polygons(closed_only=False)
    size = MARKER * 2
    return " ".join(
        "M " + " L ".join(f"{WIDTH / 2 + x * size:.1f} {HEIGHT / 2 - y * size:.1f}" for x, y in polygon)
        for polygon in polygons
    )


SIZE = 5.2, 3.5
BROAD = 6.0
PAGE: Any = {
    **STYLE,
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "figure.facecolor": PAPER,
    "font.size": 10,
    "grid.color": FAINT,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class Sheet:
    """The axes that a chart is drawn on, and what its artists say on hover."""

    def __init__(self, axes: Axes, prefix: str = "tip") -> None:
        """Take empty axes, and what the names of artists begin with, which must differ within a figure."""
        self.axes = axes
        self.tooltips: dict[str, Tooltip] = {}
        self._prefix = prefix

    def add_tooltips(self, artist: Any, words: Sequence[str], data: Mapping[str, str] | None = None) -> None:
        """Give an artist tooltips, one for all of it or one for each marker, and `data-` attributes."""
        name = f"{self._prefix}-{len(self.tooltips)}"
        artist.set_gid(name)
        self.tooltips[name] = Tooltip(tuple(words), data or {})


class Chart(NamedTuple):
    """One chart: its title, the function that draws it, and its width and height in inches."""

    title: str
    draw: Callable[[Sheet], object]
    size: tuple[float, float] = SIZE

    @property
    def markup(self) -> str:
        """The chart as HTML: its title and its image."""
        with own_style(PAGE):
            figure = Figure(figsize=self.size, layout="constrained")
            sheet = Sheet(figure.add_subplot())
            self.draw(sheet)
            svg = svg_of(figure, sheet.tooltips, self.title, style=OWN_STYLE)
        source = f"data:image/svg+xml,{quote(svg, safe=SAFE)}"
        label = html.escape(self.title)
        kind = "chart broad" if self.size[0] > BROAD else "chart"  # it takes the place of two
        return f'<figure class="{kind}"><figcaption>{label}</figcaption><img alt="{label}" src="{source}"></figure>'


SAFE = " !$()*+,-./:;=@_~?&|[]{}^"
"""What need not be escaped in a data URI within double quotes; escaped it would be three times as long."""


class Charts(NamedTuple):
    """Charts side by side, as many as the page is wide for, with the legend that explains them."""

    charts: Sequence[Chart]
    legend: Legend = Legend()
    note: str = ""

    def figure(self, heading: str = "") -> Figure:
        """Draw the charts as the panels of one figure on white, with its heading and legend; for papers.

        The legend is beside the panels, or below them where it is too long for that.
        """
        across = max(1, min(len(self.charts), int(MOST_WIDTH // self.charts[0].size[0])))
        down = math.ceil(len(self.charts) / across)
        widths = [chart.size[0] for chart in self.charts[:across]]
        width, height = max(sum(widths), LEAST_WIDTH), max(chart.size[1] for chart in self.charts) * down
        artists, (inches, lines) = self.legend.artists, self.legend.size
        beside = lines * LINE_INCHES <= height and inches <= width / 2
        columns = 1 if beside else max(1, int(width / inches))
        words = _wrapped(heading, int(width * LETTERS_AN_INCH))
        height += LINE_INCHES * (1.5 + words.count("\n") + (0 if beside else math.ceil(lines / columns)))
        with own_style():
            size = (width + (inches if beside and artists else 0), height)
            figure = plt.figure(figsize=size, layout="constrained")
            grid = figure.add_gridspec(down, across, width_ratios=widths)
            for number, chart in enumerate(self.charts):
                axes = figure.add_subplot(grid[divmod(number, across)])
                chart.draw(Sheet(axes, f"panel-{number}"))
                axes.set_title(_wrapped(chart.title, int(chart.size[0] * LETTERS_AN_INCH)), loc="left", fontsize=10)
            figure.suptitle(words, fontsize=11, x=0.01, ha="left")
            if artists:
                place: Any = "outside right upper" if beside else "outside lower left"
                figure.legend(handles=artists, loc=place, ncols=columns, fontsize=9.5)
            plt.close(figure)  # so that a notebook shows it once, as a cell's result
        return figure

    def save(self, folder: Path, name: str, heading: str = "") -> Charts:
        """Write the charts as one figure, as PNG, SVG and PDF, if there are any; return them for showing."""
        if self.charts:
            save(self.figure(heading), folder, name)
        return self

    def _repr_html_(self) -> str:
        if not self.charts:
            return f'<p class="chart-none">{inline_markup(self.note)}</p>'
        note = f'<p class="chart-note">{inline_markup(self.note)}</p>' if self.note else ""
        drawn = "".join(chart.markup for chart in self.charts)
        return f'<div class="charts">{drawn}</div>{self.legend.markup}{note}'


MOST_WIDTH, LEAST_WIDTH = 16.0, 7.6
"""The most inches of panels side by side in a figure for papers, and the least of a figure."""

LETTERS_AN_INCH, LINE_INCHES = 12, 0.24


def _wrapped(words: str, width: int) -> str:
    """Wrap text to lines of at most `width` letters."""
    return "\n".join(line for part in words.split("\n") for line in textwrap.wrap(part, width))

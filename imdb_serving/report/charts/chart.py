"""A chart: a small figure as a still image that a page's script makes interactive, and its legend as markup."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch

from imdb_serving.report.style import STYLE, own_style, save
from imdb_serving.report.svg import COLOURS, FAINT, INK, OWN_STYLE, PAPER, Tip, inline_markup, svg_of

WIDTH, HEIGHT, MARKER = 34.0, 12.0, 4.0
DARK = {"#444444": INK, "#000000": INK}
"""What would not be seen on a dark page."""


class Legend(NamedTuple):
    """What explains lines with their labels, and patches of colour with their names."""

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
KEY_COLUMNS, LINE_INCHES = 3, 0.22
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


class Chart(NamedTuple):
    """One chart: its figure, and the same as markup."""

    title: str
    svg: str
    figure: Figure

    @property
    def markup(self) -> str:
        """The chart as HTML: its title and its image."""
        source = f"data:image/svg+xml,{quote(self.svg, safe=SAFE)}"
        label = html.escape(self.title)
        kind = "chart broad" if self.figure.get_figwidth() > BROAD else "chart"  # it takes the place of two
        return f'<figure class="{kind}"><figcaption>{label}</figcaption><img alt="{label}" src="{source}"></figure>'


SAFE = " !$()*+,-./:;=@_~?&|[]{}^"
"""What need not be escaped in a data URI within double quotes; escaped it would be three times as long."""


class Charts(NamedTuple):
    """Charts side by side, as many as the page is wide for, with the key that explains them."""

    charts: Sequence[Chart]
    key: Legend = Legend()
    note: str = ""

    def save(self, folder: Path, name: str = "") -> Charts:
        """Write each chart's figure for papers, with its title and key, and return the charts for showing.

        A file is called by the chart's title, behind `name`.
        """
        for chart in self.charts:
            with own_style(PAGE):
                if not chart.figure.get_suptitle():  # else it was saved before
                    self._complete(chart)
                save(chart.figure, folder, re.sub(r"[^a-z0-9]+", "-", f"{name} {chart.title}".lower()).strip("-"))
        return self

    def _complete(self, chart: Chart) -> None:
        """Give a chart's figure its title and key, and the room for them: the axes keep theirs."""
        artists = self.key.artists
        lines = 1.5 + math.ceil(len(artists) / KEY_COLUMNS)
        chart.figure.set_figheight(chart.figure.get_figheight() + lines * LINE_INCHES)
        chart.figure.suptitle(chart.title, fontsize=11)
        if artists:
            chart.figure.legend(
                handles=artists, loc="outside lower center", ncols=KEY_COLUMNS, fontsize=9, frameon=False
            )

    def _repr_html_(self) -> str:
        if not self.charts:
            return f'<p class="chart-none">{inline_markup(self.note)}</p>'
        note = f'<p class="chart-note">{inline_markup(self.note)}</p>' if self.note else ""
        drawn = "".join(chart.markup for chart in self.charts)
        return f'<div class="charts">{drawn}</div>{self.key.markup}{note}'


class Sheet:
    """A figure that is being drawn, and what its artists will say."""

    def __init__(self, figure: Figure) -> None:
        """Take an empty figure."""
        self.figure = figure
        self.axes: Axes = figure.add_subplot()
        self._tips: dict[str, Tip] = {}

    def tell(self, artist: Any, words: Sequence[str], data: Mapping[str, str] | None = None) -> None:
        """Give an artist tooltips, one for all of it or one for each marker, and `data-` attributes."""
        name = f"tip-{len(self._tips)}"
        artist.set_gid(name)
        self._tips[name] = Tip(tuple(words), data or {})

    def chart(self, title: str) -> Chart:
        """Return what was drawn."""
        return Chart(title, svg_of(self.figure, self._tips, title, style=OWN_STYLE), self.figure)


@contextmanager
def sheet(size: tuple[float, float] = SIZE) -> Iterator[Sheet]:
    """Give an empty figure in the page's style for the block."""
    with own_style(PAGE):
        yield Sheet(Figure(figsize=size, layout="constrained"))

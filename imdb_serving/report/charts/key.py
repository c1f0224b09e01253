"""A chart's key as markup, which wraps where a page is narrow. Knows matplotlib's lines and no cell."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch

from imdb_serving.report.svg import COLOURS, INK

WIDTH, HEIGHT, MARKER = 34.0, 12.0, 4.0
DARK = {"#444444": INK, "#000000": INK}
"""What would not be seen on a dark page."""


class Key(NamedTuple):
    """What explains lines with their labels, and patches of colour with their names."""

    handles: Sequence[Line2D] = ()
    swatches: Sequence[tuple[str, str]] = ()

    @property
    def markup(self) -> str:
        """The key as HTML, empty when there is nothing to explain."""
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

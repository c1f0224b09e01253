"""Figures as SVG that a page can hold: with words on hover, and in the page's own colours. Knows no cell.

A matplotlib figure is the one source of a still and of an interactive figure: artists with a `gid` become groups that
a page finds again.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
INK, FAINT, PAPER = "#2f3437", "#dcdfe1", "#fdfdfe"
"""What is drawn in these colours takes the page's: text and axes, the grid, and what is empty inside."""

ET.register_namespace("", SVG)
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def svg_of(figure: Figure, titles: Mapping[str, str], label: str, colours: Mapping[str, str] | None = None) -> str:
    """Return a figure as one `svg` element, as wide as its place, which a screen reader calls `label`.

    The group of each `gid` in `titles` gets that title, which browsers show on hover. `colours` replaces colours by
    what a style sheet may say, for example `var(--ink, #2f3437)`.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(_without_prologue(stream.getvalue()))  # noqa: S314 - drawn a moment ago
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    for group in root.iter(f"{{{SVG}}}g"):
        if words := titles.get(group.get("id", "")):
            title = ET.Element(f"{{{SVG}}}title")
            title.text = words
            group.insert(0, title)
    text = ET.tostring(root, encoding="unicode")
    for colour, instead in (colours or {}).items():
        text = text.replace(colour, instead)
    return text


def _without_prologue(text: str) -> str:
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)

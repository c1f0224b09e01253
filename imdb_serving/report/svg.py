"""Figures as SVG for a page, with tooltips and in the page's colours; and inline markup of text. Knows no cell.

One matplotlib figure is the source of the still figure and of the interactive one: artists with a `gid` become groups
that a page finds again. Without a script the SVG is a figure like any other, dark where the reader's screen is.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree as ET

from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
INK, FAINT, PAPER = "#2f3437", "#dcdfe1", "#fdfdfe"
"""What is drawn in these colours takes the page's: text and axes, the grid, and what is empty inside."""

COLOURS = {INK: f"var(--ink, {INK})", FAINT: f"var(--faint, {FAINT})", PAPER: f"var(--paper, {PAPER})"}
DARK = "--ink: #dfe3e6; --faint: #41474b; --paper: #1b1e20"
OWN_STYLE = (
    f":root {{ --ink: {INK}; --faint: {FAINT}; --paper: {PAPER} }} "
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}"
)

GEOMETRY = ("d", "transform", "x", "y", "points", "width", "height")
LONG_NUMBER = re.compile(r"([1-9]\d*\.\d\d)\d+")
"""A coordinate with more digits than a screen shows; what is below one may be a scale, which needs its digits."""

ET.register_namespace("", SVG)
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")


class Tip(NamedTuple):
    """What a group says on hover: one text, or one for each of its markers in order; and `data-` attributes of it."""

    words: tuple[str, ...]
    data: Mapping[str, str] = {}


def svg_of(
    figure: Figure, tips: Mapping[str, Tip], label: str, colours: Mapping[str, str] = COLOURS, style: str = ""
) -> str:
    """Return a figure as one `svg` element, as wide as its place, which a screen reader calls `label`.

    The group of each `gid` in `tips` gets its words as titles, which browsers show on hover. `colours` replaces colours
    by what a style sheet may say; `style` is the figure's own sheet. Whether letters are text or outlines is
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
        if element.tag == f"{{{SVG}}}g" and (tip := tips.get(element.get("id", ""))):
            _tell(element, tip)
    text = ET.tostring(root, encoding="unicode")
    for colour, instead in colours.items():
        text = text.replace(colour, instead)
    return re.sub(r">\s+<", "><", text)


def _tell(group: ET.Element, tip: Tip) -> None:
    for name, value in tip.data.items():
        group.set(f"data-{name}", value)
    markers = list(group.iter(f"{{{SVG}}}use"))
    places = [group] if len(tip.words) == 1 else markers
    if len(places) == len(tip.words):
        for place, words in zip(places, tip.words, strict=True):
            title = ET.Element(f"{{{SVG}}}title")
            title.text = words
            place.insert(0, title)


def _plain(text: str, style: str) -> str:
    """Return the element with its own style sheet."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return text.replace("*{stroke-linejoin", f"{style} svg *{{stroke-linejoin", 1)


def inline_markup(text: str) -> str:
    """Return one line of text as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))

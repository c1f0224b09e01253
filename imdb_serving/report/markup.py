"""HTML that is shown, and text made of it. Knows no chart and no table."""

from __future__ import annotations

import html
import re


class Markup:
    """HTML that a notebook shows, and that a page contains as it is."""

    def __init__(self, markup: str) -> None:
        """Take HTML in which text is escaped."""
        self.markup = markup

    def _repr_html_(self) -> str:
        return self.markup


def inline_markup(text: str) -> str:
    """Return one line of text as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))

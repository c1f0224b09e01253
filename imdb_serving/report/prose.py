"""Words as HTML: what stands between backticks is code. Knows no figure and no row."""

from __future__ import annotations

import html
import re


def prose(text: str) -> str:
    """Return one line of text as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))

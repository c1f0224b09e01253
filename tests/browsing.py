"""The machine's Chromium, driven by Playwright, for all tests of pages."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 30_000
LAUNCH_MS = 60_000
ARGUMENTS = [
    "--no-sandbox",  # Chromium has none for root, whom containers run as; it sees no page but ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's Chromium, without a window; the tests are skipped where there is none."""
    chosen = os.environ.get("CHROMIUM")
    path = next(filter(None, map(shutil.which, [chosen] if chosen else NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here: run `make browser`")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, headless=True, timeout=LAUNCH_MS)
        yield browser
        browser.close()


def keep_screenshot(page: Page, folder: Path, name: str, *, whole: bool = True) -> None:
    """Write a screenshot into the test's folder, and where IMDB_SERVING_SCREENSHOTS says, so that somebody may look."""
    for place in filter(None, [str(folder), os.environ.get("IMDB_SERVING_SCREENSHOTS")]):
        Path(place).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(place) / f"{name}.png", full_page=whole, animations="disabled")


def point_at(point: Locator, words: str) -> None:
    """Hover over a chart's point until its words are seen; while a page is laid out, points move from under a mouse."""
    tip, deadline = point.page.locator(".chart-tip", has_text=words), time.monotonic() + WAIT_MS / 1000
    while True:
        with suppress(Error):  # it was moved out of the window again
            point.scroll_into_view_if_needed()
            point.hover(force=True)
        if tip.is_visible():
            return
        assert time.monotonic() < deadline, f"no tip says {words!r}"


def overflow(page: Page) -> int:
    """How many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

"""`explore.ipynb` in real JupyterLab, driven by a browser as a person would."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import server_that_runs
from browsing import keep_screenshot, point_at
from notebook_runs import ROOT, processes_with, shell_environment
from playwright.sync_api import Browser, Locator, Page, expect
from waiting import wait_until

from imdb_serving.experiment.grid import run_grid
from imdb_serving.measurement import texts
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.server_process import end
from imdb_serving.text.formats import Line

START_SECONDS = 60.0
KERNEL_MS = 60_000
STOP_SECONDS = 30.0


class Jupyter(NamedTuple):
    """A running JupyterLab: its address with the token, what marks all processes that come of it, and its notebooks."""

    address: str
    mark: str
    notebooks: Path

    def page(self, notebook: str) -> str:
        base, token = self.address.split("?")
        return f"{base}doc/tree/{notebook}?{token}&reset"


@pytest.fixture
def jupyter(browser: Browser, bundle: Path, tmp_path: Path) -> Iterator[Jupyter]:
    """JupyterLab on a copy of the notebooks that serves the small CNN; gone with all its children afterwards."""
    project, runtime = tmp_path / "project", tmp_path / "runtime"
    (project / "params").mkdir(parents=True)
    copy_with(ROOT / "notebooks" / "explore.ipynb", project / "notebooks", model=str(bundle), outputs=str(tmp_path))
    mark = f"imdb-serving-test-{uuid.uuid4().hex}"
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(tmp_path / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    news = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}', encoding="utf-8")
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0"]
    with (tmp_path / "jupyter.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options, str(project / "notebooks")],
            env={**shell_environment(), **own, "IMDB_SERVING_TEST_MARK": mark},
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        found = wait_until(lambda: list(runtime.glob("jpserver-*.json")), START_SECONDS)
        facts = wait_until(lambda: read(found[0]), START_SECONDS)
        yield Jupyter(f"{facts['url']}?token={facts['token']}", mark, project / "notebooks")
    finally:
        end(server, STOP_SECONDS)


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # not yet written


def copy_with(notebook: Path, folder: Path, /, **parameters: str) -> None:
    """Copy a notebook with other defaults in its parameters cell."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            source = "".join(cell["source"])
            for name, value in parameters.items():
                source, changed = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", source)
                assert changed == 1
            cell["source"] = source
    folder.mkdir(parents=True, exist_ok=True)
    (folder / notebook.name).write_text(json.dumps(content), encoding="utf-8")


class LabPage:
    """The lab as a person sees it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def run(self, address: str) -> None:
        """Open a notebook and run all its cells."""
        self.page.goto(address)
        expect(self.page.locator(".jp-Notebook")).to_be_visible(timeout=KERNEL_MS)
        expect(self.page.get_by_role("button", name="| Idle")).to_be_visible(timeout=KERNEL_MS)
        self.menu("Run", "Run All Cells")

    def menu(self, menu: str, entry: str) -> None:
        self.page.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.get_by_role("menuitem", name=entry).first.click()

    def control(self, label: str) -> Locator:
        return self.page.get_by_label(label, exact=True)

    @property
    def numbers(self) -> Locator:
        return self.page.locator(".lab .number")

    @property
    def state(self) -> Locator:
        return self.page.locator(".lab [role=status], .lab [role=alert]").first

    def dots(self) -> list[str]:
        """What the dots say on hover."""
        return self.page.locator(".lab svg g[id^=dot-] title").all_text_contents()

    def dot_of(self, words: str) -> str:
        """Wait for the dot that says these words."""
        dot = self.page.locator(".lab svg g[id^=dot-] title").filter(has_text=words)
        expect(dot).to_have_count(1, timeout=KERNEL_MS)
        return str(dot.text_content())

    def throughput(self) -> float:
        return float(self.numbers.first.inner_text().replace(",", ""))


@pytest.mark.slow
def test_exploring_by_hand(jupyter: Jupyter, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    try:
        lab = LabPage(page)
        lab.run(jupyter.page("explore.ipynb"))

        # A server answers and the figure moves.
        expect(lab.numbers.first).to_be_visible(timeout=KERNEL_MS)
        expect(lab.state).to_contain_text("the server answers at tcp://")
        assert wait_until(lambda: lab.throughput() > 0, START_SECONDS)
        first = lab.numbers.first.inner_text()
        assert wait_until(lambda: lab.numbers.first.inner_text() != first, START_SECONDS)
        stages = page.locator(".lab", has_text="Where a request's time goes").first
        box = wait_until(stages.bounding_box, START_SECONDS)  # the panel is drawn anew all the time
        assert box["y"] + box["height"] <= 800, "the lab does not fit on one screen"

        # The slider under load: another dot, another figure; the server stays.
        two = lab.dot_of("2 clients")
        answering = lab.state.inner_text()
        page.locator(".noUi-handle").first.focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        expect(lab.control("clients")).to_have_value("5")
        assert lab.dot_of("5 clients") != two
        assert lab.state.inner_text() == answering
        assert len(lab.dots()) == 2

        # Another mode is another server, and the trace stays.
        lab.control("mode").select_option("flask")
        expect(lab.state).to_contain_text("the server answers at http://", timeout=KERNEL_MS)
        lab.dot_of("flask")
        assert len(lab.dots()) == 3

        # A review: its class, and which words tipped it.
        lab.control("review").fill("A wonderful film, superb acting.")
        page.keyboard.press("Enter")
        expect(page.locator(".lab .words")).to_contain_text("superb")
        expect(page.get_by_text("probability of positive")).to_be_visible()
        expect(page.locator(".lab .life")).to_have_attribute("aria-label", re.compile("op1"))
        keep_screenshot(page, tmp_path, "explore", whole=False)

        # What cannot be is told, and nothing breaks.
        lab.control("engine").select_option("folded")
        expect(lab.state).to_contain_text("the server answers", timeout=KERNEL_MS)
        lab.control("net").select_option("bow")
        expect(lab.state).to_contain_text("the folded engine runs cnn")
        lab.control("net").select_option("cnn")

        # Stop, and nothing of it runs; start again, and restart the kernel.
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(lab.state).to_contain_text("stopped: nothing runs", timeout=KERNEL_MS)
        assert wait_until(lambda: not serving(jupyter.mark), STOP_SECONDS)
        page.get_by_role("button", name="Start", exact=True).click()
        expect(lab.state).to_contain_text("the server answers", timeout=KERNEL_MS)
        assert serving(jupyter.mark)
        lab.menu("Kernel", "Restart Kernel")
        page.locator(".jp-Dialog .jp-mod-accept").click()
        assert wait_until(lambda: not serving(jupyter.mark), STOP_SECONDS)
        expect(page.get_by_role("button", name="| Idle")).to_be_visible(timeout=KERNEL_MS)
        assert lab.problems == []
    finally:
        page.close()


@pytest.mark.slow
def test_a_server_of_someone_else_is_typed_in(jupyter: Jupyter, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    try:
        lab = LabPage(page)
        lab.run(jupyter.page("explore.ipynb"))
        expect(lab.state).to_contain_text("the server answers at tcp://", timeout=KERNEL_MS)
        expect(lab.control("URL")).to_be_hidden()
        lab.control("mode").select_option("http")
        expect(lab.state).to_contain_text("needs server.command, or server.url")
        with server_that_runs.running() as url:
            for label, words in {
                "path": "/predict", "body": '{"text": {{ text | tojson }}}', "answer": "scores[1]", "URL": url
            }.items():  # fmt: skip
                lab.control(label).fill(words)
                page.keyboard.press("Enter")
            expect(lab.state).to_contain_text(f"the server answers at {url}", timeout=KERNEL_MS)
            expect(lab.control("engine")).to_have_value("its own")
            lab.dot_of("http")
            expect(page.locator(".lab").filter(has_text="remote").first).to_be_visible()
            keep_screenshot(page, tmp_path, "explore-http", whole=False)
            page.set_viewport_size({"width": 390, "height": 844})
            keep_screenshot(page, tmp_path, "explore-http-phone", whole=False)
            page.get_by_role("button", name="Stop", exact=True).click()
            expect(lab.state).to_contain_text("stopped: nothing runs", timeout=KERNEL_MS)
        assert lab.problems == []
    finally:
        page.close()


@pytest.mark.slow
def test_the_reports_charts_answer_in_jupyterlab(
    jupyter: Jupyter, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [Line("made", number, "2 8 9 1") for number in range(1, 21)]
    monkeypatch.setattr(texts, "measurement_lines", lambda samples, seed, vocabulary: lines)
    for mode in ("rpc", "flask"):
        params = GridParams(mode=mode, engine="none", server_threads=1, client_threads=[1, 2], samples=20)
        params = msgspec.structs.replace(params, sweep="small", run="one", outputs=str(tmp_path))
        run_grid(params, lambda text: None)
    copy_with(ROOT / "notebooks" / "report.ipynb", jupyter.notebooks, folder=str(tmp_path / "small"))
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    try:
        lab = LabPage(page)
        lab.run(jupyter.page("report.ipynb"))
        flask = page.locator('.chart svg [data-mode="flask"]')
        expect(flask.first).to_be_visible(timeout=KERNEL_MS)
        expect(page.locator(".verdict")).to_be_visible()
        point_at(flask.locator("[data-tip]").first, "samples/s")
        page.get_by_label("flask", exact=True).uncheck()
        expect(flask.first).to_be_hidden()
        keep_screenshot(page, tmp_path, "report-in-jupyterlab", whole=False)
        assert lab.problems == []
    finally:
        page.close()


def serving(mark: str) -> list[str]:
    """The commands of servers and clients that came of this JupyterLab."""
    found = []
    for pid in processes_with(mark):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
        except OSError:
            continue
        if "imdb_serving" in command:
            found.append(command)
    return found


@pytest.mark.slow
def test_closing_the_page_stops_the_server(jupyter: Jupyter, browser: Browser) -> None:
    page = browser.new_page()
    lab = LabPage(page)
    lab.run(jupyter.page("explore.ipynb"))
    expect(lab.state).to_contain_text("the server answers", timeout=KERNEL_MS)
    expect(lab.numbers.first).to_be_visible(timeout=KERNEL_MS)
    assert serving(jupyter.mark)
    page.close()
    assert wait_until(lambda: not serving(jupyter.mark), 2 * STOP_SECONDS)


@pytest.mark.slow
def test_neither_a_rest_nor_a_busy_kernel_is_taken_for_a_closed_page(jupyter: Jupyter, browser: Browser) -> None:
    away = 4.0
    notebook = jupyter.notebooks / "explore.ipynb"
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["cells"][1]["source"] += (
        f"\nimport imdb_serving.lab.controls\nimdb_serving.lab.controls.AWAY_SECONDS = {away}"
    )
    busy = f"import time; time.sleep({3 * away}); print('no longer busy' + '.')"
    content["cells"].append(
        {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": busy}
    )
    notebook.write_text(json.dumps(content), encoding="utf-8")
    page = browser.new_page()
    try:
        lab = LabPage(page)
        lab.run(jupyter.page("explore.ipynb"))
        expect(lab.state).to_contain_text("the server answers", timeout=KERNEL_MS)
        expect(page.get_by_text("no longer busy.")).to_be_visible(timeout=KERNEL_MS)
        expect(lab.state).to_contain_text("the server answers")
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(lab.state).to_contain_text("stopped: nothing runs", timeout=KERNEL_MS)
        time.sleep(2 * away)
        page.get_by_role("button", name="Start", exact=True).click()
        expect(lab.state).to_contain_text("the server answers", timeout=KERNEL_MS)
        time.sleep(2 * away)
        expect(lab.state).to_contain_text("the server answers")
    finally:
        page.close()

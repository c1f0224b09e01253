"""The documents as a reader uses them: links followed, command and code blocks run, two languages in step."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from repository import BLOCK, Block, blocks, own_files, steps

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [*own_files("*.md"), *own_files("docs/*.md")]
LINK = re.compile(r"""\]\(\s*([^)\s]+)\s*\)|(?:src|href)=["']([^"']+)["']""")
COMMANDS = {"sh", "bash", "console"}
STEP_SECONDS = 110


def is_run(block: Block) -> bool:
    """The Chinese page has the English page's blocks, as another test checks."""
    return block.language in COMMANDS and block.page != CHINESE.name


def name_of(block: Block) -> str:
    return f"{block.page}-{block.number}"


def links(page: Path) -> list[str]:
    found = LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    return [marked or tagged for marked, tagged in found]


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link


@pytest.mark.slow
@pytest.mark.parametrize("link", sorted({link for page in PAGES for link in links(page) if link.startswith("http")}))
def test_links_to_others_are_answered(link: str) -> None:
    asked = Request(link, headers={"User-Agent": "Mozilla/5.0"})
    try:
        with urlopen(asked, timeout=20) as answer:
            assert answer.status < 400
    except HTTPError as error:
        if error.code not in {403, 405, 429, 503}:  # there, and not for scripts
            pytest.fail(f"{link}: {error}")
    except (URLError, TimeoutError, OSError) as error:
        pytest.skip(f"no way to {link} from here: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"\btests/[\w/]+\.py\b", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_example_report_leads_to_what_is_there() -> None:
    folder = ROOT / "outputs" / "example"
    page = (folder / "report.html").read_text(encoding="utf-8")
    files = [link for link in re.findall(r'<a href="([^"]+)"', page) if not link.startswith("#")]
    assert {"ledger.jsonl", "cells.csv"} <= set(files)
    assert [link for link in files if not (folder / link).exists()] == []


def numbers(text: str) -> Counter[str]:
    """The measured figures of a page: decimals, thousands, percentages; ports and versions are in blocks."""
    return Counter(re.findall(r"\d+(?:,\d{3})+|\d+\.\d+|\d+ ?%", BLOCK.sub("", text)))


def test_the_two_languages_are_in_step() -> None:
    english, chinese = (page.read_text(encoding="utf-8") for page in (ENGLISH, CHINESE))
    assert BLOCK.findall(english) == BLOCK.findall(chinese)
    assert numbers(english) == numbers(chinese)
    levels = [re.findall(r"^(#+) ", text, re.MULTILINE) for text in (english, chinese)]
    assert levels[0] == levels[1]
    other = {"README.md", "README.zh-CN.md"}
    here, there = ([link for link in links(page) if link not in other] for page in (ENGLISH, CHINESE))
    assert here == there


def taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def project(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a reader lays out in it, a trained model and an environment to activate."""
    place = tmp_path_factory.mktemp("reader") / "project"
    place.mkdir()
    run("imdb-serving notebooks .", place)
    shutil.copytree(bundle, place / "outputs" / "models" / "cnn")
    for part in bundle.iterdir():  # what `imdb-serving train` leaves in the folder it is run in
        (place / part.name).symlink_to(part)
    activate = place / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n', encoding="utf-8")
    run("imdb-serving data --samples 250 --format ids --out test.data", place)  # so that each block runs by itself
    return place


def run(command: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=STEP_SECONDS, check=False,
        env=reader_environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if "no cell that can be believed" in done.stderr:
        pytest.skip("other processes took the cores meanwhile")
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def reader_environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def start(command: str, folder: Path, stack: ExitStack) -> None:
    """Start a server as the block does, in the background, and wait for its line, as a reader would."""
    server = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=folder, stdout=subprocess.PIPE, text=True, env=reader_environment()
    )
    stack.callback(end, server)
    assert server.stdout is not None
    assert server.stdout.readline().startswith("ready "), command


def end(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGTERM)
    server.wait(30)
    assert server.stdout is not None
    server.stdout.close()


LONG = "advise|sweep|ladder|growth|slo|capacity|train|tune"
MEASURING = re.compile(rf"^imdb-serving (?!sweep +#)({LONG})|^papermill|^python .*/transformer", re.MULTILINE)
"""What takes long."""

RUN = [
    pytest.param(block, id=name_of(block), marks=[pytest.mark.slow] if MEASURING.search(block.text) else [])
    for block in blocks(*PAGES)
    if is_run(block)
]


IN_A_CHECKOUT = ((r"^make\b", "make -n"), (r"^(python -m pytest .*)", r"\1 --collect-only -q"))
"""What only says what it would do: it would set up and measure, or run these tests."""

LESS = (
    (r"^imdb-serving sweep$", "imdb-serving sweep --dry-run"),  # tests/test_wheel.py runs it
    (r"^(imdb-serving train.*)", r"\1 --if-missing"),
    (r"^(imdb-serving data.*--samples) \d+", r"\1 250"),
    (r"--minutes \d+", "--minutes 0.5"),
    (r"^(papermill.*)", r"source PROJECT/.venv/bin/activate; \1 -p client_threads 1,2 -p samples 40"),
)
"""What is done on fewer reviews, or for less long."""


def rewritten(step: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, instead in rules:
        step = re.sub(pattern, instead, step)
    return step


def check_extras(step: str) -> None:
    """What `pip install` names is there; this environment has it all."""
    named = [name for given in re.findall(r"\[([\w,]+)\]", step) for name in given.split(",")]
    assert named
    assert set(named) <= set(metadata.metadata("imdb-serving").get_all("Provides-Extra") or [])


@pytest.mark.parametrize("block", RUN)
def test_command_blocks_run(block: Block, project: Path) -> None:
    """Every command runs, as far as that takes no more than seconds."""
    ports = [int(port) for port in re.findall(r"(?:--port |127\.0\.0\.1:)(\d+)", block.text)]
    if any(map(taken, ports)):
        pytest.skip(f"another server has one of the ports {ports}")
    folder = project
    with ExitStack() as stack:
        for step in steps(block):
            if step.startswith("cd "):
                folder = folder / step.removeprefix("cd ")
            elif step.startswith("pip install"):
                check_extras(step)
            elif (told := rewritten(step, IN_A_CHECKOUT)) != step:
                run(told, ROOT)
            elif step.endswith("&"):
                start(step.removesuffix("&").strip(), folder, stack)
            else:
                run(rewritten(step, LESS).replace("PROJECT/", f"{project}/"), folder)


ELSEWHERE = {"using.md": "test_examples.py", "protocol.md": "test_protocol_document.py"}
"""Pages whose Python is run by a test of its own, which knows what it must answer."""


@pytest.mark.parametrize("block", [block for block in blocks(*PAGES) if block.language == "python"], ids=name_of)
def test_code_blocks_run(block: Block, tmp_path: Path) -> None:
    """Every Python block runs; a server that it starts is ready, and ends when it is asked to."""
    if block.page in {*ELSEWHERE, CHINESE.name}:
        pytest.skip(f"run by {ELSEWHERE.get(block.page, 'test_examples.py, in English')}")
    (tmp_path / "block.py").write_text(block.text, encoding="utf-8")
    (tmp_path / "toy_engine.py").write_text(TOY, encoding="utf-8")
    with ExitStack() as stack:
        start(f"{sys.executable} block.py", tmp_path, stack)
        time.sleep(0.1)


TOY = """
import numpy as np

class Toy:
    lengths = (1, 2)

    def run(self, reviews):
        return np.full((len(reviews), 2), 0.5, np.float32)

def make(spec, bundle):
    return Toy()
"""

"""The page of `imdb-serving flask` in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from browsing import WAIT_MS, keep_screenshot, overflow
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect
from playwright.sync_api import Request as BrowserRequest

from imdb_serving.clients.http import HttpClient
from imdb_serving.pipeline import Limits
from imdb_serving.protocol.json_bodies import PREDICTION_PATH
from imdb_serving.server_process import ServerProcess
from imdb_serving.text.reviews import Reviews

DESKTOP, PHONE = 1280, 360


@pytest.fixture(scope="module")
def server(browser: Browser, bundle: Path) -> Iterator[ServerProcess]:
    """An HTTP server of the small CNN; not started where there is no browser."""
    with serve(bundle) as server:
        yield server


def serve(*arguments: object) -> ServerProcess:
    return ServerProcess([*map(str, arguments), "--server-threads", "2"], command="flask", ready_timeout=60)


class Visit:
    """The page in a fresh browser profile, and what went wrong on it."""

    def __init__(self, page: Page, endpoint: str) -> None:
        self.page = page
        self.problems: list[str] = []
        self.predictions: list[BrowserRequest] = []
        self._endpoint = endpoint
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("request", self._asked)
        page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))
        page.goto(f"{endpoint}/", wait_until="load")

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"console: {message.text}")

    def _asked(self, request: BrowserRequest) -> None:
        if request.url == self._endpoint + PREDICTION_PATH:
            self.predictions.append(request)
        elif request.url != f"{self._endpoint}/":
            self.problems.append(f"the page asked for {request.url}")

    @property
    def review(self) -> Locator:
        return self.page.get_by_label("A film review, in English")

    @property
    def button(self) -> Locator:
        return self.page.get_by_role("button", name="Predict", exact=True)

    @property
    def answer(self) -> Locator:
        return self.page.get_by_role("status")

    @property
    def stages(self) -> Locator:
        return self.page.get_by_role("table")

    def overflow(self) -> int:
        return overflow(self.page)


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """A function that opens the page of a server, in a width and a colour scheme."""
    with ExitStack() as stack:

        def visit(endpoint: str, width: int = DESKTOP, scheme: str = "light") -> Visit:
            size = {"width": width, "height": 800}
            page = browser.new_page(viewport=size, color_scheme=scheme, service_workers="block", accept_downloads=False)
            stack.callback(page.close)
            page.set_default_timeout(WAIT_MS)
            return Visit(page, endpoint)

        yield visit


class Case(NamedTuple):
    """A review and the probability of positive that `HttpClient` is given for it."""

    review: str
    positive: float

    @property
    def verdict(self) -> str:
        return "positive" if self.positive > 0.5 else "negative"


def ask(server: ServerProcess, *texts: str) -> list[Case]:
    """What `HttpClient` is answered."""
    with HttpClient(server.endpoint) as client:
        return [Case(text, float(client.predict({"words": text})["prediction"][1])) for text in texts]


@pytest.fixture(scope="module")
def cases(server: ServerProcess, small_reviews: Reviews) -> list[Case]:
    """Of two hundred real reviews, the most positive and the most negative one, as the model has it."""
    found = ask(server, *(example.text for example in small_reviews.held_out[:200]))
    by_probability = sorted(found, key=lambda case: case.positive)
    cases = [by_probability[-1], by_probability[0]]
    assert [case.verdict for case in cases] == ["positive", "negative"]
    return cases


def check_answer(visit: Visit, case: Case) -> None:
    """Wait for the verdict and compare it, and the probability, with the client's."""
    expect(visit.answer).to_contain_text(f"probability of positive {case.positive:.3f}", use_inner_text=True)
    expect(visit.answer.get_by_text(case.verdict, exact=True)).to_be_visible()
    expect(visit.stages.get_by_role("row").filter(has_text="op1")).to_contain_text(" ms")


def test_the_page_works_behind_a_proxy_that_gives_it_a_prefix(
    browser: Browser, server: ServerProcess, cases: list[Case]
) -> None:
    def forward(route: Route) -> None:
        path = urlsplit(route.request.url).path
        assert path.startswith("/imdb/"), f"the page asked for {path}"
        route.fulfill(response=route.fetch(url=server.endpoint + path.removeprefix("/imdb")))

    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    page.route("http://proxy.test/**", forward)
    page.goto("http://proxy.test/imdb/", wait_until="load")
    expect(page.locator("pre")).to_contain_text(f"http://proxy.test/imdb{PREDICTION_PATH}")
    page.get_by_label("A film review, in English").fill(cases[0].review)
    page.get_by_role("button", name="Predict", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text(cases[0].verdict)
    page.get_by_role("link", name="/health/ready").click()
    expect(page.locator("body")).to_contain_text('"status":"ready"')
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_review_is_answered_as_the_client_is(
    visit: Open, server: ServerProcess, cases: list[Case], width: int, scheme: str, tmp_path: Path
) -> None:
    here = visit(server.endpoint, width, scheme)
    expect(here.page).to_have_title("imdb-serving")
    expect(here.page.get_by_role("heading", level=1)).to_have_text("Is this review positive?")
    expect(here.page.locator("pre")).to_contain_text(server.endpoint + PREDICTION_PATH)
    assert here.overflow() == 0
    for number, case in enumerate(cases, 1):
        here.review.fill(case.review)
        here.button.click()
        check_answer(here, case)
        assert len(here.predictions) == number
        assert here.overflow() == 0
        assert "Traceback" not in here.page.content()
    assert here.problems == []
    keep_screenshot(here.page, tmp_path, f"page-{'phone' if width == PHONE else 'desktop'}-{scheme}")


def test_the_keyboard_is_enough(visit: Open, server: ServerProcess, cases: list[Case]) -> None:
    here = visit(server.endpoint)
    keyboard, second = here.page.keyboard, cases[1]
    (first,) = ask(server, cases[0].review[:200])
    keyboard.press("Tab")
    expect(here.review).to_be_focused()
    keyboard.press("ControlOrMeta+a")
    keyboard.type(first.review)
    keyboard.press("Tab")
    expect(here.button).to_be_focused()
    keyboard.press("Enter")
    check_answer(here, first)
    expect(here.button).to_be_focused()  # so that the next key press is not lost

    keyboard.press("Shift+Tab")
    here.review.fill(second.review)
    keyboard.press("Control+Enter")
    check_answer(here, second)
    assert len(here.predictions) == 2
    assert here.problems == []


def test_the_examples_are_predicted(visit: Open, server: ServerProcess) -> None:
    here = visit(server.endpoint)
    for name in ("A bad one", "A mixed one"):
        here.page.get_by_role("button", name=name).click()
        (case,) = ask(server, here.review.input_value())
        check_answer(here, case)
    assert here.problems == []


def test_an_empty_review_is_not_sent(visit: Open, server: ServerProcess) -> None:
    here = visit(server.endpoint)
    here.review.fill("")
    here.button.click()
    expect(here.page.locator("textarea:invalid")).to_be_focused()
    assert here.predictions == []
    assert here.problems == []


def test_a_server_that_is_gone_is_told_and_its_return_is_noticed(visit: Open, bundle: Path, cases: list[Case]) -> None:
    with serve(bundle) as server:
        endpoint = server.endpoint
        here = visit(endpoint, PHONE)
        here.review.fill(cases[0].review)
        here.button.click()
        check_answer(here, cases[0])
    here.button.click()
    expect(here.answer).to_have_text(f"No prediction: no server answers at {endpoint}; is it still running?")
    expect(here.stages).to_be_hidden()
    assert here.overflow() == 0
    assert not [problem for problem in here.problems if problem.startswith("exception")]
    with serve(bundle, "--port", urlsplit(endpoint).port):
        here.button.click()
        check_answer(here, cases[0])


def test_a_refused_review_is_told_in_the_servers_words(visit: Open, server: ServerProcess, cases: list[Case]) -> None:
    here = visit(server.endpoint)
    here.page.evaluate(f"document.getElementById('review').value = 'a '.repeat({Limits().review_words + 1})")
    here.button.click()
    expect(here.answer).to_contain_text("send less of it")
    expect(here.answer).to_contain_text("No prediction: ")
    here.review.fill(cases[1].review)
    here.button.click()
    check_answer(here, cases[1])


def test_a_server_without_a_model_says_that_it_reads_no_text(visit: Open) -> None:
    with serve("--engine", "none") as server:
        here = visit(server.endpoint)
        expect(here.page.get_by_text("Engine none, 2 server threads")).to_be_visible()
        here.button.click()
        expect(here.answer).to_have_text(
            "No prediction: this server has no vocabulary and cannot read text; send word ids"
        )


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        pytest.param(502, "<h1>Bad Gateway</h1>", "the server answered with status 502", id="no JSON"),
        pytest.param(503, '{"title": "Busy"}', "Busy", id="no detail"),
        pytest.param(422, '{"detail": "<img src=x onerror=alert(1)>"}', "<img src=x onerror=alert(1)>", id="markup"),
        pytest.param(200, '{"prediction": [null, null]}', "the server's answer holds no prediction", id="null"),
        pytest.param(200, "[]", "the server's answer holds no prediction", id="another JSON"),
        pytest.param(200, "", "the server's answer holds no prediction", id="nothing"),
    ],
)
def test_what_a_proxy_may_answer_is_told_in_words(
    visit: Open, server: ServerProcess, status: int, body: str, message: str
) -> None:
    here = visit(server.endpoint)
    here.page.route(f"**{PREDICTION_PATH}", lambda route: route.fulfill(status=status, body=body))
    here.button.click()
    expect(here.answer).to_have_text(f"No prediction: {message}")
    assert not [problem for problem in here.problems if not problem.startswith("console: Failed to load resource")]


def test_without_the_timing_header_the_answer_is_shown_alone(visit: Open, server: ServerProcess) -> None:
    here = visit(server.endpoint)
    here.page.route(f"**{PREDICTION_PATH}", lambda route: route.fulfill(body='{"prediction": [0.75, 0.25]}'))
    here.button.click()
    expect(here.answer).to_contain_text("probability of positive 0.250")
    expect(here.answer.get_by_text("negative", exact=True)).to_be_visible()
    expect(here.stages).to_be_hidden()
    assert here.problems == []


def test_while_an_answer_is_awaited_nothing_is_sent_twice(
    visit: Open, server: ServerProcess, cases: list[Case]
) -> None:
    here = visit(server.endpoint)
    held: list[Route] = []
    here.page.route(f"**{PREDICTION_PATH}", lambda route: held.append(route))  # noqa: PLW0108 - it takes no built-in
    here.review.fill(cases[0].review)
    here.button.click()
    expect(here.page.locator("form")).to_have_attribute("aria-busy", "true")
    here.button.click()
    here.page.get_by_role("button", name="A bad one").click()
    expect(here.review).to_have_value(cases[0].review)
    assert len(here.predictions) == 1
    for route in held:
        route.continue_()
    check_answer(here, cases[0])
    expect(here.page.locator("form")).to_have_attribute("aria-busy", "false")
    assert here.problems == []

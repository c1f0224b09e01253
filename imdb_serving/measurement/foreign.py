"""Measuring a server of someone else: what is sent to it, how it is started and found ready, and its first answers."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any
from urllib.parse import urlsplit

import orjson
import psutil

from imdb_serving.cell import CALIBRATION, digest
from imdb_serving.clients.http_connection import Answer
from imdb_serving.config import project_root, whole_file
from imdb_serving.errors import (
    DataError,
    RemoteFailure,
    RequestTimeout,
    ServerStartError,
    ServerUnavailable,
    UnexpectedAnswer,
)
from imdb_serving.foreign.client import ForeignClient, HttpCall, compile_answer, value_of
from imdb_serving.foreign.null_server import serve
from imdb_serving.foreign.process import CommandProcess, free_port
from imdb_serving.foreign.templates import Secrets, TextTemplate, hide, render_all
from imdb_serving.load.workload import PreparedWorkload
from imdb_serving.measurement.inputs import drawn, vocabulary_of, vocabulary_or_packaged
from imdb_serving.measurement.measure import Target
from imdb_serving.measurement.parameters import GridParams, model_folder
from imdb_serving.measurement.parameters.foreign import BODY_NAMES, COMMAND_NAMES, is_this_machine
from imdb_serving.text.reviews import tokenise

HOST = "127.0.0.1"
FOLDER = "answers"
OUTPUTS = "servers"
PROBE_SECONDS = 2.0
WARM_UP_REQUESTS = 20
"""Of each client, before the first cell."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One text to send, as templates see it."""

    text: str
    words: list[str]
    ids: list[int]
    label: int


def samples_of(params: GridParams) -> list[Sample]:
    """Return the texts of a measurement, drawn as those of our own servers; ids only where the body names them."""
    used = TextTemplate(params.request_body, "request.body", BODY_NAMES).names
    wants_words, wants_ids = bool(used & {"words", "samples"}), bool(used & {"ids", "samples"})
    vocabulary = vocabulary_or_packaged(vocabulary_of(params)) if wants_ids else None
    found = []
    for example in drawn(params.samples, params.seed):
        text = example.text or ""
        ids = vocabulary.encode(text).tolist() if vocabulary else []
        found.append(Sample(text, tokenise(text) if wants_words else [], ids, example.label))
    return found


@dataclass(frozen=True, slots=True)
class Bodies:
    """Makes the bodies of requests from samples, before anything is timed."""

    template: TextTemplate
    secrets: Secrets

    @classmethod
    def of(cls, params: GridParams) -> Bodies:
        """Compile the template of the body."""
        return cls(TextTemplate(params.request_body, "request.body", BODY_NAMES), Secrets())

    def body(self, samples: Sequence[Sample]) -> bytes:
        """Return the body of one request, UTF-8."""
        first = samples[0]
        one = {"text": first.text, "words": first.words, "ids": first.ids, "label": first.label}
        every = [{"text": s.text, "words": s.words, "ids": s.ids, "label": s.label} for s in samples]
        return self.template.render(**one, samples=every, env=self.secrets).encode("utf-8", "surrogatepass")

    def workload(self, samples: Sequence[Sample], batch: int) -> PreparedWorkload:
        """Return the requests of these samples; what making them took is told, and not measured with them."""
        parts = [samples[first : first + batch] for first in range(0, len(samples), batch)]
        begun = perf_counter_ns()
        bodies = [self.body(part) for part in parts]
        each = (perf_counter_ns() - begun) // max(len(bodies), 1)
        return PreparedWorkload(bodies, [len(part) for part in parts], each)


def call_of(params: GridParams, url: str, secrets: Secrets) -> HttpCall:
    """Return what all requests have in common, with its headers rendered."""
    headers = render_all(params.request_headers, "request.headers", {"env": secrets}, ())
    hidden = frozenset(secrets.values)
    return HttpCall(url, params.request_path, params.request_method, headers, params.answer, hidden)


def start(params: GridParams, folder: Path, stack: ExitStack) -> Target:
    """Start the server, or find the one that runs, and ask it one thing; `folder` keeps its output and that answer.

    Raises `ServerStartError` when it does not start or answer, and `UnexpectedAnswer` for an answer that is of no use.
    """
    if params.series == CALIBRATION:
        return _start_null(params, folder, stack)
    secrets, bodies = Secrets(), Bodies.of(params)
    first = bodies.body(samples_of(params)[: params.batch])
    server, url = _started(params, folder, secrets, stack)
    call = call_of(params, url, secrets)
    call = replace(call, secrets=frozenset({*call.secrets, *bodies.secrets.values}))
    answer = _first_answer(params, call, first, server)
    with whole_file(_answer_file(params, folder)) as unfinished:
        unfinished.write_bytes(answer.body)
    pids = (server.pid,) if server else pids_of_port(url)
    return Target(functools.partial(ForeignClient, call, params.timeout), pids, is_known=bool(pids))


def _started(params: GridParams, folder: Path, secrets: Secrets, stack: ExitStack) -> tuple[CommandProcess | None, str]:
    """Start the command, if there is one; return the process and the server's URL."""
    if not params.server_command:
        return None, params.server_url
    given = urlsplit(params.server_url)
    host, port = given.hostname or HOST, given.port or free_port(HOST)
    values = {
        "host": host,
        "port": port,
        "engine": params.engine,
        "model": str(model_folder(params).resolve()),
        "python": sys.executable,
        "server_threads": params.server_threads,
        "math_threads": params.math_threads,
        "env": secrets,
    }
    command = TextTemplate(params.server_command, "server.command", COMMAND_NAMES).render(**values)
    environment = render_all(params.server_environment, "server.environment", values, COMMAND_NAMES)
    output = folder / OUTPUTS / f"{params.cells()[0].without('client_threads').slug}-r{params.round}.log"
    directory = project_root() / params.server_directory
    process = CommandProcess(command, output, environment=environment, directory=directory, secrets=secrets.values)
    stack.enter_context(process)
    return process, params.server_url or f"http://{host}:{port}"


def _first_answer(params: GridParams, call: HttpCall, body: bytes, server: CommandProcess | None) -> Answer:
    """Wait until the server is ready, and return its answer to a first request, in which the value was found."""
    found: list[Answer] = []

    def is_ready() -> str:
        try:
            with ForeignClient(replace(call, path=params.server_ready, method="GET"), PROBE_SECONDS) as client:
                if params.server_ready and (status := client.exchange(b"").status) >= 400:
                    return f"{params.server_ready} answered with status {status}"
            with ForeignClient(call, params.timeout) as client:
                answer = client.exchange(body)
        except (ServerUnavailable, RequestTimeout, RemoteFailure) as error:
            return hide(str(error), call.secrets)
        if answer.status in {502, 503, 504}:
            return f"it answers with status {answer.status}"
        found.append(answer)
        return ""

    if server:
        server.wait_until(is_ready, params.server_ready_seconds)
    elif missing := is_ready():
        raise ServerStartError(f"{missing}; start the server first, or say how with server.command")
    try:
        check_answer(found[0], call, params.batch)
    except UnexpectedAnswer as error:
        said = server.said() if server and found[0].status >= 500 else ""
        raise UnexpectedAnswer(f"the first request: {hide(str(error), call.secrets)}{said}", error.code) from None
    return found[0]


def check_answer(answer: Answer, call: HttpCall, batch: int) -> Any:
    """Return the value of an answer; raise `UnexpectedAnswer`, with what the answer begins with, when there is none."""
    ForeignClient.require_success(answer)
    expression = compile_answer(call.answer)
    if expression is None:
        return None
    begins = answer.body[:400].decode("utf-8", "replace")
    try:
        return split_value(value_of(answer.body, expression), batch)
    except UnexpectedAnswer as error:
        raise UnexpectedAnswer(f"{error}; the answer begins with {begins}", error.code) from None


def split_value(value: Any, batch: int) -> list[Any]:
    """Return an answer's value for each sample of its request."""
    return PreparedWorkload([b""], [batch], 0).split(0, value)


def _answer_file(params: GridParams, folder: Path) -> Path:
    return folder / FOLDER / f"first-{digest(params.description, params.batch)}.body"


def _start_null(params: GridParams, folder: Path, stack: ExitStack) -> Target:
    """Start what answers every request at once with the first answer of the server that is to be measured."""
    body = _answer_file(params, folder).read_bytes()
    port, process = serve(HOST, body)
    stack.callback(process.stop)
    secrets = Secrets()
    call = call_of(params, f"http://{HOST}:{port}", secrets)
    return Target(functools.partial(ForeignClient, call, params.timeout), (process.pid,))


def pids_of_port(url: str) -> tuple[int, ...]:
    """Return the processes of this machine that listen on a URL's port, less children of others of them; maybe none."""
    parts = urlsplit(url)
    if not is_this_machine(parts.hostname or ""):
        return ()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    listening: set[int] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("tcp")):
                listening.add(process.pid)
    roots = set()
    for pid in listening:
        with suppress(psutil.Error):
            if not listening & {parent.pid for parent in psutil.Process(pid).parents()}:
                roots.add(pid)
    return tuple(sorted(roots))


class FirstAnswers:
    """The first answer to each sample, kept in a sweep's folder: later ones are compared with it.

    Values are compared as numbers, lists of these item by item, and anything else for being equal.
    """

    def __init__(self, params: GridParams, folder: Path) -> None:
        """Read those that are there; raise `DataError` when they cannot be read."""
        drawn_from = (params.description, params.samples, params.seed, params.batch)
        self._file = folder / FOLDER / f"answers-{digest(drawn_from)}.json"
        self._known: dict[str, Any] = {}
        try:
            if self._file.is_file():
                self._known = orjson.loads(self._file.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise DataError(f"cannot read {self._file}: {error}; delete it") from error

    def difference(self, values: Mapping[int, Sequence[Any]]) -> float:
        """Return how far the values of some samples, by place, are from the first ones; remember what is new."""
        before, worst = len(self._known), 0.0
        for place, several in values.items():
            first = self._known.setdefault(str(place), several[0])
            worst = max(worst, *(distance(first, value) for value in several))
        if len(self._known) > before:
            with whole_file(self._file) as unfinished:
                unfinished.write_bytes(orjson.dumps(self._known))
        return worst


def distance(one: Any, other: Any) -> float:
    """Return the greatest difference of two values' numbers; infinite when they are of different shapes or words."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((distance(value, other[name]) for name, value in one.items()), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(distance, one, other), default=0.0)
    numbers = [value for value in (one, other) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2:
        far = abs(float(numbers[0]) - float(numbers[1]))
        return far if math.isfinite(far) else math.inf
    return 0.0 if one == other else math.inf

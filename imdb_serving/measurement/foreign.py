"""Measuring a server of someone else: what is sent to it, and how it is started and found ready."""

from __future__ import annotations

import functools
import shlex
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from imdb_serving.cell import CALIBRATION, digest
from imdb_serving.clients.http_connection import Answer
from imdb_serving.clients.http_library import Route, route_to
from imdb_serving.config import at_home, project_root, whole_file
from imdb_serving.errors import (
    RemoteFailure,
    RequestTimeout,
    ServerStartError,
    ServerUnavailable,
    UnexpectedAnswer,
)
from imdb_serving.foreign import echoes, oip_grpc
from imdb_serving.foreign.client import (
    OIP,
    OIP_GRPC,
    Body,
    Call,
    ForeignClient,
    compile_answer,
    read_answer,
    schemes_of,
    value_of,
)
from imdb_serving.foreign.null_server import serve
from imdb_serving.foreign.oip import HEADER_LENGTH
from imdb_serving.foreign.process import CommandProcess, free_port, pids_of_port
from imdb_serving.foreign.templates import Secrets, TextTemplate, hide, render_all
from imdb_serving.load.workload import PreparedWorkload
from imdb_serving.measurement.bodies import FOLDER, Bodies, keep_metadata, samples_of
from imdb_serving.measurement.measure import Target
from imdb_serving.measurement.parameters import GridParams, model_folder
from imdb_serving.measurement.parameters.foreign import COMMAND_NAMES, OF_METADATA

HOST = "127.0.0.1"
OUTPUTS = "servers"
PROBE_SECONDS = 2.0
WARM_UP_REQUESTS = 20
"""Of each client, before the first cell."""


def call_of(params: GridParams, url: str, secrets: Secrets) -> Call:
    """Return what all requests have in common, with its headers rendered."""
    headers = render_all(params.request_headers, "request.headers", {"env": secrets}, ())
    if params.request_binary and params.protocol == OIP:
        headers = {"Content-Type": "application/octet-stream"} | headers
    route = route_to(params.server_url)
    hidden = frozenset({*secrets.values, *([route.proxy] if route and route.proxy else [])})  # it may have a password
    path, _, answer = params.request_of(params.batch)
    return Call(url, path, params.request_method, headers, answer, hidden, route, params.protocol)


class Reached(NamedTuple):
    """A server that has answered: its process if we started it, what requests share, the first one, and its answer."""

    server: CommandProcess | None
    call: Call
    body: Body
    answer: Answer


def start(params: GridParams, folder: Path, stack: ExitStack) -> Target:
    """Start the server, or find the one that runs, and ask it one thing; `folder` keeps its output and that answer.

    Raises `ServerStartError` when it does not start or answer, and `UnexpectedAnswer` for an answer that is of no use.
    """
    if params.series == CALIBRATION:
        return _start_null(params, folder, stack)
    server, call, _, answer = reached = reach(params, folder, stack)
    check_first(reached, params.batch)
    _keep(answer, call, _answer_file(params, folder))
    pids = (server.pid,) if server else pids_of_port(call.url)
    connect = functools.partial(ForeignClient, reached.call, params.timeout)
    return Target(connect, pids, is_known=bool(pids), is_guarded=server is not None)


def check_first(reached: Reached, batch: int) -> None:
    """Raise `UnexpectedAnswer` for a first answer that is of no use, behind an error with what the server says."""
    server, call, _, answer = reached
    try:
        check_answer(answer, call, batch)
    except UnexpectedAnswer as error:
        said = server.said() if server and answer.status >= 500 else ""
        raise UnexpectedAnswer(f"the first request: {hide(str(error), call.secrets)}{said}", error.code) from None


def _keep(answer: Answer, call: Call, file: Path) -> None:
    """Keep an answer for the calibration, without what must not be shown."""
    length, body = answer.header(HEADER_LENGTH.lower().encode()), answer.body
    for secret in call.secrets:
        hidden = secret.encode("utf-8", "surrogateescape")
        body = body.replace(hidden, b"*" * len(hidden))  # as long: a binary answer has places
    with whole_file(file) as unfinished:
        unfinished.write_bytes(f"{HEADER_LENGTH}: {length}\r\n\r\n".encode() * bool(length) + body)


def reach(params: GridParams, folder: Path, stack: ExitStack) -> Reached:
    """Start the server, or find the one that runs, wait until it is ready, and send it a first request.

    Raises `ServerStartError` when it does not start or answer.
    """
    secrets, samples = Secrets(), samples_of(params)[: params.batch]
    server, url = _started(params, folder, secrets, stack)
    call = call_of(params, url, secrets)
    found: list[Reached] = []

    def is_ready() -> str:
        try:
            if params.server_ready and (status := ask(call, params.server_ready).status) >= 400:
                return f"{params.server_ready} answered with status {status}"
            if params.protocol in OF_METADATA:
                _read_metadata(params, folder, call)
            bodies = Bodies.of(params, folder)
            body = bodies.body(samples)
            whole = replace(call, secrets=frozenset({*call.secrets, *bodies.secrets.values}))
            with ForeignClient(whole, params.timeout) as client:
                answer = client.exchange(body)
        except (ServerUnavailable, RequestTimeout, RemoteFailure) as error:
            return hide(str(error), call.secrets)
        if answer.status in {502, 503, 504}:
            return f"it answers with status {answer.status}"
        found.append(Reached(server, whole, body, answer))
        return ""

    if server:
        server.wait_until(is_ready, params.server_ready_seconds)
    elif missing := is_ready():
        raise ServerStartError(f"{missing}; start the server first, or say how with server.command")
    return found[0]


def ask(call: Call, path: str) -> Answer:
    """Return the answer to a GET of another path of the same server."""
    with ForeignClient(replace(call, path=path, method="GET"), PROBE_SECONDS) as client:
        return client.exchange(b"")


def _read_metadata(params: GridParams, folder: Path, call: Call) -> None:
    """Ask what inputs the model has; raise `ServerUnavailable` while it is not there."""
    if params.protocol == OIP_GRPC:
        keep_metadata(params, folder, _metadata_by_grpc(params, call))
        return
    path = f"/v2/models/{params.server_model}"
    answer = ask(call, path)
    if answer.status >= 400:
        raise ServerUnavailable(f"{path} answered with status {answer.status}; is server.model its name?")
    keep_metadata(params, folder, answer.body)


def _metadata_by_grpc(params: GridParams, call: Call) -> bytes:
    try:
        with ForeignClient(replace(call, path=oip_grpc.METADATA), PROBE_SECONDS) as client:
            return oip_grpc.decode_metadata(client.exchange(oip_grpc.encode_metadata(params.server_model)).body)
    except UnexpectedAnswer as error:
        place = f"the metadata of model {params.server_model}"
        raise ServerUnavailable(f"{place}: {error}; is server.model its name?") from None


def start_echo(params: GridParams, folder: Path, stack: ExitStack) -> Target:
    """Start what sends back all that it receives; raise `ServerStartError` when it does not start."""
    kind, port = params.mode.partition("-")[2], free_port(HOST)
    command = shlex.join([sys.executable, "-m", echoes.__name__, kind, str(port)])
    server = CommandProcess(command, folder / OUTPUTS / f"{params.mode}-r{params.round}.log")
    stack.enter_context(server)

    def is_ready() -> str:
        try:
            socket.create_connection((HOST, port), PROBE_SECONDS).close()
        except OSError as error:
            return str(error)
        return ""

    server.wait_until(is_ready, params.server_ready_seconds)
    return Target(functools.partial(echoes.CLIENTS[kind], port, params.timeout), (server.pid,), is_guarded=True)


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
    directory = project_root() / at_home(params.server_directory)
    process = CommandProcess(command, output, environment=environment, directory=directory, secrets=secrets.values)
    stack.enter_context(process)
    return process, params.server_url or f"{schemes_of(params.protocol)[0]}://{host}:{port}"


def check_answer(answer: Answer, call: Call, batch: int) -> Any:
    """Return the value of an answer; raise `UnexpectedAnswer`, with what the answer begins with, when there is none."""
    ForeignClient.require_success(answer)
    expression = compile_answer(call.answer)
    if expression is None:
        return None
    begins = words_of_answer(answer, call.protocol)[:400].strip()
    try:
        return split_value(value_of(answer, expression, call.protocol), batch)
    except UnexpectedAnswer as error:
        raise UnexpectedAnswer(f"{error}; the answer begins with {begins}", error.code) from None


def words_of_answer(answer: Answer, protocol: str) -> str:
    """Return an answer as text: as it is, or a message as its JSON would be."""
    if protocol == OIP_GRPC:
        with suppress(UnexpectedAnswer):
            return orjson.dumps(read_answer(answer, protocol)).decode()
    return answer.body.decode("utf-8", "replace")


def split_value(value: Any, batch: int) -> list[Any]:
    """Return an answer's value for each sample of its request."""
    return PreparedWorkload([b""], [batch], 0).split(0, value)


def _answer_file(params: GridParams, folder: Path) -> Path:
    return folder / FOLDER / f"first-{digest(params.fingerprint, params.batch)}.body"


def _start_null(params: GridParams, folder: Path, stack: ExitStack) -> Target:
    """Start what answers every request at once with the first answer of the server that is to be measured."""
    is_grpc = params.protocol == OIP_GRPC
    port, process = serve(HOST, _answer_file(params, folder).read_bytes(), is_grpc=is_grpc)
    stack.callback(process.stop)
    secrets = Secrets()
    call = call_of(params, f"{schemes_of(params.protocol)[0]}://{HOST}:{port}", secrets)
    call = replace(call, route=Route() if call.route else None)
    return Target(functools.partial(ForeignClient, call, params.timeout), (process.pid,))

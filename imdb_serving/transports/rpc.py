"""RPC over ZeroMQ: both ends of the conversation. The frames are specified in docs/protocol.md.

`RpcClient` waits for one answer at a time. `RpcServer` has one ROUTER socket in front and N workers on pipes behind;
a waiting request goes to a free worker at once, so no worker idles while a request waits.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter_ns

import zmq
from zmq.utils.monitor import recv_monitor_message

from imdb_serving.config import DEFAULT_ENDPOINT, DEFAULT_TIMEOUT, MAX_TIMEOUT
from imdb_serving.errors import (
    BadRequest,
    RemoteFailure,
    RequestTimeout,
    ServerStartError,
    ServerUnavailable,
    ServingError,
)
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.timing import CLOCK_ID, client_stages
from imdb_serving.transports import wire
from imdb_serving.transports.base import Client
from imdb_serving.transports.pool import Job, WorkerPool

log = logging.getLogger(__name__)

RECEIVED_A_TURN = 64


class RpcClient(Client):
    """A client of one RPC server, for use in one thread.

    >>> with RpcClient("tcp://127.0.0.1:9292") as client:  # doctest: +SKIP
    ...     client.predict({"words": [8, 233, 52], "label": 0}, ["prediction", "acc"])

    `timeout` is each request's deadline in seconds. After an error the same object can be used again.
    """

    def __init__(self, endpoint: str = DEFAULT_ENDPOINT, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Open a socket; the connection is made in the background and needs no running server yet."""
        if not 0 < timeout <= MAX_TIMEOUT:
            raise BadRequest(f"timeout must be above 0 and at most {MAX_TIMEOUT:.0f} seconds, got {timeout}")
        self.endpoint = endpoint
        self.timeout = timeout
        self._last_id = 0
        self._context = zmq.Context()
        try:
            self._open()
        except zmq.ZMQError as error:
            self.close()
            raise BadRequest(f"cannot use the endpoint {endpoint!r}: {error}") from error

    def _open(self) -> None:
        """Open a socket that connects and reconnects by itself, and a monitor that tells whether it is connected.

        The option IMMEDIATE would tell the same, but with it ZeroMQ throws away an answer that has arrived and was
        not yet read when the server closes the connection.
        """
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._connected = False
        self._socket.connect(self.endpoint)

    def _is_connected(self) -> bool:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        return self._connected

    def call(self, request: Request) -> Reply:
        """Send `request` and return the reply with the stages of `client_infer`; see `Client.call`."""
        start = perf_counter_ns()
        request_id = self._next_id()
        frames = wire.encode_request(request, request_id, self.timeout * 1000)
        encoded = perf_counter_ns()
        answer = self._exchange(frames, request_id)
        arrived = perf_counter_ns()
        _, reply, clock = wire.decode_answer(answer)
        if isinstance(reply, ServingError):
            raise reply
        if not isinstance(reply, Reply) or not reply.stages:
            raise RemoteFailure(f"{self.endpoint} answered a prediction with something else")
        stages = client_stages((start, encoded), reply.stages, (arrived, perf_counter_ns()), clock == CLOCK_ID)
        return Reply(reply.outputs, stages)

    def hello(self) -> ServerInfo:
        """Ask the server who it is: engine, worker count, feed and fetch names."""
        request_id = self._next_id()
        _, info, _ = wire.decode_answer(self._exchange(wire.encode_hello(request_id), request_id))
        if isinstance(info, ServingError):
            raise info
        if not isinstance(info, ServerInfo):
            raise RemoteFailure(f"{self.endpoint} answered hello with something else")
        return info

    def close(self) -> None:
        """Close the socket; a request that was not answered is forgotten."""
        self._close_socket()
        self._context.term()

    def _close_socket(self) -> None:
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close()

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _exchange(self, frames: Sequence[wire.Frame], request_id: int) -> list[bytes]:
        """Send one message and return the answer with its id, skipping late answers to requests given up before."""
        deadline = monotonic() + self.timeout
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            raise self._unavailable() from None
        while (left := deadline - monotonic()) > 0:
            if not self._socket.poll(math.ceil(left * 1000), zmq.POLLIN):
                continue
            answer: list[bytes] = self._socket.recv_multipart()
            answer_id = wire.read_id(answer)
            if answer_id in (request_id, None):
                return answer
        if not self._is_connected():
            raise self._unavailable()
        raise RequestTimeout(f"no reply from {self.endpoint} in {self.timeout} s; raise the timeout or lower the load")

    def _unavailable(self) -> ServerUnavailable:
        """Throw away the socket with the request it still holds: a server that comes back must not work on it."""
        self._close_socket()
        self._open()
        return ServerUnavailable(
            f"no server answers at {self.endpoint} within {self.timeout} s; "
            'start one with "imdb-serving serve ..." or raise the timeout'
        )


class RpcServer:
    """Answers RPC requests with N handlers, each in an own worker.

    Make it, `run` it in one thread; `stop` may be called from any thread or signal handler. `describe` makes the
    `ServerInfo` from the protocol's name and the message limit.
    """

    def __init__(
        self,
        endpoint: str,
        pool: WorkerPool,
        describe: Callable[[str, int], ServerInfo],
        *,
        max_message_bytes: int = wire.MAX_MESSAGE_BYTES,
        start_timeout: float = 120.0,
        drain_timeout: float = 10.0,
    ) -> None:
        """Take everything; nothing is started before `run`."""
        self._endpoint = endpoint
        self._pool = pool
        self._info = describe(wire.PROTOCOL.decode(), max_message_bytes)
        self._max_bytes = max_message_bytes
        self._start_timeout = start_timeout
        self._drain_timeout = drain_timeout
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_sender.setblocking(False)
        self._stopping = False

    def stop(self) -> None:
        """Ask `run` to answer what it has accepted, then return."""
        self._stopping = True
        try:
            self._wake_sender.send(b"x")
        except OSError:
            log.debug("the server was woken already, or has ended")

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until `stop`; `on_ready` is called once with the bound endpoint.

        Raises `ServerStartError` when the endpoint cannot be bound or workers cannot start.
        """
        with zmq.Context() as context:
            front = self._bind(context)
            try:
                self._pool.start(self._start_timeout)
                if not self._stopping:
                    on_ready(front.getsockopt_string(zmq.LAST_ENDPOINT))
                    self._serve(front)
            finally:
                self._pool.stop()
                front.close(linger=1000)
                self._wake_receiver.close()
                self._wake_sender.close()

    def _bind(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        front = context.socket(zmq.ROUTER)
        front.setsockopt(zmq.MAXMSGSIZE, self._max_bytes)
        try:
            front.bind(self._endpoint)
        except zmq.ZMQError as error:
            front.close()
            raise ServerStartError(f"cannot listen on {self._endpoint}: {error}; choose another port") from error
        return front

    def _serve(self, front: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        wake = self._wake_receiver.fileno()
        poller.register(wake, zmq.POLLIN)
        self._pool.watch(poller)
        give_up: float | None = None
        while give_up is None or (self._pool.busy and monotonic() < give_up):
            for source, _ in poller.poll(1000 if give_up is None else 50):
                if source is front:
                    self._receive(front, draining=give_up is not None)
                elif source == wake:
                    self._wake_receiver.recv(64)
                    self._receive(front, draining=False)  # what had arrived before the stop is still answered
                    give_up = give_up or monotonic() + self._drain_timeout
                else:
                    for job, frames in self._pool.collect(source):
                        self._send(front, job.route, frames)
            for job, frames in self._pool.dispatch():
                self._send(front, job.route, frames)

    def _receive(self, front: zmq.Socket[bytes], *, draining: bool) -> None:
        """Take messages that have arrived, so many a turn that workers do not wait for a flood to end.

        What is malformed is refused, what is for a worker submitted.
        """
        for _ in range(RECEIVED_A_TURN):
            try:
                client, *frames = front.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            received_ns = perf_counter_ns()
            # A REQ socket puts an empty frame before its message and expects one before the answer.
            route = (client, b"") if frames and not frames[0] else (client,)
            frames = frames[len(route) - 1 :]
            try:
                header = wire.read_header(frames, self._max_bytes)
                if isinstance(header, wire.Hello):
                    self._send(front, route, wire.encode_info(self._info, header.id))
                    continue
                if draining:
                    raise ServerUnavailable(f"{self._endpoint} is shutting down; use another server")
            except ServingError as error:
                self._send(front, route, wire.encode_failure(error, wire.read_id(frames)))
                continue
            deadline = monotonic() + header.deadline_ms / 1000
            self._pool.submit(Job(route, header.id, received_ns, deadline, frames))

    @staticmethod
    def _send(front: zmq.Socket[bytes], route: tuple[bytes, ...], frames: Sequence[wire.Frame]) -> None:
        try:
            front.send_multipart([*route, *frames], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.warning("an answer could not be delivered: %s", error)

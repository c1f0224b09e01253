"""The client's end of RPC over ZeroMQ. The frames are specified in docs/protocol.md; `server.py` is the other end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic, perf_counter_ns

import zmq
from zmq.utils.monitor import recv_monitor_message

from imdb_serving.config import DEFAULT_ENDPOINT, DEFAULT_TIMEOUT, MAX_TIMEOUT
from imdb_serving.errors import BadRequest, RemoteFailure, RequestTimeout, ServerUnavailable, ServingError
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.timing import CLOCK_ID, client_stages
from imdb_serving.transports.base import Client
from imdb_serving.transports.rpc import wire


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
        self._sources = [(self._socket, zmq.POLLIN), (self._monitor, zmq.POLLIN)]
        self._connected = False
        self._socket.connect(self.endpoint)

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
        self._look_at_monitor()
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            raise self._unavailable(f"no server took the request within {self.timeout} s") from None
        while (left := deadline - monotonic()) > 0:
            ready = dict(zmq.zmq_poll(self._sources, math.ceil(left * 1000)))
            if self._socket in ready:
                answer: list[bytes] = self._socket.recv_multipart()
                if wire.read_id(answer) in (request_id, None):
                    return answer
            elif self._monitor in ready and self._look_at_monitor():
                raise self._unavailable("the connection to it was lost")
        if not self._connected:
            raise self._unavailable(f"none answers within {self.timeout} s")
        raise RequestTimeout(f"no reply from {self.endpoint} in {self.timeout} s; raise the timeout or lower the load")

    def _look_at_monitor(self) -> bool:
        """Read what the monitor has to say; tell whether the connection was lost."""
        lost = False
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._connected = recv_monitor_message(self._monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            lost = lost or not self._connected
        return lost

    def _unavailable(self, why: str) -> ServerUnavailable:
        """Throw away the socket with the request it still holds: a server that comes back must not work on it."""
        self._close_socket()
        self._open()
        return ServerUnavailable(
            f'no server answers at {self.endpoint}: {why}; start one with "imdb-serving serve ..." or raise the timeout'
        )

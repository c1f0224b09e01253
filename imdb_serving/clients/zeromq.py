"""The client's end of RPC over ZeroMQ; `server/rpc/zeromq_listener.py` is the other end."""

from __future__ import annotations

import math
from time import perf_counter_ns

import zmq
from zmq.utils.monitor import recv_monitor_message

from imdb_serving.clients.rpc import MessageClient
from imdb_serving.clients.sockets import RESTED_NS
from imdb_serving.config import DEFAULT_ENDPOINT, DEFAULT_TIMEOUT, MAX_ANSWER_BYTES
from imdb_serving.errors import BadRequest, ConfigError, RemoteFailure, ServerUnavailable, Unauthorized
from imdb_serving.keys import NOBODY, Credentials, parse_key, read_pair, read_regular
from imdb_serving.protocol import wire
from imdb_serving.protocol.endpoints import check_zeromq
from imdb_serving.protocol.framing import Piece

SLICE_MS = 100
"""How long a wait for an answer goes on before a look at whether the connection is still there."""

SLICE_NS = SLICE_MS * 1_000_000

# As plain numbers: pyzmq's enumerations cost more than the calls they are for.
NOBLOCK, EVENTS, RCVMORE, POLLIN = (int(value) for value in (zmq.NOBLOCK, zmq.EVENTS, zmq.RCVMORE, zmq.POLLIN))


WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class RpcClient(MessageClient):
    """A client of one RPC server over ZeroMQ, for use in one thread.

    >>> with RpcClient("tcp://127.0.0.1:9292") as client:  # doctest: +SKIP
    ...     client.predict({"words": [8, 233, 52], "label": 0}, ["prediction", "acc"])

    `timeout` is each request's deadline in seconds. After an error the same object can be used again.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        credentials: Credentials = NOBODY,
    ) -> None:
        """Open a socket; the connection is made in the background and needs no running server yet.

        ZeroMQ ends the connection at an answer above `max_answer_bytes`.
        """
        super().__init__(endpoint, timeout, max_answer_bytes)
        check_zeromq(endpoint)
        self._credentials = credentials
        self._context = zmq.Context()
        try:
            self._open()
        except ConfigError:
            self._close()
            raise
        except zmq.ZMQError as error:
            self._close()
            raise BadRequest(f"cannot use the endpoint {endpoint!r}: {error}") from error

    def _open(self) -> None:
        """Open a socket that connects and reconnects by itself, and a monitor that tells whether it is connected.

        The option IMMEDIATE would tell the same, but with it ZeroMQ throws away an answer that has arrived and was
        not yet read when the server closes the connection.
        """
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._send = super(zmq.Socket, self._socket).send  # without pyzmq's detour in Python for routing ids
        self._socket.linger = 0
        self._socket.maxmsgsize = self.max_answer_bytes
        self._socket.rcvtimeo = SLICE_MS
        self._monitor = self._socket.get_monitor_socket(WATCHED)
        self._connected, self._broken, self._refusal = False, False, ""
        if self._credentials.client_key or self._credentials.server_key:
            guard_client(self._socket, self._credentials)
        self._socket.ipv6 = "[" in self.endpoint
        self._socket.connect(self.endpoint)

    def _after_fork(self) -> None:
        self._monitor.close()
        self._socket.close()
        self._context = zmq.Context()
        self._open()

    def _close(self) -> None:
        self._close_socket()
        self._context.term()

    def _close_socket(self) -> None:
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close()

    def _send_and_receive(self, piece: bytes, begun_ns: int, deadline_ns: int) -> bytes:
        if begun_ns > self._arrived_ns + RESTED_NS:
            self._look_at_monitor()  # what happened before this request does not concern it
        try:
            self._send(piece, NOBLOCK)
        except zmq.Again:
            raise self._unavailable("it takes no more requests") from None
        return self._await_frame(deadline_ns)

    def _receive(self, deadline_ns: int) -> wire.Opened | Piece:
        return self._complete(self._await_frame(deadline_ns), deadline_ns)

    def _await_frame(self, deadline_ns: int) -> bytes:
        """Return the first frame of the next message; see `_receive`."""
        while (left := deadline_ns - perf_counter_ns()) > 0:
            if left < SLICE_NS and not self._socket.poll(math.ceil(left / 1e6)):
                break
            try:
                return self._socket.recv()
            except zmq.Again:
                if self._look_at_monitor():
                    raise self._unavailable("the connection to it was lost") from None
        if self._look_at_monitor() or not self._connected:
            raise self._unavailable(f"none answers within {self.timeout} s")
        raise self._late()

    def _complete(self, begun: bytes | None, _deadline_ns: int) -> wire.Opened | Piece:
        message = [begun or b""]
        while self._socket.get(RCVMORE):
            message.append(self._socket.recv())
        try:
            return wire.open_piece(message[0] if len(message) == 1 else b"")
        except BadRequest as error:
            raise RemoteFailure(f"the server's answer cannot be read: {error}") from error

    def _is_lost(self) -> bool:
        self._look_at_monitor()
        return not self._connected

    def _look_at_monitor(self) -> bool:
        """Read the monitor's events; return whether the connection was lost."""
        lost = False
        while self._monitor.get(EVENTS) & POLLIN:  # type: ignore[operator]
            event = recv_monitor_message(self._monitor)["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._broken = event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL or (self._broken and not self._connected)
            self._refusal = "" if self._connected else self._refusal_of(event) or self._refusal
            lost = lost or not self._connected
        return lost

    def _refusal_of(self, event: int) -> str:
        """Return why a handshake failed, for want of which a server does not answer; nothing for any other event."""
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return "it does not know this client's key"
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            return "it has no keys, or this client has none: both need them"
        if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and self._credentials.server_key:
            return "it is not the server whose public key this client was given"
        return ""

    def _unavailable(self, why: str) -> ServerUnavailable | Unauthorized:
        """Throw away the socket with the request it still holds: a server that comes back must not work on it."""
        refusal, broken = self._refusal, self._broken
        self._close_socket()
        self._open()
        if refusal:
            return Unauthorized(f"{self.endpoint} refuses this client: {refusal}")
        return self._no_server(f"{why} in the handshake (it may ask for keys)" if broken else why)


def guard_client(dealer: zmq.Socket[bytes], shown: Credentials) -> None:
    """Configure a socket, before it connects, for one known server; raise `ConfigError` when a key is missing."""
    if shown.client_key is None or shown.server_key is None:
        raise ConfigError("a client needs both its own secret key and the server's public one")
    dealer.curve_publickey, dealer.curve_secretkey = read_pair(shown.client_key)
    try:
        dealer.curve_serverkey = parse_key(shown.server_key, read_regular(shown.server_key)).public
    except OSError as error:
        raise ConfigError(f"cannot read the key {shown.server_key}: {error.strerror}") from None

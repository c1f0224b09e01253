"""The limits of ZeroMQ and of a plain socket: one process that sends back what it receives, and its clients.

`python -m imdb_serving.foreign.echoes KIND PORT` serves, KIND being `zeromq` or `socket`.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from abc import abstractmethod
from contextlib import suppress
from time import perf_counter_ns

import numpy as np
import zmq

from imdb_serving.clients.base import Client
from imdb_serving.clients.sockets import KernelTimedSocket
from imdb_serving.errors import RequestTimeout, ServerUnavailable
from imdb_serving.messages import Reply, Request, ServerInfo
from imdb_serving.timing import REMOTE, Stage

HOST = "127.0.0.1"
NOTHING = np.full((1, 2), 0.5, dtype=np.float32)
"""What an echo's client says was predicted."""


def serve_zeromq(port: str) -> None:
    """Send back what arrives until killed."""
    replies = zmq.Context().socket(zmq.REP)
    replies.bind(f"tcp://{HOST}:{port}")
    while True:
        replies.send(replies.recv())


def serve_socket(port: str) -> None:
    """Send back whole messages, whose length stands first as `<I`, until killed."""
    listener = socket.create_server((HOST, int(port)), backlog=1024)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[client.fileno()] = client
                poll.register(client, select.POLLIN)
            elif not _echo(connections[descriptor]):
                poll.unregister(descriptor)
                connections.pop(descriptor).close()


def _echo(connection: socket.socket) -> bool:
    """Send one message back; return False at the end of the stream."""
    with suppress(ConnectionResetError):
        data = connection.recv(1 << 16)
        while data and (len(data) < 4 or len(data) < 4 + struct.unpack_from("<I", data)[0]):
            more = connection.recv(1 << 16)
            data = data + more if more else b""
        if data:
            connection.sendall(data)
        return bool(data)
    return False


class EchoClient(Client):
    """A client that sends the word ids of a request's one review, and gets them back."""

    def __init__(self, port: int, timeout: float) -> None:
        """Take the echo's port on this host, and each request's deadline in seconds; a subclass connects."""
        self.timeout, self._port = timeout, port

    @abstractmethod
    def ask(self, message: bytes) -> bytes:
        """Send a message and return what comes back."""

    def call(self, request: Request) -> Reply:
        begun = perf_counter_ns()
        message = request.feed["words"].values.tobytes()
        encoded = perf_counter_ns()
        if self.ask(message) != message:
            raise ServerUnavailable(f"the echo on port {self._port} sent something else back")
        stages = [Stage("encode", begun, encoded), Stage(REMOTE, encoded, perf_counter_ns())]
        return Reply({"prediction": NOTHING}, stages)

    def hello(self) -> ServerInfo:
        self.ask(b"12345678")
        return ServerInfo("echo", "", "", "", 1, "", (), (), 0, 0)

    def _gone(self, error: object) -> ServerUnavailable:
        return ServerUnavailable(f"the echo on port {self._port} does not answer: {error}")

    def _late(self) -> RequestTimeout:
        return RequestTimeout(f"no reply from the echo on port {self._port} in {self.timeout} s")


class ZmqEchoClient(EchoClient):
    """The client of ZeroMQ's echo."""

    def __init__(self, port: int, timeout: float) -> None:
        """Connect."""
        super().__init__(port, timeout)
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.rcvtimeo = int(timeout * 1000)
        self._socket.connect(f"tcp://{HOST}:{port}")

    def ask(self, message: bytes) -> bytes:
        try:
            self._socket.send(message)
            return self._socket.recv()
        except zmq.Again:
            raise self._late() from None
        except zmq.ZMQError as error:
            raise self._gone(error) from error

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class SocketEchoClient(EchoClient):
    """The client of the plain socket's echo."""

    def __init__(self, port: int, timeout: float) -> None:
        """Connect."""
        super().__init__(port, timeout)
        try:
            self._socket = KernelTimedSocket(socket.create_connection((HOST, port), timeout))
        except OSError as error:
            raise self._gone(error) from error
        self._socket.limit(timeout)

    def ask(self, message: bytes) -> bytes:
        data = b""
        try:
            self._socket.connection.sendall(struct.pack("<I", len(message)) + message)
            while len(data) < 4 + len(message):
                more = self._socket.recv(1 << 16)
                if not more:
                    raise self._gone("it has closed the connection")
                data += more
        except BlockingIOError:
            raise self._late() from None
        except OSError as error:
            raise self._gone(error) from error
        return data[4:]

    def close(self) -> None:
        self._socket.close()


CLIENTS: dict[str, type[EchoClient]] = {"zeromq": ZmqEchoClient, "socket": SocketEchoClient}

if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        {"zeromq": serve_zeromq, "socket": serve_socket}[sys.argv[1]](sys.argv[2])

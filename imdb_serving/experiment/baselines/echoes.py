"""The limits of ZeroMQ and of a plain socket: one process that sends back what it receives. `... KIND PORT`."""

from __future__ import annotations

import select
import socket
import struct
import sys

import zmq


def serve_zeromq(port: str) -> None:
    """Send back what arrives until killed."""
    replies = zmq.Context().socket(zmq.REP)
    replies.bind(f"tcp://127.0.0.1:{port}")
    while True:
        replies.send(replies.recv())


def serve_socket(port: str) -> None:
    """Send back whole messages, whose length stands first as `<I`, until killed."""
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=1024)
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
    data = connection.recv(1 << 16)
    while data and len(data) < 4 + struct.unpack_from("<I", data)[0]:
        data += connection.recv(1 << 16)
    if data:
        connection.sendall(data)
    return bool(data)


if __name__ == "__main__":
    {"zeromq": serve_zeromq, "socket": serve_socket}[sys.argv[1]](sys.argv[2])

"""A server that answers every request at once, always the same, over HTTP or gRPC: it shows what clients can send.

`null_server.py http|grpc HOST` reads the answer's body from standard input, before which may stand `NAME: VALUE` and
an empty line, listens on a free port, and prints that. A script of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent import futures
from contextlib import suppress
from pathlib import Path

END = b"\r\n\r\n"
LENGTH = b"content-length:"
OWN_HEADER = b"Inference-Header-Content-Length: "


class NullProtocol(asyncio.Protocol):
    """One connection: for each whole request the answer."""

    answer = b""

    def __init__(self) -> None:
        self._begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a stream
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that has arrived whole."""
        data = self._begun + data if self._begun else data
        while (end := data.find(END)) >= 0:
            _, found, rest = data[:end].lower().partition(LENGTH)
            size = end + len(END) + (int(rest.split(b"\r\n", 1)[0]) if found else 0)
            if len(data) < size:
                break
            self._transport.write(self.answer)
            data = data[size:]
        self._begun = data


async def _serve(host: str, body: bytes) -> None:
    header = b""
    if body.startswith(OWN_HEADER):
        header, _, body = body.partition(END)
        header += b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n" % (len(body), header)
    NullProtocol.answer = head + body
    server = await asyncio.get_running_loop().create_server(NullProtocol, host, 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _serve_grpc(host: str, body: bytes) -> None:
    import grpc  # noqa: PLC0415 - an extra

    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: body)

    class Always(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _details: object) -> object:
            return handler

    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Always(),))
    port = server.add_insecure_port(f"{host}:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


class NullServer:
    """The server's process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.pid = process, process.pid

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def serve(host: str, body: bytes, *, is_grpc: bool = False) -> tuple[int, NullServer]:
    """Start it; return its port and its process."""
    options = ["-I"] if is_grpc else ["-I", "-S"]  # without the packages of others it starts at once
    command = [sys.executable, *options, str(Path(__file__)), "grpc" if is_grpc else "http", host]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None  # noqa: S101 - pipes were asked for
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(body)
    process.stdin.close()
    return int(process.stdout.readline()), NullServer(process)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        kind, given, answer = *sys.argv[1:], sys.stdin.buffer.read()
        if kind == "grpc":
            _serve_grpc(given, answer)
        else:
            asyncio.run(_serve(given, answer))

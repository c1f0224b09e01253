"""Requests that come when they are due, whatever became of those before: what overload is, and closed loops are not."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import http_kit as http
import msgspec
import rpc_kit as kit
import zmq
import zmq.asyncio

MAX_CONNECTIONS = 900


@dataclass
class Outcome:
    """How the requests of a stretch ended: counts by code, and the seconds of those answered in time."""

    seconds: float
    codes: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        return len(self.took) / self.seconds

    def percentile(self, share: float) -> float:
        return sorted(self.took)[int(share * (len(self.took) - 1))]


class Stream:
    """A connection over a plain socket, or HTTP; one request at a time."""

    def __init__(self, mode: str, endpoint: str, deadline: float) -> None:
        self.mode, self.endpoint = mode, endpoint
        if mode == "flask":
            self.message = http.message(head=f"X-Request-Timeout: {deadline}\r\n")
        else:
            self.message = kit.in_one_piece(kit.raw_message(deadline_ms=deadline * 1000))
        self.streams: Any = None

    async def ask(self) -> str:
        if self.streams is None:
            host, _, port = self.endpoint.rpartition("://")[2].rpartition(":")
            self.streams = await asyncio.open_connection(host, int(port))
        reader, writer = self.streams
        writer.write(self.message)
        if self.mode == "flask":
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = msgspec.json.decode(await reader.readexactly(length))
            return str(body.get("code", "answered"))
        prefix = await reader.readexactly(24)
        header, body = (int.from_bytes(prefix[at : at + 4], "little") for at in (16, 20))
        answer = msgspec.msgpack.decode((await reader.readexactly(header + -header % 8))[:header])
        await reader.readexactly(body)
        return str(answer.get("code", "answered"))

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()


class Dealer:
    """A ZeroMQ socket; one request at a time."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, deadline: float) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)
        self.message = kit.raw_message(deadline_ms=deadline * 1000)

    async def ask(self) -> str:
        await self.socket.send_multipart(self.message)
        frames = await self.socket.recv_multipart()
        return str(kit.read_answer(frames).get("code", "answered"))

    def close(self) -> None:
        self.socket.close()


def connection_of(mode: str, endpoint: str, deadline: float, context: zmq.asyncio.Context) -> Any:
    """A client of a mode, with a connection of its own."""
    return Dealer(context, endpoint, deadline) if mode == "rpc" else Stream(mode, endpoint, deadline)


async def _drive(mode: str, endpoint: str, rate: float, seconds: float, deadline: float) -> Outcome:
    outcome = Outcome(seconds)
    idle: list[Any] = []
    context = zmq.asyncio.Context()
    context.max_sockets = MAX_CONNECTIONS + 20
    count = 0

    async def one(due: float) -> None:
        nonlocal count
        if idle:
            connection = idle.pop()
        elif count < MAX_CONNECTIONS:
            count += 1
            connection = Dealer(context, endpoint, deadline) if mode == "rpc" else Stream(mode, endpoint, deadline)
        else:
            outcome.codes["no connection"] += 1
            return
        try:
            code = await asyncio.wait_for(connection.ask(), deadline)
        except (asyncio.TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            connection.close()
            count -= 1
            outcome.codes[type(error).__name__] += 1
            return
        idle.append(connection)
        took = time.monotonic() - due
        if code == "answered" and took > deadline:
            code = "late"
        outcome.codes[code] += 1
        if code == "answered":
            outcome.took.append(took)

    begun = time.monotonic()
    tasks = set()
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        if (left := due - time.monotonic()) > 0:
            await asyncio.sleep(left)
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    context.destroy(linger=0)
    return outcome


def apart(run: Callable[..., Coroutine[Any, Any, Outcome]], *arguments: Any) -> Outcome:
    """Run it in a thread of its own: the one that tests run in may have an event loop already."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(run(*arguments))).result()


async def _at_once(mode: str, endpoint: str, clients: int, requests: int, deadline: float) -> Outcome:
    outcome = Outcome(0.0)
    context = zmq.asyncio.Context()
    context.max_sockets = clients + 20

    async def one() -> None:
        connection = connection_of(mode, endpoint, deadline, context)
        for _ in range(requests):
            outcome.codes[await asyncio.wait_for(connection.ask(), deadline)] += 1
        connection.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    context.destroy(linger=0)
    return outcome


def at_once(mode: str, endpoint: str, clients: int, requests: int, deadline: float) -> Outcome:
    """Have so many clients, each with a connection of its own, ask one thing after another."""
    return apart(_at_once, mode, endpoint, clients, requests, deadline)


def drive(mode: str, endpoint: str, rate: float, seconds: float, deadline: float) -> Outcome:
    """Ask at a rate (requests/s), each to be answered within `deadline` seconds of its due time."""
    return apart(_drive, mode, endpoint, rate, seconds, deadline)

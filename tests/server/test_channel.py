"""Messages between a server and its worker process keep their form, and no wait is longer than its deadline."""

from __future__ import annotations

import errno
import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imdb_serving.server.channel import Channel, missing, pack, unpack

FRAMES = st.lists(st.binary(max_size=40), max_size=5)
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)


@given(NUMBERS, FRAMES)
def test_a_message_is_known_to_be_whole_and_not_before(number: int, frames: list[bytes]) -> None:
    message = memoryview(b"".join(pack(number, frames)))
    read, parts = unpack(message)
    assert (read, [bytes(part) for part in parts]) == (number, frames)
    assert missing(message) == 0
    for length in range(len(message)):
        assert 0 < missing(message[:length]) <= len(message) - length


@given(FRAMES)
def test_every_frame_lies_at_a_multiple_of_eight(frames: list[bytes]) -> None:
    message = np.frombuffer(b"".join(pack(1, [*frames, bytes(8)])), dtype=np.uint8)
    _, parts = unpack(memoryview(message))
    starts = [np.frombuffer(part, np.uint8).ctypes.data - message.ctypes.data for part in parts if len(part)]
    assert all(start % 8 == 0 for start in starts)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair()
    channels = Channel(left), Channel(right)
    yield channels
    for channel in channels:
        channel.close()


def soon(seconds: float = 0.05) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 5_000_000])
def test_messages_of_any_size_arrive(ends: tuple[Channel, Channel], size: int) -> None:
    ours, theirs = ends
    frames = [b"head", bytes(size), b"tail"]
    sender = threading.Thread(target=ours.send, args=(7, frames, soon(20)))
    sender.start()
    number, received = theirs.receive(soon(20))
    sender.join(20)
    assert (number, [bytes(frame) for frame in received]) == (7, frames)


def test_one_that_does_not_read_costs_no_more_than_the_deadline(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(TimeoutError):
        ends[0].send(1, [bytes(5_000_000)], soon())


def test_one_that_says_nothing_costs_no_more_than_the_deadline(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(TimeoutError):
        ends[0].receive(soon())
    assert not ends[0].has_word()
    ends[1].send(2, [b"late"])
    assert ends[0].has_word(5)
    assert ends[0].receive(soon(5))[0] == 2


def test_after_half_a_message_there_is_no_other(ends: tuple[Channel, Channel]) -> None:
    whole = b"".join(pack(3, [b"x" * 100]))
    ends[1].connection.sendall(whole[:50])
    with pytest.raises(TimeoutError):
        ends[0].receive(soon())
    ends[1].connection.sendall(whole[50:])
    with pytest.raises(EOFError):
        ends[0].receive(soon(5))


@pytest.mark.parametrize("sent", [b"", b"x" * 10])
def test_the_other_end_going_away_is_the_end(ends: tuple[Channel, Channel], sent: bytes) -> None:
    ends[1].connection.sendall(sent)
    ends[1].close()
    assert ends[0].has_word()
    with pytest.raises(EOFError):
        ends[0].receive(soon(5))
    with pytest.raises(OSError, match=r"."):
        ends[0].send(1, [bytes(5_000_000)], soon(5))


class Short:
    """A socket of a system that is short of memory for some calls."""

    def __init__(self, connection: socket.socket, times: float) -> None:
        self.connection, self.times = connection, times

    def __getattr__(self, name: str) -> Any:
        if name in {"sendmsg", "recv", "recv_into"} and self.times:
            self.times -= 1
            raise OSError(errno.ENOBUFS, "no buffer space")
        return getattr(self.connection, name)


def test_a_shortage_of_memory_is_waited_out_until_the_deadline(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    ours.connection, theirs.connection = Short(ours.connection, 3), Short(theirs.connection, 3)  # type: ignore[assignment]
    ours.send(7, [b"x" * 100], soon(20))
    assert theirs.receive(soon(20))[0] == 7
    ours.connection.times = math.inf  # type: ignore[attr-defined]
    with pytest.raises(TimeoutError):
        ours.send(8, [b"x"], soon())

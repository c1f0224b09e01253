"""A ZeroMQ socket's plain `send`: bytes and flags, without pyzmq's detour for routing ids and groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq


def plain_send(zmq_socket: zmq.Socket[bytes]) -> Callable[..., Any]:
    """Return it; with a small message the detour, a function in Python, costs as much as the call itself."""
    return super(zmq.Socket, zmq_socket).send

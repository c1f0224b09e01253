"""ZeroMQ's own limit: one process that sends back what it receives. `python -m ... PORT`."""

from __future__ import annotations

import sys

import zmq


def main(port: str) -> None:
    """Serve until killed."""
    replies = zmq.Context().socket(zmq.REP)
    replies.bind(f"tcp://127.0.0.1:{port}")
    while True:
        replies.send(replies.recv())


if __name__ == "__main__":
    main(sys.argv[1])

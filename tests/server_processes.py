"""In how many processes the servers that tests start have worker threads: one, whatever the machine, or as asked.

`pytest --server-processes 2` runs the tests with servers of two; those that ask for a number, or for worker processes,
have what they ask for.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from imdb_serving.engines.registry import ENGINES
from imdb_serving.server_process import ServerProcess

COMMANDS = ("serve", "flask")
_count = 1


def with_processes(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a server, with the number of processes where they leave it open."""
    asked = dict(itertools.pairwise(arguments))
    engine = ENGINES.get(asked.get("--engine", "paddle"))
    threads = asked.get("--server-threads", "4")
    kind = asked.get("--worker-kind", engine.worker_kind if engine else "")
    if command not in COMMANDS or "--processes" in asked or kind != "thread" or not threads.isdecimal():
        return list(arguments)
    return [*arguments, "--processes", str(min(_count, max(1, int(threads))))]


def set_up(config: pytest.Config) -> None:
    """Have all servers that tests start from now on have so many processes."""
    global _count  # noqa: PLW0603 - an option of the whole run
    _count = config.getoption("--server-processes")
    begin = ServerProcess.__init__

    @functools.wraps(begin)
    def begin_with_processes(
        self: ServerProcess, arguments: Sequence[str], *, command: str = "serve", **more: Any
    ) -> None:
        begin(self, with_processes(command, arguments), command=command, **more)

    ServerProcess.__init__ = begin_with_processes  # type: ignore[method-assign]

"""Hosts for tests: processes as a cluster's nodes have them, without a cluster."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from imdb_serving.cluster.remote import Call, HostProcess, RemoteHost, Wait


@contextmanager
def running_hosts(count: int) -> Iterator[tuple[list[RemoteHost], list[HostProcess]]]:
    """So many hosts on this machine, and their processes."""
    with ExitStack() as stack:
        processes, hosts = [], []
        for number in range(count):
            process = HostProcess()
            stack.callback(process.stop)
            thread = stack.enter_context(ThreadPoolExecutor(1))
            processes.append(process)
            hosts.append(RemoteHost(f"host-{number}", "127.0.0.1", functools.partial(_begin, process, thread)))
        yield hosts, processes


def _begin(process: HostProcess, thread: ThreadPoolExecutor, call: Call, seconds: float) -> Wait:
    def ask() -> object:
        done, value = process.ask(call, seconds)
        if not done:
            raise value
        return value

    return thread.submit(ask).result

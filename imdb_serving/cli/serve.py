"""`imdb-serving serve`: an RPC server that prints one line when it is ready and ends cleanly on a signal."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.serve_options import (
    MakePipeline,
    ServeOptions,
    given_options,
    metrics_port,
    server_options,
    warn_strangers,
)
from imdb_serving.cli.server_processes import decided


def serve_rpc(
    options: ServeOptions, make_pipeline: MakePipeline | None = None, *, choose_processes: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM. `make_pipeline` is called once in each worker; one's own ops go there.

    `choose_processes` has the number of processes chosen where `options` leaves it open. Else it is one: worker
    processes import the script that calls this once more, and not every script is made for that.
    """
    from imdb_serving.protocol.endpoints import is_socket
    from imdb_serving.server.rpc.service import rpc_server
    from imdb_serving.server.server import Server

    options.set_up_log()
    options.settle()
    bundle = options.open_bundle()
    mode = "socket" if is_socket(options.endpoint) else "rpc"
    if choose_processes:
        options = decided(options, mode, bundle)
    make_pipeline = make_pipeline or options.make_pipeline()
    keys = options.keys()
    server: Server = rpc_server(
        options.endpoint,
        None,
        options.server_threads,
        options.worker_processes,
        functools.partial(options.describe, bundle),
        max_message_bytes=options.max_message_bytes,
        preload=options.preload(),
        keys=keys,
        prepare=lambda: server.set_handler(functools.partial(make_pipeline, options.tuned(bundle), bundle)),
        max_queue=options.max_queue,
    )
    warn_strangers(options.endpoint, guarded=keys is not None)
    stop_when_asked(server.stop, options)
    if mode == "rpc":
        _let_wakers_finish()
    metrics = metrics_port(options, server)
    server.run(lambda endpoint: announce(mode, endpoint, options, server.info.metrics), metrics)


def _let_wakers_finish() -> None:
    """Ask Linux (SCHED_BATCH) not to preempt the waking thread for the one that it wakes.

    ZeroMQ wakes a thread of its own and one of ours for every message. Where cores are scarce, each would interrupt the
    other, or the client, in the middle of its work (docs/performance.md).
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def stop_when_asked(stop: Callable[[], None], options: ServeOptions) -> None:
    """Call `stop` at SIGINT and SIGTERM, and at the end of standard input if asked."""
    stop_on_signals(stop)
    if options.exit_with_stdin:
        threading.Thread(target=_wait_for_end_of_stdin, args=(stop,), daemon=True).start()


def announce(mode: str, endpoint: str, options: ServeOptions, metrics: str = "") -> None:
    """Print the one line that says the server is ready, and where; its third word is the endpoint."""
    import gc
    import logging

    gc.collect()
    gc.freeze()  # what was loaded stays: else it would be looked through again and again
    logging.getLogger(__name__).info("ready", extra={"event": "ready", "mode": mode, "endpoint": endpoint})
    print(
        f"ready {mode} {endpoint} engine={options.engine.name} server_threads={options.server_threads} "
        f"worker_kind={options.kind} processes={options.server_processes} pid={os.getpid()}"
        f"{f' metrics={metrics}' if metrics else ''}",
        flush=True,
    )


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` at SIGINT and SIGTERM."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()  # and no word in the log: whoever holds its lock may be who was interrupted

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def _wait_for_end_of_stdin(stop: Callable[[], None]) -> None:
    """Stop when the parent process has ended: its end of standard input closes with it."""
    # The descriptor, not the buffered stream: a thread that holds its lock would abort the interpreter's exit.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop()


@group.command()
@server_options(port=9292)
@click.option("--endpoint", help="Listen here instead of --host and --port, for example ipc:///tmp/imdb-serving.")
def serve(endpoint: str | None, **options: Any) -> None:
    """Serve MODEL over RPC until SIGINT or SIGTERM; one line on standard output says when it is ready.

    MODEL is a bundle's serving_server_model folder, or the folder that holds it.

    \b
    Example:
      imdb-serving serve serving_server_model --port 9292 --server-threads 4
    """
    from imdb_serving.protocol.endpoints import with_port

    endpoint = endpoint or f"tcp://{with_port(options['host'], options['port'])}"
    serve_rpc(given_options(endpoint=endpoint, **options), choose_processes=True)

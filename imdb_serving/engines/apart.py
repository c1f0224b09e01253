"""Runs a function in a process of its own: what it loads, and what it breaks, stays there."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

from imdb_serving.errors import ServingError

T = TypeVar("T")


class Failed(ServingError):
    """What a function raised in a process of its own, in words; or that the process died, or took too long."""


def run_apart(function: Callable[[], T], seconds: float, preload: Sequence[str] = (), *, silent: bool = False) -> T:
    """Return what a function returns in a process of its own; raise `Failed` when it raises, dies or is too slow.

    A `ServingError` is raised as it is. Function and result must be such as can be pickled. What libraries of a
    `silent` one print is thrown away.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, function, silent), name="apart", daemon=True)
    process.start()
    theirs.close()
    try:
        found: tuple[T | None, ServingError | None] = (
            ours.recv() if ours.poll(seconds) else (None, Failed(f"no result in {seconds:.0f} s"))
        )
    except EOFError:
        process.join(1)
        found = None, Failed(f"its process died (exit code {process.exitcode})")
    finally:
        process.kill()
        process.join()
        ours.close()
    result, error = found
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # there is one where there is no error


def _run(pipe: Connection, function: Callable[[], object], silent: bool) -> None:
    if silent:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    try:
        pipe.send((function(), None))
    except ServingError as error:
        pipe.send((None, error))
    except Exception as error:
        pipe.send((None, Failed(f"{type(error).__name__}: {error}")))

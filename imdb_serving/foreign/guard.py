"""Runs a command and sees that nothing of it is left. A script of its own: it imports the standard library alone.

`guard.py SECONDS OUTPUT MOST_BYTES COMMAND...` ends the command, and every process that came of it, when its standard
input is closed (who started it has ended, however) or it is told to (SIGTERM): the command with SIGTERM, then what it
left, and after so many seconds with SIGKILL. It ends by itself when the last of them has. OUTPUT, to which they write,
is kept short.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOOK_SECONDS = 0.5
END_LOOK_SECONDS = 0.02
LEFT_SECONDS = 2.0
"""What the command left has so long to end."""


def prctl(option: int, value: int) -> None:
    """Ask Linux for it; elsewhere do nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, which may have ended before it was asked to."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def children(pid: int) -> list[int]:
    """Return the ids of all processes that came of one, as Linux lists them."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, listed.read_text().split()):
                found += [child, *children(child)]
    return found


def reap(ended: set[int]) -> None:
    """Take note of every child that has ended; those of children that ended before them are ours by now."""
    with suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(pid)


def send(number: int, pids: list[int]) -> None:
    """Send a signal to these processes."""
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, number)


def is_anything_left() -> bool:
    """Tell whether any child is there that has not been waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def unless_ended(leader: int, ended: set[int]) -> list[int]:
    """Return the command's process, unless it has ended: then its number may be another's by now."""
    return [] if leader in ended else [leader]


def end_all(leader: int, ended: set[int], seconds: float) -> None:
    """End everything: the command, which may end its children itself, then what it left, and kill what does not end."""
    until = time.monotonic() + seconds
    reap(ended)
    send(signal.SIGTERM, unless_ended(leader, ended))
    while leader not in ended and time.monotonic() < until:
        time.sleep(END_LOOK_SECONDS)
        reap(ended)
    send(signal.SIGTERM, children(os.getpid()))
    until = min(until, time.monotonic() + LEFT_SECONDS)
    while is_anything_left():
        if time.monotonic() > until:
            send(signal.SIGKILL, children(os.getpid()) or unless_ended(leader, ended))
        time.sleep(END_LOOK_SECONDS)
        reap(ended)


def keep_short(output: str, most: int) -> None:
    """Empty the output when it has grown too long; what writes to it appends."""
    with suppress(OSError):
        if Path(output).stat().st_size > most:
            os.truncate(output, 0)


def main() -> None:
    """Do so; see above."""
    seconds, output, most, command = float(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    told: list[int] = []
    ended: set[int] = set()
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    for number in (signal.SIGINT, signal.SIGCHLD):  # a handler, for what is ignored would be ignored by the command too
        signal.signal(number, lambda _number, _frame: None)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(end_with, os.getpid()),  # noqa: PLW1509 - there is one thread here
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)
    while not told:
        ready, _, _ = select.select([sys.stdin, read_end], [], [], LOOK_SECONDS)
        if sys.stdin in ready:
            break  # nobody writes to it: this is its end
        if read_end in ready:
            os.read(read_end, 4096)
        reap(ended)
        if not is_anything_left():
            break
        keep_short(output, most)
    end_all(process.pid, ended, seconds)


if __name__ == "__main__":
    main()

"""`python -m imdb_serving` is the `imdb-serving` command; both begin here."""

import os
import signal
import sys


def run() -> None:
    """Run the command. Ctrl-C while it is still loading ends it without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else who started it wants it to be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_standard_streams()
    _need_a_working_folder()
    _use_safe_path()
    from imdb_serving.cli import main

    main()


def _open_standard_streams() -> None:
    """Have whichever of the three was closed read or write nothing: else the first file opened would become it.

    What the encoding of the terminal cannot express is replaced.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - a descriptor has no path
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr] # these are real ones


def _need_a_working_folder() -> None:
    """End with a line where the working folder is gone: processes started from there fail in odd ways."""
    try:
        os.getcwd()  # noqa: PTH109 - pathlib is not loaded yet
    except FileNotFoundError:
        sys.stderr.write("imdb-serving: the working folder is gone; change to another one\n")
        sys.exit(2)


def _use_safe_path() -> None:
    """Keep this process and those that it starts from importing a user's `random.py` in the working folder.

    Python before 3.11 does not know the variable. A package that is not installed is found in the working folder.
    """
    folder = os.getcwd()  # noqa: PTH109 - pathlib is not loaded yet
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) != folder:  # noqa: PTH100, PTH120
        os.environ.setdefault("PYTHONSAFEPATH", "1")
        if sys.path[0] in {"", folder}:
            del sys.path[0]


if __name__ == "__main__":
    run()

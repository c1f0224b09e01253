"""Kernels that notebooks run in, one notebook at a time each. A kept kernel saves its start and its imports."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

import imdb_serving
from imdb_serving.processes import temporary_folder

INLINE = "module://matplotlib_inline.backend_inline"
ARGUMENTS = [
    "--IPKernelApp.log_level=50",  # or it warns of its sockets and its end
    "--InteractiveShell.ast_node_interactivity=last_expr",  # a profile of the whole machine's may say otherwise
]

MATPLOTLIBRC = "matplotlibrc"

RESET = """
def _reset(shell):
    kept = {name: value for name, value in shell.user_ns.items() if name.startswith("__")}
    shell.reset(new_session=True)
    shell.user_ns.update(kept)  # which processes that are forked later ask for
_reset(get_ipython())
"""
RESET_SECONDS = 20.0


class Kernels:
    """Kernels for notebooks, as many as run at once, for the `with` block.

    A kernel whose notebook succeeded takes the next one, its namespace and history emptied; modules stay imported. One
    whose notebook failed is ended at once. Kernels have a temporary folder of their own, because they do not always
    delete their files.
    """

    def __init__(self) -> None:
        self._free: list[OwnKernel] = []
        self._stack = ExitStack()

    def __enter__(self) -> Kernels:
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # which the Jupyter libraries address to their own developers
        self._folder = Path(self._stack.enter_context(temporary_folder()))
        (self._folder / MATPLOTLIBRC).touch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            while self._free:
                self._free.pop().end(now=True)  # it has nothing more to do

    @contextmanager
    def one(self, folder: Path) -> Iterator[OwnKernel]:
        """Lend a kernel for one notebook, started in `folder` if none is free."""
        kernel = self._free.pop() if self._free else OwnKernel(self._folder)
        try:
            if kernel.has_kernel:
                kernel.reset()
            else:
                run_sync(kernel.start_kernel)(extra_arguments=ARGUMENTS, cwd=str(folder))
            yield kernel
        except BaseException as error:
            kernel.end(now=isinstance(error, Exception))  # a notebook that was interrupted may still be cleaning up
            raise
        self._free.append(kernel)


class OwnKernel(AsyncKernelManager):
    """Starts the kernel of `sys.executable`, whatever kernels JUPYTER_PATH has.

    Its temporary files are in a folder, where its IPython profile and its matplotlibrc are empty ones.
    """

    _client: Any = None

    def __init__(self, folder: Path) -> None:
        """Take the folder, which has a matplotlibrc."""
        super().__init__(connection_file=str(folder / f"{uuid4()}.json"))
        self._folder = folder

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel's command and environment."""
        if self._kernel_spec is None:
            self._kernel_spec = KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
                env=_environment(self._folder),
            )
        return self._kernel_spec

    def client(self, **options: Any) -> Any:
        """Return a client, whose connections end with the notebook."""
        self._client = super().client(**options)
        return self._client

    def reset(self) -> None:
        """Have the kernel forget the notebook that it ran; raise `RuntimeError` or `TimeoutError` when it does not."""
        self._disconnect()
        if not run_sync(self.is_alive)():
            raise RuntimeError("a kernel that was kept has died")
        client = self.blocking_client()
        client.start_channels(iopub=False, stdin=False, hb=False, control=False)  # the reply is all that is read
        try:
            client.execute(RESET, silent=True, allow_stdin=False, reply=True, timeout=RESET_SECONDS)
        finally:
            client.stop_channels()

    def end(self, *, now: bool = False) -> None:
        """End the kernel; one that does not end by itself is killed, as is one that is to end `now`."""
        self._disconnect()
        if self.has_kernel:
            run_sync(self.shutdown_kernel)(now=now)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
            self._client = None


def _environment(folder: Path) -> dict[str, str]:
    """Return what differs from this process's environment."""
    running = str(Path(imdb_serving.__file__).parent.parent)
    paths = [running, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "IPYTHONDIR": str(folder / "ipython"),
        "MATPLOTLIBRC": str(folder / MATPLOTLIBRC),
        "MPLBACKEND": INLINE,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONSTARTUP": "",
        "TMPDIR": str(folder),
    }

"""Notebooks as commands: their parameters, their execution by papermill, and the kernel that they run in."""

from __future__ import annotations

import ast
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

import imdb_serving
from imdb_serving.config import project_root
from imdb_serving.errors import ConfigError, ServingError
from imdb_serving.measurement.parameters import GridParams, from_notebook
from imdb_serving.measurement.parameters.checks import Params
from imdb_serving.processes import temporary_folder

INJECTED = "# Parameters"
CELL_SECONDS = 6 * 3600


class NotebookError(ServingError):
    """A notebook stopped at an error; the message is that error's."""

    code = "notebook"


def notebook_path(name: str) -> Path:
    """Return a notebook of the project; raise `ConfigError` when this is not run inside the project."""
    path = project_root() / "notebooks" / name
    if not path.is_file():
        raise ConfigError(f"there is no {path}; run this inside the project's folder")
    return path


def params_of(kind: type[Params], notebook: str, namespace: Mapping[str, Any]) -> Params:
    """Check a notebook's parameters, as found in its `globals()`.

    papermill injects a mistyped parameter without a warning, and the notebook would run with the default. So the cell
    that papermill injected is read, and each name that it sets is checked; an unknown one is refused with the nearest
    name.
    """
    values = {name: namespace[name] for name in kind.__struct_fields__ if name in namespace}
    for source in namespace.get("In", []):
        if source.startswith(INJECTED):
            values |= {name: namespace.get(name) for name in _assigned(source)}
    return from_notebook(kind, notebook, **values)


def _assigned(source: str) -> list[str]:
    targets = [node.targets for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return [target.id for group in targets for target in group if isinstance(target, ast.Name)]


def execute(name: str, out: Path, parameters: Mapping[str, Any]) -> None:
    """Run a notebook of the project with papermill and keep what it became at `out`.

    Raises `NotebookError` with the last line of the notebook's error; the notebook at `out` shows all of it.
    """
    import papermill  # noqa: PLC0415 - takes most of a second

    # own

    source = notebook_path(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _APART:
        try:
            papermill.execute_notebook(
                source,
                out,
                parameters=dict(parameters),
                kernel_name="python3",  # which the notebook is for; the manager has one only
                kernel_manager_class=OwnKernel,
                cwd=source.parent,
                progress_bar=False,
                start_timeout=60,
                execution_timeout=CELL_SECONDS,
                extra_arguments=ARGUMENTS,
            )
        except papermill.PapermillExecutionError as error:
            if error.ename == "KeyboardInterrupt":  # Ctrl-C reaches the kernel as well
                raise KeyboardInterrupt from error
            raise NotebookError(f"{error.ename}: {error.evalue}") from error


def interrupt_kernels() -> None:
    """Interrupt the notebooks that run in other threads, as Ctrl-C interrupts one in the main thread."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any("ipykernel" in part for part in child.cmdline()):
                child.send_signal(signal.SIGINT)


class _Apart:
    """The process-wide state while notebooks run, however many at once.

    Kernels get a temporary folder of their own, because they do not always delete their files. Warnings that the
    Jupyter libraries address to their own developers are not shown.
    """

    def __init__(self) -> None:
        self._inside, self._lock, self._stack = 0, threading.Lock(), ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._stack.callback(_set_temporary, os.environ.get("TMPDIR"))
                _set_temporary(self._stack.enter_context(temporary_folder()))
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._stack.close()


def _set_temporary(folder: str | None) -> None:
    tempfile.tempdir = None  # else what it found before counts for this process, and for kernels' connection files
    if folder is None:
        os.environ.pop("TMPDIR", None)
    else:
        os.environ["TMPDIR"] = folder


_APART = _Apart()


def execute_grid(params: GridParams, out: Path) -> None:
    """Run the grid notebook with `params`."""
    execute("grid.ipynb", out, msgspec.to_builtins(params))


INLINE = "module://matplotlib_inline.backend_inline"
ARGUMENTS = [
    "--IPKernelApp.log_level=50",  # or it warns of its sockets and its end
    "--InteractiveShell.ast_node_interactivity=last_expr",  # a profile of the whole machine's may say otherwise
]


class OwnKernel(AsyncKernelManager):
    """Starts the kernel of `sys.executable`, whatever kernels JUPYTER_PATH has.

    Its IPython profile and its matplotlibrc are empty ones in the folder for temporary files.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel's command and environment."""
        if self._kernel_spec is None:
            self._kernel_spec = KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
                env=_environment(Path(tempfile.gettempdir())),
            )
        return self._kernel_spec


def _environment(folder: Path) -> dict[str, str]:
    """Return what differs from this process's environment."""
    matplotlibrc = folder / "matplotlibrc"
    matplotlibrc.touch()
    running = str(Path(imdb_serving.__file__).parent.parent)
    paths = [running, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "IPYTHONDIR": str(folder / "ipython"),
        "MATPLOTLIBRC": str(matplotlibrc),
        "MPLBACKEND": INLINE,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONSTARTUP": "",
    }

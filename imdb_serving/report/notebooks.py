"""Notebooks as commands: their parameters, and their execution by papermill."""

from __future__ import annotations

import ast
import signal
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgspec
import psutil

from imdb_serving.config import project_root, shipped
from imdb_serving.errors import ServingError
from imdb_serving.measurement.parameters import GridParams, from_notebook
from imdb_serving.measurement.parameters.checks import Params
from imdb_serving.report.kernels import Kernels

GRAMMAR = "rfc3987_syntax"
INJECTED = "# Parameters"
CELL_SECONDS = 6 * 3600


class NotebookError(ServingError):
    """A notebook stopped at an error; the message is that error's."""

    code = "notebook"


def notebook_path(name: str) -> Path:
    """Return a notebook of the project; where there is no project, the one that was installed with the package."""
    path = project_root() / "notebooks" / name
    return path if path.is_file() else shipped(f"notebooks/{name}")


def working_folder(name: str) -> Path:
    """Return the folder that a notebook runs in: its own in the project; not the package's, which is not to be written.

    The package may lie below the working folder, as with an environment in `.venv`.
    """
    own = project_root() / "notebooks"
    return own if (own / name).is_file() else project_root()


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


def execute(
    name: str, out: Path, parameters: Mapping[str, Any], kernels: Kernels | None = None, *, often: bool = True
) -> None:
    """Run a notebook of the project with papermill, in one of the `kernels` if there are any; keep it at `out`.

    It is saved before and behind every cell if `often`, which takes some milliseconds each, else at the end.
    Raises `NotebookError` with the last line of the notebook's error; the notebook at `out` shows all of it.
    """
    source, folder = notebook_path(name), working_folder(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Kernels() if kernels is None else nullcontext(kernels) as there, there.one(folder) as kernel:
        papermill = _papermill()  # meanwhile the kernel starts
        try:
            papermill.execute_notebook(
                source,
                out,
                parameters=dict(parameters),
                kernel_name="python3",  # which the notebook is for; the manager has one only
                km=kernel,
                cwd=folder,
                progress_bar=False,
                start_timeout=60,
                execution_timeout=CELL_SECONDS,
                request_save_on_cell_execute=often,
            )
        except papermill.PapermillExecutionError as error:
            if error.ename == "KeyboardInterrupt":  # Ctrl-C reaches the kernel as well
                raise KeyboardInterrupt from error
            raise NotebookError(f"{error.ename}: {error.evalue}") from error


def _papermill() -> Any:
    """Import papermill without the grammar of internationalised addresses: no notebook has any to check.

    jsonschema leaves that check out where the module is missing; reading the grammar takes most of a second.
    """
    modules = cast("dict[str, ModuleType | None]", sys.modules)  # None is how to say that a module is missing
    left_out = GRAMMAR not in modules
    if left_out:
        modules[GRAMMAR] = None
    try:
        import papermill  # noqa: PLC0415 - after its grammar has been left out

        return papermill
    finally:
        if left_out:
            del modules[GRAMMAR]


def interrupt_kernels() -> None:
    """Interrupt the notebooks that run in other threads, as Ctrl-C interrupts one in the main thread."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any("ipykernel" in part for part in child.cmdline()):
                child.send_signal(signal.SIGINT)


def execute_grid(params: GridParams, out: Path, kernels: Kernels) -> None:
    """Run the grid notebook with `params`."""
    execute("grid.ipynb", out, msgspec.to_builtins(params), kernels)

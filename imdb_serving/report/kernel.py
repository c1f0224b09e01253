"""The kernel of our notebooks: this interpreter's, with the package that is running and nothing of the user's."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

import imdb_serving

INLINE = "module://matplotlib_inline.backend_inline"
ARGUMENTS = [
    "--IPKernelApp.log_level=50",  # or it warns of its sockets and its end
    "--InteractiveShell.ast_node_interactivity=last_expr",  # a profile of the whole machine's may say otherwise
]


class OwnKernel(AsyncKernelManager):
    """Starts `sys.executable`'s kernel, whatever kernels JUPYTER_PATH has.

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

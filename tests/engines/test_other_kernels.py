"""The promises on answers hold with the kernels of other processors, forced on this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = {
    "oneDNN and MKL without vectors of 256 bits": {
        "ONEDNN_MAX_CPU_ISA": "SSE41", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "oneDNN and MKL with AVX2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "OpenBLAS for an old Intel": {"OPENBLAS_CORETYPE": "Nehalem"},
    "OpenBLAS for a Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "numba for any processor": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kernels", KERNELS)
def test_every_engine_keeps_its_promises_with_other_kernels(kernels: str, tmp_path: Path) -> None:
    # OPENBLAS_L2_SIZE goes with a core type that the machine's owner may have set.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/engines/test_engines.py"],
        cwd=Path(__file__).parents[2],
        env={**kept, **KERNELS[kernels], "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=570, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout

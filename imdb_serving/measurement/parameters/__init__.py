"""Parameters of sweeps, notebook runs and benchmarks, checked before anything starts. Starts no server."""

from imdb_serving.measurement.parameters.checks import from_notebook, make, model_folder
from imdb_serving.measurement.parameters.comparisons import ComparisonParams, LadderParams, ScalingParams
from imdb_serving.measurement.parameters.grids import GridParams, SweepParams
from imdb_serving.measurement.parameters.reading import load_sweep

__all__ = [
    "ComparisonParams",
    "GridParams",
    "LadderParams",
    "ScalingParams",
    "SweepParams",
    "from_notebook",
    "load_sweep",
    "make",
    "model_folder",
]

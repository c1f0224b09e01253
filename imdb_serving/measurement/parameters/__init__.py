"""Parameters of sweeps, notebook runs and benchmarks, checked before anything starts. Starts no server."""

from imdb_serving.measurement.parameters.checks import from_notebook, make, model_folder
from imdb_serving.measurement.parameters.kinds import BenchParams, GridParams, LadderParams, ScalingParams, SweepParams
from imdb_serving.measurement.parameters.reading import load_sweep

__all__ = [
    "BenchParams",
    "GridParams",
    "LadderParams",
    "ScalingParams",
    "SweepParams",
    "from_notebook",
    "load_sweep",
    "make",
    "model_folder",
]

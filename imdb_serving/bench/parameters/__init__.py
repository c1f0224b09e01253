"""Parameters of sweeps, notebook runs and benchmarks, checked before anything starts. Knows no server, no results."""

from imdb_serving.bench.parameters.grids import GridParams, SweepParams
from imdb_serving.bench.parameters.making import from_notebook, make
from imdb_serving.bench.parameters.others import GrowthParams, LadderParams, OthersParams
from imdb_serving.bench.parameters.reading import load_sweep, model_folder

__all__ = [
    "GridParams",
    "GrowthParams",
    "LadderParams",
    "OthersParams",
    "SweepParams",
    "from_notebook",
    "load_sweep",
    "make",
    "model_folder",
]

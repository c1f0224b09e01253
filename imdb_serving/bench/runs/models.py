"""The model that a measurement serves: there, or trained once. It knows bundles and training, and no cell."""

from __future__ import annotations

import functools
from pathlib import Path

from imdb_serving.bench.parameters import GridParams, LadderParams, OthersParams, SweepParams, model_folder
from imdb_serving.config import is_project, project_root
from imdb_serving.errors import ConfigError
from imdb_serving.model.bundle import Bundle, find_server_dir, open_bundle
from imdb_serving.model.files import VOCABULARY


def ensure_model(folder: Path, net: str) -> None:
    """Train the default model of `net` into `folder` when there is none; a damaged one is an error, not retrained."""
    if find_server_dir(folder).is_dir() and any(folder.iterdir()):
        open_bundle(folder)
        return
    from imdb_serving.model.training import TrainingPlan, train_bundle
    from imdb_serving.text.reviews import load

    print(f"no model at {folder}: training {net}, about two minutes, once", flush=True)
    train_bundle(TrainingPlan(net=net), load("packaged"), folder)


def require_model(params: GridParams | SweepParams | LadderParams | OthersParams) -> None:
    """Make sure that the model is there: one that was named must exist, the project's own is trained when missing."""
    if params.model:
        open_bundle(model_folder(params))
    elif is_project(project_root()):
        ensure_model(model_folder(params), params.net)
    else:
        raise ConfigError(f"{Path.cwd()} is not within the project's folder; go there, or name a model: -p model DIR")


@functools.lru_cache(maxsize=4)
def opened(folder: Path) -> Bundle:
    """Open a bundle, once a process: to check all its files takes a moment."""
    return open_bundle(folder)


def model_id(model: Path | None) -> str:
    """Return what stands for a model's content, empty for none; raise `BundleError` when there is none or a damaged."""
    return opened(model).card.checksum[:12] if model else ""


def bundle_there(folder: Path) -> Bundle | None:
    """Return the bundle of a folder, None when there is none."""
    return opened(folder) if find_server_dir(folder).is_dir() and any(folder.iterdir()) else None


def vocabulary_of(params: GridParams | OthersParams) -> Path | None:
    """Return the file with the words of the model, None where there is no model: engines without one read any ids."""
    file = find_server_dir(model_folder(params)) / VOCABULARY
    return file if file.is_file() else None

"""The models that are measured: opened once a process, and the default one trained where it is missing."""

from __future__ import annotations

import functools
from pathlib import Path

from imdb_serving.measurement.parameters import GridParams, LadderParams, SweepParams, model_folder
from imdb_serving.model import find_server_dir
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.packages import require


def ensure_model(folder: Path, net: str) -> None:
    """Train the default model of `net` into `folder` when it has none; a damaged one is an error."""
    if find_server_dir(folder).is_dir() and any(folder.iterdir()):
        open_bundle(folder)
        return
    require("paddlepaddle")
    from imdb_serving.model.training import TrainingPlan, train_bundle
    from imdb_serving.text.reviews import load

    print(f"no model at {folder}: training {net}, half a minute or so, once", flush=True)
    train_bundle(TrainingPlan(net=net), load("packaged"), folder)


def require_model(params: GridParams | SweepParams | LadderParams) -> None:
    """Require a model: a named one must exist, the default is trained when missing."""
    if params.model:
        opened(model_folder(params))
    else:
        ensure_model(model_folder(params), params.net)


@functools.lru_cache(maxsize=4)
def opened(folder: Path) -> Bundle:
    """Open a bundle, once a process: to check all its files takes a moment."""
    return open_bundle(folder)


def model_id(model: Path | None) -> str:
    """Return the identity of a model's content, empty for none; raise `BundleError` for a missing or damaged one."""
    return opened(model).card.checksum[:12] if model else ""


def bundle_there(folder: Path) -> Bundle | None:
    """Return the bundle in a folder, or None."""
    return opened(folder) if find_server_dir(folder).is_dir() and any(folder.iterdir()) else None

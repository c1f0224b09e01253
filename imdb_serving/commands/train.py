"""`imdb-serving train`: from reviews to a bundle."""

from __future__ import annotations

import sys
from pathlib import Path

from imdb_serving.errors import BundleError
from imdb_serving.model.bundle import open_bundle
from imdb_serving.model.files import CLIENT_DIR, PUBLISHED_CONF, SERVER_DIR
from imdb_serving.text import reviews


def train_model(net: str, epochs: int, seed: int, source: str, out: Path, *, if_missing: bool) -> None:
    """Train, write the bundle below `out`, and say what came of it. With `if_missing`, a sound bundle is kept."""
    if if_missing and _is_sound(out, net):
        print(f"model: {out / SERVER_DIR} is there already", file=sys.stderr)
        return
    print(f"reading the reviews ({source})", file=sys.stderr)
    loaded = reviews.load(source)
    from imdb_serving.model.training import TrainingPlan, train_bundle

    plan = TrainingPlan(net=net, epochs=epochs, seed=seed)
    print(
        f"training {net} on {len(loaded.train)} reviews, {epochs} epochs; {len(loaded.held_out)} are held out",
        file=sys.stderr,
    )
    bundle = train_bundle(plan, loaded, out)
    print(f"accuracy on {bundle.card.held_out_reviews} unseen reviews: {bundle.card.accuracy:.4f}", file=sys.stderr)
    print(f"wrote {out / SERVER_DIR}, {out / CLIENT_DIR} and {out / PUBLISHED_CONF}", file=sys.stderr)


def _is_sound(out: Path, net: str) -> bool:
    if not (out / SERVER_DIR).exists():
        return False
    card = open_bundle(out).card  # a damaged bundle is an error to look at, not to write over
    if card.net != net:
        raise BundleError(f"{out} holds a {card.net} model, not {net}; choose another --out")
    return True

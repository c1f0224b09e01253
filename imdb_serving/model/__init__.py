"""Word ids in, probabilities out. The names of a bundle's files stand here, so that it costs nothing to know them."""

from __future__ import annotations

from pathlib import Path

SERVER_DIR = "serving_server_model"
CLIENT_DIR = "serving_client_conf"
CLIENT_CONF = "serving_client_conf.prototxt"
SERVER_CONF = "serving_server_conf.prototxt"
PUBLISHED_CONF = "inference.conf"
PROGRAM = "inference.json"
OLD_PROGRAM = "inference.pdmodel"
"""A program of Paddle 2, or older, in place of the other."""

WEIGHTS = "inference.pdiparams"
ONNX = "inference.onnx"
VOCABULARY = "imdb.vocab"
TOKENIZER = "tokenizer.json"
CARD = "model_card.json"
TUNING = "tuning.json"
EXPORTED = (PROGRAM, WEIGHTS, ONNX)
"""What an exported net consists of."""
FILES = (*EXPORTED, VOCABULARY, SERVER_CONF)
"""What the model card of a net that was trained here holds checksums of."""


def find_server_dir(path: Path) -> Path:
    """Return the server folder for `path`, which may be that folder or the one that holds it."""
    inside = path / SERVER_DIR
    return inside if inside.is_dir() else path

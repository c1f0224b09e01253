"""Flask as it comes, around one of our engines: what a WSGI server of someone else gives in place of ours.

`ENGINE=none gunicorn imdb_serving.experiment.plain_flask:app`. The environment names the ENGINE, the folder of its
MODEL and its MATH_THREADS. It has no queue that one can see, no deadlines, and refuses no request.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from flask import Flask, request

from imdb_serving import __version__
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.messages import ServerInfo
from imdb_serving.model.bundle import open_bundle
from imdb_serving.pipeline import imdb_pipeline
from imdb_serving.protocol.json_bodies import PREDICTION_PATH, READY_PATH
from imdb_serving.protocol.requests import make_request
from imdb_serving.timing import Timeline

app = Flask(__name__)
spec = EngineSpec(os.environ.get("ENGINE", "none"), int(os.environ.get("MATH_THREADS", "1")))
model = os.environ.get("MODEL", "")
pipeline = imdb_pipeline(spec, open_bundle(Path(model)) if model else None)
turn = threading.Lock()
"""One request at a time: an engine is for one thread."""


@app.post(PREDICTION_PATH)
def predict() -> dict[str, Any]:
    """Answer one sample, as our own server does."""
    sample = request.get_json()
    fetch = sample.pop("fetch")
    with turn:
        reply = pipeline(make_request([sample], fetch), Timeline())
    return {name: values[0].tolist() for name, values in reply.outputs.items()}


@app.get(READY_PATH)
def ready() -> dict[str, Any]:
    """Say what clients ask at first."""
    info = ServerInfo("http", __version__, spec.name, "", 1, "process", (), (), 0, os.getpid())
    return {"status": "ready", "server": info}

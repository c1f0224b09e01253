"""The smallest Flask application that predicts, for a WSGI server of others."""

from __future__ import annotations

import msgspec
from flask import Flask, Response, request

from imdb_serving.experiment.baselines import engine

predict = engine.load()
app = Flask(__name__)


@app.post("/")
def answer() -> Response:
    """Answer a POST of `{"words": [...]}`."""
    words = msgspec.json.decode(request.get_data())["words"]
    return Response(msgspec.json.encode({"prediction": predict(words)}), mimetype="application/json")

"""Flask, for any WSGI server: gunicorn --workers 2 flask_app:app; granian --interface wsgi flask_app:app."""

from flask import Flask, request

from cnn import predict

app = Flask(__name__)


@app.post("/predict")
def answer() -> dict[str, list[float]]:
    return {"prediction": predict(request.get_json()["words"])}


@app.get("/health")
def health() -> str:
    return "ready"

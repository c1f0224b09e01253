"""FastAPI, for any ASGI server: uvicorn --workers 2 fastapi_app:app."""

from fastapi import FastAPI
from pydantic import BaseModel

from cnn import predict

app = FastAPI()


class Review(BaseModel):
    words: list[int]


@app.post("/predict")
async def answer(review: Review) -> dict[str, list[float]]:
    return {"prediction": predict(review.words)}


@app.get("/health")
async def health() -> str:
    return "ready"

"""Trains a small transformer encoder on movie reviews, in less than a minute, and writes what one gets from others.

    python examples/models/transformer.py mine [SECONDS]

writes mine/model.onnx, mine/tokenizer.json and mine/config.json, and mine/paddle with the same model as Paddle's own.
Nothing of it is this project's: the tokenizer is made by Hugging Face's library, the net by Paddle, the graph by
paddle2onnx.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from imdb_serving.text.reviews import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import paddle
    import paddle2onnx
    from paddle import nn

TOKENS, LONGEST, WIDTH, HEADS, LAYERS = 8000, 256, 64, 4, 1
CROP, BATCH = 96, 64


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """Learn word pieces from texts, with [CLS] before and [SEP] behind each."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=TOKENS, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(LONGEST)
    return made


class Encoder(nn.Layer):
    """Tokens and places, a layer of attention, the mean of what comes of it, and two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.1, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, LAYERS)
        self.out = nn.Linear(WIDTH, 2)

    def forward(self, input_ids, attention_mask):
        kept = attention_mask.astype("float32")
        places = paddle.cumsum(paddle.ones_like(input_ids), axis=1) - 1
        vectors = self.tokens(input_ids) + self.places(places)
        vectors = self.encoder(vectors, (kept.unsqueeze([1, 2]) - 1.0) * 1e9)
        return self.out((vectors * kept.unsqueeze(-1)).sum(1) / kept.sum(1, keepdim=True))


def padded(rows: list[list[int]]):
    """Return ids and mask of equal lengths."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    return paddle.to_tensor(ids), paddle.to_tensor(mask)


def train(net: Encoder, rows: list[list[int]], labels: np.ndarray, seconds: float) -> None:
    """Train on random stretches of the reviews, as many as the time allows."""
    paddle.seed(1)
    random = np.random.default_rng(1)
    optimiser = paddle.optimizer.AdamW(2e-3, parameters=net.parameters(), weight_decay=0.01)
    until, steps = perf_counter() + seconds, 0
    net.train()
    while perf_counter() < until:
        chosen = random.choice(len(rows), BATCH)
        starts = [random.integers(0, max(1, len(rows[place]) - CROP + 1)) for place in chosen]
        crops = [rows[place][start : start + CROP] for place, start in zip(chosen, starts, strict=True)]
        loss = nn.functional.cross_entropy(net(*padded(crops)), paddle.to_tensor(labels[chosen]))
        loss.backward()
        optimiser.step()
        optimiser.clear_grad()
        steps += 1
    net.eval()
    print(f"{steps} steps", file=sys.stderr)


def accuracy(net: Encoder, rows: list[list[int]], labels: np.ndarray) -> float:
    """Return the share of texts whose likelier class is the label."""
    with paddle.no_grad():
        parts = [net(*padded(rows[start : start + 100])).numpy() for start in range(0, len(rows), 100)]
    return float((np.concatenate(parts).argmax(1) == labels[: len(rows)]).mean())


def main(folder: Path, seconds: float = 35.0) -> None:
    """Train, export and say how right it is on reviews that it has not seen."""
    reviews = load("packaged")
    texts = [one.text or "" for one in reviews.train]
    tokenizer = make_tokenizer(texts)
    rows = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
    unseen = [encoded.ids for encoded in tokenizer.encode_batch([one.text or "" for one in reviews.held_out[:1000]])]
    net = Encoder()
    train(net, rows, np.array([one.label for one in reviews.train]), seconds)
    right = accuracy(net, unseen, np.array([one.label for one in reviews.held_out]))
    paddle_folder = folder / "paddle"
    paddle_folder.mkdir(parents=True, exist_ok=True)
    specs = [paddle.static.InputSpec([None, None], "int64", name) for name in ("input_ids", "attention_mask")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paddle.jit.save(net, str(paddle_folder / "inference"), input_spec=specs)
    paddle2onnx.export(
        str(paddle_folder / "inference.json"), str(paddle_folder / "inference.pdiparams"), str(folder / "model.onnx"),
        opset_version=17, verbose=False, optimize_tool="None",
    )  # fmt: skip
    for place in (folder, paddle_folder):
        tokenizer.save(str(place / "tokenizer.json"))
        (place / "config.json").write_text(
            json.dumps({"id2label": {"0": "negative", "1": "positive"}}), encoding="utf-8"
        )
    print(f"{folder / 'model.onnx'}: right in {right:.3f} of 1,000 reviews that it has not seen")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "transformer"), *map(float, sys.argv[2:3]))

"""Trains TF-IDF with logistic regression on movie reviews, in some seconds, and writes it as one ONNX graph.

    python examples/models/tfidf.py mine

writes mine/model.onnx, which reads texts: what makes numbers of words is within the graph. Nothing of it is this
project's: scikit-learn trains it, skl2onnx converts it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from imdb_serving.text.reviews import load

LABELS = ("negative", "positive")


def main(folder: Path) -> None:
    """Train, export and say how right it is on reviews that it has not seen."""
    reviews = load("packaged")
    parts = (reviews.train, reviews.held_out)
    seen, unseen = ([one.text or "" for one in part] for part in parts)
    of_seen, of_unseen = ([LABELS[one.label] for one in part] for part in parts)
    # What splits words is RE2's, within the graph: no look-behind, and no word boundaries of Unicode.
    model = make_pipeline(
        TfidfVectorizer(max_features=20_000, token_pattern="[a-zA-Z0-9']+"), LogisticRegression(max_iter=200)
    )
    model.fit(seen, of_seen)
    graph = to_onnx(model, initial_types=[("text", StringTensorType([None, 1]))], target_opset=17)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    right = model.score(unseen, of_unseen)
    print(f"{folder / 'model.onnx'}: right in {right:.3f} of {len(unseen):,} reviews that it has not seen")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "tfidf"))

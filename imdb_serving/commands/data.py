"""`imdb-serving data`: held-out reviews as a file in a published line format."""

from __future__ import annotations

import sys
from pathlib import Path

from imdb_serving.bench.load.inputs import draw_lines, training_vocabulary
from imdb_serving.config import project_root
from imdb_serving.errors import DataError
from imdb_serving.model.files import SERVER_DIR, VOCABULARY
from imdb_serving.text import reviews
from imdb_serving.text.lines import LineFormat
from imdb_serving.text.vocabulary import Vocabulary


def write_data(samples: int, kind: LineFormat, out: Path, source: str, seed: int, vocab: Path | None) -> None:
    """Draw and write the lines, and say on standard error what was written."""
    loaded = reviews.load(source)
    if samples > len(loaded.held_out):
        print(f"{samples} samples of {len(loaded.held_out)} held-out reviews: some are repeated", file=sys.stderr)
    vocabulary = _vocabulary(vocab, loaded) if kind == "ids" and loaded.held_out[0].words is None else None
    lines = draw_lines(loaded, kind, samples, seed, vocabulary)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes("".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}") from error
    print(f"wrote {len(lines)} held-out reviews of {source} to {out} (format {kind}, seed {seed})", file=sys.stderr)


def _vocabulary(given: Path | None, source: reviews.Reviews) -> Vocabulary:
    """Return the vocabulary asked for, else the one of a model nearby, else the one that training would make."""
    nearby = [Path(SERVER_DIR) / VOCABULARY, project_root() / "outputs" / "models" / "cnn" / SERVER_DIR / VOCABULARY]
    found = given or next((path for path in nearby if path.is_file()), None)
    if found:
        print(f"vocabulary: {found}", file=sys.stderr)
        return Vocabulary.load(found)
    print(f"vocabulary: made from the training reviews of {source.source}, as training does", file=sys.stderr)
    return training_vocabulary(source)

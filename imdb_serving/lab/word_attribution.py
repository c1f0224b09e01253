"""What a model makes of a review, word by word, asked of a running server. Knows no model and no widget.

A word's part in the answer is how the probability of positive changes when the word is replaced by a blank one,
one at a time (occlusion; Zeiler and Fergus, 2014). What two words do only together it does not show.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imdb_serving.clients.base import Client
from imdb_serving.errors import DataError
from imdb_serving.messages import Reply
from imdb_serving.protocol.requests import make_request
from imdb_serving.text.tokenizers import Tokenizer

MOST_WORDS = 512
"""So many words are told apart; of a longer review the first."""

SAMPLES_A_REQUEST = 64


class Word(NamedTuple):
    """A word of a review: whether the model knows it, and by how much it raised the probability of positive."""

    word: str
    known: bool
    change: float


class Explained(NamedTuple):
    """An answer: the probability of positive, the words, how many more there were, and the reply with its stages."""

    probability: float
    words: tuple[Word, ...]
    more: int
    reply: Reply

    @property
    def positive(self) -> bool:
        """True when the likelier class is positive."""
        return self.probability > 0.5


def explain(client: Client, tokenizer: Tokenizer, review: str) -> Explained:
    """Ask the server for a review's class, then for the same review without each of its words.

    Raises `DataError` for a review without words, and the errors of the client.
    """
    words = tokenizer.tokens(review)
    if not words:
        raise DataError("there is no word in this review; type one")
    client.hello()  # so that the request does not pay for the connection
    reply = client.call(make_request([{"words": review}], ["prediction"]))
    probability = float(reply.outputs["prediction"][0, -1])
    told = words[:MOST_WORDS]
    without = _without_each(client, tokenizer, tokenizer.encode(review), len(told))
    changes = probability - without
    return Explained(
        probability,
        tuple(Word(word, known, float(change)) for (word, known), change in zip(told, changes, strict=True)),
        len(words) - len(told),
        reply,
    )


def _without_each(client: Client, tokenizer: Tokenizer, ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return the probability of positive with each of the first `count` words replaced by the blank one."""
    found: list[float] = []
    for start in range(0, count, SAMPLES_A_REQUEST):
        feeds = []
        for place in range(start, min(start + SAMPLES_A_REQUEST, count)):
            changed = ids.copy()
            changed[place] = tokenizer.blank_id
            feeds.append({"words": changed})
        found += client.call(make_request(feeds, ["prediction"])).outputs["prediction"][:, -1].tolist()
    return np.array(found)

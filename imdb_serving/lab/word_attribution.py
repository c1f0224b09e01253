"""What a model makes of a review, word by word, asked of a running server. Knows no model and no widget.

A word's part in the answer is how the probability of a class changes when the word is replaced by a blank one,
one at a time (occlusion; Zeiler and Fergus, 2014). What two words do only together it does not show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    """A word of a review: whether the model knows it, and by how much it raised the probability of the class."""

    word: str
    known: bool
    change: float


class Explained(NamedTuple):
    """An answer: the likeliest class, the class that words speak for and its probability, the words, how many more.

    That class is the second of two (positive), and of more the likeliest. `reply` has the stages.
    """

    likeliest: str
    of: str
    probability: float
    words: tuple[Word, ...]
    more: int
    reply: Reply


def explain(client: Client, tokenizer: Tokenizer, review: str) -> Explained:
    """Ask the server for a review's class, then for the same review without each of its words.

    Raises `DataError` for a review without words, and the errors of the client.
    """
    words = tokenizer.tokens(review)
    if not words:
        raise DataError("there is no word in this review; type one")
    labels = client.hello().labels  # asked first, so that the request does not pay for the connection
    reply = client.call(make_request([{"words": review}], ["prediction"]))
    shares: Any = reply.outputs["prediction"][0]
    likeliest = int(shares.argmax())
    place = 1 if len(shares) == 2 else likeliest
    probability = float(shares[place])
    told = words[:MOST_WORDS]
    without = _without_each(client, tokenizer, tokenizer.encode(review), len(told), place)
    changes = probability - without
    return Explained(
        labels[likeliest],
        labels[place],
        probability,
        tuple(Word(word, known, float(change)) for (word, known), change in zip(told, changes, strict=True)),
        len(words) - len(told),
        reply,
    )


def _without_each(
    client: Client, tokenizer: Tokenizer, ids: NDArray[np.int64], count: int, of: int
) -> NDArray[np.float64]:
    """Return the probability of a class with each of the first `count` words replaced by the blank one."""
    found: list[float] = []
    for start in range(0, count, SAMPLES_A_REQUEST):
        feeds = []
        for place in range(start, min(start + SAMPLES_A_REQUEST, count)):
            changed = ids.copy()
            changed[place] = tokenizer.blank_id
            feeds.append({"words": changed})
        found += client.call(make_request(feeds, ["prediction"])).outputs["prediction"][:, of].tolist()
    return np.array(found)

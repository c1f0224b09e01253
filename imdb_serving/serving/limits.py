"""What one request may ask of the IMDB pipeline. An engine allocates for one review at a time, and works for all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Samples, words in all, and words of one review (about 3 KB a word in Paddle, 200 MB at the default)."""

    samples: int = 4096
    words: int = 1 << 20
    review_words: int = 1 << 16


DEFAULT_LIMITS = Limits()

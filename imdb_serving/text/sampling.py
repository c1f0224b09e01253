"""Which samples of many are sent: by a seed, so that their mix of lengths is kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

STRATA = 10


def sample_by_length(lengths: Sequence[int], count: int, seed: int) -> list[int]:
    """Choose `count` indices so that each tenth of the lengths gives its fair share, in shuffled order.

    The draw is without replacement; more than `len(lengths)` means whole passes over all of them first, so nothing
    repeats more often than it must. Returns indices into `lengths`; raises `ValueError` for a count below 1 or
    nothing to choose from.
    """
    if count < 1 or not lengths:
        raise ValueError(f"cannot choose {count} of {len(lengths)} reviews")
    passes, rest = divmod(count, len(lengths))
    generator = random.Random(seed)  # noqa: S311 - a sample, not a secret
    chosen = list(range(len(lengths))) * passes
    # A random order first, so that equal lengths at a stratum's edge fall on either side by chance.
    by_length = sorted(generator.sample(range(len(lengths)), len(lengths)), key=lengths.__getitem__)
    edges = [round(stratum * len(by_length) / STRATA) for stratum in range(STRATA + 1)]
    quotas = [round(stratum * rest / STRATA) for stratum in range(STRATA + 1)]
    for (start, end), (taken, upto) in zip(pairwise(edges), pairwise(quotas), strict=True):
        chosen += generator.sample(by_length[start:end], min(upto - taken, end - start))
    missing = count - len(chosen)
    if missing:  # rounding of a small set: a stratum had one review less than its quota
        left = sorted(set(range(len(lengths))) - set(chosen[passes * len(lengths) :]))
        chosen += generator.sample(left, missing)
    generator.shuffle(chosen)
    return chosen

"""The first answers of a server of someone else, with which its later ones are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from imdb_serving.cell import digest
from imdb_serving.config import whole_file
from imdb_serving.errors import DataError
from imdb_serving.measurement.parameters import GridParams

FOLDER = "answers"


class FirstAnswers:
    """The first answer to each sample, kept in a sweep's folder: later ones are compared with it.

    Values are compared as numbers, lists of these item by item, and anything else for being equal.
    """

    def __init__(self, params: GridParams, folder: Path) -> None:
        """Read those that are there; raise `DataError` when they cannot be read."""
        drawn_from = (params.fingerprint, params.samples, params.seed, params.batch)
        self._file = folder / FOLDER / f"answers-{digest(drawn_from)}.json"
        self._known: dict[str, Any] = {}
        try:
            if self._file.is_file():
                self._known = orjson.loads(self._file.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise DataError(f"cannot read {self._file}: {error}; delete it") from error

    def difference(self, values: Mapping[int, Sequence[Any]]) -> float:
        """Return how far the values of some samples, by place, are from the first ones; remember what is new."""
        before, worst = len(self._known), 0.0
        for place, several in values.items():
            first = self._known.setdefault(str(place), several[0])
            worst = max(worst, *(distance(first, value) for value in several))
        if len(self._known) > before:
            with whole_file(self._file) as unfinished:
                unfinished.write_bytes(orjson.dumps(self._known))
        return worst


def distance(one: Any, other: Any) -> float:
    """Return the greatest difference of two values' numbers; infinite when they are of different shapes or words."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((distance(value, other[name]) for name, value in one.items()), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(distance, one, other), default=0.0)
    numbers = [value for value in (one, other) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == 2:
        far = abs(float(numbers[0]) - float(numbers[1]))
        return far if math.isfinite(far) else math.inf
    return 0.0 if one == other else math.inf

"""What the registry says of an engine is what it does."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imdb_serving.engines import tuning
from imdb_serving.engines.probes import LONG, locked_us, probe, releases_lock
from imdb_serving.engines.registry import ENGINES, EngineSpec, make_engine
from imdb_serving.engines.stand_ins import NoneEngine
from imdb_serving.errors import ConfigError
from imdb_serving.model.bundle import open_bundle
from imdb_serving.model.signature import Ids, Probabilities

REAL = [name for name, facts in ENGINES.items() if facts.needs_model]
_RANDOM = random.Random(1)
NUMBERS = [_RANDOM.random() for _ in range(1_000_000)]  # so that a call is long beside a wait for the processor
REVIEW = np.zeros(LONG, dtype=np.int64)


class Sleeps(NoneEngine):
    def run(self, reviews: Sequence[Ids]) -> Probabilities:
        time.sleep(0.05)
        return super().run(reviews)


class Holds(NoneEngine):
    def run(self, reviews: Sequence[Ids]) -> Probabilities:
        sorted(NUMBERS)  # one call into C that keeps the lock
        return super().run(reviews)


def test_the_probe_tells_who_holds_the_lock() -> None:
    assert releases_lock(Sleeps(), REVIEW)
    assert not releases_lock(Holds(), REVIEW)


@pytest.mark.parametrize("name", REAL)
def test_an_engine_does_with_the_lock_what_the_registry_says(name: str, bundle: Path) -> None:
    spec, opened = EngineSpec(name, variant=next(iter(ENGINES[name].variants), "")), open_bundle(bundle)
    found = probe(lambda math_threads: make_engine(replace(spec, math_threads=math_threads), opened))
    assert found.releases_lock == spec.facts.releases_lock
    assert found.second_mb >= 0


def test_tune_prints_every_engine_of_the_net_and_keeps_what_it_found(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from imdb_serving.cli.preparing import tune_model

    tune_model(bundle, (), 1)
    out = capsys.readouterr().out
    first = [line.split()[0] for line in out.splitlines()[2:] if not line.startswith(" ")]
    assert first == REAL
    assert out.count("*") == 1
    known = tuning.all_known(open_bundle(bundle))
    assert list(known) == REAL
    assert all(result.probes for result in known.values())


def test_a_stand_in_cannot_be_tuned_nor_an_engine_for_another_net(bundle_of) -> None:
    from imdb_serving.cli.preparing import tune_model

    with pytest.raises(ConfigError, match="none runs no model"):
        tune_model(bundle_of("cnn"), ("none",), 1)
    with pytest.raises(Exception, match="the folded engine runs cnn"):
        tune_model(bundle_of("bow"), ("folded",), 1)


def test_the_probe_tells_for_how_long_a_review_keeps_others_from_python() -> None:
    sleeps, holds = locked_us(Sleeps(), [REVIEW]), locked_us(Holds(), [REVIEW])
    if sleeps is not None and holds is not None:  # else there is one core
        assert sleeps < holds / 3

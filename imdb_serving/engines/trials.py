"""Runs somebody else's model on texts, and finds out what its files do not say.

Where the length lies, what the output holds, how long a sample may be, whether padding and batches change answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from imdb_serving.errors import BundleError
from imdb_serving.model.signature import Input, Probabilities, Sample, Signature, probabilities

Output = Callable[[Signature, Sequence[Sample], int], Any]
"""Runs a graph as a signature says, on samples and with a padding id."""

CLOSE = 1e-4
"""As far as answers may differ and count as the same."""

LONGEST_TRIED = 1 << 16
SLOW_SECONDS = 1.0
"""A sample that takes longer is the longest that is tried."""

SHORT = 16
"""A sample of so many ids is short for every model, and long enough for convolutions without padding."""

MOST_LEAST = 64
"""The most ids that a model may need at least."""

MORE_PLACES = 7
"""So many places of padding are added where it is tried what padding does."""

PADDED = 200
"""Samples are cut to so many ids there."""

TOGETHER = 4
"""So many samples are computed together where it is tried what that does."""


@dataclass
class Trial:
    """A model on trial: its output, samples, the padding id (None: not known), and what was found out."""

    output: Output
    signature: Signature
    samples: Sequence[Sample]
    pad_id: int | None
    gives: str = ""
    longest: int = 0
    pads: bool = False
    found: dict[str, str] = field(default_factory=dict)

    def run(self) -> Probabilities:
        """Find out the rest, behind `lay_out`; return the answers to the samples, each computed alone."""
        self._find_what_it_gives()
        if not self.signature.reads_text:
            self._find_least()
            self._find_longest()
            self._try_padding()
        answers = self.answers(self.samples)
        self._try_batches(answers)
        return answers

    def answers(self, samples: Sequence[Sample]) -> Probabilities:
        """Return the probabilities of samples, each computed alone, cut to what the model takes."""
        return np.concatenate([self._answer([self.cut(sample)]) for sample in samples])

    def cut(self, sample: Sample) -> Sample:
        """Return as much of a sample as the model takes."""
        return sample[: self.longest] if self.longest and not isinstance(sample, str) else sample

    def _answer(self, samples: Sequence[Sample], signature: Signature | None = None) -> Probabilities:
        signature = signature or self.signature
        return probabilities(self.raw(samples, signature), signature.gives, len(samples))

    def raw(self, samples: Sequence[Sample], signature: Signature | None = None) -> Any:
        """Return the output for samples that are computed together."""
        return self.output(signature or self.signature, samples, self.pad_id or 0)

    def lay_out(self) -> None:
        """Find a lay-out that gives as many values for a longer sample as for a shorter one.

        Raises `BundleError` when the model runs with none.
        """
        if self.signature.length and self.pad_id is None:
            raise BundleError(f"the model takes {self.signature.length} ids, no fewer; say what pads: --pad-id NUMBER")
        pair = self._two_lengths()
        why = ""
        for signature in _layouts(self.signature):
            try:
                sizes = {np.size(self._one(sample, signature)) for sample in pair}
            except Exception as error:
                why = why or f"{type(error).__name__}: {error}"
                continue
            if len(sizes) == 1:
                self.signature = signature
                return
            why = why or f"{sorted(sizes)} values for samples of two lengths"
        roles = ", ".join(f"{one.name}={one.role}" for one in self.signature.inputs)
        raise BundleError(
            f"the model does not run on texts with {roles} and the output {self.signature.output}: {why[:500]}; "
            "say what its inputs and output are: --input NAME=ROLE, --output NAME"
        )

    def _one(self, sample: Sample, signature: Signature) -> Any:
        raw = self.raw([sample], signature)
        return [*raw[0].values()] if isinstance(raw, list) and raw and isinstance(raw[0], dict) else raw

    def _two_lengths(self) -> list[Sample]:
        """Return a sample and a longer one."""
        if self.signature.reads_text:
            return ["A fine film.", "One of the worst films I have ever seen, and no mistake."]
        ids: Any = np.unique(max(self.samples, key=len))  # the lowest first, which every model has
        return [self.resized(ids, length) for length in (SHORT, SHORT + SHORT // 2)]

    def resized(self, ids: Any, length: int = SHORT) -> Sample:
        """Return a sample of so many of the ids, again and again; as many as the model takes where that is fixed."""
        return np.resize(ids, min(length, self.signature.length or self.longest or length))

    def _find_what_it_gives(self) -> None:
        short = [sample if isinstance(sample, str) else self.resized(sample) for sample in self.samples]
        raw = [self.raw([sample], self.signature) for sample in short]
        if isinstance(raw[0], list):
            self._gives("maps")
            return
        values = np.concatenate([np.asarray(one, np.float64).reshape(1, -1) for one in raw])
        if not np.isfinite(values).all():
            raise BundleError(f"the output {self.signature.output} has values that are no numbers")
        self._gives(self.gives or self._told_by(values))

    def _gives(self, what: Any) -> None:
        self.signature = msgspec.structs.replace(self.signature, gives=what)

    def _told_by(self, values: np.ndarray[Any, Any]) -> str:
        """Return what values [samples, n] of the output are."""
        within = bool(((values >= 0) & (values <= 1)).all())
        one = values.shape[1] == 1
        if within and (one or not np.allclose(values.sum(axis=1), 1, atol=1e-3)):
            kinds = ("probability", "logit") if one else ("probabilities", "logits")
            raise BundleError(
                f"the output {self.signature.output} is from 0 to 1{'' if one else ', and does not sum to 1'}; say "
                f"what that is: --output-is {kinds[0]}, or --output-is {kinds[1]}"
            )
        if one:
            return "logit"
        return "probabilities" if within else "logits"

    def _find_least(self) -> None:
        """Find how short a sample may be; shorter ones are padded, as convolutions without padding need it."""
        if self.signature.length or self._takes(1):
            return
        least = next((length for length in range(2, MOST_LEAST + 1) if self._takes(length)), 0)
        if not least:
            raise BundleError(f"the model takes neither 1 id nor any number up to {MOST_LEAST}")
        if self.pad_id is None:
            raise BundleError(f"the model takes {least} ids or more; say what pads shorter texts: --pad-id NUMBER")
        self.signature = msgspec.structs.replace(self.signature, least=least)
        self.found["shortest"] = f"{least} ids: shorter texts are padded with {self.pad_id}"

    def _find_longest(self) -> None:
        """Find the longest sample that it takes, by doubling and halving; `longest` is 0 where none was too long."""
        if self.signature.length:
            self.longest = min(self.longest or self.signature.length, self.signature.length)
            return
        known, most = self.signature.least, self.longest or LONGEST_TRIED
        while known < most:
            length = min(2 * known, most)
            begun = perf_counter()
            if not self._takes(length):
                self.longest = self._between(known, length)
                self.found["length"] = f"at most {self.longest:,} ids: it fails with more"
                return
            known = length
            if perf_counter() - begun > SLOW_SECONDS and known < most:
                self.longest = known
                self.found["length"] = f"at most {known:,} ids: they took more than a second, and more were not tried"
                return
        self.found["length"] = f"{known:,} ids were tried" + ("" if self.longest else ", and no limit found")

    def _between(self, good: int, bad: int) -> int:
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self._takes(middle) else (good, middle)
        return good

    def _takes(self, length: int) -> bool:
        ids: Any = max(self.samples, key=len)
        try:
            return bool(np.isfinite(self._answer([np.resize(ids, length)])).all())
        except Exception:
            return False

    def _try_padding(self) -> None:
        """Find out whether padding changes answers, and which kind of mask tells it from tokens."""
        if self.signature.length or any(one.ragged for one in self.signature.inputs):
            fixed = self.signature.length
            self.found["padding"] = f"always, to {fixed} ids" if fixed else "none: samples have their ends"
            return
        if self.pad_id is None:
            self.found["padding"] = "is not used: --pad-id was not said"
            return
        most = min(PADDED, (self.longest or LONGEST_TRIED) - MORE_PLACES)
        if most < 1:
            self.found["padding"] = f"was not tried: {self.longest} ids leave no room for it"
            return
        samples = [sample[:most] for sample in self.samples[:TOGETHER]]
        worst = {}
        for signature in _masks(self.signature):
            far = [self._padding_changes(sample, signature) for sample in samples]
            worst[max(far)] = signature
            if max(far) <= CLOSE:
                break
        least = min(worst)
        self.pads, self.signature = least <= CLOSE, worst[least]
        said = "changes no answer" if self.pads else f"changes answers by up to {least:.2g}, and is not used"
        self.found["padding"] = said if np.isfinite(least) else "is not taken"

    def _padding_changes(self, sample: Sample, signature: Signature) -> float:
        padded = msgspec.structs.replace(signature, length=len(sample) + MORE_PLACES)
        try:
            far = np.abs(self._answer([sample], padded) - self._answer([sample], signature)).max()
        except Exception:
            return np.inf
        return float(far) if np.isfinite(far) else np.inf

    def _try_batches(self, alone: Probabilities) -> None:
        samples = [self.cut(sample) for sample in self.samples[:TOGETHER]]
        try:
            far = float(np.abs(self._answer(samples) - alone[:TOGETHER]).max())
        except Exception:
            self.found["batches"] = "are not taken: each sample is computed alone"
            return
        said = "change no answer" if far <= CLOSE else f"change answers by up to {far:.2g}"
        self.found["batches"] = f"{said}; here each sample is computed alone"


def _layouts(signature: Signature) -> Iterator[Signature]:
    """Yield the signature as drafted, then with the length before the samples."""
    yield signature
    turned = tuple(msgspec.structs.replace(one, axes="LN") if one.axes == "NL" else one for one in signature.inputs)
    if turned != signature.inputs:
        yield msgspec.structs.replace(signature, inputs=turned)


def _masks(signature: Signature) -> Iterator[Signature]:
    """Yield the signature as drafted, then with the other kind of mask where it has one of floats."""
    yield signature
    other = {"mask": "additive_mask", "additive_mask": "mask"}
    masks = [one for one in signature.inputs if one.role in other and one.dtype.startswith("float")]
    if masks:
        yield msgspec.structs.replace(signature, inputs=tuple(_other(one, other) for one in signature.inputs))


def _other(one: Input, other: dict[str, Any]) -> Input:
    return msgspec.structs.replace(one, role=other.get(one.role, one.role)) if one.dtype.startswith("float") else one

"""The engine `paddle`: Paddle's inference, one predictor, as the published benchmark serves it.

Three variants give the same answers within 1e-6, and which is fastest depends on the processor: Paddle's own kernels,
oneDNN's, and oneDNN's with lengths padded to a multiple of 32, so that it need not prepare a primitive for each length.
Padding is exact: the padding word's vector is zero, and masked steps are 1e9 below any other before the maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from imdb_serving.engines import tuning
from imdb_serving.engines.engine import check_ids, one_by_one
from imdb_serving.errors import BundleError
from imdb_serving.model.nets import inference
from imdb_serving.model.signature import Ids, Probabilities, Sample, Signature, ends, fill, probabilities

if TYPE_CHECKING:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.model.bundle import Bundle

BUCKET = {"plain": 1, "onednn": 1, "onednn-32": 32}
LONGEST_WARM = 2048


class Program:
    """A Paddle program with its weights, loaded in one variant; knows no model beyond them."""

    def __init__(self, program: Path, weights: Path, variant: str = "plain", math_threads: int = 1) -> None:
        """Load them; takes a few seconds, most of it Paddle's import."""
        config = inference.Config(str(program), str(weights))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(math_threads)
        if variant == "plain":
            config.disable_mkldnn()
        else:
            config.enable_mkldnn()
        self._predictor: Any = inference.create_predictor(config)
        self.inputs: list[str] = self._predictor.get_input_names()
        self.outputs: list[str] = self._predictor.get_output_names()
        self._handles = {name: self._predictor.get_input_handle(name) for name in self.inputs}
        self._output = self._predictor.get_output_handle(self.outputs[0])

    def output_of(
        self, signature: Signature, reviews: Sequence[Ids], pad_id: int, multiple: int = 1, most: int = 0
    ) -> Any:
        """Return what it gives for reviews that are computed together, padded as `fill` has it."""
        values = fill(signature, reviews, pad_id, multiple, most)
        for one in signature.inputs:
            handle = self._handles[one.name]
            handle.copy_from_cpu(values[one.name])
            if one.ragged:
                handle.set_lod(ends(reviews))
        self._predictor.run()
        return self._output.copy_to_cpu()

    def choose(self, output: str) -> None:
        """Take the output of this name from now on, in place of the first."""
        self._output = self._predictor.get_output_handle(output)


class PaddleEngine:
    """One predictor of a bundle, in one variant."""

    def __init__(self, bundle: Bundle, variant: str, math_threads: int) -> None:
        """Load the program and its weights."""
        self._program = Program(bundle.program, bundle.weights, variant, math_threads)
        card = bundle.card
        assert card.program is not None  # noqa: S101 - `check_model` has looked
        # Of the nets that are trained here, a bag of words has no mask.
        known = tuple(one for one in card.program.inputs if one.name in self._program.inputs)
        if unknown := set(self._program.inputs) - {one.name for one in known}:
            raise BundleError(f"{bundle.program} wants inputs {sorted(unknown)}, of which its card says nothing")
        self._signature = msgspec.structs.replace(card.program, inputs=known)
        if card.program.output:
            self._program.choose(card.program.output)
        self._pad_id, self._rows, self._longest = card.pad_id, card.rows, card.longest
        self._bucket = BUCKET[variant]

    @property
    def lengths(self) -> Sequence[int]:
        """Every bucket that a review of up to 2,048 words falls into; without buckets, a few lengths."""
        step = self._bucket if self._bucket > 1 else 256
        return range(step, LONGEST_WARM + 1, step)

    def run(self, reviews: Sequence[Sample]) -> Probabilities:
        return one_by_one(self._answer, reviews)

    def _answer(self, review: Any) -> Probabilities:
        check_ids(review, self._rows)
        output = self._program.output_of(self._signature, [review], self._pad_id, self._bucket, self._longest)
        return probabilities(output, self._signature.gives, 1)


def make(spec: EngineSpec, bundle: Bundle) -> PaddleEngine:
    """Make one in the variant of `spec`, else in the fastest on this machine."""
    return PaddleEngine(bundle, spec.variant or tuning.find(spec, bundle).variant, spec.math_threads)

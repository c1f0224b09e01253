"""The engine `paddle`: Paddle's inference, one predictor, as the published benchmark serves it.

Three variants give the same answers within 1e-6, and which is fastest depends on the processor: Paddle's own kernels,
oneDNN's, and oneDNN's with lengths padded to a multiple of 32, so that it need not prepare a primitive for each length.
Padding is exact: the padding word's vector is zero, and masked steps are 1e9 below any other before the maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imdb_serving.engines import tuning
from imdb_serving.engines.engine import Probabilities, Words, check_ids, one_by_one
from imdb_serving.errors import BundleError
from imdb_serving.model.nets import inference, pad

if TYPE_CHECKING:
    from imdb_serving.engines.registry import EngineSpec
    from imdb_serving.model.bundle import Bundle

BUCKET = {"plain": 1, "onednn": 1, "onednn-32": 32}
LONGEST_WARM = 2048


class PaddleEngine:
    """One predictor of a bundle, in one variant."""

    def __init__(self, bundle: Bundle, variant: str, math_threads: int) -> None:
        """Load the program and its weights; takes a few seconds, most of it Paddle's import."""
        config = inference.Config(str(bundle.program), str(bundle.weights))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(math_threads)
        if variant == "plain":
            config.disable_mkldnn()
        else:
            config.enable_mkldnn()
        self._predictor: Any = inference.create_predictor(config)
        handles = {name: self._predictor.get_input_handle(name) for name in self._predictor.get_input_names()}
        unknown = set(handles) - {"words", "mask"}
        if unknown:
            raise BundleError(f"{bundle.program} wants inputs {sorted(unknown)}; only words and mask can be fed")
        self._words, self._mask = handles["words"], handles.get("mask")
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])
        self._pad_id = bundle.card.pad_id
        self._rows = self._pad_id + 1  # of the word vectors; `open_bundle` has compared
        self._bucket = BUCKET[variant]

    @property
    def lengths(self) -> Sequence[int]:
        """Every bucket that a review of up to 2,048 words falls into; without buckets, a few lengths."""
        step = self._bucket if self._bucket > 1 else 256
        return range(step, LONGEST_WARM + 1, step)

    def run(self, reviews: Sequence[Words]) -> Probabilities:
        return one_by_one(self._answer, reviews)

    def _answer(self, review: Words) -> Probabilities:
        check_ids(review, self._rows)
        words, mask = pad([review], self._pad_id, self._bucket)
        self._words.copy_from_cpu(words)
        if self._mask is not None:
            self._mask.copy_from_cpu(mask)
        self._predictor.run()
        probabilities: Probabilities = self._output.copy_to_cpu()
        return probabilities


def make(spec: EngineSpec, bundle: Bundle) -> PaddleEngine:
    """Make one in the variant of `spec`, else in the fastest on this machine."""
    return PaddleEngine(bundle, spec.variant or tuning.find(spec, bundle).variant, spec.math_threads)

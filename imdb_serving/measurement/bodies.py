"""What is sent to a server of someone else: samples, and the bodies that are made of them before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from imdb_serving.errors import DataError
from imdb_serving.foreign import oip, oip_grpc
from imdb_serving.foreign.client import OIP_GRPC, Body
from imdb_serving.foreign.templates import Secrets, TextTemplate
from imdb_serving.load.workload import PreparedWorkload
from imdb_serving.measurement.parameters import GridParams, model_there
from imdb_serving.measurement.parameters.foreign import BODY_NAMES, OF_METADATA
from imdb_serving.measurement.texts import tokenizer_or_packaged
from imdb_serving.text import rows
from imdb_serving.text.drawing import drawn
from imdb_serving.text.reviews import tokenise
from imdb_serving.text.rows import Columns

FOLDER = "answers"
PACKAGED = Columns("text", "label")


@dataclass(frozen=True, slots=True)
class Sample:
    """One text to send, as templates see it."""

    text: str
    words: list[str]
    ids: list[int]
    label: int
    row: dict[str, Any]


def samples_of(params: GridParams) -> list[Sample]:
    """Return the texts of a measurement, drawn as those of our own servers, or from a file of the user's.

    Words and ids are made only where a body names them. Raises `DataError` for a file that cannot be used.
    """
    used = _template(params).names if params.protocol not in OF_METADATA else {"ids"}
    wants_words, wants_ids = bool(used & {"words", "samples"}), bool(used & {"ids", "samples"})
    tokenizer = tokenizer_or_packaged(model_there(params)) if wants_ids else None
    found = []
    every, columns = _rows(params, used)
    for row in every:
        text = row.get(columns.text, "")
        ids = tokenizer.encode(text).tolist() if tokenizer else []
        found.append(Sample(text, tokenise(text) if wants_words else [], ids, rows.label_of(row, columns.label), row))
    return found


def _rows(params: GridParams, used: Set[str]) -> tuple[Sequence[dict[str, Any]], Columns]:
    """Return the rows that are drawn, and which columns hold text and label; only a body that has them needs them."""
    file = params.text_file
    if file is None:
        return [{"text": one.text or "", "label": one.label} for one in drawn(params.samples, params.seed)], PACKAGED
    every = rows.read(file.path)
    found = rows.draw(every, params.samples, params.seed)
    if not used & {"text", "words", "ids"}:
        label = file.columns.label or "label"
        return found, Columns("", label)
    columns = rows.columns_of(every, file.columns, file.path)
    for row in found:
        rows.text_of(row, columns, file.path)
    return found, columns


def _template(params: GridParams) -> TextTemplate:
    return TextTemplate(params.request_of(params.batch)[1], "request.body", BODY_NAMES)


@dataclass(frozen=True, slots=True)
class Bodies:
    """Makes the bodies of requests from samples. `secrets` has what they read of the environment."""

    body: Callable[[Sequence[Sample]], Body]
    secrets: Secrets = field(default_factory=Secrets)

    @classmethod
    def of(cls, params: GridParams, folder: Path) -> Bodies:
        """Compile the template of the body, or read the model's inputs, which `folder` has."""
        if params.protocol in OF_METADATA:
            inputs = oip.inputs_of(_metadata_file(params, folder).read_bytes())
            return cls(partial(_of_inputs, inputs, params))
        secrets = Secrets()
        return cls(partial(_of_template, _template(params), secrets), secrets)

    def workload(self, samples: Sequence[Sample], batch: int) -> PreparedWorkload:
        """Return the requests of these samples; what making them took is told, and not measured with them."""
        parts = [samples[first : first + batch] for first in range(0, len(samples), batch)]
        begun = perf_counter_ns()
        bodies = [self.body(part) for part in parts]
        each = (perf_counter_ns() - begun) // max(len(bodies), 1)
        return PreparedWorkload(bodies, [len(part) for part in parts], each)


def keep_metadata(params: GridParams, folder: Path, metadata: bytes) -> None:
    """Keep what a server says of its model; raise `UnexpectedAnswer` when no inputs can be read of it."""
    oip.inputs_of(metadata)
    file = _metadata_file(params, folder)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(metadata)
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error


def _metadata_file(params: GridParams, folder: Path) -> Path:
    return folder / FOLDER / f"metadata-{params.fingerprint}.json"


def _of_template(template: TextTemplate, secrets: Secrets, samples: Sequence[Sample]) -> bytes:
    every = [{name: getattr(one, name) for name in ("text", "words", "ids", "label", "row")} for one in samples]
    return template.render(**every[0], samples=every, env=secrets).encode("utf-8", "surrogatepass")


def _of_inputs(inputs: Sequence[oip.TensorInfo], params: GridParams, samples: Sequence[Sample]) -> Body:
    tensors = oip.fill(inputs, [oip.Text(sample.text, sample.ids, sample.label) for sample in samples])
    if params.protocol == OIP_GRPC:
        return oip_grpc.encode(params.server_model, tensors, is_raw=params.request_binary)
    return oip.encode_binary(tensors) if params.request_binary else oip.encode_json(tensors)

"""`imdb-serving predict`: text in, class and probability out, from a model or from a server."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import Seconds, complete_engines, shows_credentials
from imdb_serving.config import DEFAULT_TIMEOUT, MAX_TIMEOUT
from imdb_serving.errors import BadRequest, ConfigError, DataError, ServingError

if TYPE_CHECKING:
    from imdb_serving.keys import Credentials


class Text(NamedTuple):
    """A text to predict, where it stands, and why it is none; empty when it is one."""

    place: str
    text: str
    wrong: str = ""


class Prediction(NamedTuple):
    """The class of a text and the probability of each; or why there is none."""

    label: str = ""
    shares: Sequence[float] = ()
    error: str = ""


def predict_texts(
    texts: Iterable[Text], call: Any, labels: Sequence[str], batch: int, write: Callable[[Prediction], None]
) -> int:
    """Predict texts as they come, `batch` at a time; return how many failed. Each gets an answer, in order."""
    failed = 0
    for part in _parts(texts, batch):
        for one, found in zip(part, _answers(part, call, labels), strict=True):
            if found.error:
                failed += 1
                print(f"failed: {one.place}: {found.error}", file=sys.stderr)
            write(found)
        sys.stdout.flush()
    return failed


def _parts(texts: Iterable[Text], batch: int) -> Iterator[list[Text]]:
    source = iter(texts)
    while part := list(itertools.islice(source, batch)):
        yield part


def _answers(part: Sequence[Text], call: Any, labels: Sequence[str]) -> list[Prediction]:
    sound = [one.text for one in part if not one.wrong]
    found = iter(_predicted(sound, call, labels) if sound else [])
    return [Prediction(error=one.wrong) if one.wrong else next(found) for one in part]


def _predicted(texts: Sequence[str], call: Any, labels: Sequence[str]) -> list[Prediction]:
    """Predict texts together; where they are refused, each alone, so that only those at fault fail."""
    from imdb_serving.protocol.requests import make_request

    try:
        outputs = call(make_request([{"words": text} for text in texts], ("prediction", "class"))).outputs
    except (BadRequest, DataError) as error:
        if len(texts) == 1:
            return [Prediction(error=str(error))]
        return [found for text in texts for found in _predicted([text], call, labels)]
    names = [str(name) for name in outputs["class"]]
    return [Prediction(name, shares) for name, shares in zip(names, outputs["prediction"].tolist(), strict=True)]


@contextmanager
def _local(model: Path, engine: str, math_threads: int) -> Iterator[tuple[Any, Sequence[str]]]:
    """Yield what answers a request with a model in this process, and the classes' names."""
    from imdb_serving.engines.registry import EngineSpec, engines_of
    from imdb_serving.model.bundle import open_bundle
    from imdb_serving.pipeline import imdb_pipeline
    from imdb_serving.timing import Timeline

    bundle = open_bundle(model)
    runs = engines_of(bundle.card)
    quickest = next((name for name in ("folded", "onnxruntime") if name in runs), runs[0] if runs else "paddle")
    pipeline = imdb_pipeline(EngineSpec(engine or quickest, math_threads), bundle)
    yield lambda request: pipeline(request, Timeline()), bundle.card.labels


@contextmanager
def _remote(endpoint: str, timeout: float, credentials: Credentials) -> Iterator[tuple[Any, Sequence[str]]]:
    """Yield what asks a server, and its classes' names."""
    from imdb_serving.clients.connect import connect

    with connect(endpoint, timeout, credentials=credentials) as client:
        labels = client.hello().labels
        yield client.call, labels


def _lines(stream: Iterable[bytes]) -> Iterator[Text]:
    """Yield a text a line of a stream as it comes; an empty line is an empty text."""
    for number, line in enumerate(stream, start=1):
        place = f"line {number}"
        try:
            text = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError as error:
            yield Text(place, "", f"not UTF-8: byte {error.start} is {line[error.start]:#x}")
            continue
        yield Text(place, text)


def _rows(path: Path, column: str) -> Iterator[Text]:
    """Yield the texts of a file of rows."""
    from imdb_serving.text import rows

    every = rows.read(path)
    columns = rows.columns_of(every, rows.Columns(column), path)
    if not columns.text:
        raise DataError(f"data: {path} holds word ids, and texts are needed")
    for row in every:
        place = f"{path}, line {row.line}"
        try:
            yield Text(place, rows.text_of(row, columns, path))
        except DataError as error:
            yield Text(place, "", str(error).removeprefix(f"data: {place}: "))


def _writer(kind: str, labels: Sequence[str]) -> Callable[[Prediction], None]:
    if kind == "csv":
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(["class", "probability"])
        return lambda found: table.writerow([found.label, f"{max(found.shares):.6f}" if found.shares else ""])

    def write(found: Prediction) -> None:
        if found.error:
            entry: dict[str, Any] = {"error": found.error}
        else:
            shares = [round(share, 6) for share in found.shares]
            every = dict(zip(labels, shares, strict=True)) if len(labels) == len(shares) else shares
            entry = {"class": found.label, "probability": max(shares), "probabilities": every}
        print(json.dumps(entry, ensure_ascii=False))

    return write


@group.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--endpoint", default="", help="Ask the server there, over RPC or HTTP, and load no MODEL.")
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of texts in place of standard input: CSV, JSON, Parquet, or a text a line.",
)
@click.option("--text-column", default="", help="The column of --data that has the text.")
@click.option("--format", "kind", type=click.Choice(["csv", "jsonl"]), default="csv", help="What is written.")
@click.option("--engine", default="", shell_complete=complete_engines, help="Default: the quickest that runs MODEL.")
@click.option("--math-threads", type=click.IntRange(min=1, max=1024), default=1, help="Threads inside one predictor.")
@click.option("--batch", type=click.IntRange(min=1, max=4096), default=32, help="Texts that are predicted together.")
@click.option(
    "--timeout",
    type=Seconds(0, MAX_TIMEOUT, min_open=True),
    default=DEFAULT_TIMEOUT,
    help="With --endpoint: deadline of a request in seconds.",
)
@shows_credentials
def predict(
    model: Path | None, endpoint: str, data: Path | None, text_column: str, kind: str, engine: str, math_threads: int,
    batch: int, timeout: float, credentials: Any,
) -> None:  # fmt: skip
    """Predict texts, one a line of standard input: the class and its probability of each, in order.

    A text that cannot be predicted leaves its fields empty; why is told, and the exit code is 1.

    \b
    Example:
      imdb-serving predict outputs/models/cnn < texts.txt > classes.csv
    """
    if (model is None) == (not endpoint):
        raise ConfigError("give a MODEL, or the --endpoint of a server, and not both")
    if text_column and data is None:
        raise ConfigError("--text-column is for --data; standard input has a text a line")
    texts = _rows(data, text_column) if data else _lines(sys.stdin.buffer)
    asked: AbstractContextManager[tuple[Any, Sequence[str]]] = (
        _local(model, engine, math_threads) if model else _remote(endpoint, timeout, credentials)
    )
    with asked as (call, labels):
        try:
            failed = predict_texts(texts, call, labels, batch, _writer(kind, labels))
        except ServingError:
            sys.stdout.flush()
            raise
    sys.exit(1 if failed else 0)

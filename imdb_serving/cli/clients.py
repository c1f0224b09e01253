"""The published clients as commands: one process, several processes, batches, and HTTP. All write the same result."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import click

from imdb_serving.cli import group
from imdb_serving.cli.group import Command, Seconds, shows_credentials
from imdb_serving.config import (
    DEFAULT_ENDPOINT,
    DEFAULT_HTTP_ENDPOINT,
    DEFAULT_TIMEOUT,
    MAX_TIMEOUT,
    WAIT_SECONDS,
    number_ranges,
)
from imdb_serving.errors import BadRequest, DataError, RequestTimeout, ServerUnavailable, Unauthorized

if TYPE_CHECKING:
    from imdb_serving.clients.base import Client
    from imdb_serving.keys import Credentials
    from imdb_serving.load.closed_loop import ClientRecord
    from imdb_serving.load.workload import Result, ReviewWorkload
    from imdb_serving.model.conf import ModelConf
    from imdb_serving.text.formats import Line, LineFormat
    from imdb_serving.text.reviews import Vocabulary


SHOWN_FAILURES = 20
MOSTLY_UNLABELLED = (
    "note: most lines have no label; '| 0' or '| 1' at the end of a line is always read as a label, not as text"
)


def open_data(path: Path) -> AbstractContextManager[BinaryIO]:
    """Open a data file for reading; raise `DataError` when that cannot be done."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def predict_stream(
    conf_path: Path,
    stream: BinaryIO,
    source: str,
    *,
    clients: int,
    batch: int,
    endpoint: str,
    timeout: float,
    wait: float,
    kind: str,
    vocab: Path | None,
    http_client: str = "keep-alive",
    credentials: Credentials,
) -> int:
    """Predict every line of `stream`; results to standard output, everything else to standard error.

    Returns the exit code: 0, or 1 when a sample failed. The others' results are written all the same, in order.
    """
    from imdb_serving.clients.connect import connect
    from imdb_serving.load.client_processes import run_load
    from imdb_serving.load.closed_loop import Share
    from imdb_serving.load.workload import ReviewWorkload, split_lines
    from imdb_serving.model.conf import load_conf
    from imdb_serving.text.formats import detect_format, has_label, read_lines

    conf = load_conf(conf_path)
    conf.require_fetch("prediction", conf_path)
    lines = read_lines(stream.read(), source)
    line_format: LineFormat = detect_format(lines) if kind == "auto" else kind  # type: ignore[assignment]
    vocabulary = _find_vocabulary(conf, conf_path, vocab) if line_format == "text" else None
    template = functools.partial(ReviewWorkload, kind=line_format, vocabulary=vocabulary, fetch=_fetch(conf))
    make_client = functools.partial(connect, endpoint, timeout, http_client, credentials=credentials)

    _await_server(make_client, wait)
    workloads = [template(part, batch=batch) for part in split_lines(lines, clients, batch)]
    records = run_load(make_client, [Share.whole(workload) for workload in workloads], timeout)
    results, failures = _gather(workloads, records)
    alone: list[Line] = []
    if batch > 1:
        # A batch is refused as a whole. Only the sample that is at fault may fail, so its neighbours go alone.
        alone = [line for line, code, _ in failures if code in (BadRequest.code, DataError.code)]
        if alone:
            single = template(alone, batch=1)
            again, still_failed = _gather([single], run_load(make_client, [Share.whole(single)], timeout))
            results.update(again)
            failures = [entry for entry in failures if entry[0] not in alone] + still_failed
    _write(lines, results)
    if line_format == "text" and sum(map(has_label, lines)) < len(lines) / 2:
        print(MOSTLY_UNLABELLED, file=sys.stderr)
    _report(() if alone else records, results, failures, len(lines))
    return 1 if failures else 0


def _await_server(make_client: Callable[[], Client], seconds: float) -> None:
    """Wait for a server that starts, and say so; when it does not, each sample's failure says why."""
    from imdb_serving.clients.connect import wait_for

    if seconds:
        with make_client() as client, suppress(ServerUnavailable, RequestTimeout, Unauthorized):
            wait_for(client, seconds, lambda why: print(f"waiting up to {seconds:g} s: {why}", file=sys.stderr))


def _fetch(conf: ModelConf) -> tuple[str, ...]:
    """Return the fetch names of the published clients that the conf has."""
    labelled = "label" in conf.feed_names
    return tuple(
        name
        for name in ("prediction", "acc", "cost")
        if name in conf.fetch_names and (labelled or name == "prediction")
    )


def _find_vocabulary(model: ModelConf, conf: Path, given: Path | None) -> Vocabulary | None:
    """Return the vocabulary that makes ids of text; None where the server does that, with a tokenizer of its own."""
    from imdb_serving.model import SERVER_DIR, TOKENIZER, VOCABULARY
    from imdb_serving.model.conf import STRING
    from imdb_serving.text.reviews import Vocabulary

    folders = (conf.parent, conf.parent / SERVER_DIR, Path())
    reads_text = any(one.alias_name == "words" and one.type == STRING for one in model.feed)
    if not given and (reads_text or any((folder / TOKENIZER).is_file() for folder in folders[:2])):
        return None
    places = [given] if given else [folder / VOCABULARY for folder in folders]
    for path in places:
        if path.is_file():
            return Vocabulary.load(path)
    raise DataError(f"text needs a vocabulary; there is no {' and no '.join(map(str, places))}; give one with --vocab")


MAX_CLIENTS = 1024

Failed: TypeAlias = "tuple[Line, str, str]"


def _gather(
    shares: Sequence[ReviewWorkload], records: Sequence[ClientRecord]
) -> tuple[dict[Line, Result], list[Failed]]:
    """Put the results and failures of all clients back to their lines."""
    results: dict[Line, Result] = {}
    failures: list[Failed] = []
    for part, record in zip(shares, records, strict=True):
        for position, outcome in zip(record.positions, record.outcomes, strict=True):
            results.update(zip(part.samples(position), outcome, strict=True))
        for failure in record.failures:
            failures += [(line, failure.code, failure.message) for line in part.samples(failure.position)]
    return results, failures


def _write(lines: Sequence[Line], results: dict[Line, Result]) -> None:
    found = (results.get(line) for line in lines)
    try:
        sys.stdout.write("".join(f"{result.probability:.6f} {result.label}\n" for result in found if result))
        sys.stdout.flush()
    except OSError as error:
        raise DataError(f"cannot write the result: {error.strerror}") from error


def _describe(failures: Sequence[Failed]) -> list[str]:
    """Return a line for each different error, with the place it is about; many errors end in a list of lines."""
    groups: dict[str, list[Line]] = {}
    for line, _, message in failures:
        groups.setdefault(message.removeprefix(f"{line.source}:{line.number}: "), []).append(line)
    texts = []
    for message, lines in list(groups.items())[:SHOWN_FAILURES]:
        places = f"{lines[0].source}:{number_ranges([line.number for line in lines])}"
        texts.append(f"failed: {places}: {message}")
    rest = [line.number for lines in list(groups.values())[SHOWN_FAILURES:] for line in lines]
    return [*texts, f"failed as well: lines {number_ranges(rest)}"] if rest else texts


def _report(
    records: Sequence[ClientRecord], results: dict[Line, Result], failures: Sequence[Failed], samples: int
) -> None:
    from imdb_serving.analysis.summary import PUBLISHED_COLUMNS, stage_sums, wall_seconds

    for text in _describe(failures):
        print(text, file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {samples} samples failed", file=sys.stderr)
    if not results:
        return
    right = sum(result.right for result in results.values())
    print(f"accuracy {right / len(results):.4f} on {len(results)} samples", file=sys.stderr)
    if not records:
        print("no times: some batches were refused, and their samples sent one by one", file=sys.stderr)
        return
    wall = wall_seconds(records)
    sums = stage_sums(records)
    print(f"{len(records)} clients, wall {wall:.3f} s, {len(results) / wall:,.0f} samples/s", file=sys.stderr)
    print("seconds, per-client sums averaged over the clients:", file=sys.stderr)
    print("  ".join(f"{name:>12}" for name in PUBLISHED_COLUMNS), file=sys.stderr)
    print("  ".join(f"{sums.get(name, 0.0):>12.4f}" for name in PUBLISHED_COLUMNS), file=sys.stderr)


def _client_options(command: Command, endpoint: str = DEFAULT_ENDPOINT) -> Command:
    """Add the options that the published clients share."""
    for option in (
        click.option("--format", "kind", type=click.Choice(["auto", "ids", "text"]), default="auto",
                     help="Line format."),
        click.option("--vocab", type=click.Path(path_type=Path), help="For text: default imdb.vocab near CONF."),
        click.option("--wait", type=Seconds(0, MAX_TIMEOUT), default=WAIT_SECONDS,
                     help="Seconds to wait for a server that starts, 10 of them for one that does not listen yet."),
        click.option("--timeout", type=Seconds(0, MAX_TIMEOUT, min_open=True), default=DEFAULT_TIMEOUT,
                     help="Deadline of a request in seconds."),
        click.option("--endpoint", default=endpoint, help="Where the server listens."),
    ):  # fmt: skip
        command = option(command)
    return shows_credentials(command)


@group.command()
@click.argument("conf", type=click.Path(path_type=Path))
@_client_options
def client(conf: Path, **options: Any) -> None:
    """Predict the samples on standard input, one client, one sample a request.

    Writes one line `probability label` a sample to standard output, and accuracy and stage times to standard error.

    \b
    Example:
      cat test.data | imdb-serving client inference.conf > result
    """
    sys.exit(predict_stream(conf, sys.stdin.buffer, "<stdin>", clients=1, batch=1, **options))


@group.command("client-multi")
@click.argument("conf", type=click.Path(path_type=Path))
@click.argument("data_file", metavar="DATA", type=click.Path(path_type=Path))
@click.argument("clients", type=click.IntRange(1, MAX_CLIENTS))
@_client_options
def client_multi(conf: Path, data_file: Path, clients: int, **options: Any) -> None:
    """Predict the samples of DATA with CLIENTS client processes, each with its share.

    \b
    Example:
      imdb-serving client-multi inference.conf test.data 4 > result
    """
    with open_data(data_file) as stream:
        sys.exit(predict_stream(conf, stream, str(data_file), clients=clients, batch=1, **options))


@group.command("client-batch")
@click.argument("conf", type=click.Path(path_type=Path))
@click.argument("batch", type=click.IntRange(min=1))
@_client_options
def client_batch(conf: Path, batch: int, **options: Any) -> None:
    """Predict the samples on standard input, BATCH of them a request.

    \b
    Example:
      cat test.data | imdb-serving client-batch inference.conf 4 > result
    """
    sys.exit(predict_stream(conf, sys.stdin.buffer, "<stdin>", clients=1, batch=batch, **options))


@group.command("flask-client")
@click.argument("conf", type=click.Path(path_type=Path))
@click.argument("data_file", metavar="DATA", type=click.Path(path_type=Path))
@click.argument("clients", type=click.IntRange(1, MAX_CLIENTS))
@functools.partial(_client_options, endpoint=DEFAULT_HTTP_ENDPOINT)
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Samples in each request.")
@click.option(
    "--http-client",
    type=click.Choice(["keep-alive", "curl"]),
    default="keep-alive",
    help="curl: fork curl for every request, as published.",
)
def flask_client(conf: Path, data_file: Path, clients: int, **options: Any) -> None:
    """Predict the samples of DATA over HTTP with CLIENTS client processes, each with its share.

    \b
    Example:
      imdb-serving flask-client serving_client_conf/serving_client_conf.prototxt test.data 4 > result
    """
    with open_data(data_file) as stream:
        sys.exit(predict_stream(conf, stream, str(data_file), clients=clients, **options))

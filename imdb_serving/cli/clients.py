"""The commands that ask a server: the published clients, and its state."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import click

from imdb_serving.cli.options import Command, Seconds, shows_credentials
from imdb_serving.commands import manual
from imdb_serving.config import DEFAULT_ENDPOINT, DEFAULT_HTTP_ENDPOINT, DEFAULT_TIMEOUT, MAX_TIMEOUT, WAIT_SECONDS

MAX_CLIENTS = 1024
"""Client processes; more are no use on any machine, and ZeroMQ has no more sockets for them."""


def _client_options(command: Command, endpoint: str = DEFAULT_ENDPOINT) -> Command:
    """Add the options that the published clients share."""
    for option in (
        click.option("--format", "kind", type=click.Choice(["auto", "ids", "text"]), default="auto",
                     help="Line format."),
        click.option("--vocab", type=click.Path(path_type=Path), help="For text: default imdb.vocab near CONF."),
        click.option("--wait", type=Seconds(0, MAX_TIMEOUT), default=WAIT_SECONDS,
                     help="Seconds to wait for a server that starts; of those 10 for one that does not listen yet."),
        click.option("--timeout", type=Seconds(0, MAX_TIMEOUT, min_open=True), default=DEFAULT_TIMEOUT,
                     help="Seconds a request may take."),
        click.option("--endpoint", default=endpoint, help="Where the server listens."),
    ):  # fmt: skip
        command = option(command)
    return shows_credentials(command)


@manual.command()
@click.argument("conf", type=click.Path(path_type=Path))
@_client_options
def client(conf: Path, **options: Any) -> None:
    """Predict the samples on standard input, one client, one sample a request.

    Writes one line `probability label` a sample to standard output, and accuracy and stage times to standard error.

    \b
    Example:
      cat test.data | imdb-serving client inference.conf > result
    """
    from imdb_serving.commands.clients import predict_stream

    sys.exit(predict_stream(conf, sys.stdin.buffer, "<stdin>", clients=1, batch=1, **options))


@manual.command("client-multi")
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
    from imdb_serving.commands.clients import open_data, predict_stream

    with open_data(data_file) as stream:
        sys.exit(predict_stream(conf, stream, str(data_file), clients=clients, batch=1, **options))


@manual.command("client-batch")
@click.argument("conf", type=click.Path(path_type=Path))
@click.argument("batch", type=click.IntRange(min=1))
@_client_options
def client_batch(conf: Path, batch: int, **options: Any) -> None:
    """Predict the samples on standard input, BATCH of them a request.

    \b
    Example:
      cat test.data | imdb-serving client-batch inference.conf 4 > result
    """
    from imdb_serving.commands.clients import predict_stream

    sys.exit(predict_stream(conf, sys.stdin.buffer, "<stdin>", clients=1, batch=batch, **options))


@manual.command("flask-client")
@click.argument("conf", type=click.Path(path_type=Path))
@click.argument("data_file", metavar="DATA", type=click.Path(path_type=Path))
@click.argument("clients", type=click.IntRange(1, MAX_CLIENTS))
@functools.partial(_client_options, endpoint=DEFAULT_HTTP_ENDPOINT)
@click.option("--batch", type=click.IntRange(min=1), default=1, help="Samples a request.")
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
    from imdb_serving.commands.clients import open_data, predict_stream

    with open_data(data_file) as stream:
        sys.exit(predict_stream(conf, stream, str(data_file), clients=clients, **options))


@manual.command()
@click.argument("endpoint")
@click.option("--timeout", type=Seconds(min=0, min_open=True), default=5.0, help="Seconds to wait for an answer.")
@shows_credentials
def status(endpoint: str, timeout: float, credentials: Any) -> None:
    """Print what the server at ENDPOINT says of itself, and its metrics if it was started with --metrics-port.

    \b
    Example:
      imdb-serving status tcp://127.0.0.1:9292
    """
    from imdb_serving.commands.status import print_status

    print_status(endpoint, timeout, credentials)

"""The commands that serve, and the options that all servers share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli.options import Command, complete_engines
from imdb_serving.commands import manual
from imdb_serving.engines.registry import engines_in_words

if TYPE_CHECKING:
    from imdb_serving.commands.serve_options import ServeOptions


def _server_options(port: int) -> Callable[[Command], Command]:
    """Add the options that all servers share."""
    options = (
        click.argument("model", type=click.Path(path_type=Path), required=False),
        click.option("--host", default="127.0.0.1", help="The address to listen on."),
        click.option("--port", type=click.IntRange(0, 65535), default=port, help="The port; 0 picks a free one."),
        click.option("--server-threads", type=click.IntRange(min=1, max=1024), default=4,
                     help="Workers, each with an own predictor."),
        click.option("--worker-kind", type=click.Choice(["thread", "process"]),
                     help="Default: what the engine runs best in."),
        click.option("--engine", default="paddle", shell_complete=complete_engines, help=f"{engines_in_words()}."),
        click.option("--math-threads", type=click.IntRange(min=1, max=1024), default=1,
                     help="Threads inside one predictor."),
        click.option("--service-time-ms", type=float, default=5.0, help="simulated: the mean service time."),
        click.option("--distribution", type=click.Choice(["fixed", "exponential"]), default="fixed", help="simulated."),
        click.option("--pipeline", default="", metavar="MODULE:FUNCTION",
                     help="Your own, called with engine and model in each worker; see docs/architecture.md."),
        click.option("--server-key", type=click.Path(path_type=Path),
                     help="RPC over ZeroMQ: this server's secret key; see imdb-serving keys."),
        click.option("--client-keys", type=click.Path(path_type=Path),
                     help="RPC over ZeroMQ: the folder of the public keys of the clients to let in."),
        click.option("--token-file", type=click.Path(path_type=Path),
                     help="HTTP: answer those alone that show the token in this file."),
        click.option("--metrics-port", type=click.IntRange(0, 65535), default=None,
                     help="Tell Prometheus on this port of the host, at /metrics; 0 picks a free one."),
        click.option("--log", type=click.Choice(["text", "json"]), default=None,
                     help="Log one line an event to standard error in this form."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning",
                     help="With --log: from here on; info has a line for each request that failed."),
        click.option("--max-queue", type=click.IntRange(min=0), default=1000,
                     help="Requests that may wait; more are refused at once as overloaded."),
        click.option("--max-message-bytes", type=click.IntRange(1024, 1 << 31), default=16 << 20,
                     help="Bytes of one request."),
        click.option("--max-samples", type=click.IntRange(min=1), default=4096, help="Samples of one request."),
        click.option("--max-review-words", type=click.IntRange(min=1), default=1 << 16, help="Words of one sample."),
        click.option("--cores", default="", metavar="LIST",
                     help="Stay on these, as 0-3,6; each worker has its own where there are enough."),
        click.option("--exit-with-stdin", is_flag=True,
                     help="Stop when standard input ends, for a server with a parent."),
    )  # fmt: skip

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _serve_options(
    model: Path | None,
    *,
    engine: str,
    math_threads: int,
    service_time_ms: float,
    distribution: Any,
    **others: Any,
) -> ServeOptions:
    """Gather a server's options."""
    from imdb_serving.commands.serve_options import ServeOptions
    from imdb_serving.engines.registry import EngineSpec

    return ServeOptions(model, EngineSpec(engine, math_threads, service_time_ms, distribution), **others)


@manual.command()
@_server_options(port=9292)
@click.option("--endpoint", help="Listen here instead of --host and --port, for example ipc:///tmp/imdb-serving.")
def serve(endpoint: str | None, **options: Any) -> None:
    """Serve MODEL over RPC until SIGINT or SIGTERM; one line on standard output says when it is ready.

    MODEL is a bundle's serving_server_model folder, or the folder that holds it.

    \b
    Example:
      imdb-serving serve serving_server_model --port 9292 --server-threads 4
    """
    from imdb_serving.commands.serve import serve_rpc
    from imdb_serving.transports.rpc.endpoints import with_port

    endpoint = endpoint or f"tcp://{with_port(options['host'], options['port'])}"
    serve_rpc(_serve_options(endpoint=endpoint, **options))


@manual.command()
@_server_options(port=9294)
def flask(**options: Any) -> None:
    """Serve MODEL over HTTP: Flask with as many workers as server threads.

    Predictions are POSTed to /PaddleServing/v1.0/prediction; the page at / shows how, and lets you try.

    \b
    Example:
      imdb-serving flask serving_server_model --server-threads 4 --port 9294
    """
    from imdb_serving.commands.serve_http import serve_flask

    serve_flask(_serve_options(**options))


_rpc = click.option("--rpc", help="The RPC server to ask, as tcp://HOST:PORT; default: one is started with MODEL.")


@manual.command("flask-gateway")
@_server_options(port=9294)
@_rpc
@click.option("--rpc-client-key", type=click.Path(path_type=Path), help="For --rpc: this gateway's secret key.")
@click.option("--rpc-server-public-key", type=click.Path(path_type=Path), help="For --rpc: that server's public key.")
def flask_gateway(
    rpc: str | None, rpc_client_key: Path | None, rpc_server_public_key: Path | None, **options: Any
) -> None:
    """Serve over HTTP with Flask in front of an RPC server: the published arrangement, on our web server.

    \b
    Example:
      imdb-serving flask-gateway serving_server_model --server-threads 4
      imdb-serving flask-gateway --rpc tcp://127.0.0.1:9292
    """
    from imdb_serving.commands.serve_http import serve_gateway
    from imdb_serving.transports.keys import Credentials

    serve_gateway(_serve_options(**options), rpc, Credentials(rpc_client_key, rpc_server_public_key))


@manual.command("flask-dev")
@_server_options(port=9294)
@_rpc
def flask_dev(rpc: str | None, **options: Any) -> None:
    """Serve over HTTP to the letter of the published benchmark: Werkzeug's server, one thread, in front of RPC.

    Server threads are those of the RPC server. For each prediction one line goes to standard error:
    `PROFILE flask_cost: ... total_cost: ...`, seconds spent by Flask itself and in all.

    \b
    Example:
      imdb-serving flask-dev serving_server_model
    """
    from imdb_serving.commands.serve_http import serve_dev

    serve_dev(_serve_options(**options), rpc)

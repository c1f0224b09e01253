"""The `imdb-serving` command: parses and calls; nothing else."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import imdb_serving
from imdb_serving.commands.manual import Manuals
from imdb_serving.config import DEFAULT_ENDPOINT, DEFAULT_HTTP_ENDPOINT, DEFAULT_TIMEOUT, MAX_TIMEOUT
from imdb_serving.engines.registry import ENGINES, engines_for, engines_in_words

if TYPE_CHECKING:
    from imdb_serving.commands.serve import ServeOptions

MAX_CLIENTS = 1024
"""Client processes; more are no use on any machine, and ZeroMQ has no more sockets for them."""

Command = TypeVar("Command", bound=Callable[..., Any])


class _Seconds(click.FloatRange):
    """A range of floats without the one that compares with nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if number == number else self.fail(f"{value} is not a number of seconds", param, ctx)  # noqa: PLR0124


def _engines(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Complete an engine's name."""
    return [name for name in ENGINES if name.startswith(begun)]


@click.group(cls=Manuals, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(imdb_serving.__version__)
def main() -> None:
    """Serve an IMDB sentiment model over RPC or HTTP, and measure what serving costs.

    \b
    Example:
      imdb-serving train --net cnn
      imdb-serving serve serving_server_model --server-threads 4 &
      imdb-serving flask serving_server_model --server-threads 4 &
      imdb-serving data --samples 2500 --format ids --out test.data
      cat test.data | imdb-serving client inference.conf > result
      imdb-serving sweep params/default.yaml
    """


@main.command()
@click.option("--samples", type=click.IntRange(min=1), default=2500, help="How many reviews to write.")
@click.option("--format", "kind", type=click.Choice(["ids", "text"]), default="ids", help="The line format.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@click.option("--source", default="packaged", help="packaged, aclimdb:DIR, or a file in a published line format.")
@click.option("--seed", type=int, default=2020, help="Decides which held-out reviews are drawn.")
@click.option("--vocab", type=click.Path(path_type=Path), help="Vocabulary for --format ids; default: the model's.")
def data(samples: int, kind: Any, out: Path, source: str, seed: int, vocab: Path | None) -> None:
    """Write held-out reviews to a file in one of the two published line formats.

    \b
    Example:
      imdb-serving data --samples 2500 --format ids --out test.data
    """
    from imdb_serving.commands.data import write_data

    write_data(samples, kind, out, source, seed, vocab)


@main.command()
@click.option("--net", default="cnn", help="bow, cnn, lstm or gru.")
@click.option("--epochs", type=click.IntRange(min=1), default=2, help="Passes over the reviews; the best is kept.")
@click.option("--seed", type=int, default=2020, help="Decides the first weights and the order of the reviews.")
@click.option("--source", default="packaged", help="packaged, aclimdb:DIR, or a file of 'text | label' lines.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Where the bundle goes.")
@click.option("--if-missing", is_flag=True, help="Do nothing when a sound bundle of that net is there already.")
def train(net: str, epochs: int, seed: int, source: str, out: Path, if_missing: bool) -> None:
    """Train a net and write the bundle: serving_server_model, serving_client_conf and inference.conf.

    \b
    Example:
      imdb-serving train --net cnn --out outputs/model
    """
    from imdb_serving.commands.train import train_model

    train_model(net, epochs, seed, source, out, if_missing=if_missing)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--engine", "engines", multiple=True, shell_complete=_engines, help="Only this one; may be given several times."
)
@click.option("--math-threads", type=click.IntRange(min=1), default=1, help="Threads inside one predictor.")
def tune(model: Path, engines: tuple[str, ...], math_threads: int) -> None:
    """Measure what each engine does with MODEL on this machine, and keep it beside the model.

    Servers then run the fastest variant of their engine, marked *. What was found holds for this processor and these
    library versions; anything else is measured anew when a server starts.

    \b
    Example:
      imdb-serving tune serving_server_model
    """
    from imdb_serving.commands.tune import tune_model

    tune_model(model, engines, math_threads)


def _server_options(port: int) -> Callable[[Command], Command]:
    """Add the options that all servers share."""
    options = (
        click.argument("model", type=click.Path(path_type=Path), required=False),
        click.option("--host", default="127.0.0.1", help="The address to listen on."),
        click.option("--port", type=click.IntRange(0, 65535), default=port, help="The port; 0 picks a free one."),
        click.option("--server-threads", type=click.IntRange(min=1), default=4,
                     help="Workers, each with an own predictor."),
        click.option("--worker-kind", type=click.Choice(["thread", "process"]),
                     help="Default: what the engine runs best in."),
        click.option("--engine", default="paddle", shell_complete=_engines, help=f"{engines_in_words()}."),
        click.option("--math-threads", type=click.IntRange(min=1), default=1, help="Threads inside one predictor."),
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
    from imdb_serving.commands.serve import ServeOptions
    from imdb_serving.engines.registry import EngineSpec

    return ServeOptions(model, EngineSpec(engine, math_threads, service_time_ms, distribution), **others)


@main.command()
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


@main.command()
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


@main.command("flask-gateway")
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


@main.command("flask-dev")
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


def _shows_credentials(command: Command) -> Command:
    """Add the options of what a client shows a server; the command gets them as `credentials`."""

    @functools.wraps(command)
    def run(
        *arguments: Any, client_key: Path | None, server_public_key: Path | None, token_file: Path | None, **others: Any
    ) -> Any:
        from imdb_serving.transports.keys import Credentials

        credentials = Credentials(client_key, server_public_key, token_file)
        return command(*arguments, credentials=credentials, **others)

    shown = run
    for name, what in (
        ("--token-file", "Over HTTP: the file of the server's token."),
        ("--server-public-key", "Over ZeroMQ: the server's public key; see imdb-serving keys."),
        ("--client-key", "Over ZeroMQ: this client's secret key; see imdb-serving keys."),
    ):
        shown = click.option(name, type=click.Path(path_type=Path), help=what)(shown)
    return shown  # type: ignore[return-value]


def _client_options(command: Command, endpoint: str = DEFAULT_ENDPOINT) -> Command:
    """Add the options that the published clients share."""
    for option in (
        click.option("--format", "kind", type=click.Choice(["auto", "ids", "text"]), default="auto",
                     help="Line format."),
        click.option("--vocab", type=click.Path(path_type=Path), help="For text: default imdb.vocab near CONF."),
        click.option("--timeout", type=_Seconds(0, MAX_TIMEOUT, min_open=True), default=DEFAULT_TIMEOUT,
                     help="Seconds a request may take."),
        click.option("--endpoint", default=endpoint, help="Where the server listens."),
    ):  # fmt: skip
        command = option(command)
    return _shows_credentials(command)


@main.command()
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


@main.command("client-multi")
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


@main.command("flask-client")
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


@main.command("client-batch")
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


@main.command()
@click.argument("params", type=click.Path(path_type=Path))
@click.option("--outputs", type=click.Path(file_okay=False, path_type=Path), help="Default: the project's outputs.")
@click.option("--rounds", type=click.IntRange(min=1), help="Instead of the file's; more than last time adds rounds.")
@click.option("--fresh", is_flag=True, help="Measure all cells again, also those that are done.")
@click.option("--dry-run", is_flag=True, help="Print how many cells there are and about how long they take.")
def sweep(params: Path, **options: Any) -> None:
    """Measure every cell of a parameter file through notebooks/grid.ipynb, then write the report.

    What is done already, of the same cell, model, code and machine, is not measured again: an interrupted sweep goes on
    where it stopped.

    \b
    Example:
      imdb-serving sweep params/default.yaml
      imdb-serving sweep params/default.yaml --rounds 5
    """
    from imdb_serving.commands.sweep import SweepOptions, run_sweep

    sys.exit(run_sweep(params, SweepOptions(**options)))


@main.command()
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=(*engines_for("cnn"), "null"),
    help="May be given several times.",
)
@click.option("--server-threads", type=click.IntRange(min=1), default=2, help="Workers; clients are one, and as many.")
@click.option("--rounds", type=click.IntRange(min=2), default=8, help="Shuffled passes over all rungs.")
@click.option("--requests", type=click.IntRange(min=1), default=40, help="Of each client, in each block.")
@click.option("--model", default="", help="A bundle's folder; default: outputs/models/cnn, trained when missing.")
@click.option("--outputs", type=click.Path(file_okay=False), default="", help="Default: the project's outputs.")
def ladder(engines: tuple[str, ...], **options: Any) -> None:
    """Measure what each layer between the bare model and the published Flask service costs a request.

    Runs notebooks/ladder.ipynb; writes outputs/ladder/ladder.html and prints the table.

    \b
    Example:
      imdb-serving ladder --server-threads 2 --rounds 8
    """
    from imdb_serving.bench.parameters import LadderParams
    from imdb_serving.commands.ladder import run_ladder_notebook

    run_ladder_notebook(LadderParams(engines=list(engines), **options))


@main.command()
@click.option("--engine", default="null", shell_complete=_engines, help=f"{engines_in_words()}.")
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Of every server.")
@click.option(
    "--clients",
    "client_threads",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 8),
    help="Client processes; may be given several times.",
)
@click.option("--rounds", type=click.IntRange(min=2), default=6, help="Shuffled passes over all systems.")
@click.option("--requests", type=click.IntRange(min=1), default=2500, help="Of a block, shared by its clients.")
@click.option("--model", default="", help="A bundle's folder; default: outputs/models/cnn, trained when missing.")
def bench(client_threads: tuple[int, ...], **options: Any) -> None:
    """Measure our servers beside others in one interleaved run: raw echoes, raw ASGI, plain Flask on gunicorn.

    Writes rows, raw samples and a figure to outputs/bench/ENGINE and prints the tables. Ratios within a round are what
    counts; a machine's own speed drifts.

    \b
    Example:
      imdb-serving bench --engine onnxruntime --rounds 6
    """
    from imdb_serving.bench.parameters import OthersParams
    from imdb_serving.commands.bench import run_bench

    run_bench(OthersParams(client_threads=list(client_threads), **options))


@main.command()
@click.option("--most-workers", type=click.IntRange(min=1), default=48, help="Of the simulated engine.")
@click.option("--most-clients", type=click.IntRange(min=1), default=500, help="Above 16, threads of 16 processes.")
@click.option("--rounds", type=click.IntRange(min=2), default=3, help="Shuffled passes over all points and modes.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=1.0, help="About, of a block.")
def growth(most_workers: int, most_clients: int, **options: Any) -> None:
    """Measure how the cost of serving grows with workers, clients, review length and batch.

    Writes rows, raw samples, tables and a figure to outputs/growth and prints the tables. No model is needed: workers
    are of the simulated engine, and on the other axes the engine answers at once.

    \b
    Example:
      imdb-serving growth --most-clients 100 --rounds 5
    """
    from imdb_serving.bench.parameters import GrowthParams
    from imdb_serving.commands.growth import run_growth

    full = GrowthParams()
    workers = [count for count in full.workers if count <= most_workers]
    clients = [count for count in full.clients if count <= most_clients]
    run_growth(GrowthParams(workers=workers, clients=clients, **options))


@main.command("flask-benchmark")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--samples", type=click.IntRange(min=24), default=2500, help="As published: 2,500.")
@click.option("--server-threads", type=click.IntRange(min=1), default=4, help="Workers.")
def flask_benchmark(model: Path | None, samples: int, server_threads: int) -> None:
    """Print the published Flask table, the published arrangement measured here, and our Flask mode.

    MODEL is a bundle's folder; default: outputs/models/cnn, trained when missing.

    \b
    Example:
      imdb-serving flask-benchmark serving_server_model
    """
    from imdb_serving.commands.flask_benchmark import run_flask_benchmark

    sys.exit(run_flask_benchmark(model, samples, server_threads))


def _probe_options(command: Command) -> Command:
    """Add the options that commands share which start one server and probe it."""
    for option in (
        click.option("--outputs", type=click.Path(file_okay=False), default="", help="Default: the project's outputs."),
        click.option("--seed", type=int, default=2020, help="Of reviews and arrivals."),
        click.option("--distribution", type=click.Choice(["fixed", "exponential"]), default="fixed", help="simulated."),
        click.option("--service-time-ms", type=float, default=5.0, help="simulated: the mean service time."),
        click.option("--server-threads", type=click.IntRange(min=1), default=2, help="Workers."),
        click.option("--engine", default="paddle", shell_complete=_engines, help=f"{engines_in_words()}."),
        click.option("--mode", default="rpc", help="rpc, socket, flask, flask-gateway or flask-dev."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--scenario",
    type=click.Choice(["SingleStream", "Server", "Offline"]),
    default="Server",
    help="One at a time; at drawn times; all at once.",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Server: queries a second to offer.")
@_probe_options
@click.option("--clients", type=click.IntRange(min=1), default=16, help="Threads under LoadGen, else processes.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, help="Of each.")
def mlperf(**options: Any) -> None:
    """Have MLPerf's LoadGen drive our client, then our own load generator do the same, and print both.

    Needs the extra `loadgen`. MODEL is a bundle's folder; default: outputs/models/cnn, trained when missing.

    \b
    Example:
      imdb-serving mlperf --scenario Server --rate 300 --engine simulated
    """
    from imdb_serving.commands.mlperf import run_mlperf

    sys.exit(run_mlperf(**options))


@main.command()
@click.argument("first", metavar="A", type=click.Path(file_okay=False, path_type=Path))
@click.argument("second", metavar="B", type=click.Path(file_okay=False, path_type=Path))
def compare(first: Path, second: Path) -> None:
    """Compare two sweeps' folders cell by cell: what B gained or lost against A, with intervals, against noise.

    The exit code is 0 when B is the same or better, 1 when a cell is worse, 2 when they are not comparable.

    \b
    Example:
      imdb-serving compare outputs/before outputs/default
    """
    from imdb_serving.commands.compare import run_compare

    sys.exit(run_compare(first, second))


@main.command()
@click.option("--net", default="cnn", help="Whose model's kernels are told.")
def doctor(net: str) -> None:
    """Print what this machine is, and what is wrong with it for measuring, with what to do.

    \b
    Example:
      imdb-serving doctor
    """
    from imdb_serving.commands.doctor import run_doctor

    run_doctor(net)


class _Milliseconds(click.ParamType[float]):
    """A time with its unit, as 20ms or 0.5s; a number alone is milliseconds."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        text = str(value).strip()
        factor = 1.0 if text.endswith("ms") else 1000.0 if text.endswith("s") else 1.0
        try:
            number = float(text.removesuffix("s").removesuffix("m")) * factor
        except ValueError:
            number = 0.0
        if not 0 < number < 1e9:
            self.fail(f"{value!r}: expected a time above 0, as 20ms or 0.5s", param, ctx)
        return number


@main.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--p50", type=_Milliseconds(), help="What half of the requests have to take at most.")
@click.option("--p90", type=_Milliseconds(), help="90 % of them.")
@click.option("--p95", type=_Milliseconds(), help="95 %; give one of these.")
@click.option("--p99", type=_Milliseconds(), help="99 %.")
@click.option(
    "--errors", type=click.FloatRange(0, 1), default=0.0, help="Share of requests without an answer, at most."
)
@_probe_options
@click.option("--clients", type=click.IntRange(min=1), default=16, help="Client processes, of the open loop at most.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=2.0, help="About, of a probe.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, help="How often each load is probed.")
def slo(**options: Any) -> None:
    """Find the highest rate (open loop) and the most clients (closed loop) that hold a limit of latency.

    MODEL is a bundle's folder; default: outputs/models/cnn, trained when missing.

    \b
    Example:
      imdb-serving slo --p95 20ms --errors 0
      imdb-serving slo --engine folded --mode socket --p99 2ms
    """
    from imdb_serving.commands.slo import run_slo

    sys.exit(run_slo(**options))


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def report(folder: Path) -> None:
    """Rebuild the report of a sweep from its ledger.

    \b
    Example:
      imdb-serving report outputs/default
    """
    from imdb_serving.commands.report import write_report

    write_report(folder)


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: trace.json in FOLDER.")
@click.option("--requests", type=click.IntRange(min=1), default=200, help="How many, from the middle of the run.")
@click.option("--mode", default="", help="Of a cell of this mode; default: any.")
@click.option("--engine", default="", shell_complete=_engines, help="Of a cell of this engine; default: any.")
@click.option("--server-threads", type=click.IntRange(min=0), default=0, help="With so many; 0: any.")
@click.option("--clients", type=click.IntRange(min=0), default=0, help="With so many; 0: any.")
def trace(folder: Path, **options: Any) -> None:
    """Write requests of a sweep's cell as a trace, across clients, server and workers, for Perfetto or Chrome.

    FOLDER is a sweep's folder with its raw samples. Of the cells that fit, the one of the highest throughput is taken.

    \b
    Example:
      imdb-serving trace outputs/default
      imdb-serving trace outputs/default --mode flask --engine paddle --clients 4 --out flask.json
    """
    from imdb_serving.commands.trace import write_requests

    write_requests(folder, **options)


@main.command()
@click.argument("endpoint")
@click.option("--timeout", type=_Seconds(min=0, min_open=True), default=5.0, help="Seconds to wait for an answer.")
@_shows_credentials
def status(endpoint: str, timeout: float, credentials: Any) -> None:
    """Print what the server at ENDPOINT says of itself, and its metrics if it was started with --metrics-port.

    \b
    Example:
      imdb-serving status tcp://127.0.0.1:9292
    """
    from imdb_serving.commands.status import print_status

    print_status(endpoint, timeout, credentials)


@main.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--client", "clients", multiple=True, default=("client",), help="A client's name; may be given several times."
)
def keys(folder: Path, clients: tuple[str, ...]) -> None:
    """Make keys in FOLDER, for a server that lets in those alone whom it knows, and print how they are used.

    CURVE keys for RPC over ZeroMQ, which is encrypted then, and a token for HTTP. A folder may get more clients later.

    \b
    Example:
      imdb-serving keys keys --client alice --client bob
    """
    from imdb_serving.commands.keys import make_keys

    make_keys(folder, clients)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what has your shell complete commands, options and engines.

    \b
    Example:
      eval "$(imdb-serving completion bash)"
      imdb-serving completion fish > ~/.config/fish/completions/imdb-serving.fish
    """
    from imdb_serving.commands.completion import print_completion

    print_completion(shell, main)

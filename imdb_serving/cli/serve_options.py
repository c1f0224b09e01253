"""A server's options and what follows from them: the engine, limits, keys, its log, and its metrics."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import click

import imdb_serving
from imdb_serving.cli.group import Command, complete_engines
from imdb_serving.config import (
    DEFAULT_ENDPOINT,
    MAX_MESSAGE_BYTES,
    MAX_QUEUE,
    MAX_REVIEW_WORDS,
    MAX_SAMPLES,
    WorkerKind,
)
from imdb_serving.engines.registry import EngineSpec, check_model, engines_in_words, engines_of_imported
from imdb_serving.errors import ConfigError

if TYPE_CHECKING:
    from imdb_serving.messages import Handler, ServerInfo
    from imdb_serving.model.bundle import Bundle
    from imdb_serving.server.rpc.curve import ServerKeys
    from imdb_serving.server.server import Server


MakePipeline: TypeAlias = "Callable[[EngineSpec, Bundle | None], Handler]"


class ServeOptions(NamedTuple):
    """Everything that decides what is served and how. `endpoint` is RPC's; HTTP servers listen on `host` and `port`.

    `pipeline` names one's own as `module:function`, in place of the IMDB pipeline.
    """

    model: Path | None
    engine: EngineSpec
    server_threads: int = 4
    worker_kind: WorkerKind | None = None
    processes: int | None = None
    endpoint: str = DEFAULT_ENDPOINT
    host: str = "127.0.0.1"
    port: int = 9294
    exit_with_stdin: bool = False
    pipeline: str = ""
    server_key: Path | None = None
    client_keys: Path | None = None
    token_file: Path | None = None
    metrics_port: int | None = None
    log: str = ""
    log_level: str = "warning"
    max_queue: int = MAX_QUEUE
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_samples: int = MAX_SAMPLES
    max_review_words: int = MAX_REVIEW_WORDS
    cores: str = ""

    @property
    def server_processes(self) -> int:
        """In how many processes the workers are; 1 says that they are threads of the server's own.

        Where `processes` is None, nobody has chosen yet (`server_processes.decided`). Raises `ConfigError` for a number
        that does not fit.
        """
        if self.kind == "process":
            if self.processes not in {None, self.server_threads}:
                raise ConfigError(
                    f"processes: {self.server_threads} workers of the kind process are as many processes, "
                    f"got {self.processes}; leave --processes out, or add --worker-kind thread"
                )
            return self.server_threads
        if self.processes is not None and self.processes > self.server_threads:
            raise ConfigError(
                f"processes: {self.processes} need as many workers, got {self.server_threads}; "
                f"raise --server-threads, or use fewer"
            )
        return self.processes or 1

    @property
    def worker_processes(self) -> int:
        """In how many processes of their own the workers are; 0 says that they are threads of the server's."""
        count = self.server_processes
        return count if self.kind == "process" or count > 1 else 0

    def check_one_process(self) -> None:
        """Raise `ConfigError` when threads of several processes are asked of a gateway, which has none."""
        if self.kind == "thread" and self.server_processes > 1:
            raise ConfigError("processes: a gateway is one process; serve and flask can have more")

    @property
    def kind(self) -> WorkerKind:
        """The worker kind: as asked, or the one the engine runs best in."""
        return self.worker_kind or self.engine.facts.worker_kind

    def open_bundle(self) -> Bundle | None:
        """Open the model, if there is one; raise when it cannot be opened, or the engine cannot run it."""
        from imdb_serving.model.bundle import open_bundle

        bundle = open_bundle(self.model) if self.model else None
        check_model(self.engine, bundle)
        return bundle

    def tuned(self, bundle: Bundle | None) -> EngineSpec:
        """Decide how the engine runs the model; takes some seconds where that was never found out on this machine."""
        from imdb_serving.engines import tuning

        return tuning.resolve(self.engine, bundle)

    def settle(self) -> None:
        """Stay on the cores that were named, if any; raise `ConfigError` for those that cannot be used."""
        from imdb_serving.processes import parse_cores, pin_server

        if self.cores:
            pin_server(parse_cores(self.cores), self.server_threads, self.engine.math_threads)

    def make_pipeline(self) -> MakePipeline:
        """Return the function that makes a worker's pipeline; raise `ConfigError` when it does not exist."""
        from imdb_serving.pipeline import Limits, imdb_pipeline

        if not self.pipeline:
            limits = Limits(samples=self.max_samples, review_words=self.max_review_words)
            return functools.partial(imdb_pipeline, limits=limits)
        module, _, name = self.pipeline.rpartition(":")
        file = Path(module) if module.endswith(".py") else Path(f"{module}.py")
        sys.path.insert(0, str(file.resolve().parent))  # as `python SCRIPT` has it, for workers as well
        try:
            make: MakePipeline = getattr(import_module(file.stem), name)
        except (ImportError, AttributeError, ValueError) as error:
            expected = "MODULE:FUNCTION or FILE.py:FUNCTION"
            raise ConfigError(f"pipeline {self.pipeline!r}: {error}; expected {expected}") from error
        return make

    def describe(self, bundle: Bundle | None, protocol: str, limit: int) -> ServerInfo:
        """Return what the server says of itself."""
        from imdb_serving.messages import ServerInfo
        from imdb_serving.reader import ANYTHING, FETCH_NAMES, Reading

        reading = Reading.of(bundle) if bundle else ANYTHING
        return ServerInfo(
            protocol=protocol,
            version=imdb_serving.__version__,
            engine=self.engine.name,
            net=bundle.card.net if bundle else "",
            server_threads=self.server_threads,
            worker_kind=self.kind,
            server_processes=self.server_processes,
            feed=reading.feed_names,
            fetch=FETCH_NAMES,
            max_message_bytes=limit,
            pid=os.getpid(),
            labels=bundle.card.labels if bundle else (),
            model=bundle.name if bundle else self.engine.name,
            reads="text" if bundle and bundle.tokenizer is None else "ids",
            input=bundle.card.main.name if bundle else "words",
        )

    def arguments(self) -> list[str]:
        """Return the options of a server like this one, for a process of its own."""
        from imdb_serving.server_process import ServerSpec

        limits = ("max_queue", "max_message_bytes", "max_samples", "max_review_words")
        spec = ServerSpec("rpc", self.engine, self.model, self.server_threads, self.kind, self.pipeline)
        return [
            *spec.arguments,
            *(("--log", self.log, "--log-level", self.log_level) if self.log else ()),
            *(("--cores", self.cores) if self.cores else ()),
            *(part for name in limits for part in (f"--{name.replace('_', '-')}", str(getattr(self, name)))),
        ]

    def keys(self) -> ServerKeys | None:
        """Return the keys for RPC, or None; raise `ConfigError` when one of the two options is missing."""
        if self.token_file is not None:
            raise ConfigError("--token-file is for HTTP; RPC has --server-key and --client-keys")
        if (self.server_key is None) != (self.client_keys is None):
            raise ConfigError("--server-key and --client-keys go together: a key alone would let anybody in")
        if self.server_key is None or self.client_keys is None:
            return None
        from imdb_serving.server.rpc.curve import ServerKeys

        return ServerKeys(self.server_key, self.client_keys)

    def token(self) -> str:
        """Return the token for HTTP, or an empty text; raise `ConfigError` when it cannot be read."""
        from imdb_serving.keys import read_token

        if self.server_key is not None or self.client_keys is not None:
            raise ConfigError("--server-key and --client-keys are for RPC; HTTP has --token-file")
        return read_token(self.token_file) if self.token_file else ""

    def set_up_log(self) -> None:
        """Log as asked; without a word, as logging does by itself."""
        from imdb_serving import logs

        if self.log:
            logs.set_up(self.log, self.log_level)

    def preload(self) -> list[str]:
        """Return what the fork server loads: Paddle takes seconds to import, and workers share its memory."""
        return ["imdb_serving.pipeline", *self.engine.facts.preload]


TIMING = b"\r\nServer-Timing: "


def warn_strangers(endpoint: str, *, guarded: bool) -> None:
    """Warn of a server that others than this host's users can reach, and that asks nobody who they are."""
    import logging
    from ipaddress import ip_address

    scheme, _, rest = endpoint.partition("://")
    host = rest.partition("/")[0].rpartition(":")[0].strip("[]")
    if guarded or scheme in {"ipc", "socket+unix"} or host == "localhost":
        return
    with suppress(ValueError):
        if ip_address(host).is_loopback:
            return
    remedy = {"http": "--token-file", "socket": "tcp:// with keys (imdb-serving keys)"}.get(
        scheme, "--server-key and --client-keys (imdb-serving keys)"
    )
    log = logging.getLogger(__name__)
    log.warning("anybody who can reach %s can use this server; to choose who, see %s", endpoint, remedy)


@contextmanager
def metrics_port(options: ServeOptions, server: Server, *, has_workers: bool = True) -> Iterator[str]:
    """Tell metrics while the block lasts, if asked to; give their address, or an empty text."""
    if options.metrics_port is None:
        yield ""
        return
    from imdb_serving.server.metrics import MetricsPort, ServerCollector, StageTimes

    times = StageTimes()
    server.observed = times.observed
    collector = ServerCollector(server, times, has_workers=has_workers)
    port = MetricsPort(options.host, options.metrics_port, [collector], times, server.info)
    try:
        yield port.url
    finally:
        port.close()


class _Processes(click.ParamType[int | None]):
    """A number of processes, or `auto`, which is None."""

    name = "processes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number; None for `auto`."""
        return None if value == "auto" else click.IntRange(1, 1024).convert(value, param, ctx)


def server_options(port: int) -> Callable[[Command], Command]:
    """Add the options that all servers share."""
    options = (
        click.argument("model", type=click.Path(path_type=Path), required=False),
        click.option("--host", default="127.0.0.1", help="The address to listen on."),
        click.option("--port", type=click.IntRange(0, 65535), default=port, help="The port; 0 picks a free one."),
        click.option("--server-threads", type=click.IntRange(min=1, max=1024), default=4,
                     help="Workers, each with a predictor of its own."),
        click.option("--processes", type=_Processes(), metavar="N|auto",
                     help="serve and flask: processes in which the workers are threads. Default: auto, what suits "
                          "the machine and the engine."),
        click.option("--worker-kind", type=click.Choice(["thread", "process"]),
                     help="Default: what suits the engine."),
        click.option("--engine", default="", shell_complete=complete_engines,
                     help=f"{engines_in_words()}. Default: paddle; of an imported MODEL the first that runs it."),
        click.option("--math-threads", type=click.IntRange(min=1, max=1024), default=1,
                     help="Threads inside one predictor."),
        click.option("--service-time-ms", type=float, default=5.0, help="simulated: the mean service time."),
        click.option("--distribution", type=click.Choice(["fixed", "exponential"]), default="fixed", help="simulated."),
        click.option("--pipeline", default="", metavar="FUNCTION",
                     help="Your own, as MODULE:FUNCTION or FILE.py:FUNCTION, called in each worker."),
        click.option("--server-key", type=click.Path(path_type=Path),
                     help="RPC over ZeroMQ: this server's secret key; see imdb-serving keys."),
        click.option("--client-keys", type=click.Path(path_type=Path),
                     help="RPC over ZeroMQ: the folder with the public keys of known clients."),
        click.option("--token-file", type=click.Path(path_type=Path),
                     help="HTTP: require the bearer token in this file."),
        click.option("--metrics-port", type=click.IntRange(0, 65535), default=None,
                     help="Serve metrics for Prometheus on this port, at /metrics; 0 picks a free one."),
        click.option("--log", type=click.Choice(["text", "json"]), default=None,
                     help="Log to standard error in this form, one line for each event."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning",
                     help="With --log: the least level; info logs every request that fails."),
        click.option("--max-queue", type=click.IntRange(min=0), default=MAX_QUEUE,
                     help="Requests that may wait; others are refused at once as overloaded."),
        click.option("--max-message-bytes", type=click.IntRange(1024, 1 << 31), default=MAX_MESSAGE_BYTES,
                     help="The most bytes of one request."),
        click.option("--max-samples", type=click.IntRange(min=1), default=MAX_SAMPLES,
                     help="The most samples of one request."),
        click.option("--max-review-words", type=click.IntRange(min=1), default=MAX_REVIEW_WORDS,
                     help="The most words of one sample."),
        click.option("--cores", default="", metavar="LIST",
                     help="Use these cores only, for example 0-3,6; each worker has its own where there are enough."),
        click.option("--exit-with-stdin", is_flag=True,
                     help="Stop when standard input ends, as for a server with a parent process."),
    )  # fmt: skip

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def given_options(
    model: Path | None,
    *,
    engine: str,
    math_threads: int,
    service_time_ms: float,
    distribution: Any,
    **others: Any,
) -> ServeOptions:
    """Gather a server's options; without an engine it is the first that runs an imported model, else Paddle."""
    from imdb_serving.engines.registry import EngineSpec

    engine = engine or next(iter(engines_of_imported(model) if model else []), "paddle")
    return ServeOptions(model, EngineSpec(engine, math_threads, service_time_ms, distribution), **others)

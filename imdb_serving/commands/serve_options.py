"""What decides what is served and how: a server's options, and what follows from them. Starts nothing."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import imdb_serving
from imdb_serving import logs
from imdb_serving.config import DEFAULT_ENDPOINT
from imdb_serving.engines import tuning
from imdb_serving.engines.registry import EngineSpec, WorkerKind, check_model
from imdb_serving.errors import ConfigError
from imdb_serving.messages import Handler, ServerInfo
from imdb_serving.model.bundle import Bundle, open_bundle
from imdb_serving.server_process import server_arguments
from imdb_serving.serving.limits import DEFAULT_LIMITS, Limits
from imdb_serving.serving.ops import FEED_NAMES, FETCH_NAMES
from imdb_serving.serving.pipeline import imdb_pipeline
from imdb_serving.transports.keys import read_token
from imdb_serving.transports.rpc.curve import ServerKeys
from imdb_serving.transports.rpc.framing import MAX_MESSAGE_BYTES
from imdb_serving.workers.cores import parse_cores, settle
from imdb_serving.workers.waiting import MAX_QUEUE

MakePipeline = Callable[[EngineSpec, Bundle | None], Handler]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything that decides what is served and how. `endpoint` is RPC's; HTTP servers listen on `host` and `port`.

    `pipeline` names one's own as `module:function`, in place of the IMDB pipeline.
    """

    model: Path | None
    engine: EngineSpec
    server_threads: int = 4
    worker_kind: WorkerKind | None = None
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
    max_samples: int = DEFAULT_LIMITS.samples
    max_review_words: int = DEFAULT_LIMITS.review_words
    cores: str = ""

    @property
    def kind(self) -> WorkerKind:
        """The worker kind: as asked, or the one the engine runs best in."""
        return self.worker_kind or self.engine.facts.worker_kind

    def open_bundle(self) -> Bundle | None:
        """Open the model, if there is one; raise when it cannot be opened, or the engine cannot run it."""
        bundle = open_bundle(self.model) if self.model else None
        check_model(self.engine, bundle)
        return bundle

    def tuned(self, bundle: Bundle | None) -> EngineSpec:
        """Decide how the engine runs the model; takes some seconds where that was never found out on this machine."""
        return tuning.resolve(self.engine, bundle)

    def settle(self) -> None:
        """Stay on the cores that were named, if any; raise `ConfigError` for those that cannot be used."""
        if self.cores:
            settle(parse_cores(self.cores), self.server_threads, self.engine.math_threads)

    def make_pipeline(self) -> MakePipeline:
        """Return what makes a worker's pipeline; raise `ConfigError` when there is no such function."""
        if not self.pipeline:
            limits = Limits(samples=self.max_samples, review_words=self.max_review_words)
            return functools.partial(imdb_pipeline, limits=limits)
        module, _, name = self.pipeline.partition(":")
        sys.path.insert(0, str(Path.cwd()))  # as `python SCRIPT` has it
        try:
            make: MakePipeline = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"pipeline {self.pipeline!r}: {error}; expected MODULE:FUNCTION") from error
        return make

    def describe(self, bundle: Bundle | None, protocol: str, limit: int) -> ServerInfo:
        """Return what the server says of itself."""
        return ServerInfo(
            protocol=protocol,
            version=imdb_serving.__version__,
            engine=self.engine.name,
            net=bundle.card.net if bundle else "",
            server_threads=self.server_threads,
            worker_kind=self.kind,
            feed=FEED_NAMES,
            fetch=FETCH_NAMES,
            max_message_bytes=limit,
            pid=os.getpid(),
        )

    def arguments(self) -> list[str]:
        """Return the options of a server like this one, for a process of its own."""
        limits = ("max_queue", "max_message_bytes", "max_samples", "max_review_words")
        return [
            *server_arguments(self.model, self.engine, self.server_threads, self.kind, self.pipeline),
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
        return ServerKeys(self.server_key, self.client_keys)

    def token(self) -> str:
        """Return the token for HTTP, or an empty text; raise `ConfigError` when it cannot be read."""
        if self.server_key is not None or self.client_keys is not None:
            raise ConfigError("--server-key and --client-keys are for RPC; HTTP has --token-file")
        return read_token(self.token_file) if self.token_file else ""

    def set_up_log(self) -> None:
        """Log as asked; without a word, as logging does by itself."""
        if self.log:
            logs.set_up(self.log, self.log_level)

    def preload(self) -> list[str]:
        """Return what the fork server loads: Paddle takes seconds to import, and workers share its memory."""
        return ["imdb_serving.serving.pipeline", *self.engine.facts.preload]

"""Start an HTTP server: Flask with workers of its own, or Flask in front of an RPC server, as published."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from imdb_serving.commands.serve import announce, stop_when_asked
from imdb_serving.commands.serve_options import MakePipeline, ServeOptions
from imdb_serving.commands.watching import http_stages, metrics_port, warn_strangers
from imdb_serving.config import WAIT_SECONDS
from imdb_serving.errors import ConfigError, ServerStartError
from imdb_serving.server_process import KeptServer
from imdb_serving.transports.connect import wait_for
from imdb_serving.transports.http.app import PROTOCOL, make_app
from imdb_serving.transports.http.backends import Gateway, Workers
from imdb_serving.transports.http.dev import DevServer
from imdb_serving.transports.http.server import HttpServer
from imdb_serving.transports.keys import NOBODY, Credentials
from imdb_serving.transports.rpc.zeromq_client import RpcClient
from imdb_serving.workers.starting import Starter

if TYPE_CHECKING:
    from flask import Flask


class _Server(Protocol):
    url: str

    def run(self, starter: Starter, on_ready: Callable[[], None]) -> None:
        """Serve until `stop`; see `HttpServer.run`."""

    def stop(self) -> None:
        """Ask `run` to return."""


def serve_flask(options: ServeOptions, make_pipeline: MakePipeline | None = None) -> None:
    """Serve over HTTP until SIGINT or SIGTERM, with N workers that each run an own pipeline."""
    options.set_up_log()
    options.settle()
    make_pipeline = make_pipeline or options.make_pipeline()
    bundle = options.open_bundle()
    workers = Workers(
        None,
        options.server_threads,
        options.kind,
        options.describe(bundle, PROTOCOL, options.max_message_bytes),
        options.preload(),
    )
    pool = workers.pool

    def start() -> None:
        workers.set_handler(functools.partial(make_pipeline, options.tuned(bundle), bundle))
        pool.start()

    app = make_app(workers, max_body_bytes=options.max_message_bytes, token=options.token())
    server = _http_server(app, options, pool.replace_stuck if options.kind == "thread" else None)
    starter = Starter(start)
    workers.refusing = starter.refusal
    broken: list[ServerStartError] = []

    def give_up(error: ServerStartError) -> None:
        broken.append(error)
        server.stop()

    pool.on_broken = give_up
    stop_when_asked(server.stop, options)
    try:
        with metrics_port(options, server.crew, pool, workers.info, http_stages) as metrics:
            workers.info = replace(workers.info, metrics=metrics)
            _run(server, starter, "flask", options, metrics)
    finally:
        pool.stop()
        starter.join()
    if broken:
        raise broken[0]


def serve_gateway(options: ServeOptions, rpc: str | None, credentials: Credentials = NOBODY) -> None:
    """Serve over HTTP by asking the RPC server at `rpc`, or one started for this; N threads, each with a client."""
    _serve_front(options, rpc, "flask-gateway", lambda app: _http_server(app, options), credentials=credentials)


def _http_server(
    app: Flask, options: ServeOptions, replace_stuck: Callable[[int | None], None] | None = None
) -> HttpServer:
    return HttpServer(
        app,
        options.host,
        options.port,
        options.server_threads,
        replace_stuck=replace_stuck,
        max_queue=options.max_queue,
    )


def serve_dev(options: ServeOptions, rpc: str | None) -> None:
    """Serve as published: Werkzeug's server with one thread, in front of an RPC server; writes PROFILE lines."""
    _serve_front(options, rpc, "flask-dev", lambda app: DevServer(app, options.host, options.port), profile=True)


def _serve_front(
    options: ServeOptions,
    rpc: str | None,
    mode: str,
    make_server: Callable[[Flask], _Server],
    *,
    profile: bool = False,
    credentials: Credentials = NOBODY,
) -> None:
    options.set_up_log()
    options.settle()
    broken: list[ServerStartError] = []
    if not rpc:
        options.open_bundle()  # what is wrong with the model is said here, not by the process below
        options.make_pipeline()
    gateway = Gateway(rpc or "", credentials)
    app = make_app(gateway, max_body_bytes=options.max_message_bytes, profile=profile, token=options.token())
    server = make_server(app)

    def give_up(error: ServerStartError) -> None:
        broken.append(error)
        server.stop()

    kept = None if rpc else KeptServer(options.arguments(), give_up)

    def start() -> None:
        if kept is not None:
            gateway.endpoint = kept.start()
        else:
            with RpcClient(gateway.endpoint, credentials=credentials) as client:
                wait_for(client, WAIT_SECONDS)

    starter = Starter(start)
    gateway.refusing = starter.refusal
    stop_when_asked(server.stop, options)
    try:
        with _gateways_metrics(server, options) as gateway.metrics:
            _run(server, starter, mode, options, gateway.metrics)
    finally:
        if kept is not None:
            kept.stop()
        starter.join()
    if broken:
        raise broken[0]


def _gateways_metrics(server: _Server, options: ServeOptions) -> AbstractContextManager[str]:
    if isinstance(server, HttpServer):
        info = options.describe(None, PROTOCOL, options.max_message_bytes)
        return metrics_port(options, server.crew, None, info, http_stages)
    if options.metrics_port is not None:
        raise ConfigError("flask-dev counts nothing: leave out --metrics-port, or use flask-gateway")
    return nullcontext("")


def _run(server: _Server, starter: Starter, mode: str, options: ServeOptions, metrics: str = "") -> None:
    warn_strangers(server.url, guarded=options.token_file is not None)
    server.run(starter, lambda: announce(mode, server.url, options, metrics))

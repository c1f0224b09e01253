"""`imdb-serving flask`, `flask-gateway` and `flask-dev`: HTTP servers with workers of their own, or in front of RPC."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from imdb_serving.cli import group
from imdb_serving.cli.serve import announce, stop_when_asked
from imdb_serving.cli.serve_options import (
    MakePipeline,
    ServeOptions,
    given_options,
    http_stages,
    metrics_port,
    server_options,
    warn_strangers,
)
from imdb_serving.config import WAIT_SECONDS
from imdb_serving.errors import ConfigError, ServerStartError

if TYPE_CHECKING:
    from flask import Flask

    from imdb_serving.keys import Credentials
    from imdb_serving.server.http_server import DevServer, HttpServer
    from imdb_serving.server.startup import Starter

    Server: TypeAlias = HttpServer | DevServer


def serve_flask(options: ServeOptions, make_pipeline: MakePipeline | None = None) -> None:
    """Serve over HTTP until SIGINT or SIGTERM, with N workers that each run an own pipeline."""
    from imdb_serving.server.app import PROTOCOL, Workers, make_app
    from imdb_serving.server.startup import Starter

    options.set_up_log()
    options.check_one_process()
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
        with metrics_port(options, server.threads, pool, workers.info, http_stages) as metrics:
            workers.info = replace(workers.info, metrics=metrics)
            _run(server, starter, "flask", options, metrics)
    finally:
        pool.stop()
        starter.join()
    if broken:
        raise broken[0]


def serve_gateway(options: ServeOptions, rpc: str | None, credentials: Credentials) -> None:
    """Serve over HTTP by asking the RPC server at `rpc`, or one started for this; N threads, each with a client."""
    _serve_listener(options, rpc, "flask-gateway", lambda app: _http_server(app, options), credentials=credentials)


def _http_server(
    app: Flask, options: ServeOptions, replace_stuck: Callable[[int | None], None] | None = None
) -> HttpServer:
    from imdb_serving.server.http_server import HttpServer

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
    from imdb_serving.server.http_server import DevServer

    _serve_listener(options, rpc, "flask-dev", lambda app: DevServer(app, options.host, options.port), profile=True)


def _serve_listener(
    options: ServeOptions,
    rpc: str | None,
    mode: str,
    make_server: Callable[[Flask], Server],
    *,
    profile: bool = False,
    credentials: Credentials | None = None,
) -> None:
    from imdb_serving.clients.connect import wait_for
    from imdb_serving.clients.zeromq import RpcClient
    from imdb_serving.gateway import Gateway
    from imdb_serving.server.app import make_app
    from imdb_serving.server.startup import Starter
    from imdb_serving.server_process import KeptServer

    options.set_up_log()
    options.check_one_process()
    options.settle()
    broken: list[ServerStartError] = []
    if not rpc:
        options.open_bundle()  # what is wrong with the model is said here, not by the process below
        options.make_pipeline()
    from imdb_serving.keys import NOBODY

    credentials = credentials or NOBODY
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


def _gateways_metrics(server: Server, options: ServeOptions) -> AbstractContextManager[str]:
    from imdb_serving.server.app import PROTOCOL
    from imdb_serving.server.http_server import HttpServer

    if isinstance(server, HttpServer):
        info = options.describe(None, PROTOCOL, options.max_message_bytes)
        return metrics_port(options, server.threads, None, info, http_stages)
    if options.metrics_port is not None:
        raise ConfigError("flask-dev counts nothing: leave out --metrics-port, or use flask-gateway")
    return nullcontext("")


def _run(server: Server, starter: Starter, mode: str, options: ServeOptions, metrics: str = "") -> None:
    warn_strangers(server.url, guarded=options.token_file is not None)
    server.run(starter, lambda: announce(mode, server.url, options, metrics))


@group.command()
@server_options(port=9294)
def flask(**options: Any) -> None:
    """Serve MODEL over HTTP: Flask with as many workers as server threads.

    Predictions are POSTed to /PaddleServing/v1.0/prediction; the page at / shows how, and lets you try.

    \b
    Example:
      imdb-serving flask serving_server_model --server-threads 4 --port 9294
    """
    serve_flask(given_options(**options))


_rpc = click.option("--rpc", help="The RPC server to ask, as tcp://HOST:PORT; default: one is started with MODEL.")


@group.command("flask-gateway")
@server_options(port=9294)
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
    from imdb_serving.keys import Credentials

    serve_gateway(given_options(**options), rpc, Credentials(rpc_client_key, rpc_server_public_key))


@group.command("flask-dev")
@server_options(port=9294)
@_rpc
def flask_dev(rpc: str | None, **options: Any) -> None:
    """Serve over HTTP to the letter of the published benchmark: Werkzeug's server, one thread, in front of RPC.

    Server threads are those of the RPC server. For each prediction one line goes to standard error:
    `PROFILE flask_cost: ... total_cost: ...`, seconds spent by Flask itself and in all.

    \b
    Example:
      imdb-serving flask-dev serving_server_model
    """
    serve_dev(given_options(**options), rpc)

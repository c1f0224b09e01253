"""`imdb-serving flask`, `flask-gateway` and `flask-dev`: HTTP servers with workers of their own, or in front of RPC."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.serve import announce, stop_when_asked
from imdb_serving.cli.serve_options import (
    MakePipeline,
    ServeOptions,
    given_options,
    metrics_port,
    server_options,
    warn_strangers,
)
from imdb_serving.cli.server_processes import decided
from imdb_serving.config import WAIT_SECONDS
from imdb_serving.errors import ConfigError, ServerStartError

if TYPE_CHECKING:
    from imdb_serving.keys import Credentials
    from imdb_serving.messages import ServerInfo
    from imdb_serving.model.bundle import Bundle
    from imdb_serving.server.http.service import HttpServer


def serve_flask(
    options: ServeOptions, make_pipeline: MakePipeline | None = None, *, choose_processes: bool = False
) -> None:
    """Serve over HTTP until SIGINT or SIGTERM, with N workers that each run an own pipeline; else as `serve_rpc`."""
    from imdb_serving.server.http.app import make_worker_app

    options.set_up_log()
    options.settle()
    bundle = options.open_bundle()
    if choose_processes:
        options = decided(options, "flask", bundle)
    make_pipeline = make_pipeline or options.make_pipeline()
    settings = {**_settings(options), "model": functools.partial(str, bundle.name if bundle else options.engine.name)}

    def prepare() -> None:
        make_handler = functools.partial(make_pipeline, options.tuned(bundle), bundle)
        server.set_handler(functools.partial(make_worker_app, make_handler, **settings))

    preload = [*options.preload(), make_worker_app.__module__]
    server = _http_server(options, bundle, options.worker_processes, prepare=prepare, preload=preload)
    _run_http(server, "flask", options)


def serve_gateway(options: ServeOptions, rpc: str | None, credentials: Credentials) -> None:
    """Serve over HTTP by asking the RPC server at `rpc`, or one started for this; N threads, each with a client."""
    from imdb_serving.gateway import Gateway, make_gateway_app

    options.set_up_log()
    options.check_one_process()
    options.settle()
    gateway = Gateway(rpc or "", credentials)

    def prepare() -> None:
        gateway.endpoint = rpc_server.start()
        server.set_handler(functools.partial(make_gateway_app, gateway.endpoint, credentials, **_settings(options)))

    def describe() -> ServerInfo:
        return replace(gateway.describe(), metrics=server.info.metrics)

    server = _http_server(options, None, 0, prepare=prepare, describe=describe)
    rpc_server = _RpcServer(options, rpc, credentials, server.give_up)
    try:
        _run_http(server, "flask-gateway", options, has_workers=False)
    finally:
        rpc_server.stop()


class _RpcServer:
    """The RPC server that a gateway asks: another one's, or one that is started for it."""

    def __init__(
        self,
        options: ServeOptions,
        rpc: str | None,
        credentials: Credentials,
        on_end: Callable[[ServerStartError], None],
    ) -> None:
        """Take where it is, if it is another one's; what is wrong with the model is said here, not by its process.

        `on_end` is called when one that was started cannot be kept.
        """
        from imdb_serving.server_process import KeptServer

        self._endpoint, self._credentials = rpc or "", credentials
        self._kept = None
        if not rpc:
            options.open_bundle()
            options.make_pipeline()
            self._kept = KeptServer(options.arguments(), on_end)

    def start(self) -> str:
        """Wait until it answers; return its endpoint."""
        from imdb_serving.clients.connect import wait_for
        from imdb_serving.clients.zeromq import RpcClient

        if self._kept is not None:
            return self._kept.start()
        with RpcClient(self._endpoint, credentials=self._credentials) as client:
            wait_for(client, WAIT_SECONDS)
        return self._endpoint

    def stop(self) -> None:
        """Stop it, if it was started."""
        if self._kept is not None:
            self._kept.stop()


def _settings(options: ServeOptions) -> dict[str, Any]:
    return {"max_body_bytes": options.max_message_bytes, "token": options.token()}


def _http_server(options: ServeOptions, bundle: Bundle | None, processes: int, **more: Any) -> HttpServer:
    from imdb_serving.server.http.app import PROTOCOL, make_app
    from imdb_serving.server.http.service import HttpServer, HttpService

    make = functools.partial(make_app, **_settings(options))
    service = HttpService(options.host, options.port, options.max_message_bytes, make)
    info = options.describe(bundle, PROTOCOL, options.max_message_bytes)
    return HttpServer(service, options.server_threads, processes, info, max_queue=options.max_queue, **more)


def _run_http(server: HttpServer, mode: str, options: ServeOptions, *, has_workers: bool = True) -> None:
    """Run it; a gateway has no workers of its own to tell metrics of."""
    warn_strangers(server.url, guarded=options.token_file is not None)
    stop_when_asked(server.stop, options)
    metrics = metrics_port(options, server, has_workers=has_workers)
    server.run(lambda endpoint: announce(mode, endpoint, options, server.info.metrics), metrics)


def serve_dev(options: ServeOptions, rpc: str | None) -> None:
    """Serve as published: Werkzeug's server with one thread, in front of an RPC server; writes PROFILE lines."""
    from imdb_serving.gateway import Gateway
    from imdb_serving.keys import NOBODY
    from imdb_serving.server.http.app import make_app
    from imdb_serving.server.http.service import DevServer
    from imdb_serving.server.startup import Starter

    options.set_up_log()
    options.check_one_process()
    options.settle()
    if options.metrics_port is not None:
        raise ConfigError("flask-dev counts nothing: leave out --metrics-port, or use flask-gateway")
    gateway, broken = Gateway(rpc or ""), []
    app = make_app(gateway.describe, gateway.answer, profile=True, model=gateway.model, **_settings(options))
    server = DevServer(app, options.host, options.port)

    def give_up(error: ServerStartError) -> None:
        broken.append(error)
        server.stop()

    def start() -> None:
        gateway.endpoint = rpc_server.start()

    rpc_server = _RpcServer(options, rpc, NOBODY, give_up)
    starter = Starter(start)
    gateway.refusing = starter.refusal
    stop_when_asked(server.stop, options)
    warn_strangers(server.url, guarded=options.token_file is not None)
    try:
        server.run(starter, lambda: announce("flask-dev", server.url, options))
    finally:
        rpc_server.stop()
        starter.join()
    for error in broken:
        raise error


@group.command()
@server_options(port=9294)
def flask(**options: Any) -> None:
    """Serve MODEL over HTTP: Flask with as many workers as server threads.

    Predictions are POSTed to /PaddleServing/v1.0/prediction; the page at / shows how, and lets you try.

    \b
    Example:
      imdb-serving flask serving_server_model --server-threads 4 --port 9294
    """
    serve_flask(given_options(**options), choose_processes=True)


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

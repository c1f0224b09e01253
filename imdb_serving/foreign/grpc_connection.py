"""One kept gRPC channel to a server: a message goes out, its answer comes in. Knows no message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imdb_serving.clients.http_connection import Answer, late
from imdb_serving.errors import ConfigError, ServerUnavailable, UnexpectedAnswer

OK = 200


def is_installed() -> bool:
    """Tell whether grpcio is there, which is an extra."""
    try:
        import grpc  # noqa: F401, PLC0415 - an extra
    except ImportError:
        return False
    return True


class GrpcConnection:
    """A channel to one server, made with the first request and used in one thread. No proxy is asked.

    It is a connection of its own, also beside others of this process. After an error that may have ended it, the next
    request makes another one.
    """

    def __init__(self, url: str, headers: Mapping[str, str], max_answer_bytes: int, authorities: str = "") -> None:
        """Take `grpc://HOST:PORT`, or `grpcs` for TLS, and the file of authorities, if not gRPC's own are asked."""
        self._url, self._place = url, urlsplit(url).netloc
        self._metadata = [(name.lower(), value) for name, value in headers.items()]
        self._authorities = authorities
        self._options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", max_answer_bytes),
        ]
        self._channel: Any = None
        self._calls: dict[str, Any] = {}

    def exchange(self, method: str, message: bytes, timeout: float) -> Answer:
        """Send a message, once, and return its answer within so many seconds, or raise a typed error."""
        import grpc  # noqa: PLC0415 - an extra

        call = self._calls.get(method) or self._call(method)
        try:
            return Answer(OK, b"", call(message, timeout=timeout, metadata=self._metadata), True)
        except grpc.RpcError as error:
            code, words = error.code(), error.details()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise late(self._url, timeout)
        if code is grpc.StatusCode.UNAVAILABLE:
            self.close()
            raise ServerUnavailable(f"no server answers at {self._url} ({words})")
        raise UnexpectedAnswer(f"status {code.name}: {words}", f"status {code.name}")

    def _call(self, method: str) -> Any:
        self._channel = self._channel or self._connected()
        self._calls[method] = self._channel.unary_unary(method)  # without a serialiser: bytes
        return self._calls[method]

    def _connected(self) -> Any:
        import grpc  # noqa: PLC0415 - an extra

        if not self._url.startswith("grpcs:"):
            return grpc.insecure_channel(self._place, self._options)
        try:
            authorities = Path(self._authorities).read_bytes() if self._authorities else None
        except OSError as error:
            raise ConfigError(f"cannot read the authorities in {self._authorities}: {error.strerror}") from error
        return grpc.secure_channel(self._place, grpc.ssl_channel_credentials(authorities), self._options)

    def close(self) -> None:
        """End the channel."""
        if self._channel is not None:
            self._channel.close()
        self._channel, self._calls = None, {}

"""The exchange of `HttpConnection` through urllib3: for TLS and proxies. It costs the client several times as much."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError, SSLError

from imdb_serving.clients.http_connection import Answer, late, too_long
from imdb_serving.errors import RemoteFailure, ServerUnavailable


def proxy_of(url: str) -> str:
    """Return the proxy that the environment names for a URL (https_proxy, no_proxy, ...); empty for none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in {"", "localhost", "127.0.0.1", "::1"} or urllib.request.proxy_bypass(host):
        return ""
    return urllib.request.getproxies().get(parts.scheme, "")


class Route(NamedTuple):
    """How requests reach a server: by a proxy or none, and the file of the authorities that vouch for it.

    Without a file those of the system are asked.
    """

    proxy: str = ""
    authorities: str = ""


def route_to(url: str) -> Route | None:
    """Return the route that a URL needs and this process's environment names; None for plain HTTP without a proxy."""
    proxy = proxy_of(url)
    if not proxy and not url.startswith(("https:", "grpcs:")):
        return None
    return Route(proxy, os.environ.get("SSL_CERT_FILE", ""))


class LibraryConnection:
    """A pool of one connection to a server, which is kept while the server keeps it; for one thread."""

    def __init__(self, url: str, max_answer_bytes: int, route: Route) -> None:
        """Take `https://HOST:PORT` or `http://HOST:PORT`, the longest answer that is read, and the route there."""
        self._url, self._max_answer_bytes = url.rstrip("/"), max_answer_bytes
        self._pool: urllib3.PoolManager
        authorities = route.authorities or None
        if route.proxy:
            self._pool = urllib3.ProxyManager(route.proxy, ca_certs=authorities)
        else:
            self._pool = urllib3.PoolManager(ca_certs=authorities)

    def exchange(self, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout: float) -> Answer:
        """Send a request, once, and return its answer within so many seconds, or raise a typed error."""
        url = self._url + path
        try:
            answer = self._pool.request(
                method,
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(total=timeout),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            data = answer.read(self._max_answer_bytes + 1)
            answer.release_conn()
        except (ConnectTimeoutError, ReadTimeoutError):
            raise late(self._url, timeout) from None
        except SSLError as error:
            raise ServerUnavailable(f"no server that can be trusted answers at {self._url}: {error}") from error
        except (HTTPError, OSError) as error:
            raise ServerUnavailable(f"no server answers at {self._url} ({error})") from error
        if len(data) > self._max_answer_bytes:
            raise RemoteFailure(too_long(self._url, self._max_answer_bytes))
        head = "\r\n".join(["", *(f"{name}: {value}" for name, value in answer.headers.items())])
        return Answer(answer.status, head.encode("latin-1", "replace"), data, True)

    def close(self) -> None:
        """End the connection."""
        self._pool.clear()

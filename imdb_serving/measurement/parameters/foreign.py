"""The parameters of a server of someone else, and their checks: a command or a URL, a request, an answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import msgspec

from imdb_serving.cell import FOREIGN, digest
from imdb_serving.clients.http_connection import split_endpoint
from imdb_serving.config import MAX_TIMEOUT
from imdb_serving.errors import BadRequest, ConfigError, did_you_mean
from imdb_serving.foreign import grpc_connection
from imdb_serving.foreign.client import OIP, OIP_GRPC, Call, compile_answer, schemes_of
from imdb_serving.foreign.oip_grpc import INFER
from imdb_serving.foreign.process import is_this_machine, words_of
from imdb_serving.foreign.templates import TextTemplate
from imdb_serving.measurement.parameters.texts import OF_TEXTS, TextFields
from imdb_serving.packages import install
from imdb_serving.protocol.json_bodies import PREDICTION_PATH
from imdb_serving.text import rows

PADDLE = "paddle"
PROTOCOLS = ("", PADDLE, OIP, OIP_GRPC)
OF_METADATA = (OIP, OIP_GRPC)
"""Protocols whose requests are made of the model's metadata."""

PADDLE_BODY = (
    '{"feed": [{% for sample in samples %}{"words": {{ sample.ids }}}{{ "," if not loop.last }}{% endfor %}], '
    '"fetch": ["prediction"]}'
)
COUNTS = ("server_threads", "math_threads")
COMMAND_NAMES = (*COUNTS, "host", "port", "engine", "model", "python")
"""What a command and its environment can name."""

BODY_NAMES = ("text", "words", "ids", "label", "row", "samples")
"""What a request's body can name: of its one sample, or all of them."""

ALONE = ("answer", "protocol", *OF_TEXTS)
"""Entries that are in no section."""

SECTIONS: dict[str, tuple[str, ...]] = {
    "server": ("name", "command", "url", "ready", "ready_seconds", "environment", "directory", "remote", "model"),
    "request": ("method", "path", "body", "headers", "binary"),
}
"""Sections of a parameter file; notebooks write `server_command` for the command of `server`."""

FIELDS = (*(f"{section}_{name}" for section, names in SECTIONS.items() for name in names), *ALONE)

_NAME = re.compile(r"\w[\w .+-]{0,40}")
_METADATA_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")


def unfold(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a file's values with its sections' entries by their whole names; raise `ConfigError` for unknown ones."""
    flat = {name: value for name, value in values.items() if name not in SECTIONS}
    for section, names in SECTIONS.items():
        entries = values.get(section, {})
        if not isinstance(entries, dict):
            raise ConfigError(f"{where}: {section}: expected 'name: value' lines, indented ({', '.join(names)})")
        for name, value in entries.items():
            if name not in names:
                raise ConfigError(f"{where}: {section}: unknown parameter {name!r}{did_you_mean(str(name), names)}")
            texts = isinstance(value, dict)
            place = f"{where}: {section}.{name}"
            flat[f"{section}_{name}"] = (
                {str(key): _text(one, f"{place}.{key}") for key, one in value.items()} if texts else value
            )
    return flat


def folded(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema's properties by name as files have them: entries of a section within it."""
    made = {name: kind for name, kind in properties.items() if name not in FIELDS or name in ALONE}
    for section, names in SECTIONS.items():
        entries = {name: properties[f"{section}_{name}"] for name in names}
        made[section] = {"type": "object", "properties": entries, "additionalProperties": False}
    return made


def _text(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigError(f"{place}: expected a text or a number, got {value!r}; quote it")
    return str(value)


class ForeignFields(TextFields, frozen=True, kw_only=True):
    """What is said of a server of someone else (mode `http`).

    `server_command` starts it (a template), and `server_environment` is added to its environment; one that runs has a
    `server_url`. It is ready when the path `server_ready`, if any, is answered below status 400, and the first request
    is answered, within `server_ready_seconds`. `request_body` and `request_headers` are templates as well. `answer` is
    a JMESPath expression of the answer's value. With `server_remote` the URL may be another machine's.

    A `protocol` says what requests look like instead of a body: `paddle`, the published bodies; `oip`, the Open
    Inference Protocol v2, whose metadata of `server_model` says which inputs there are, with `request_binary` tensors;
    `oip-grpc`, the same over gRPC, with a URL as `grpc://HOST:PORT` and headers as metadata.
    """

    server_name: str = ""
    server_command: str = ""
    server_url: str = ""
    server_ready: str = ""
    server_ready_seconds: float = 60.0
    server_environment: dict[str, str] = msgspec.field(default_factory=dict)
    server_directory: str = ""
    server_remote: bool = False
    server_model: str = ""
    request_method: str = "POST"
    request_path: str = "/"
    request_body: str = ""
    request_headers: dict[str, str] = msgspec.field(default_factory=dict)
    request_binary: bool = False
    answer: str = ""
    protocol: str = ""

    @property
    def server_label(self) -> str:
        """What the server is called: as named, or as its program or host."""
        if self.server_name:
            return self.server_name
        if not self.server_command:
            return urlsplit(self.server_url).netloc
        words = [word for word in shlex.split(re.sub(r"\{\{.*?\}\}", "_", self.server_command)) if "=" not in word]
        if "-m" in words[:-1]:
            return words[words.index("-m") + 1]
        scripts = [PurePath(word).stem for word in words if word.endswith(".py")]
        return scripts[0] if scripts else PurePath(words[0]).name

    def request_of(self, batch: int) -> tuple[str, str, str]:
        """Return the path, the body's template and the answer's expression: those given, or the protocol's."""
        path, body, answer = self.request_path, self.request_body, self.answer
        if self.protocol == PADDLE:
            path = path if path != "/" else PREDICTION_PATH
            body = body or PADDLE_BODY
            answer = answer or ("result.prediction[*][1]" if batch > 1 else "result.prediction[0][1]")
        elif self.protocol == OIP:
            path = path if path != "/" else f"/v2/models/{self.server_model}/infer"
        elif self.protocol == OIP_GRPC:
            path = INFER
        return path, body, answer

    @property
    def description(self) -> dict[str, Any]:
        """All that makes this server and its requests what they are, as written: templates, and nothing rendered."""
        return {name: getattr(self, name) for name in FIELDS}

    @property
    def fingerprint(self) -> str:
        """What distinguishes this server, its requests and what they are made of; raises `DataError` for no file."""
        return digest(self.description, rows.checksum(self.data_file) if self.data else "")

    def has_server(self) -> bool:
        """Tell whether a server of someone else is named."""
        return bool(self.server_command or self.server_url)


def check_foreign(params: Any, counts: Mapping[str, Sequence[int]], batch: int) -> None:
    """Refuse what cannot be measured of a server of someone else; `counts` are those that the grid varies or fixes."""
    _check_place(params)
    _check_request(params, batch)
    if params.server_name and not _NAME.fullmatch(params.server_name):
        raise ConfigError(f"server.name: at most 40 letters, digits, spaces and .+-, got {params.server_name!r}")
    if not 0 < params.server_ready_seconds <= MAX_TIMEOUT:
        raise ConfigError(f"server.ready_seconds: must be above 0, got {params.server_ready_seconds}")
    used = names_of_command(params)
    for name, several in counts.items():
        if len(several) > 1 and name not in used:
            what = "command does not use it" if params.server_command else "server runs already, with one count"
            listed = ", ".join(map(str, several))
            raise ConfigError(
                f"{name}: the grid varies it ({listed}) and the {what}, so all rows would be the same; write "
                f"{{{{ {name} }}}} into server.command or server.environment, or one count: {name}: [{several[0]}]"
            )


def names_of_command(params: Any) -> set[str]:
    """Return the names that a command and its environment use; raise `ConfigError` for what cannot be a command."""
    texts = {"command": params.server_command, **{f"environment.{k}": v for k, v in params.server_environment.items()}}
    templates = [TextTemplate(text, f"server.{place}", COMMAND_NAMES) for place, text in texts.items()]
    if not params.server_command:
        return set()
    words_of(re.sub(r"\{\{.*?\}\}", "_", params.server_command))
    if "port" not in set().union(*(template.names for template in templates)) and not params.server_url:
        raise ConfigError(
            "server.command: it does not use {{ port }}, so nobody knows where it listens; write it where the command "
            "takes the port, or add server.url"
        )
    return set().union(*(template.names for template in templates))


def _check_place(params: Any) -> None:
    if not params.has_server():
        raise ConfigError(f"server: mode {FOREIGN} needs server.command, or server.url for one that runs already")
    for name, path in (("server.ready", params.server_ready), ("request.path", params.request_path)):
        if path and (not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path):
            raise ConfigError(f"{name}: expected a path as /predict, got {path!r}")
    if not params.server_url:
        return
    try:
        host = split_endpoint(params.server_url, schemes_of(params.protocol)).hostname or ""
    except BadRequest as error:
        raise ConfigError(f"server.url: {error}") from None
    if not params.server_remote and not is_this_machine(host):
        raise ConfigError(
            f"server.url: {host} is not this machine; a sweep sends it all that it can take. If you may do that, say "
            "server.remote: true, or --remote"
        )


def _check_request(params: Any, batch: int) -> None:
    if params.protocol not in PROTOCOLS:
        raise ConfigError(f"protocol: unknown value {params.protocol!r}{did_you_mean(params.protocol, PROTOCOLS[1:])}")
    _check_protocol(params)
    path, text, answer = params.request_of(batch)
    body = TextTemplate(text, "request.body", BODY_NAMES)
    if batch > 1 and text and "samples" not in body.names:
        raise ConfigError(f"request.body: with a batch of {batch} it has to use `samples`, a list of {batch}")
    for name, text in params.request_headers.items():
        TextTemplate(text, f"request.headers.{name}", ())
    if not re.fullmatch(r"[A-Z]+", params.request_method):
        raise ConfigError(f"request.method: expected POST, say, got {params.request_method!r}")
    compile_answer(answer)
    headers = dict.fromkeys(params.request_headers, "x")
    _ = Call(params.server_url or "http://127.0.0.1", path, params.request_method, headers).head


def _check_protocol(params: Any) -> None:
    if params.protocol in OF_METADATA and not params.server_model:
        raise ConfigError("server.model: the Open Inference Protocol asks for a model by its name; name it")
    if params.protocol in OF_METADATA and params.request_body:
        raise ConfigError(
            f"request.body: protocol {params.protocol} makes it of the model's metadata; leave out one of them"
        )
    if params.request_binary and params.protocol not in OF_METADATA:
        raise ConfigError(f"request.binary: binary tensors are of the protocols {' and '.join(OF_METADATA)}")
    if params.protocol != OIP_GRPC:
        return
    if not grpc_connection.is_installed():
        raise ConfigError(f"protocol: oip-grpc needs grpcio; install it with: {install('grpc')}")
    for name, usual in (("server_ready", ""), ("request_path", "/"), ("request_method", "POST")):
        if getattr(params, name) != usual:
            raise ConfigError(f"{name.replace('_', '.')}: it is of HTTP, and protocol oip-grpc has none; leave it out")
    for name in params.request_headers:
        if not _METADATA_NAME.fullmatch(name.lower()):
            raise ConfigError(f"request.headers.{name}: gRPC's metadata have names of letters, digits, _, - and .")

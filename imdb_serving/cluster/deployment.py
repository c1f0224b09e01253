"""The machines of a cluster as a deployment: which nodes are alike, and servers and clients on them.

Cells are compared only on machines that are alike, by their environment cards. The survey of the nodes is kept beside
the ledger, so that the sweep's notebooks, which are processes of their own, agree and disturb no node that measures.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from imdb_serving.cell import LOCAL_MODES
from imdb_serving.clients.connect import connect
from imdb_serving.cluster import ray_nodes
from imdb_serving.cluster.host import archive_of
from imdb_serving.cluster.remote import HostsTarget, RemoteHost, RemoteSession, ServerOrder, at_once, shared_cores
from imdb_serving.config import whole_file
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import ConfigError, DataError, HostLost
from imdb_serving.load.client_processes import Connect
from imdb_serving.measurement.deployment import local_client
from imdb_serving.measurement.environment import Card, code_digest, identity, read_card, write_card
from imdb_serving.measurement.inputs import model_id
from imdb_serving.measurement.ledger import Ledger, exclusive
from imdb_serving.measurement.measure import Round, Session, Target
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.server_process import READY_SECONDS

FILE = "nodes.json"
UNLIKE = ("cpu", "architecture", "cores", "cores_allowed", "cpu_quota", "memory_gib", "system", "python", "code")


class Survey(msgspec.Struct):
    """What is known of nodes, by id: the ids of their cards, one for each model, and the CPUs that Ray reports.

    The card of no model, under the empty name, is that of a machine for clients.
    """

    cards: dict[str, dict[str, str]] = {}
    cpus: dict[str, float] = {}


def read_survey(folder: Path) -> Survey:
    """Return the survey beside a ledger; an empty one where there is none yet."""
    path = folder / FILE
    if not path.is_file():
        return Survey()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Survey)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged: {error}; remove it, and the nodes are surveyed again") from error


def write_survey(folder: Path, survey: Survey) -> None:
    """Keep what is known beside a ledger."""
    with whole_file(folder / FILE) as unfinished:
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(survey), indent=1) + b"\n")


def choose(survey: Survey, alive: Sequence[str], model: str, servers: int, clients: int) -> tuple[list[str], list[str]]:
    """Return the nodes that may have servers, and those that may have clients only.

    All are alike where enough are. Else servers are alike, and so are clients. Raises `ConfigError` when there are not
    even so many.
    """
    by_server = _groups(survey, alive, model)
    for group in by_server:
        if len(group) >= servers + clients:
            return group, group
    for group in by_server:
        rest = [node for node in alive if node not in group]
        for others in _groups(survey, rest, ""):
            if len(group) >= servers and len(others) >= clients:
                return group, others
    alike = max((len(group) for group in by_server), default=0)
    raise ConfigError(
        f"cluster: a cell needs {servers + clients} nodes, {servers} of them with servers and alike; there are "
        f"{len(alive)}, {alike} of them alike; start more nodes, or set placement and server_nodes to fewer"
    )


def _groups(survey: Survey, nodes: Sequence[str], model: str) -> list[list[str]]:
    """Return the nodes by card and CPUs, the largest group first."""
    groups: dict[tuple[str, float], list[str]] = {}
    for node in nodes:
        if model in survey.cards.get(node, {}):
            groups.setdefault((survey.cards[node][model], survey.cpus[node]), []).append(node)
    return sorted(groups.values(), key=len, reverse=True)


def difference(one: Card, other: Card) -> str:
    """Return in words in what two machines differ, the second from the first."""
    words = [
        f"{name} {other.get(name)} instead of {one.get(name)}" for name in UNLIKE if one.get(name) != other.get(name)
    ]
    words += [
        f"{name} {theirs or 'none'} instead of {ours or 'none'}"
        for name in dict(one.get("packages", {})) | dict(other.get("packages", {}))
        if (ours := _of(one, "packages", name)) != (theirs := _of(other, "packages", name))
    ]
    kernels = {name: _kernel(one, name) for name in one.get("engines", {})}
    words += [
        f"engine {name} {_kernel(other, name) or 'not known'} instead of {kernel}"
        for name, kernel in kernels.items()
        if kernel != _kernel(other, name)
    ]
    return ", ".join(words) or "the CPUs that Ray was told of"


def _of(card: Card, part: str, name: str) -> Any:
    found: Mapping[str, Any] = card.get(part, {})
    return found.get(name)


def _kernel(card: Card, engine: str) -> str:
    found = _of(card, "engines", engine)
    return str(found["variant"]) if found else ""


FREE_SECONDS = 900.0
"""For nodes that other cells have."""

CARD_SECONDS = 600.0
MODEL_SECONDS = 120.0
LOOKING_SECONDS = 1800.0


class ClusterDeployment:
    """The cluster at an address."""

    def __init__(self, address: str) -> None:
        """Join it; raise `ConfigError` when there is none, or Ray is not installed."""
        ray_nodes.join(address)
        self._chosen: tuple[list[ray_nodes.Node], list[ray_nodes.Node]] = ([], [])
        self._servers: list[RemoteHost] = []
        self._clients: list[RemoteHost] = []

    @contextmanager
    def locked_folder(self, folder: Path) -> Iterator[None]:
        """Create the folder only: each cell has nodes to itself, so several runs may measure at once."""
        folder.mkdir(parents=True, exist_ok=True)
        yield

    def start_round(self, params: GridParams, ledger: Ledger) -> Round:
        spec = params.server
        model = model_id(spec.model)
        survey = self.look(ledger.folder, {model: [spec.engine]}, {model: spec.model})
        nodes = {node.id: node for node in ray_nodes.nodes() if node.cpus >= params.node_cores}
        if not nodes:
            raise ConfigError(
                f"node_cores: no node of the cluster has {params.node_cores}; the largest has "
                f"{max((node.cpus for node in ray_nodes.nodes()), default=0):g}"
            )
        servers, clients = choose(survey, list(nodes), model, *params.nodes)
        self._chosen = [nodes[name] for name in servers], [nodes[name] for name in clients]
        card = survey.cards[servers[0]][model]
        theirs = survey.cards[clients[0]][""] if params.nodes[1] else ""
        own = survey.cards[servers[0]][""]
        client_card = theirs if theirs != own else ""
        who = identity([card, client_card] if client_card else [card], model, params.seed)
        return Round(params.run, params.round, params.seed, card, who, lines=(), client_card=client_card)

    def look(self, folder: Path, engines: dict[str, list[EngineSpec]], models: dict[str, Path | None]) -> Survey:
        """Return the survey of the nodes, after completing it for these models.

        `engines` are those that are to run each model, by its content, as are the `models`' folders.
        """
        wanted = {"", *models}
        with exclusive(folder, "nodes", LOOKING_SECONDS, "another look at the nodes"):
            survey = read_survey(folder)
            new = [node for node in ray_nodes.nodes() if not wanted <= set(survey.cards.get(node.id, {}))]
            # One first: others may share its files, and find there what it has found out of the engines.
            for some in filter(None, (new[:1], new[1:])):
                with ray_nodes.hosts_on([[node] for node in some], FREE_SECONDS) as hosts:
                    self._look_at(some, hosts, survey, folder, engines, models)
                write_survey(folder, survey)
        return survey

    def _look_at(
        self,
        nodes: Sequence[ray_nodes.Node],
        hosts: Sequence[RemoteHost],
        survey: Survey,
        folder: Path,
        engines: dict[str, list[EngineSpec]],
        models: dict[str, Path | None],
    ) -> None:
        for host in hosts:
            if host.facts.code != code_digest():
                raise ConfigError(
                    f"node {host.name} has other code: {host.facts.code} instead of {code_digest()}; "
                    "install the same version of imdb-serving on this machine and on every node"
                )
        for name, model in {"": None, **models}.items():
            places = [_model_at(host, model) for host in hosts]
            cards = at_once(hosts, "card", places, [engines.get(name, [])] * len(hosts), seconds=CARD_SECONDS)
            for node, card in zip(nodes, cards, strict=True):
                survey.cards.setdefault(node.id, {})[name] = write_card(folder, card)["id"]
                survey.cpus[node.id] = node.cpus

    def unlike(self, folder: Path, model: str, params: GridParams) -> list[str]:
        """Return in words which nodes no cell may use, and in what they differ from those that cells use."""
        survey, nodes = read_survey(folder), ray_nodes.nodes()
        large = [node.id for node in nodes if node.cpus >= params.node_cores]
        servers, clients = choose(survey, large, model, *params.nodes)
        first = read_card(folder, survey.cards[servers[0]][model])
        return [
            f"node {node.name} is left out: {difference(first, read_card(folder, survey.cards[node.id][model]))}"
            for node in nodes
            if node.id not in {*servers, *(clients if params.nodes[1] else [])}
        ]

    @contextmanager
    def reserved(self, params: GridParams) -> Iterator[None]:
        servers, clients = params.nodes
        alive = {node.id for node in ray_nodes.nodes()}
        choices = [[node for node in chosen if node.id in alive] for chosen in self._chosen]
        either = {node.id for choice in choices for node in choice}
        if len(choices[0]) < servers or len(either) < servers + clients:
            raise HostLost(f"{servers + clients} nodes are needed, and too few of those chosen are left")
        with ray_nodes.hosts_on([*[choices[0]] * servers, *[choices[1]] * clients], FREE_SECONDS) as hosts:
            self._servers, self._clients = hosts[:servers], hosts[servers:] or hosts[:servers]
            try:
                yield
            finally:
                self._servers, self._clients = [], []

    def at_once(self, runs: Sequence[GridParams]) -> int:
        """Return how many runs have nodes: as many as the one that needs most leaves room for, of those last chosen."""
        most = max((sum(run.nodes) for run in runs), default=1)
        chosen = {node.id for choice in self._chosen for node in choice}
        return max(1, len(chosen) // most)

    @property
    def nodes(self) -> tuple[str, ...]:
        if self._clients == self._servers:
            return tuple(f"server and clients on {host.name}" for host in self._servers)
        return (
            *(f"server on {host.name}" for host in self._servers),
            *(f"clients on {host.name}" for host in self._clients),
        )

    @property
    def client_cores(self) -> int:
        return sum(len(host.facts.cores) for host in self._clients)

    def start_server(self, params: GridParams, stack: ExitStack) -> Target:
        """Start a server on each of its hosts; what was there before ends."""
        hosts = tuple(dict.fromkeys([*self._servers, *self._clients]))
        stack.push(functools.partial(_clear, hosts))
        cores = [own for own, _ in self._cores(params)]
        return HostsTarget(self._reach(params, cores, alone=self._servers != self._clients), hosts=hosts)

    def start_clients(self, params: GridParams, target: Target, _stack: ExitStack) -> Session:
        """Start the clients on their hosts; they end with the servers."""
        shared = self._servers == self._clients
        cores = [own for _, own in self._cores(params)] if shared else [host.facts.cores for host in self._clients]
        return RemoteSession(self._clients, cores, target.connect, max(params.client_threads), params.timeout)

    def _cores(self, params: GridParams) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Return the cores of the server and of the clients on each host that has a server."""
        clients = max(params.client_threads) if self._servers == self._clients else 0
        return [_cores(host, params, clients) for host in self._servers]

    def _reach(self, params: GridParams, cores: Sequence[tuple[int, ...]], *, alone: bool) -> Connect:
        """Start the servers, if the mode has any, and return how a client reaches them."""
        models = [_model_at(host, params.server.model) for host in self._servers]
        specs = [replace(params.server, model=Path(model) if model else None) for model in models]
        if params.mode in LOCAL_MODES:
            return local_client(specs[0])
        orders = [
            ServerOrder(spec, host.address if alone else "", own)
            for host, spec, own in zip(self._servers, specs, cores, strict=True)
        ]
        endpoints = at_once(self._servers, "serve", orders, seconds=READY_SECONDS + MODEL_SECONDS)
        return functools.partial(connect, endpoints, params.timeout, params.http_client)


def _clear(hosts: Sequence[RemoteHost], kind: type[BaseException] | None, *_error: object) -> None:
    """End servers and clients. After an error their hosts end, and they with them; that is not waited for."""
    if kind is None:
        for host in hosts:
            with suppress(HostLost):
                host.ask("clear", seconds=READY_SECONDS)


def _cores(host: RemoteHost, params: GridParams, clients: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Share out a host's cores to its server and to its clients, if it has any; without a server, clients have all."""
    cores = host.facts.cores
    if params.mode in LOCAL_MODES:
        return cores, cores
    return shared_cores(cores, params.server_threads, params.math_threads, clients) if clients else (cores, ())


def _model_at(host: RemoteHost, model: Path | None) -> str:
    """Return where a model is on a host, after sending it if it was not there; empty for none."""
    if model is None:
        return ""
    checksum = model_id(model)
    found = host.ask("find_model", str(model.resolve()), checksum, seconds=MODEL_SECONDS)
    return str(found or host.ask("take_model", archive_of(model), checksum, seconds=MODEL_SECONDS))

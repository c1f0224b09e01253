"""The machines of a cluster as a deployment: servers and clients are started on nodes that `survey` finds alike."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from imdb_serving.cell import LOCAL_MODES
from imdb_serving.clients.connect import connect
from imdb_serving.cluster import ray_nodes
from imdb_serving.cluster.host import archive_of
from imdb_serving.cluster.remote import HostsTarget, RemoteHost, RemoteSession, ServerOrder, at_once, shared_cores
from imdb_serving.cluster.survey import Survey, choose, difference, read_survey, write_survey
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import ConfigError, HostLost
from imdb_serving.load.client_processes import Connect
from imdb_serving.measurement.deployment import local_client
from imdb_serving.measurement.environment import code_digest, identity, keep_texts, read_card, write_card
from imdb_serving.measurement.ledger import Ledger, exclusive
from imdb_serving.measurement.measure import Round, Session, Target
from imdb_serving.measurement.models import model_id
from imdb_serving.measurement.parameters import GridParams
from imdb_serving.measurement.texts import texts_in_words
from imdb_serving.server_process import READY_SECONDS

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
        who = identity([card, client_card] if client_card else [card], model, params.seed, params.text_file)
        keep_texts(ledger.folder, texts_in_words(params))
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

"""Nodes of a Ray cluster: which exist, and a host process on each while a cell has them.

The one file that imports Ray. Ray places, starts and watches the host processes and carries calls to them; requests to
a server never pass through it.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, NamedTuple

from imdb_serving.cluster.remote import ASK_SECONDS, Call, HostProcess, Outcome, RemoteHost, Wait
from imdb_serving.errors import ConfigError, HostLost
from imdb_serving.measurement.parameters.checks import AUTO
from imdb_serving.packages import install

# Read when Ray is imported: nothing is told to anybody.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
    from ray._private import services
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
except ImportError as missing:
    raise ConfigError(f"a cluster needs Ray ({missing}): {install('ray')} on this machine and every node") from missing

START_SECONDS = 120.0
LOOK_SECONDS = 2.0
CLOSE_SECONDS = 40.0
NODE_ID = "ray.io/node-id"
CLIENT = "ray://"
JOIN_TRIES = 5
JOIN_SECONDS = 45.0
LISTENER_SECONDS = 5.0


class Node(NamedTuple):
    """A node of the cluster that is alive: its id, its name among the others, its address, and its CPUs for Ray."""

    id: str
    name: str
    address: str
    cpus: float


def join(address: str) -> None:
    """Become a driver of the cluster at an address, unless this process is one; raise `ConfigError` without one."""
    if ray.is_initialized():
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _require_listener(address)
        if address.startswith(CLIENT):
            _init(address, JOIN_TRIES)  # Ray's client gives up by itself
        else:
            _init_in_time(address)
    except (ConnectionError, OSError, RuntimeError, ValueError, RayError) as error:
        where = "here" if address == AUTO else f"at {address}"
        why = _first_and_last(str(error)) or type(error).__name__
        raise ConfigError(
            f"cluster: no Ray cluster {where}: {why}; start one with `ray start --head --disable-usage-stats` "
            "(docs/cluster.md), or use cluster local"
        ) from error
    finally:
        with suppress(ValueError):  # not in the main thread; then Ray has set none
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in its place


def _require_listener(address: str) -> None:
    """Raise `ConnectionError` when nobody listens at a cluster's address: Ray itself would go on trying for long."""
    if address == AUTO:
        address = services.get_ray_address_from_environment(AUTO, None)
    if address in {AUTO, "local"}:
        return
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    hosts = [host, services.get_node_ip_address()] if host in {"127.0.0.1", "localhost"} else [host]
    refusal: OSError | None = None
    for one in hosts:
        try:
            socket.create_connection((one.strip("[]"), int(port)), LISTENER_SECONDS).close()
        except OSError as error:
            refusal = error
        else:
            return
    raise ConnectionError(f"nobody listens there ({refusal})")


def _init_in_time(address: str) -> None:
    """Join within `JOIN_SECONDS`; raise `ConnectionError` when what listens does not answer as Ray does.

    A head that is stuck, or something else at its port, keeps `ray.init` waiting without an end, and nothing ends that:
    so a thread of its own waits, which ends with this process.
    """
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            _init(address, 1)
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run, name="join-ray", daemon=True).start()
    try:
        error = ended.get(timeout=JOIN_SECONDS)
    except queue.Empty:
        raise ConnectionError(f"what listens there did not answer as Ray in {JOIN_SECONDS:.0f} s") from None
    if isinstance(error, SystemExit):  # by which Ray says that it gave up
        raise ConnectionError("Ray gave up") from error
    if error is not None:
        raise error


def _init(address: str, tries: int) -> None:
    """Join with several tries: a process that the head starts for a client may end at once (Ray issue 63202)."""
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, namespace="imdb-serving")
    except (ConnectionAbortedError, RuntimeError):
        if tries == 1:
            raise
        leave()
        _init(address, tries - 1)


def _first_and_last(text: str) -> str:
    """Return what went wrong of a text that may hold a traceback: its first line and its last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(dict.fromkeys(lines[:1] + lines[-1:]))


def leave() -> None:
    """Leave the cluster; everything that was started for this process ends."""
    ray.shutdown()


def nodes() -> list[Node]:
    """Return the nodes that are alive and have CPUs, in the order of their addresses."""
    alive = [one for one in _known() if one["Alive"] and one["Resources"].get("CPU", 0) > 0]
    alive.sort(key=lambda one: (one["NodeManagerAddress"], one["NodeID"]))
    shared = [one["NodeManagerAddress"] for one in alive]
    return [
        Node(
            one["NodeID"],
            address if shared.count(address) == 1 else f"{address}/{one['NodeID'][:6]}",
            address,
            one["Resources"]["CPU"],
        )
        for one in alive
        for address in [one["NodeManagerAddress"]]
    ]


def _known() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()
    return found


class _Relay:
    """On a node: has the host's process do what it is asked, and ends with it."""

    def __init__(self) -> None:
        self._host = HostProcess()

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def ask(self, call: Call, seconds: float) -> Outcome:
        return self._host.ask(call, seconds)

    def stop(self) -> None:
        self._host.stop()


@contextmanager
def hosts_on(choices: Sequence[Sequence[Node]], seconds: float) -> Iterator[list[RemoteHost]]:
    """Give a host on one of each of these choices of nodes, no two on the same, and each node to nobody else meanwhile.

    They are waited for: other cells may have them. Raises `HostLost` when too few of them are alive, and `ConfigError`
    when they are not free in time.
    """
    bundles = [{"CPU": min(node.cpus for node in choice)} for choice in choices]
    among = [{NODE_ID: f"in({','.join(node.id for node in choice)})"} for choice in choices]
    group = placement_group(bundles, strategy="STRICT_SPREAD", bundle_label_selector=among)
    relays: list[Any] = []
    try:
        _await(group, choices, seconds)
        for place, bundle in enumerate(bundles):
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)
            kind = ray.remote(num_cpus=bundle["CPU"], max_restarts=0)(_Relay)
            relays.append(kind.options(scheduling_strategy=where).remote())
        yield [_greeted(relay, choice) for relay, choice in zip(relays, choices, strict=True)]
        for stopping in [relay.stop.remote() for relay in relays]:
            with suppress(RayError, GetTimeoutError):  # one that is lost stops nobody
                ray.get(stopping, timeout=CLOSE_SECONDS)
    finally:
        for relay in relays:
            with suppress(RayError):
                ray.kill(relay)  # its host's process ends with it, and what that started
        with suppress(RayError):
            remove_placement_group(group)


def _await(group: Any, choices: Sequence[Sequence[Node]], seconds: float) -> None:
    deadline = monotonic() + seconds
    while not group.wait(LOOK_SECONDS):
        alive = {node.id for node in nodes()}
        if any(not any(node.id in alive for node in choice) for choice in choices):
            raise HostLost("no node is left that could be used")
        if monotonic() > deadline:
            names = sorted({node.name for choice in choices for node in choice})
            raise ConfigError(
                f"cluster: {len(choices)} of the nodes {', '.join(names)} were not free within {seconds:.0f} s; "
                "`ray status` says who has them"
            )


def _greeted(relay: Any, choice: Sequence[Node]) -> RemoteHost:
    try:
        where = ray.get(relay.node.remote(), timeout=START_SECONDS)
    except (RayError, GetTimeoutError) as error:
        raise HostLost(f"nothing could be started on a node: {_words(error)}") from error
    node = next(node for node in choice if node.id == where)

    def begin(call: Call, seconds: float) -> Wait:
        answer = relay.ask.remote(call, seconds)
        return lambda: _outcome(answer, node, seconds)

    return RemoteHost(node.name, node.address, begin)


def _outcome(answer: Any, node: Node, seconds: float) -> Any:
    try:
        outcome: Outcome = ray.get(answer, timeout=seconds + ASK_SECONDS)
    except GetTimeoutError as error:
        raise HostLost(f"node {node.name} did not answer within {seconds:g} s") from error
    except RayError as error:
        raise HostLost(f"node {node.name} was lost: {_words(error)}") from error
    done, value = outcome
    if not done:
        raise value
    return value


def _words(error: Exception) -> str:
    """Return the first line of what Ray says, or what our own process raised."""
    cause = getattr(error, "cause", None)
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    return lines[-1] if isinstance(cause, Exception) else (lines or [type(error).__name__])[0]


class NodesHere:
    """A cluster whose nodes are all on this machine, to see how a sweep runs on one; their figures mean little."""

    def __init__(self, count: int) -> None:
        """Start this many nodes with one CPU each; it takes some seconds for each."""
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - Ray's own tests have it, and nobody else

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(count - 1):
            self._cluster.add_node(num_cpus=1)
        self.address: str = self._cluster.address

    def stop(self) -> None:
        """Leave the cluster, and end it."""
        leave()
        self._cluster.shutdown()

"""Many clients in few processes: each process holds several, and each client sends from a thread of its own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import process_time

import numpy as np

from imdb_serving.clients.base import Client
from imdb_serving.load.client_processes import Connect
from imdb_serving.load.closed_loop import ClientRecord, Workload, drive
from imdb_serving.messages import Reply, Request, ServerInfo


@dataclass(frozen=True, slots=True)
class ThreadedConnect:
    """Connects a crowd of so many."""

    connect: Connect
    clients: int

    def __call__(self) -> ThreadedClients:
        """Connect."""
        return ThreadedClients([self.connect() for _ in range(self.clients)])


class ThreadedClients(Client):
    """Several clients of one server; as a client it is its first one."""

    def __init__(self, clients: Sequence[Client]) -> None:
        """Take the clients."""
        self.clients = clients

    def call(self, request: Request) -> Reply:
        """Have the first one call."""
        return self.clients[0].call(request)

    def hello(self) -> ServerInfo:
        """Have all connect, and return what the last one was told."""
        return [client.hello() for client in self.clients][-1]

    def close(self) -> None:
        """Close all."""
        for client in self.clients:
            client.close()


@dataclass(frozen=True, slots=True)
class ThreadedShare:
    """A process's share of the requests, cut into its clients' shares."""

    parts: Sequence[Workload]

    def __len__(self) -> int:
        """Return the number of requests of the client that has most."""
        return max(map(len, self.parts))


def drive_threaded(crowd: ThreadedClients, share: ThreadedShare) -> ClientRecord:
    """Have each client work through its part, all side by side, and return one record of all."""
    cpu = process_time()
    if len(share.parts) == 1:
        return drive(crowd.clients[0], share.parts[0])
    with ThreadPoolExecutor(len(share.parts)) as threads:
        records = list(threads.map(drive, crowd.clients, share.parts))
    answered = [record for record in records if record.positions]
    return ClientRecord(
        columns=answered[0].columns if answered else (),
        positions=[position for record in records for position in record.positions],
        starts_ns=np.concatenate([record.starts_ns for record in records]),
        durations=np.concatenate([record.durations for record in answered]) if answered else np.empty((0, 0), np.int64),
        outcomes=[outcome for record in records for outcome in record.outcomes],
        failures=[failure for record in records for failure in record.failures],
        window_ns=(min(record.window_ns[0] for record in records), max(record.window_ns[1] for record in records)),
        cpu_s=process_time() - cpu,
    )

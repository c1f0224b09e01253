"""What runs on one machine: servers and clients, started and observed on orders from a coordinator elsewhere.

A process of its own, `python -m imdb_serving.cluster.host FD`: calls arrive on a socket, one after another. When the
socket closes, for whatever reason, everything that was started here ends too.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import signal
import sys
import tempfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter_ns

from imdb_serving.cluster.remote import Call, ClientsOrder, HostFacts, Outcome, ServerOrder
from imdb_serving.config import number_ranges
from imdb_serving.engines import tuning
from imdb_serving.engines.registry import EngineSpec
from imdb_serving.errors import BundleError, ServerStartError, ServingError
from imdb_serving.load.client_processes import LoadSession, end_with_peer, prepare_processes
from imdb_serving.load.closed_loop import ClientRecord, Share
from imdb_serving.measurement.cpu_meter import Usage, watching
from imdb_serving.measurement.environment import Card, code_digest, environment_card
from imdb_serving.measurement.models import bundle_there, model_id
from imdb_serving.model import SERVER_DIR
from imdb_serving.model.bundle import open_bundle
from imdb_serving.processes import allowed_cores, temporary_folder
from imdb_serving.timing import CLOCK_ID

MATH_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""What libraries read to know how many threads to compute with; whoever started this process may have set them."""


class Host:
    """One machine's servers and clients. Methods are called by their names, one at a time."""

    def __init__(self, stack: ExitStack) -> None:
        """Take what ends everything that is started."""
        self._stack = stack
        self._running = stack.enter_context(ExitStack())
        self._session: LoadSession | None = None
        self._pids: list[int] = []
        self._watch: tuple[ExitStack, Usage] | None = None
        self._tickets = Path(stack.enter_context(temporary_folder()))

    def who(self) -> HostFacts:
        """Tell who this is."""
        return HostFacts(platform.node(), tuple(allowed_cores()), CLOCK_ID, code_digest(), os.getpid())

    def now(self) -> tuple[str, int]:
        """Tell which clock this is, and what it says."""
        return CLOCK_ID, perf_counter_ns()

    def find_model(self, path: str, checksum: str) -> str:
        """Return where a model of this content is, at that path or in the cache; empty when it must be sent."""
        for place in (Path(path), _cache() / checksum):
            with contextlib.suppress(BundleError, OSError):
                if model_id(place) == checksum:
                    return str(place)
        return ""

    def take_model(self, archive: bytes, checksum: str) -> str:
        """Unpack a model into the cache, and return where it is; raise `BundleError` when it is another one."""
        cache = _cache()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            with zipfile.ZipFile(io.BytesIO(archive)) as files:
                files.extractall(unfinished)
            if open_bundle(Path(unfinished)).card.checksum[:12] != checksum:
                raise BundleError(f"the model that was sent is not {checksum}; was it trained again meanwhile?")
            with contextlib.suppress(OSError):  # another host of this file system was quicker
                Path(unfinished).rename(cache / checksum)
                Path(unfinished).mkdir()
        return self.find_model("", checksum)

    def card(self, model: str, engines: Sequence[EngineSpec]) -> Card:
        """Return this machine's environment card, with what it finds of the engines that are to run a model."""
        bundle = bundle_there(Path(model)) if model else None
        if bundle:
            for spec in engines:
                tuning.ensure(spec, bundle, probed=True)
        return environment_card(bundle)

    def serve(self, order: ServerOrder) -> str:
        """Start a server, and return its endpoint; raise `ServerStartError` with its own words."""
        environment = _environment(order.spec.engine.math_threads)
        server = order.spec.process("--cores", number_ranges(order.cores), host=order.address, environment=environment)
        self._running.enter_context(server)
        self._pids.append(server.pid)
        return server.endpoint

    def open_session(self, order: ClientsOrder) -> list[int]:
        """Start clients, and return their process ids."""
        os.environ.update(_environment(1))
        prepare_processes()
        session = LoadSession({"": order.connect}, order.clients, order.timeout, cores=order.cores)
        self._session = self._running.enter_context(session)
        return session.pids

    def hand_out(self, shares: Sequence[Share]) -> None:
        """Give each of the first clients its share; those of an open loop take turns in a file of this host."""
        tickets = self._tickets / str(perf_counter_ns())
        self._clients().hand_out("", [replace(share, tickets=tickets) for share in shares])

    def go(self, start_ns: int) -> list[ClientRecord]:
        """Have the clients begin at that moment of this host's clock, and return their records."""
        return self._clients().go(start_ns)

    def watch(self) -> None:
        """Begin to count the CPU time of what runs here."""
        stack = ExitStack()
        pids = self._session.pids if self._session else []
        self._watch = (stack, stack.enter_context(watching(self._pids, pids)))

    def watched(self) -> Usage:
        """Stop counting, and return what was counted."""
        if self._watch is None:
            raise ServingError("nothing is being watched")
        (stack, usage), self._watch = self._watch, None
        stack.close()
        return usage

    def clear(self) -> None:
        """End servers and clients."""
        self._running.close()
        self._session, self._pids, self._watch = None, [], None

    def _clients(self) -> LoadSession:
        if self._session is None:
            raise ServerStartError("no clients were started on this host")
        return self._session


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imdb-serving" / "models"


def _environment(math_threads: int) -> Mapping[str, str]:
    return os.environ | dict.fromkeys(MATH_THREADS, str(math_threads))


def archive_of(model: Path) -> bytes:
    """Return a model's server files as one archive, for `take_model`."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        for path in open_bundle(model).folder.iterdir():
            files.write(path, f"{SERVER_DIR}/{path.name}")
    return archive.getvalue()


def serve_calls(pipe: Connection) -> None:
    """Carry out the calls that arrive, one after another, until the caller has gone."""
    threading.Thread(target=end_with_peer, args=(pipe.fileno(),), name="peer", daemon=True).start()
    with ExitStack() as stack:
        host = Host(stack)
        with contextlib.suppress(EOFError, OSError):
            while True:
                pipe.send(_carry_out(host, pipe.recv()))


def _carry_out(host: Host, call: Call) -> Outcome:
    try:
        return True, getattr(host, call.method)(*call.arguments)
    except (ServingError, OSError) as error:
        return False, error


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
    serve_calls(Connection(int(sys.argv[1])))

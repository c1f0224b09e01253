"""The overhead ladder: the same requests, one layer more on each rung, from the bare model to curl and Werkzeug.

Beside the rung `flask` stand servers of others. All servers of a ladder run at once, and rungs are measured in
interleaved rounds. A rung is a cell, and its blocks are rows of the sweep's ledger.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from imdb_serving.cell import FOREIGN, LADDER, TIMED, Cell, Row, plural
from imdb_serving.clients.connect import CURL, connect
from imdb_serving.engines.registry import EngineSpec, facts_of
from imdb_serving.errors import ServingError
from imdb_serving.experiment.beside import Beside, is_plain, servers_beside
from imdb_serving.experiment.interleaved import Block, Context, left_of, measure_rounds
from imdb_serving.load.client_processes import LoadSession
from imdb_serving.measurement.environment import identity, keep_card, keep_texts
from imdb_serving.measurement.ledger import Ledger, new_run, newest, outputs_folder
from imdb_serving.measurement.local_clients import BareClient, InprocClient, JsonClient, reference_answers
from imdb_serving.measurement.measure import Probabilities, Round, Target
from imdb_serving.measurement.models import bundle_there, model_id, require_model
from imdb_serving.measurement.parameters import LadderParams, engines_there, model_folder
from imdb_serving.measurement.texts import length_mix, lines_of
from imdb_serving.processes import temporary_folder
from imdb_serving.server_process import ServerProcess, ServerSpec

if TYPE_CHECKING:
    from imdb_serving.text.formats import Line

Rung = tuple[str, str, str]

RUNGS: dict[str, Rung] = {
    "bare": ("bare", "", "keep-alive"),
    "inproc": ("inproc", "", "keep-alive"),
    "socket": ("socket", "unix", "keep-alive"),
    "rpc-ipc": ("rpc", "ipc", "keep-alive"),
    "rpc-tcp": ("rpc", "tcp", "keep-alive"),
    "flask": ("flask", "tcp", "keep-alive"),
    "flask-gateway": ("flask-gateway", "tcp", "keep-alive"),
    "flask-dev": ("flask-dev", "tcp", "keep-alive"),
    "flask-dev-curl": ("flask-dev", "tcp", CURL),
}
"""The rungs, each adding one thing to the one before: mode, endpoint and client kind."""

ASIDE = "inproc-json"
"""Measured beside the ladder: the pipeline behind JSON bodies, for what JSON costs by itself."""

PASSES = {"flask-gateway": 2, "flask-dev": 2, "flask-dev-curl": 1}
USUAL_PASSES = 5
"""How often a block sends its reviews: short requests more often, so that clients are at work together for longer."""

OF_MODES = {
    "rpc": "rpc-tcp", "socket": "socket", "flask": "flask", "flask-gateway": "flask-gateway", "flask-dev": "flask-dev",
}  # fmt: skip
"""The rung of each mode of a grid."""

ALL: dict[str, Rung] = {**RUNGS, ASIDE: (ASIDE, "", "keep-alive")}
_NAMES = {fields: name for name, fields in ALL.items()}

Progress = Callable[[str], None]


def rung_of(cell: Cell) -> str:
    """Return the name of the rung that a cell is: of a server of someone else the server's."""
    return cell.server or _NAMES[cell.mode, cell.endpoint, cell.client_kind]


def rung_of_mode(mode: str, server: str) -> str | None:
    """Return the rung of what a grid measures in a mode; None where the ladder has none."""
    return server if mode == FOREIGN else OF_MODES.get(mode)


def run_ladder(
    params: LadderParams, progress: Progress = print, rungs: Collection[str] = (), first_round: int = 1
) -> list[Row]:
    """Measure the ladder with each engine, append every block to the ledger, and return the rows.

    Where `rungs` are named, those are measured with one client; else all, with as many clients as workers as well.
    Rounds are numbered from `first_round` on. Servers of others are measured beside: with each engine those that are
    named for it, and Flask on web servers of others.

    The model is trained if need be. A rung that fails is a row with its reason; an engine whose servers do not start
    fails all its rungs, and a server of someone else its own.
    """
    if any(facts_of(engine).needs_model for engine in params.engines):
        require_model(params)
    if not params.run:  # a lone notebook: its rows and raw samples must not mix with those of another
        params = msgspec.structs.replace(params, run=new_run())
    ledger = Ledger(outputs_folder(params))
    for engine in params.engines:
        _measure_engine(params, engine, ledger, progress, rungs, first_round)
    return [row for row in newest(ledger.rows()) if row.run == params.run and row.cell.series == LADDER]


def _measure_engine(
    params: LadderParams, engine: str, ledger: Ledger, progress: Progress, rungs: Collection[str], first_round: int
) -> None:
    others = servers_beside(params, engine, ledger.folder)
    others = {name: one for name, one in others.items() if _is_wanted(name, rungs)}
    context = _context(params, engine, ledger, first_round, others)
    blocks = [Block(cell, rung_of(cell)) for cell in _cells(params, engine, rungs, others)]
    seed = f"{params.seed}/{engine}"
    left = left_of(blocks, params.rounds, seed, context, ledger, first_round)
    if not left:
        return

    def fail(blocks: Sequence[Block], error: Exception) -> None:
        for block in blocks:
            ledger.append(context(first_round, block.cell).failed(block.cell, error), [])

    try:
        with _targets(params, engine) as targets, ExitStack() as stack:
            for name, error in _start_others(others, targets, stack).items():
                progress(f"FAILED {name}, {engine}: {error}")
                fail([block for block in blocks if block.target == name], error)
            blocks = [block for block in blocks if block.target in targets]
            left = {number: [one for one in own if one[1].target in targets] for number, own in left.items()}
            connects = {name: target.connect for name, target in targets.items()}
            with LoadSession(connects, params.server_threads, params.timeout) as session:
                workers = plural(params.server_threads, "worker")
                progress(f"{engine}: {len(blocks)} blocks a round, {workers}, {plural(params.rounds, 'round')}")
                for row in measure_rounds(blocks, left, seed, context, targets, session, ledger):
                    if row.error:
                        progress(f"FAILED rung {rung_of(row.cell)}, {engine}, round {row.round}: {row.error}")
    except (ServingError, OSError) as error:
        progress(f"FAILED {engine}: {error}")
        fail(blocks, error)


def _is_wanted(server: str, rungs: Collection[str]) -> bool:
    return not rungs or server in rungs or (is_plain(server) and "flask" in rungs)


def _start_others(
    others: Mapping[str, Beside], targets: dict[str, Target], stack: ExitStack
) -> dict[str, ServingError | OSError]:
    """Start the servers of others, side by side; add their targets, and return what hinders the others."""

    def start(one: Beside) -> Target | ServingError | OSError:
        try:
            return one.start(stack)
        except (ServingError, OSError) as error:
            return error

    failed = {}
    with ThreadPoolExecutor() as pool:
        for name, found in zip(others, pool.map(start, others.values()), strict=True):
            if isinstance(found, Target):
                targets[name] = found
            else:
                failed[name] = found
    return failed


def _context(
    params: LadderParams, engine: str, ledger: Ledger, first_round: int, others: Mapping[str, Beside]
) -> Context:
    """Return what makes a round of one engine: its own part of the reviews, with the bare engine's answers to them."""
    folder = model_folder(params)
    spec, model = _engine_and_model(params, engine)
    card = keep_card(ledger.folder, bundle_there(folder))
    who = identity([card["id"]], model_id(model), params.seed, params.text_file)
    in_a_round = params.requests * params.server_threads
    total = in_a_round * params.rounds
    lines: list[Line] = lines_of(params, total)
    keep_texts(ledger.folder, length_mix(lines))

    reference: Probabilities | None = None

    def context(number: int, cell: Cell) -> Round:
        nonlocal reference
        if reference is None:
            reference = reference_answers(ledger.folder, spec, model, model_id(model), lines)
        begin = in_a_round * max(number - first_round, 0)
        part = slice(begin, begin + cell.samples)  # one client sends the first part of the round's reviews
        found = Round(params.run, number, params.seed, card["id"], who, lines[part], reference[part])
        return others[cell.server].round(found, part) if cell.server else found

    return context


def _cells(params: LadderParams, engine: str, rungs: Collection[str], others: Mapping[str, Beside]) -> list[Cell]:
    """Return all rungs with one client and with as many as workers; of named ones those with one client."""
    facts = facts_of(engine)
    every = {**ALL, **dict.fromkeys(others, (FOREIGN, "tcp", "keep-alive"))}
    return [
        Cell(
            series=LADDER,
            mode=mode,
            server=rung if rung in others else "",
            prepro=others[rung].prepro if rung in others else TIMED,
            engine=engine,
            net=params.net if facts.needs_model and not engines_there(params) else "",
            model=Path(params.model).name if facts.needs_model else "",
            server_threads=params.server_threads if endpoint else clients,
            client_threads=clients,
            client_kind=kind,
            worker_kind=facts.worker_kind if endpoint and rung not in others else "",
            math_threads=params.math_threads,
            service="" if not facts.timed else "5 ms, fixed",
            endpoint=endpoint,
            samples=params.requests * clients,
            passes=PASSES.get(rung, USUAL_PASSES),
        )
        for rung, (mode, endpoint, kind) in every.items()
        if not rungs or rung in rungs or rung in others
        for clients in sorted({1, 1 if rungs else params.server_threads})
    ]


def _engine_and_model(params: LadderParams, engine: str) -> tuple[EngineSpec, Path | None]:
    spec = EngineSpec(engine, params.math_threads)
    return spec, model_folder(params) if spec.facts.needs_model else None


@contextmanager
def _targets(params: LadderParams, engine: str) -> Iterator[dict[str, Target]]:
    """Start the servers of all rungs, side by side, and give how a client connects to each rung.

    The gateway and the development server stand in front of the very RPC server that is a rung of its own.
    """
    spec, model = _engine_and_model(params, engine)
    with ExitStack() as stack:
        place = stack.enter_context(temporary_folder())

        def start(mode: str, *more: str) -> ServerProcess:
            return stack.enter_context(ServerSpec(mode, spec, model, params.server_threads).process(*more))

        def start_before(mode: str, rpc: ServerProcess) -> ServerProcess:
            web_server = ServerSpec(mode, EngineSpec("none"), None, params.server_threads)
            return stack.enter_context(web_server.process("--rpc", rpc.endpoint))

        with ThreadPoolExecutor() as pool:
            plain = pool.submit(start, "socket", "--endpoint", f"socket+unix://{place}/plain")
            rpc_ipc = pool.submit(start, "rpc", "--endpoint", f"ipc://{place}/zeromq")
            rpc_tcp = pool.submit(start, "rpc")
            flask = pool.submit(start, "flask")
            tcp = rpc_tcp.result()
            gateway = pool.submit(start_before, "flask-gateway", tcp)
            dev = pool.submit(start_before, "flask-dev", tcp)
        servers = {
            "socket": (plain.result(),),
            "rpc-ipc": (rpc_ipc.result(),),
            "rpc-tcp": (tcp,),
            "flask": (flask.result(),),
            "flask-gateway": (gateway.result(), tcp),
            "flask-dev": (dev.result(), tcp),
        }
        yield {
            "bare": Target(functools.partial(BareClient, spec, model)),
            "inproc": Target(functools.partial(InprocClient, spec, model)),
            ASIDE: Target(functools.partial(JsonClient, spec, model)),
            **{rung: _reached(rung, params.timeout, *behind) for rung, behind in servers.items()},
            "flask-dev-curl": _reached("flask-dev-curl", params.timeout, *servers["flask-dev"]),
        }


def _reached(rung: str, timeout: float, web_server: ServerProcess, *behind: ServerProcess) -> Target:
    kind = ALL[rung][2]
    pids = tuple(server.pid for server in (web_server, *behind))
    return Target(functools.partial(connect, web_server.endpoint, timeout, kind), pids)

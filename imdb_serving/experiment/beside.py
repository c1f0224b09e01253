"""What is measured beside the rung `flask`: Flask on web servers of others, and servers that a sweep names.

Flask is the application `plain_flask`, around the ladder's own engine and with the clients of the rung `flask`. It is
measured on each web server that is installed.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from imdb_serving.cell import BEFORE, FOREIGN, TIMED, digest
from imdb_serving.clients.connect import connect
from imdb_serving.foreign.process import has_program
from imdb_serving.load.workload import PreparedWorkload
from imdb_serving.measurement import foreign
from imdb_serving.measurement.bodies import Bodies, Sample, samples_of
from imdb_serving.measurement.measure import Round, Target
from imdb_serving.measurement.parameters import GridParams, LadderParams, model_folder
from imdb_serving.protocol.json_bodies import PREDICTION_PATH, READY_PATH

PLAIN = "plain Flask on "
"""What the names of those begin with whose application is `plain_flask`."""

WITHOUT = "no visible queue, no deadlines and no shedding"
"""What plain Flask lacks beside ours."""

_APP = "imdb_serving.experiment.plain_flask:app"
_WEB_SERVERS = {
    "granian": "granian --interface wsgi --workers {{ server_threads }} --blocking-threads 1 --host {{ host }} "
    f"--port {{{{ port }}}} --no-access-log --log-level error {_APP}",
    "gunicorn": "gunicorn --worker-class gthread --threads 4 --keep-alive 60 --workers {{ server_threads }} "
    f"--bind {{{{ host }}}}:{{{{ port }}}} --log-level warning {_APP}",
    "waitress": f"waitress-serve --host {{{{ host }}}} --port {{{{ port }}}} --threads {{{{ server_threads }}}} {_APP}",
}
"""Their commands by their packages."""


def is_plain(server: str) -> bool:
    """Tell whether a server is Flask around an engine of ours, asked by the clients of the rung `flask`."""
    return server.startswith(PLAIN)


class Beside:
    """A server of someone else, measured in the ladder's rounds in place of the rung `flask`."""

    def __init__(self, params: GridParams, folder: Path) -> None:
        """Take how it is started and asked, and the sweep's folder, which keeps what it writes."""
        self._params, self._folder, self.name = params, folder, params.server_label
        self.prepro = TIMED if is_plain(self.name) else BEFORE

    @functools.cached_property
    def _samples(self) -> Sequence[Sample]:
        return samples_of(self._params)

    def start(self, stack: ExitStack) -> Target:
        """Start it; raise `ServingError` when it does not start or answer."""
        if not is_plain(self.name):
            return foreign.start(self._params, self._folder, stack)
        server, call, _, _ = foreign.reach(self._params, self._folder, stack)
        pids = (server.pid,) if server else ()
        return Target(functools.partial(connect, call.url, self._params.timeout), pids, is_guarded=True)

    def round(self, own: Round, part: slice) -> Round:
        """Return a round of the ladder with the same reviews as requests to this server."""
        if is_plain(self.name):
            return own
        who = digest(own.identity, self._params.fingerprint)  # started or asked otherwise, it is measured anew
        return replace(own, identity=who, lines=self._samples[part], workload=self._workload)

    def _workload(self, samples: Sequence[Sample], batch: int) -> PreparedWorkload:
        return Bodies.of(self._params, self._folder).workload(samples, batch)


def servers_beside(params: LadderParams, engine: str, folder: Path) -> dict[str, Beside]:
    """Return by name what to measure with an engine: Flask on what is installed, and the servers named for it.

    Raises `ConfigError` for a named one that cannot be measured.
    """
    plain = [_plain(params, engine, *one) for one in _WEB_SERVERS.items() if _is_here(*one)]
    named = [values for values in params.servers if values["engine"] == engine]
    common = {
        "mode": FOREIGN,
        "engine": engine,
        "net": params.net,
        "model": params.model,
        "server_threads": params.server_threads,
        "math_threads": params.math_threads,
        "samples": params.requests * params.server_threads * params.rounds,
        "seed": params.seed,
        "timeout": params.timeout,
        "sweep": params.sweep,
        "outputs": params.outputs,
    }
    made = [Beside(GridParams(**values | common), folder) for values in [*plain, *named]]
    return {one.name: one for one in made}


def _is_here(package: str, command: str) -> bool:
    """Tell whether a web server is of this environment, whose packages its application needs, and can be started."""
    return importlib.util.find_spec(package) is not None and has_program(command.split(maxsplit=1)[0])


def _plain(params: LadderParams, engine: str, package: str, command: str) -> dict[str, Any]:
    one = GridParams(engine=engine, net=params.net, model=params.model)
    return {
        "server_name": PLAIN + package,
        "server_command": command,
        "server_environment": {
            "ENGINE": engine,
            "MODEL": str(model_folder(one).resolve()) if one.server.model else "",
            "MATH_THREADS": "{{ math_threads }}",
        },
        "server_ready": READY_PATH,
        "request_path": PREDICTION_PATH,
        "request_body": '{"words": {{ ids }}, "fetch": ["prediction"]}',
        "answer": "prediction[1]",
    }

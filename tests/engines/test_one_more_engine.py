"""An engine is added through the registry alone, and served over every transport in either kind of worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import rpc_kit as kit

from imdb_serving import connect

ENGINE = """
import os
import numpy as np

class Toy:
    lengths = (1,)

    def run(self, reviews):
        positive = [len(review) / 10 for review in reviews]
        return np.array([[1 - share, share] for share in positive], dtype=np.float32)

def make(spec, bundle):
    return Toy()
"""

SERVER = """
import sys
from imdb_serving.cli.serve import serve_rpc
from imdb_serving.cli.serve_options import ServeOptions
from imdb_serving.cli.serve_http import serve_flask
from imdb_serving.engines.registry import EngineFacts, EngineSpec, register

register(EngineFacts("toy", "counts words", "toy_engine:make", releases_lock=sys.argv[2] == "thread"))

if __name__ == "__main__":
    options = ServeOptions(None, EngineSpec("toy"), server_threads=2, endpoint="tcp://127.0.0.1:0", port=0)
    {"rpc": serve_rpc, "flask": serve_flask}[sys.argv[1]](options)
"""


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("mode", ["rpc", "flask"])
def test_an_engine_of_ones_own_is_served_and_works_as_its_facts_say(tmp_path: Path, mode: str, kind: str) -> None:
    (tmp_path / "toy_engine.py").write_text(ENGINE, encoding="utf-8")
    (tmp_path / "serve_toy.py").write_text(SERVER, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "serve_toy.py", mode, kind],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert "engine=toy" in ready
        with connect(kit.endpoint_of(ready), 20) as client:
            assert client.hello().worker_kind == kind
            answers = client.predict_batch([{"words": [1, 2, 3]}, {"words": [1] * 7}])
        assert [round(float(answer["prediction"][1]), 6) for answer in answers] == [0.3, 0.7]
        process.terminate()
        assert process.wait(20) == 0
    finally:
        kit.kill_group(process.pid)
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()

"""The answer as numbers: what programs read agrees with the words, and with the schema that is printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from click.testing import CliRunner
from oracle import Noise, truth_of, write_sweep

from imdb_serving.cli import main
from imdb_serving.cli.overhead import measure_recommended
from imdb_serving.experiment import ladder
from imdb_serving.measurement.parameters import LadderParams, SweepParams, load_sweep
from imdb_serving.report import frames, ways
from imdb_serving.report.answer import FILE, Answer
from imdb_serving.report.verdict import save, verdict

PARAMETERS = sorted((Path(__file__).parents[2] / "params").glob("*.yaml"))


def schema_of(what: str) -> Any:
    done = CliRunner().invoke(main, ["schema", what])
    assert done.exit_code == 0, done.output
    schema = json.loads(done.output)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_sweep(folder, truth_of(), Noise(0.02), 3)
    made = verdict(frames.load(folder), folder)
    save(made, folder)
    return folder


def test_the_verdict_is_as_its_schema_says_and_says_what_the_words_say(folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    schema_of("verdict").validate(json.loads(content))
    answer = msgspec.json.decode(content, type=Answer)
    assert answer.recommended is not None
    counts = f"{answer.recommended.server_threads} server thread"
    assert answer.lines[0].startswith(f"Run {answer.recommended.line}, engine {answer.recommended.engine}, {counts}")
    assert sum(way.recommended for way in answer.ways) == 1
    assert {(way.place.mode, way.place.engine) for way in answer.ways} == {spot[:2] for spot in truth_of().rates}
    assert (folder / "verdict.txt").read_text(encoding="utf-8").endswith(ways.text(answer.ways) + "\n")


def test_the_examples_verdict_is_as_the_schema_says() -> None:
    content = (PARAMETERS[0].parents[1] / "outputs" / "example" / FILE).read_bytes()
    schema_of("verdict").validate(json.loads(content))
    assert msgspec.json.decode(content, type=Answer).ways


def test_a_refusal_is_as_the_schema_says(folder: Path, tmp_path: Path) -> None:
    rows = frames.load(folder)
    made = verdict(rows[rows["round"] == 1], folder)
    save(made, tmp_path)
    written = json.loads((tmp_path / FILE).read_bytes())
    schema_of("verdict").validate(written)
    assert (written["status"], written["recommended"]) == ("refused", None)


def test_the_lines_of_a_ledger_are_as_the_schema_says(folder: Path) -> None:
    schema = schema_of("ledger")
    for line in (folder / "ledger.jsonl").read_bytes().splitlines()[:20]:
        schema.validate(json.loads(line))


@pytest.mark.parametrize("path", PARAMETERS, ids=lambda path: path.stem)
def test_parameter_files_are_as_the_schema_says(path: Path) -> None:
    schema = schema_of("parameters")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    schema.validate(values)
    with pytest.raises(jsonschema.ValidationError):
        schema.validate(values | {"clients": 3})


def test_a_wider_zone_takes_a_cheaper_cell(folder: Path) -> None:
    rows = frames.load(folder)
    narrow, wide = (verdict(rows, folder, zone).answer for zone in (0.03, 0.4))
    assert narrow.recommended is not None
    assert wide.recommended is not None
    assert wide.recommended.client_threads < narrow.recommended.client_threads
    assert wide.shown
    assert wide.shortfall is not None
    assert wide.shortfall.high is not None
    assert wide.shortfall.high <= 0.4


def test_the_command_of_an_edge_can_be_run(folder: Path) -> None:
    answer = msgspec.json.decode((folder / FILE).read_bytes(), type=Answer)
    words = shlex.split(answer.edges[0].command)
    assert words[:3] == ["imdb-serving", "sweep", "params/default.yaml"]
    params = load_sweep(PARAMETERS[0].parent / "default.yaml", more=[words[words.index("--also") + 1]])
    more = params.parts()[-1]
    place = answer.edges[0].place
    assert (more.modes, more.engine) == ([place.mode], place.engine)
    assert max(more.server_threads) == 2 * answer.edges[0].measured["server_threads"]


@pytest.mark.parametrize(("net", "measured"), [("cnn", [(["folded"], 1, 6)]), ("lstm", [])])
def test_the_ladder_has_the_recommended_threads_where_its_engine_runs_the_sweeps_net(
    net: str, measured: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def run_ladder(params: LadderParams, _say: Any, rungs: list[str], first_round: int) -> None:
        assert {"bare", "inproc", "flask"} < set(rungs)
        seen.append((params.engines, params.server_threads, first_round))

    monkeypatch.setattr(ladder, "run_ladder", run_ladder)
    write_sweep(tmp_path / "sweep", truth_of(), Noise(0.02), 3)
    also: list[dict[str, Any]] = [{"engine": "folded", "net": "cnn"}]
    params = SweepParams(mode="rpc", engine="paddle", net=net, ladder_rounds=5, also=also)
    measure_recommended(params, tmp_path / "sweep", "run", 0.05)
    assert seen == measured

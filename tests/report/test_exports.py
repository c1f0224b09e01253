"""What was measured opens in the tools of others as it is."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from ledger_rows import failed, rows_of, table

from imdb_serving.cli import main
from imdb_serving.measurement.ledger import Ledger
from imdb_serving.report.exports import unit_of, write_cells

EXAMPLE = Path(__file__).parents[2] / "outputs" / "example"


def test_cells_are_written_with_all_rounds_and_failures(tmp_path: Path) -> None:
    write_cells(table([*rows_of(), failed(4, 1)]), tmp_path)
    read = pd.read_csv(tmp_path / "cells.csv")
    assert len(read) == 19
    assert {"throughput", "op1_us", "total_s", "why", "key", "p50_us", "server_cpu_us"} <= set(read.columns)


def test_no_name_of_a_cell_is_read_as_missing(tmp_path: Path) -> None:
    """pandas and R take `null` and `NA` for nothing; no engine is called so."""
    write_cells(table(rows_of()), tmp_path)
    read = pd.read_csv(tmp_path / "cells.csv")
    assert set(read["engine"]) == {"none"}
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as file:
        every = list(csv.DictReader(file))
    assert {one["engine"] for one in every} == {"none"}
    assert {one["status"] for one in every} == set(read["status"])


def test_parquet_has_the_same_with_a_unit_a_column(tmp_path: Path) -> None:
    write_cells(table([*rows_of(), failed(4, 1)]), tmp_path)
    found = pq.read_table(tmp_path / "cells.parquet")
    units = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in found.schema}
    told = [units[name] for name in ("throughput", "p50_us", "total_s", "server_memory_mib")]
    assert told == ["samples/s", "us", "s", "MiB"]
    assert (units["engine"], units["requests"]) == ("", "")
    frame, text = found.to_pandas(), pd.read_csv(tmp_path / "cells.csv")
    assert list(frame.columns) == list(text.columns)
    assert frame["throughput"].tolist() == pytest.approx(text["throughput"].tolist(), nan_ok=True)


@pytest.mark.parametrize(("column", "unit"), [
    ("op1_us", "us"), ("window_s", "s"), ("foreign_cores", "cores"), ("mode", ""), ("rounds", ""),
    ("accuracy", "share"),
])  # fmt: skip
def test_units_follow_from_names(column: str, unit: str) -> None:
    assert unit_of(column) == unit


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path / "example"))


def test_benchers_format_has_each_cell_with_its_interval(example: Path) -> None:
    done = CliRunner().invoke(main, ["export", str(example), "--bmf"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert len(found) == 48
    one = found["rpc, engine paddle, 1 x 1"]
    assert one["throughput"]["lower_value"] < one["throughput"]["value"] < one["throughput"]["upper_value"]
    assert 1e5 < one["latency_p50"]["value"] < 1e8  # nanoseconds


def test_a_sweep_is_a_run_of_mlflow_with_its_cells_below(example: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    place = tmp_path / "a folder of its own"
    done = CliRunner().invoke(main, ["export", str(example), "--mlflow", place.as_uri()], catch_exceptions=False)
    assert "with 48 cells below it" in done.stderr
    client = mlflow.MlflowClient(place.as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'imdb-serving'")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    below = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (whole,) = [run for run in runs if run not in below]
    assert (len(below), whole.info.run_name, whole.data.params["cells"]) == (48, "example", "48")
    assert {"cells.csv", "verdict.json"} <= {one.path for one in client.list_artifacts(whole.info.run_id)}
    one = next(run for run in below if run.info.run_name == "rpc, engine paddle, 1 x 1")
    assert (one.data.params["engine"], one.data.params["client_threads"]) == ("paddle", "1")
    assert one.data.metrics["throughput_lower_value"] < one.data.metrics["throughput"]


@pytest.mark.parametrize(("options", "words"), [
    ([], "say what to write"), (["--bmf", "--mlflow", "x"], "say what to write"),
])  # fmt: skip
def test_one_tool_is_named(example: Path, options: list[str], words: str) -> None:
    done = CliRunner().invoke(main, ["export", str(example), *options])
    assert words in str(done.exception) + done.output


def test_nothing_to_export_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["export", str(tmp_path), "--bmf"])
    assert "holds no ledger.jsonl" in str(done.exception) + done.output
    Ledger(tmp_path).append(failed(1, 1), [])
    done = CliRunner().invoke(main, ["export", str(tmp_path), "--bmf"])
    assert "no cell that can be believed" in str(done.exception) + done.output

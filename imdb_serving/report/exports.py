"""What was measured, for the tools of others: Parquet with units, Bencher's JSON, a run of MLflow."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from imdb_serving.errors import ConfigError, DataError
from imdb_serving.packages import install
from imdb_serving.report import frames

UNITS = {
    "throughput": "samples/s", "request_rate": "requests/s", "rate": "requests/s", "offered": "requests/s",
    "achieved": "share of the rate", "accuracy": "share", "difference": "probability", "of_ceiling": "share",
    "load_before": "processes", "load_after": "processes", "in_flight": "requests",
}  # fmt: skip
"""Units of columns whose names do not end in one."""

ENDINGS = {"_us": "us", "_s": "s", "_mib": "MiB", "_cores": "cores", "_ms": "ms"}

NOT_IN_TABLES = ["cell", "stages", "findings"]
"""Columns that are objects, and stand in others as well."""


def unit_of(column: str) -> str:
    """Return the unit of a column; an empty text for a name, a count or a truth value."""
    return UNITS.get(column) or next((unit for end, unit in ENDINGS.items() if column.endswith(end)), "")


def write_cells(rows: pd.DataFrame, folder: Path) -> None:
    """Write every cell and round, all series, as `cells.csv`, and as `cells.parquet` with a unit for each column."""
    table = rows.drop(columns=NOT_IN_TABLES)
    table.to_csv(folder / "cells.csv", index=False)
    made = pa.Table.from_pandas(table, preserve_index=False)
    fields = [made.schema.field(name) for name in made.column_names]
    schema = pa.schema([one.with_metadata({"unit": unit}) if (unit := unit_of(one.name)) else one for one in fields])
    pq.write_table(made.cast(schema), folder / "cells.parquet")


MEASURES = {"throughput": "throughput", "p50_us": "latency_p50", "p99_us": "latency_p99", "server_cpu_us": "server_cpu"}
"""What is told of each cell to other tools, by column."""


class Exported:
    """A sweep's newest run, a cell of the grid at a time, with intervals where the rounds give any."""

    def __init__(self, folder: Path) -> None:
        """Read the ledger; raise `DataError` where nothing valid was measured."""
        self.folder = folder
        self.rows = frames.load(folder)
        cells = frames.cells(self.rows)
        self.cells = cells[cells["valid"]]
        if self.cells.empty:
            raise DataError(f"{folder} has no cell that can be believed; measure another round")

    def named(self) -> Iterator[tuple[str, pd.Series[Any]]]:
        """Yield each cell with a name that no other has."""
        for _, cell in self.cells.iterrows():
            told = filter(None, [cell["line"], cell["panel"]])
            yield f"{', '.join(told)}, {cell['threads']} x {cell['client_threads']}", cell

    def bmf(self) -> dict[str, Any]:
        """Return Bencher's Metric Format: for each cell its measures, latencies in nanoseconds as Bencher has them."""
        return {name: dict(self._measures(cell)) for name, cell in self.named()}

    def _measures(self, cell: pd.Series[Any]) -> Iterator[tuple[str, dict[str, float]]]:
        for column, measure in MEASURES.items():
            scale = 1000.0 if column.endswith("_us") else 1.0
            found = {"value": column, "lower_value": f"{column}_low", "upper_value": f"{column}_high"}
            values = {name: float(cell[of]) * scale for name, of in found.items() if is_known(cell.get(of))}
            if "value" in values:
                yield measure, values

    def mlflow(self, uri: str, experiment: str) -> str:
        """Write the sweep as a run of MLflow, with a run below it for each cell; return its id.

        `uri` is a tracking server's, or a folder. Raises `DataError` with MLflow's words when it refuses.
        """
        if "://" not in uri or uri.startswith("file:"):
            # MLflow 3 writes to folders only where that is asked for; servers and databases are its first choice.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import mlflow  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise ConfigError(f"--mlflow needs the package mlflow-skinny: {install('mlflow')}") from error
        try:
            return self._log(mlflow, uri, experiment)
        except mlflow.exceptions.MlflowException as error:
            raise DataError(f"MLflow at {uri}: {error}") from error

    def _log(self, mlflow: Any, uri: str, experiment: str) -> str:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment)
        with mlflow.start_run(run_name=self.folder.name) as whole:
            mlflow.set_tag("imdb_serving.run", str(self.rows["run"].iloc[0]))
            mlflow.log_param("cells", len(self.cells))
            for name in ARTIFACTS:
                if (self.folder / name).is_file():
                    mlflow.log_artifact(str(self.folder / name))
            for name, cell in self.named():
                with mlflow.start_run(run_name=name, nested=True):
                    mlflow.log_params({field: str(cell[field]) for field in PARAMETERS if field in cell})
                    for measure, values in self._measures(cell):
                        for kind, value in values.items():
                            mlflow.log_metric(measure if kind == "value" else f"{measure}_{kind}", value)
        return str(whole.info.run_id)


ARTIFACTS = ("cells.csv", "cells.parquet", "verdict.json", "report.html", "plan.json")
PARAMETERS = (
    "mode", "server", "engine", "net", "model", "server_threads", "server_processes", "client_threads", "math_threads",
    "batch", "arrivals", "rate",
)  # fmt: skip


def is_known(value: Any) -> bool:
    """Tell whether a value of a table is a number."""
    return isinstance(value, int | float) and math.isfinite(value)

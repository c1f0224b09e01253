"""`imdb-serving status`: what a server says about itself, and its metrics in a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from imdb_serving.cli import group
from imdb_serving.cli.options import Seconds, shows_credentials
from imdb_serving.errors import ServerUnavailable

if TYPE_CHECKING:
    from imdb_serving.keys import Credentials
    from imdb_serving.messages import ServerInfo


METRICS_PATH = "/metrics"
MAX_BYTES = 16 << 20
SHARES = (0.5, 0.99)


def print_status(endpoint: str, timeout: float, credentials: Credentials) -> None:
    """Print it; `endpoint` is a server's, or that of its metrics."""
    from imdb_serving.clients.connect import connect

    if endpoint.startswith("http") and endpoint.rstrip("/").endswith(METRICS_PATH):
        _print_metrics(endpoint, timeout)
        return
    with connect(endpoint, timeout, credentials=credentials) as client:
        info = client.hello()
    _print_info(info)
    if info.metrics:
        print()
        _print_metrics(info.metrics, timeout)
    else:
        print("\nno metrics: the server was started without --metrics-port")


def _print_info(info: ServerInfo) -> None:
    for name, value in asdict(info).items():
        if value not in ("", (), []):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple | list) else value
            print(f"{name.replace('_', ' '):<20}{shown}")


def _print_metrics(url: str, timeout: float) -> None:
    from urllib.error import URLError
    from urllib.request import ProxyHandler, build_opener

    from prometheus_client.parser import text_string_to_metric_families

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=timeout) as response:  # past any proxy of the user's
            text = response.read(MAX_BYTES).decode("utf-8", "replace")
    except (URLError, OSError, ValueError) as error:
        raise ServerUnavailable(f"no metrics at {url}: {getattr(error, 'reason', error)}") from error
    for family in text_string_to_metric_families(text):
        if family.type == "histogram":
            _print_histogram(family.name, family.samples)
            continue
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = " ".join(f"{name}={value}" for name, value in sample.labels.items())
                print(f"{sample.name.removeprefix('imdb_serving_'):<28}{labels:<44}{sample.value:>16,.10g}")


def _print_histogram(name: str, samples: list) -> None:  # type: ignore[type-arg] # prometheus_client's named tuples
    """Print the mean, and between which bounds the median and the 99th percentile lie."""
    stages: dict[str, dict[str, float]] = {}
    for sample in samples:
        stage = stages.setdefault(sample.labels.get("stage", ""), {})
        if sample.name.endswith("_bucket"):
            stage[sample.labels["le"]] = sample.value
        else:
            stage[sample.name.removeprefix(name)] = sample.value
    for stage_name, values in stages.items():
        count = values.pop("_count", 0.0)
        mean = values.pop("_sum", 0.0) / count if count else 0.0
        half, most = (next((le for le, total in values.items() if total >= share * count), "+Inf") for share in SHARES)
        print(
            f"{'stage seconds':<28}{'stage=' + stage_name:<20}mean {mean:.6f}  half within {half}  "
            f"99 % within {most}  of {count:,.0f} requests"
        )


@group.command()
@click.argument("endpoint")
@click.option("--timeout", type=Seconds(min=0, min_open=True), default=5.0, help="Seconds to wait for an answer.")
@shows_credentials
def status(endpoint: str, timeout: float, credentials: Any) -> None:
    """Print what the server at ENDPOINT says of itself, and its metrics if it was started with --metrics-port.

    \b
    Example:
      imdb-serving status tcp://127.0.0.1:9292
    """
    print_status(endpoint, timeout, credentials)

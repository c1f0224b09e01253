"""The published tables, as published."""

from __future__ import annotations

import pytest

from imdb_serving.analysis.published import SAMPLES, published_table

TIMES = ["prepro_s", "client_infer_s", "op0_s", "op1_s", "op2_s", "postpro_s", "total_s"]


def test_the_rpc_table_is_six_by_seven() -> None:
    table = published_table("rpc")
    assert list(table.columns) == ["server_threads", "client_threads", *TIMES]
    assert sorted(set(zip(table["server_threads"], table["client_threads"], strict=True))) == [
        (servers, clients) for servers in (4, 8, 12, 16, 20, 24) for clients in (1, 4, 8, 12, 16, 20, 24)
    ]
    assert len(table) == 42
    assert SAMPLES == 2500


@pytest.mark.parametrize(
    ("servers", "clients", "column", "value"),
    [(4, 1, "total_s", 29.84), (4, 1, "op1_s", 19.92), (4, 4, "client_infer_s", 7.66), (12, 12, "total_s", 3.45)],
)
def test_spot_values_of_the_rpc_table(servers: int, clients: int, column: str, value: float) -> None:
    table = published_table("rpc").set_index(["server_threads", "client_threads"])
    assert table.loc[(servers, clients), column] == pytest.approx(value)


def test_op1_is_most_of_a_lone_clients_time_and_times_are_above_zero() -> None:
    table = published_table("rpc")
    alone = table[table["client_threads"] == 1]
    assert (alone["op1_s"] > 0.6 * alone["client_infer_s"]).all()
    assert (table["client_infer_s"] < table["total_s"] * 1.1).all()
    assert (table[TIMES] > 0).all().all()


def test_the_flask_table_has_eight_client_counts() -> None:
    table = published_table("flask")
    assert list(table.columns) == ["client_threads", "serving_s", "total_s"]
    assert len(table) == len(set(table["client_threads"])) == 8
    assert table.set_index("client_threads").loc[1, "total_s"] == pytest.approx(33.286, abs=0.001)
    assert (table["serving_s"] < table["total_s"]).all()

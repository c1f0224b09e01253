"""The published tables, read as ours are."""

from __future__ import annotations

import pytest

from imdb_serving.analysis import published, usl
from imdb_serving.analysis.published import published_table as table_of
from imdb_serving.report.tables import published_in_words

TABLE = table_of("rpc")


def test_the_best_cell_is_twelve_by_twelve() -> None:
    assert published.best_cell(TABLE) == ((12, 12), 3.45)


def test_from_27_to_89_percent_are_unexplained() -> None:
    shares = published.unexplained(TABLE)
    one, most = TABLE["client_threads"] == 1, TABLE["client_threads"] == 24
    assert (round(shares[one].min(), 2), round(shares.max(), 2)) == (0.27, 0.89)
    assert shares[one].max() < shares[most].min()


def test_the_one_slip_is_found() -> None:
    (slip,) = published.slips(TABLE)
    assert (slip.place, slip.column, slip.said) == ((24, 20), "prepro", 0.5)
    assert 0.043 < slip.expected < 0.062  # its neighbours at 16 and 24 clients


def test_the_models_time_fits_the_whole_test_set_better() -> None:
    assert published.op1_ms(TABLE) == pytest.approx(8, abs=0.5)
    assert published.op1_ms(TABLE, 25_000) == pytest.approx(0.8, abs=0.05)


def test_where_the_law_does_not_fit_it_says_so() -> None:
    laws = published.laws(TABLE)
    assert set(laws) == {4, 8, 12, 16, 20, 24}
    assert {servers for servers, law in laws.items() if isinstance(law, usl.Law) and not law.fits} >= {16, 20}
    said = published_in_words()
    assert "does not fit" in said
    assert "12 server x 12 client threads (3.45 s)" in said
    assert "27% to 89%" in said
    assert "(24, 20)" in said
    assert "25,000" in said

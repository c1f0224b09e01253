"""The noise of a sweep: what is put into it is found again, and intervals hold as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from noisy_rows import rows_of

from imdb_serving.analysis.noise import noise_of
from imdb_serving.analysis.variances import UNKNOWN, Variance, combined, critical, moderated


def test_both_parts_of_the_noise_are_found_again() -> None:
    found = [noise_of(rows_of(seed)).components[0] for seed in range(60)]
    assert np.mean([level.within.value for level in found]) == pytest.approx(0.03**2, rel=0.1)
    assert np.mean([level.whole.value for level in found]) == pytest.approx(2 * 0.03**2, rel=0.1)
    assert found[0].within.freedom == pytest.approx(4 * 5 * 2)


@pytest.mark.parametrize("drift", [0.0, 0.03])
def test_intervals_of_cells_hold_in_nineteen_of_twenty(drift: float) -> None:
    held = []
    for seed in range(80):
        noise = noise_of(rows_of(seed, drift=drift))
        held += [low <= 1000 <= high for _, low, high in map(noise.interval, range(len(noise.keys)))]
    assert 0.92 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("other", [1, 6])  # of the same server process, and of another
def test_intervals_of_ratios_hold_whatever_the_rounds_share(other: int) -> None:
    held = []
    for seed in range(200):
        _, low, high = noise_of(rows_of(seed, drift=0.2)).ratio(0, other)
        held.append(low <= 1 <= high)
    assert 0.91 <= np.mean(held) <= 0.99


def test_cells_of_one_server_process_differ_by_less_than_those_of_two() -> None:
    noise = noise_of(rows_of(1, server=0.1, cell=0.01))
    assert noise.of_difference(0, 1).value < 0.2 * noise.of_difference(0, 6).value


def test_a_round_that_a_cell_missed_is_taken_out_of_its_mean() -> None:
    """The third round is half as fast for all: a cell without it is not therefore faster."""
    rows = rows_of(2, server=0.001, cell=0.001)
    rows.loc[rows["round"] == 3, "throughput"] /= 2
    rows = rows[~((rows["key"] == rows["key"].iloc[0]) & (rows["round"] == 3))]
    noise = noise_of(rows)
    assert noise.means[0] == pytest.approx(noise.means[1], abs=0.01)
    assert noise.counts[0] == 2


def test_an_odd_round_makes_a_cell_unstable_and_no_other_noisier() -> None:
    rows = rows_of(3, server=0.01, cell=0.01)
    place = rows.index[(rows["round"] == 2) & (rows["key"] == rows["key"].iloc[4])]
    before = noise_of(rows).spread
    rows.loc[place, "throughput"] /= 2
    noise = noise_of(rows)
    assert list(noise.unstable) == [rows["key"].iloc[4]]
    assert noise.spread == pytest.approx(before, rel=0.2)


def test_of_four_rounds_an_odd_one_is_set_aside() -> None:
    rows = rows_of(3, rounds=4, server=0.01, cell=0.01)
    place = rows.index[(rows["round"] == 2) & (rows["key"] == rows["key"].iloc[4])]
    rows.loc[place, "throughput"] /= 2
    noise = noise_of(rows)
    assert noise.set_aside == {rows["key"].iloc[4]: [2]}
    assert not noise.unstable
    assert noise.means[4] == pytest.approx(math.log(1000), abs=0.05)


def test_one_round_tells_no_noise() -> None:
    noise = noise_of(rows_of(1, rounds=1))
    assert not noise.known
    assert math.isnan(noise.interval(0).low)


def test_variances_that_agree_become_one_and_those_that_do_not_stay_apart() -> None:
    alike = moderated([Variance(1.0, 10), Variance(1.2, 10), Variance(0.9, 10)])
    assert [one.value for one in alike] == pytest.approx([3.1 / 3] * 3)
    assert alike[0].freedom == 30
    apart = moderated([Variance(1.0, 16), Variance(9.0, 16), Variance(1.0, 16)])
    assert apart[1].value > 6 * apart[0].value
    assert moderated([Variance(1.0, 4), UNKNOWN])[1].value == 1.0


def test_a_sum_of_variances_has_satterthwaites_degrees_of_freedom() -> None:
    assert combined([(1.0, Variance(2.0, 5)), (1.0, Variance(2.0, 5))]) == pytest.approx((4.0, 10.0))
    assert combined([(1.0, Variance(4.0, 5)), (1.0, Variance(0.0, 0))]) == pytest.approx((4.0, 5.0))


@pytest.mark.parametrize(("others", "freedom", "value"), [(1, 10, 1.81), (9, 20, 2.60), (4, 30, 2.25), (2, 5, 2.44)])
def test_critical_values_are_dunnetts(others: int, freedom: int, value: float) -> None:
    """Dunnett (1955), table 1a: one-sided, 95 %."""
    assert critical(others, freedom, 0.95) == pytest.approx(value, abs=0.006)

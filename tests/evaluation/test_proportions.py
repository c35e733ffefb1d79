"""Shares against formulas worked out apart from SciPy."""

import math

import pytest

from featvis_jax.evaluation.proportions import Share, effect_size, p_larger


@pytest.mark.parametrize("passed, total", [(0, 12), (5, 20), (20, 20)])
def test_the_interval_is_wilsons(passed, total):
    z, p = 1.959963984540054, passed / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    assert Share(passed, total).interval == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_controls_by_counting():
    # Of all ways to mark 7 of 12, those with 6 or more in the first six.
    ways = sum(math.comb(6, k) * math.comb(6, 7 - k) for k in (6,)) / math.comb(12, 7)
    assert p_larger(Share(6, 6), Share(1, 6)) == pytest.approx(ways)
    assert effect_size(Share(3, 4), Share(1, 4)) == pytest.approx(math.pi / 3)


def test_nothing_is_no_share():
    nothing = Share(0, 0)
    assert math.isnan(nothing.value)
    assert nothing.interval == (0.0, 1.0)

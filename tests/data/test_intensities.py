"""Robust scaling against sorting by hand."""

import numpy as np
import pytest

from featvis_jax.data.intensities import rescale
from tests.data.scans import head


def test_equals_sorting_by_hand(rng):
    data = rng.normal(300, 100, (20, 21, 22)).astype(np.float32)
    data[:, :5] = -50
    data[0, 0, 0] = 1e6
    ordered = np.sort(data.ravel().astype(np.float64))
    lower = ordered[int(np.floor(0.001 * (ordered.size - 1)))]
    bright = ordered[ordered > lower]
    upper = bright[int(np.ceil(0.998 * (bright.size - 1)))]
    expected = np.clip((data.astype(np.float64) - lower) / (upper - lower), 0, 1)
    scaled = rescale(data)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_a_background_becomes_exactly_zero_and_a_second_time_changes_nothing(rng):
    image, ball = head(rng, stripped=True)
    scaled = rescale(image * 3 - 1000)
    assert (scaled[~ball] == 0).all()
    assert (scaled[ball] > 0).mean() > 0.999
    assert scaled.max() == 1
    np.testing.assert_array_equal(rescale(scaled), scaled)


def test_the_ends_of_float32():
    data = np.array([-3e38, 0, 3e38], np.float32)
    np.testing.assert_allclose(rescale(data), [0, 0.5, 1])


def test_constant():
    with pytest.raises(ValueError, match="constant"):
        rescale(np.full((2, 3), 5, np.float32))

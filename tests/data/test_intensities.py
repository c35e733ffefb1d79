"""Robust scaling against sorting by hand, and z-scores against NumPy."""

import numpy as np
import pytest

from featvis_jax.data.intensities import SCALINGS, rescale, standardize
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


@pytest.mark.parametrize("shape", [(20, 21), (12, 13, 14)])
def test_z_scores_of_all_voxels_and_of_those_that_are_not_zero(rng, shape):
    data = rng.normal(300, 100, shape).astype(np.float32)
    data[:5] = 0
    exact = data.astype(np.float64)
    found = standardize(data)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (exact - exact.mean()) / exact.std(), atol=1e-6)
    brain = exact[exact != 0]
    found = standardize(data, nonzero=True)
    np.testing.assert_allclose(found[data != 0], (brain - brain.mean()) / brain.std(), atol=1e-6)
    assert (found[:5] == 0).all()
    np.testing.assert_allclose(standardize(found, nonzero=True), found, atol=1e-6)


@pytest.mark.parametrize("low", [-1000.0, 0.0])
def test_what_a_scan_does_not_reach_is_as_dark_as_its_background(rng, low):
    image, ball = head(rng, stripped=True)
    for name, scaling in SCALINGS.items():
        scaled = scaling.scale(image + low)
        if name == "zscore_nonzero" and low:
            continue  # Its zeros are no background.
        np.testing.assert_array_equal(scaled[~ball], np.float32(scaling.outside(scaled)))


@pytest.mark.parametrize("data", [[0, 0, 0], [0, 7, 7]])
def test_one_intensity_has_no_z_scores(data):
    with pytest.raises(ValueError, match=r"that are not 0 have no standard deviation.*constant"):
        standardize(np.array(data, np.float32), nonzero=True)
    with pytest.raises(ValueError, match="its 3 voxels have no standard deviation"):
        standardize(np.full(3, 2, np.float32))

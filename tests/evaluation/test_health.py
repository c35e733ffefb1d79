"""The state of a unit after its ascent."""

import numpy as np
import pytest

from featvis_jax.evaluation.health import UNIFORM_SHARE, status

RISING = np.linspace(-1.0, 2.0, 12, dtype=np.float32)
RANKS = pytest.mark.parametrize("spatial", [(12, 14), (10, 11, 12)], ids=["2-D", "3-D"])


def judge(image, *, trace=RISING, finite=True, intensity_range=(0.0, 1.0), border=0):
    return status(
        image,
        objective_trace=trace,
        finite=finite,
        intensity_range=intensity_range,
        border=border,
    )


def checkerboard(spatial, amplitude, middle=0.5):
    """An image whose standard deviation is its amplitude."""
    signs = np.where(np.indices(spatial).sum(axis=0) % 2, 1.0, -1.0)
    return (middle + amplitude * signs)[..., None].astype(np.float32)


@RANKS
def test_a_pattern_that_the_objective_followed_is_alive(spatial):
    assert judge(checkerboard(spatial, 0.2)) == "alive"


@RANKS
def test_a_flat_image_is_uniform_whatever_its_grey_level(spatial):
    for level in (0.0, 0.3, 1.0):
        assert judge(np.full((*spatial, 1), level, np.float32)) == "uniform"


@RANKS
def test_the_limit_is_two_percent_of_the_intensity_range(spatial):
    assert UNIFORM_SHARE == 0.02
    for low, high in [(0.0, 1.0), (-3.0, 7.0), (0.0, 0.1)]:
        step = 0.02 * (high - low)
        for factor, expected in [(0.99, "uniform"), (1.01, "alive")]:
            image = checkerboard(spatial, factor * step, middle=(low + high) / 2)
            assert judge(image, intensity_range=(low, high)) == expected


@RANKS
def test_a_unit_that_never_moved_is_dead_whatever_its_image(spatial):
    constant = np.full(12, -0.25, np.float32)
    assert judge(checkerboard(spatial, 0.2), trace=constant) == "dead"
    assert judge(np.zeros((*spatial, 1), np.float32), trace=constant) == "dead"
    constant[7] = np.nextafter(constant[7], np.float32(1))
    assert judge(checkerboard(spatial, 0.2), trace=constant) == "alive"


@RANKS
def test_divergence_comes_before_everything_else(spatial):
    trace = np.full(12, np.nan, np.float32)
    assert judge(np.zeros((*spatial, 1), np.float32), trace=trace, finite=False) == "diverged"
    trace[:5] = 1.0
    assert judge(checkerboard(spatial, 0.2), trace=trace, finite=False) == "diverged"


@RANKS
def test_the_border_is_left_out_and_nothing_more(spatial):
    image = np.full((*spatial, 1), 0.5, np.float32)
    inner = (slice(2, -2),) * len(spatial)
    framed = checkerboard(spatial, 0.4)
    framed[inner] = image[inner]
    assert judge(framed) == "alive"
    assert judge(framed, border=1) == "alive"
    assert judge(framed, border=2) == "uniform"
    # The other way round: a pattern within a flat frame.
    image[inner] = checkerboard(spatial, 0.4)[inner]
    assert judge(image, border=2) == "alive"


@RANKS
def test_a_border_that_would_leave_nothing_is_ignored(spatial):
    framed = checkerboard(spatial, 0.4)
    framed[(slice(4, -4),) * len(spatial)] = 0.5
    for border in (min(spatial) // 2, 100):
        assert judge(framed, border=border) == "alive"
    assert judge(framed, border=min(spatial) // 2 - 1) == "uniform"

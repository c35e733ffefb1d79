"""Random figures, and their overlap with a shape, against what is counted or known."""

import numpy as np
import pytest

from featvis_jax.evaluation.concepts import TEMPLATES, template
from featvis_jax.evaluation.figures import RADIUS, of_template, overlap, random_figure


def box(*sides: float):
    def shape(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
        u = np.abs(coordinates - np.reshape(center, (-1, *[1] * (coordinates.ndim - 1)))) / size
        return np.all([v < side / 2 for v, side in zip(u, sides, strict=True)], axis=0) * 1.0

    return template(shape)


@pytest.mark.parametrize("rank", [2, 3])
def test_figures_have_one_area_and_are_centred(rank, rng):
    areas = []
    for _ in range(12):
        raster = random_figure(rng, rank, TEMPLATES["square"]).raster
        cell = 2 * RADIUS / len(raster)
        assert raster.min() >= 0 and raster.max() <= 1
        areas.append(raster.sum() * cell**rank)
        places = (np.indices(raster.shape) - (len(raster) - 1) / 2) * cell
        middle = [(raster * place).sum() / raster.sum() for place in places]
        np.testing.assert_allclose(middle, 0, atol=0.2)
    # Thin ones are coarse, and pieces of some lie beyond the raster.
    assert np.median(areas) == pytest.approx(1, abs=0.03)
    assert max(areas) < 1.3


@pytest.mark.parametrize("a", [1.1, 1.25**0.5, 2**0.5])
def test_a_rectangle_overlaps_a_square_as_far_as_is_worked_out(a):
    # A square of side s, 1/a <= s <= a, in a rectangle a by 1/a: s / a over s^2 + 1 - s / a, best
    # at s = 1. Edges lie on cells of a twentieth.
    found = overlap(of_template(box(a, 1 / a), 2), of_template(TEMPLATES["square"], 2))
    assert found == pytest.approx((1 / a) / (2 - 1 / a), abs=0.05)


def test_a_shape_is_found_wherever_it_lies():
    shape = of_template(TEMPLATES["square"], 2)

    def moved(offsets: np.ndarray, size: float) -> np.ndarray:
        square = np.abs(offsets / size - np.array([0.35, 0.0]).reshape(2, 1, 1)).max(axis=0) < 0.4
        speck = np.abs(offsets / size - np.array([-0.9, 0.0]).reshape(2, 1, 1)).max(axis=0) < 0.1
        return (square | speck) * 1.0

    figure = of_template(moved, 2)
    # Its centre of gravity is the middle, and the square is neither there nor of its size.
    assert overlap(figure, shape) == pytest.approx(0.64 / (0.64 + 0.04), abs=0.04)


def test_the_order_of_likeness_is_that_of_the_eye():
    square = of_template(TEMPLATES["square"], 2)
    shares = [
        overlap(of_template(draw, 2), square)
        for draw in (TEMPLATES["square"], box(1.05, 1 / 1.05), TEMPLATES["disc"], TEMPLATES["line"])
    ]
    assert shares == sorted(shares, reverse=True) and shares[0] == 1.0

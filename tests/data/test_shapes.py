"""Shapes of lesions: masks on a grid in mm."""

import numpy as np
import pytest
from scipy import stats

from featvis_jax.data import distractors
from featvis_jax.data.shapes import SHAPES, disc, gaussian, square

both_ranks = pytest.mark.parametrize("rank", [2, 3])


@both_ranks
def test_a_square_is_the_box_around_its_centre(rank):
    center, size = np.array([3.0, 5.0, 4.0])[:rank], 4.5
    grid = np.indices((9, 10, 8)[:rank]).astype(np.float64)
    mask = square(grid, center, size)
    for index in np.ndindex(mask.shape):
        near = all(abs(i - c) < size / 2 for i, c in zip(index, center, strict=True))
        assert mask[index] == near


@both_ranks
def test_a_gaussian_lesion_falls_off_as_the_normal_distribution(rank):
    center, size = np.array([8.0, 9.0, 7.0])[:rank], 8.0
    grid = np.indices((18, 17, 16)[:rank]).astype(np.float64)
    radius = np.sqrt(sum((grid[axis] - center[axis]) ** 2 for axis in range(rank)))
    expected = stats.norm.sf(radius, loc=size / 2, scale=size / 8)
    mask = gaussian(grid, center, size)
    np.testing.assert_allclose(mask, np.where(expected < 0.02, 0, expected), atol=1e-12)
    assert set(np.unique(mask)) > {0.0}, "something has to be cut off for this test to see it"


@both_ranks
@pytest.mark.parametrize("size", [9.0, 13.0, 17.0])
def test_a_disc_has_the_volume_of_the_cube_of_its_size(rank, size):
    # Finely sampled, so that the grid does not decide.
    grid = (np.indices((120,) * rank) + 0.5) * 0.2
    mask = disc(grid, np.full(rank, 12.0), size)
    assert mask.sum() * 0.2**rank == pytest.approx(size**rank, rel=5e-3)
    reach = np.argwhere(mask).max(axis=0) - np.argwhere(mask).min(axis=0)
    assert set(reach) == {reach[0]}, "round means as wide along every axis"
    corner = tuple(np.argwhere(mask).max(axis=0))
    assert mask[corner] == 0


@both_ranks
@pytest.mark.parametrize("name", SHAPES)
def test_a_part_of_a_grid_has_that_part_of_the_mask(rank, name):
    """Lesions are tried on lines through their centre before all of them is drawn."""
    grid = np.indices((15, 13, 14)[:rank]).astype(np.float64)
    center, size = np.array([7.0, 6.0, 5.0])[:rank], 6.0
    for shape in (SHAPES[name], *distractors.of_shapes([disc, square], rank)):
        whole = shape(grid, center, size)
        for axis in range(rank):
            line = tuple(slice(None) if n == axis else slice(5, 6) for n in range(rank))
            np.testing.assert_array_equal(shape(grid[:, *line], center, size), whole[line])

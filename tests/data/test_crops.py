"""Crops: every kept voxel stays where it is in the world."""

import numpy as np
import pytest

from featvis_jax.data.crops import center_crop, crop_affine
from tests.data.scans import OBLIQUE


@pytest.mark.parametrize("have", [(7, 8, 9), (8, 7), (5,)])
@pytest.mark.parametrize("change", [-3, -2, -1, 0, 1, 2, 3])
def test_voxels_keep_their_place_in_the_world(rng, have, change):
    array = rng.uniform(1, 2, have)
    wanted = tuple(size + change for size in have)
    cropped, affine = center_crop(array, wanted, affine=OBLIQUE)
    assert cropped.shape == wanted
    seen = 0
    for index in np.ndindex(*wanted):
        world = affine @ [*index, *(0,) * (3 - len(have)), 1]
        old = np.round(np.linalg.solve(OBLIQUE, world)[: len(have)]).astype(int)
        if all(0 <= i < size for i, size in zip(old, have, strict=True)):
            assert cropped[index] == array[tuple(old)]
            seen += 1
        else:
            assert cropped[index] == 0
    assert seen == np.prod(np.minimum(have, wanted))


@pytest.mark.parametrize(("small", "large"), [(3, 6), (4, 6), (3, 5), (5, 5)])
def test_cropping_undoes_padding(rng, small, large):
    array = rng.normal(size=(small, small))
    padded, moved = center_crop(array, (large, large), affine=OBLIQUE)
    restored, back = center_crop(padded, (small, small), affine=moved)
    np.testing.assert_array_equal(restored, array)
    np.testing.assert_allclose(back, OBLIQUE)


def test_further_axes_are_kept_and_a_crop_is_a_view(rng):
    array = rng.normal(size=(6, 8, 2))
    cropped, affine = center_crop(array, (4, 4))
    assert affine is None
    np.testing.assert_array_equal(cropped, array[1:5, 2:6])
    assert np.shares_memory(cropped, array)
    assert center_crop(array, (8, 4))[0].shape == (8, 4, 2)


def test_a_slice_at_a_height():
    affine = crop_affine(OBLIQUE, (2, -1, 7))
    for index in [(0, 0, 0), (3, 5, 0)]:
        expected = OBLIQUE @ [index[0] + 2, index[1] - 1, index[2] + 7, 1]
        np.testing.assert_allclose(affine @ [*index, 1], expected)


def test_bad_arguments():
    with pytest.raises(ValueError, match="shape="):
        center_crop(np.zeros((3, 3)), (2, 2, 2))
    with pytest.raises(ValueError, match="shape="):
        center_crop(np.zeros((3, 3)), (0, 2))
    with pytest.raises(ValueError, match="start="):
        crop_affine(np.eye(4), (1, 2, 3, 4))

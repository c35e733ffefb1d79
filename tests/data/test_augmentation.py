"""Changes to training images: shifts in mm, mirrors and tones, each against NumPy's own."""

import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.data.augmentation import Augmentation

both_ranks = pytest.mark.parametrize("shape", [(16, 15, 1), (9, 10, 11, 1)], ids=["2-D", "3-D"])


def shift_of(changed: np.ndarray, image: np.ndarray, most: int) -> tuple[int, ...]:
    """The only shift of whole voxels, black moving in, that makes one image the other."""
    spatial = image.ndim - 1
    found = [
        move
        for move in np.ndindex(*(2 * most + 1,) * spatial)
        if np.array_equal(
            changed,
            ndimage.shift(image, [*(n - most for n in move), 0], order=0, mode="constant"),
        )
    ]
    assert len(found) == 1
    return tuple(n - most for n in found[0])


@both_ranks
@pytest.mark.parametrize(
    ("voxel_size_mm", "max_shift_mm", "most"),
    [(1.0, 2.0, 2), (2.0, 4.0, 2), (2.0, 3.9, 1), (2.0000002, 4.0, 2), (3.0, 2.0, 0)],
)
def test_shifts_are_in_millimetres(rng, shape, voxel_size_mm, max_shift_mm, most):
    image = rng.uniform(0.1, 1, shape).astype(np.float32)
    change = Augmentation(
        voxel_size_mm=voxel_size_mm, max_shift_mm=max_shift_mm, mirror=False, max_gamma=0.0
    )
    found = [shift_of(change(image, rng), image, 3) for _ in range(25)]
    assert set(np.ravel(found)) == set(range(-most, most + 1))


def test_a_shift_over_the_whole_image_leaves_black(rng):
    image = rng.uniform(0.1, 1, (4, 5, 1)).astype(np.float32)
    change = Augmentation(max_shift_mm=1e4, mirror=False)
    assert not any(change(image, rng).any() for _ in range(5))


@both_ranks
def test_half_are_mirrored_from_left_to_right(rng, shape):
    image = rng.uniform(0.1, 1, shape).astype(np.float32)
    change = Augmentation(max_shift_mm=0.0, max_gamma=0.0)
    found = [change(image, rng) for _ in range(40)]
    mirrored = [np.array_equal(changed, np.flip(image, 0)) for changed in found]
    same = [np.array_equal(changed, image) for changed in found]
    assert sum(mirrored) + sum(same) == 40
    assert 10 <= sum(mirrored) <= 30


@both_ranks
def test_tones_are_raised_to_one_power_and_stay_on_the_unit_interval(rng, shape):
    image = rng.uniform(0.1, 0.9, shape).astype(np.float32)
    image[0] = (0, 1)[shape[0] % 2]
    change = Augmentation(max_shift_mm=0.0, mirror=False, max_gamma=0.5)
    middle = slice(1, None)
    exponents = []
    for _ in range(30):
        changed = change(image, rng)
        powers = np.log(changed[middle]) / np.log(image[middle])
        np.testing.assert_allclose(powers, powers.mean(), rtol=1e-4)
        np.testing.assert_array_equal(changed[0], image[0])
        exponents.append(np.log(powers.mean()))
    assert -0.5 <= min(exponents) < -0.2
    assert 0.2 < max(exponents) <= 0.5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_shift_mm": -1.0}, "max_shift_mm is -1.0; expected a number from 0"),
        ({"max_shift_mm": float("nan")}, "max_shift_mm is nan"),
        ({"max_shift_mm": float("inf")}, "max_shift_mm is inf"),
        ({"max_gamma": 1.5}, r"max_gamma is 1.5; expected a number in \[0, 1\]"),
        ({"max_gamma": float("nan")}, "max_gamma is nan"),
        ({"voxel_size_mm": 0.0}, "voxel_size_mm is 0.0; expected a positive number"),
    ],
)
def test_numbers_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Augmentation(**options)

"""Where the brain is, with and without a skull, and which slices hold enough of it."""

import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.data.masks import brain_fraction_per_slice, brain_mask, usable_slices
from tests.data.scans import head


class TestMask:
    @pytest.mark.parametrize("scale", [1.0, 0.001])
    @pytest.mark.parametrize("offset", [0.0, -300.0])
    def test_stripped_is_everything_above_the_background(self, rng, scale, offset):
        image, ball = head(rng, stripped=True)
        mask = brain_mask(np.float32(scale) * image + np.float32(offset))
        np.testing.assert_array_equal(mask, ball)
        middle = np.ascontiguousarray(image[:, :, 18])
        np.testing.assert_array_equal(brain_mask(middle), ball[:, :, 18])

    def test_not_stripped_is_the_head_without_the_air(self, rng):
        image, ball = head(rng, stripped=False)
        image[2, 2, 2] = 600
        mask = brain_mask(image)
        assert not mask[2, 2, 2]
        assert mask[20, 22, 18], "the dark hole is inside"
        overlap = 2 * (mask & ball).sum() / (mask.sum() + ball.sum())
        assert overlap > 0.99
        assert ndimage.label(mask)[1] == 1

    def test_constant(self):
        assert not brain_mask(np.ones((3, 4), np.float32)).any()

    def test_fraction_per_slice(self, rng):
        image, ball = head(rng, stripped=True)
        expected = [ball[:, :, z].sum() / ball[:, :, z].size for z in range(ball.shape[2])]
        np.testing.assert_allclose(brain_fraction_per_slice(image), expected)


class TestUsableSlices:
    def test_share_of_the_fullest(self):
        fraction = np.array([0, 0.05, 0.1, 0.25, 0.5, 0.2, 0])
        np.testing.assert_array_equal(usable_slices(fraction, minimum=0.5), [3, 4])
        np.testing.assert_array_equal(usable_slices(fraction), [3, 4, 5])
        np.testing.assert_array_equal(usable_slices(fraction, minimum=0), [1, 2, 3, 4, 5])

    @pytest.mark.parametrize("fraction", [np.zeros(4), np.zeros(0)])
    def test_no_brain(self, fraction):
        with pytest.raises(ValueError, match="no slice with brain"):
            usable_slices(fraction)

    def test_minimum_out_of_range(self):
        with pytest.raises(ValueError, match="minimum=20"):
            usable_slices(np.ones(3), minimum=20.0)

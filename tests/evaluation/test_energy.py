"""Scrambled phases against numpy's transform, and windows against a slow search."""

import numpy as np
import pytest

from featvis_jax.evaluation.energy import phase_scrambled, soft_mask, strongest_windows, window


@pytest.mark.parametrize("shape", [(20, 23, 1), (10, 12, 13, 1)])
def test_scrambling_keeps_amplitudes_and_takes_shape(shape, rng):
    image = np.full(shape, 0.4)
    image[tuple(slice(3, 8) for _ in shape[:-1])] = 0.9
    scrambled = phase_scrambled(image, rng)
    axes = tuple(range(len(shape) - 1))
    amplitudes = [np.abs(np.fft.fftn(each, axes=axes)) for each in (image, scrambled)]
    np.testing.assert_allclose(*amplitudes, atol=1e-9)
    assert scrambled.mean() == pytest.approx(image.mean())
    assert scrambled.std() == pytest.approx(image.std())
    assert abs(np.corrcoef(image.ravel(), scrambled.ravel())[0, 1]) < 0.5


def test_the_strongest_windows_lie_around_what_is_drawn_and_never_overlap():
    image = np.full((50, 60, 1), 0.5)
    image[10:18, 12:20] = 0.9
    image[30:38, 40:48] = 0.2
    image[32:34, 10:12] = 0.52
    starts = strongest_windows(image, 16, count=5)
    # 0.4 is stronger than 0.3, and the faint spot is none.
    np.testing.assert_allclose(starts, [[6, 8], [26, 36]], atol=1)
    assert window(image, starts[0], 16).shape == (16, 16, 1)


def test_windows_lie_inside_the_image(rng):
    image = rng.uniform(size=(31, 26, 24, 1))
    starts = strongest_windows(image, 9, count=20, least=0.0)
    assert len(starts) > 3
    assert (starts >= 0).all() and (starts + 9 <= image.shape[:-1]).all()
    apart = np.abs(starts[:, None] - starts[None]).max(axis=-1)
    assert apart[~np.eye(len(starts), dtype=bool)].min() >= 9


def test_an_image_smaller_than_a_window_is_refused():
    with pytest.raises(ValueError, match="a window 12 along each axis"):
        strongest_windows(np.zeros((10, 20, 1)), 12, count=1)


def test_the_soft_mask_is_symmetric_and_of_any_rank():
    mask = soft_mask(11, 3)[..., 0]
    assert mask.shape == (11, 11, 11) and mask[5, 5, 5] == 1
    for axis in range(3):
        np.testing.assert_allclose(mask, np.flip(mask, axis))

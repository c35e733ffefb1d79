"""Transforms in part: nothing at 0, all at 1, and between them what a weaker one would do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.maximize.transforms import (
    chain,
    gaussian_blur,
    in_part,
    noise,
    rotate,
    scale,
    translate,
)

SHAPES = [(24, 27, 1), (12, 13, 14, 1)]
KEY = jax.random.key(3)


def smooth_image(shape):
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape[:-1]), 2.0)
    return jnp.asarray(image[..., None] / np.abs(image).max(), jnp.float32)


def everything():
    motion = chain(
        translate(max_voxels=3),
        scale(factors=[0.9, 1.1]),
        rotate(degrees=[-10, 10]),
        translate(max_voxels=2),
    )
    return chain(motion, noise(standard_deviation=0.1), gaussian_blur(sigma=0.7))


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_from_nothing_to_all_of_it(shape):
    image, transform = smooth_image(shape), everything()
    part = jax.jit(lambda share: in_part(KEY, image, 0, transform, share))
    np.testing.assert_allclose(part(jnp.float32(0.0)), image, atol=1e-6)
    np.testing.assert_allclose(part(jnp.float32(1.0)), transform(KEY, image, 0), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_half_of_a_motion_goes_half_of_the_way(shape):
    image = smooth_image(shape)
    for whole, half in (
        (rotate(degrees=[10]), rotate(degrees=[5])),
        (translate(max_voxels=4), None),
    ):
        found = in_part(KEY, image, 0, whole, jnp.float32(0.5))
        if half is None:
            offset = np.asarray(whole.geometry.draw(KEY, shape[:-1]).offset) / 2
            expected = ndimage.shift(
                np.asarray(image[..., 0]), -offset, order=1, mode="grid-constant"
            )[..., None]
        else:
            expected = half(KEY, image, 0)
        np.testing.assert_allclose(found, expected, atol=0.05)


def test_half_of_a_noise_has_half_its_deviation():
    image = jnp.zeros((64, 64, 1))
    whole = noise(standard_deviation=0.2)(KEY, image, 0)
    half = in_part(KEY, image, 0, noise(standard_deviation=0.2), jnp.float32(0.5))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-6)


def test_gradients_pass_through():
    image, weights = smooth_image(SHAPES[0]), smooth_image(SHAPES[0])[::-1]

    def value(image, share):
        return jnp.sum(weights * in_part(KEY, image, 0, everything(), share))

    gradient = jax.grad(value)(image, jnp.float32(0.4))
    step = 1e-2 * jnp.asarray(np.random.default_rng(5).normal(size=image.shape), jnp.float32)
    difference = value(image + step, jnp.float32(0.4)) - value(image - step, jnp.float32(0.4))
    assert float(jnp.sum(gradient * step)) == pytest.approx(float(difference) / 2, rel=2e-3)

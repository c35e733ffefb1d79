"""What moving an image does to its objective."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from featvis_jax.maximize.objectives import Unit, channel
from featvis_jax.maximize.stability import moved_objective
from featvis_jax.nn.tracing import linen_network

SHAPES = {2: (24, 26, 1), 3: (16, 18, 17, 1)}


class Difference(nn.Module):
    """Channel 0: neighbours along the first axis, squared difference. Channel 1: the mean."""

    @nn.compact
    def __call__(self, images):
        return Features(name="features")(images)


class Features(nn.Module):
    @nn.compact
    def __call__(self, images):
        step = jnp.diff(images, axis=1) ** 2
        return jnp.concatenate([step, images[:, 1:]], axis=-1)


@pytest.fixture(params=[2, 3])
def measured(request):
    """A function that measures an image's channel, moved and not, and the image's shape."""
    shape = SHAPES[request.param]
    network = linen_network(Difference(), {}, shape)

    @functools.cache
    def program(**options):
        return jax.jit(moved_objective(network, channel("features"), **options))

    def measure(image, number, **options):
        moved = program(**options)
        unit = Unit(jnp.int32(number))
        still = network.activations({}, image, ("features",))["features"][..., number].mean()
        return float(moved({}, jax.random.key(0), image, unit)), float(still)

    return measure, shape


def test_an_image_that_is_not_moved_keeps_all(measured):
    measure, shape = measured
    image = jnp.asarray(np.random.default_rng(0).uniform(size=shape), jnp.float32)
    moved, still = measure(image, 0, max_voxels=0, max_degrees=0.0, max_scale=0.0, num_draws=2)
    assert moved == pytest.approx(still, rel=1e-4)


def test_noise_loses_more_than_a_broad_pattern(measured):
    measure, shape = measured
    noise = jnp.asarray(np.random.default_rng(0).uniform(size=shape), jnp.float32)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * np.arange(shape[0]) / 8)
    wave = jnp.asarray(np.broadcast_to(wave.reshape(-1, *[1] * (len(shape) - 1)), shape))
    shares = []
    for image in (noise, wave.astype(jnp.float32)):
        moved, still = measure(image, 0, max_voxels=0)
        shares.append(moved / still)
    assert shares[0] < 0.8 < shares[1]

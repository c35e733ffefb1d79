"""A network without switches, on which two programs can be compared over many steps.

A ReLU or a pooling whose inputs differ in the last bit may choose otherwise, and an ascent makes a
picture of its own out of that. Where nothing switches, what two programs round differently stays
that small.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from featvis_jax.nn.tracing import Network, linen_network


class Smooth(nn.Module):
    """Three convolutions and, between them, hyperbolic tangents."""

    @nn.compact
    def __call__(self, images):
        window = (3,) * (images.ndim - 2)
        x = (images - 0.4) / 0.25
        for number, features in enumerate((4, 8), start=1):
            x = nn.tanh(nn.Conv(features, window, padding="VALID", name=f"conv{number}")(x))
        return nn.Conv(16, window, padding="VALID", name="conv3")(x)


def smooth_network(image_shape) -> Network:
    module = Smooth()
    image = jnp.zeros((1, *image_shape))
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    rng = np.random.default_rng(3)

    def draw(leaf):
        scale = np.sqrt(1 / max(np.prod(leaf.shape[:-1]), 1))
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    return linen_network(module, jax.tree.map(draw, shapes), image_shape)

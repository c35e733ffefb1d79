"""Channels whose mean over space no image can change.

A normalization over space takes the mean out of every channel, and puts the same number in for all
images. An ascent on that mean follows the rounding of float32, which rises and looks like success.
It is measured here, since a normalization may be anywhere inside a block, and what behaves like
one may have any name.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from featvis_jax.nn.network import Layer, Variables
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Image

# Of the deviation within a channel: what the mean of a channel without a normalization moves by,
# even in a large volume, is a hundred times as much; its rounding is a tenth.
_ROUNDING = 1e-5
_IMAGES = 3

# By the network's own function: an ascent is checked more than once.
_measured: weakref.WeakKeyDictionary[Any, dict[str, bool]] = weakref.WeakKeyDictionary()


class MeanCheck(NamedTuple):
    """A check for objectives on means of a layer's channels over space.

    Attributes:
      layer: Name of the layer.
      description: The objective's.

    Example:
      >>> from flax import linen as nn
      >>> from featvis_jax.nn.tracing import linen_network
      >>> module = nn.Sequential([nn.Conv(4, (3, 3)), nn.InstanceNorm()])
      >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 12, 10, 1)))
      >>> network = linen_network(module, variables, (12, 10, 1))
      >>> MeanCheck("layers_0", "channel('layers_0')")(network)
      >>> try:
      ...     MeanCheck("layers_1", "channel('layers_1')")(network)
      ... except ValueError as error:
      ...     print(str(error)[:63])
      channel('layers_1'): the mean of every channel of layer 'layers
    """

    layer: str
    description: str

    def __call__(self, network: Network) -> None:
        """Refuse a network in which the mean is the same for every image.

        Raises:
          ValueError: It is.
        """
        layer = self.layer
        if _is_constant(network, layer):
            after = "" if layer.endswith("/relu") else f"{layer + '/relu'!r}, "
            raise ValueError(
                f"{self.description}: the mean of every channel of layer {layer!r} is the same for "
                "every image, as a normalization over space makes it, so that nothing but rounding "
                f"would be maximized: take its strongest places, the layer before it, {after}or a "
                "neuron."
            )


def _is_constant(network: Network, layer: str) -> bool:
    found = _measured.setdefault(network.activations, {})
    if layer not in found:
        found[layer] = _may_be(network, network.layer(layer)) and _is_measured(network, layer)
    return found[layer]


def _may_be(network: Network, layer: Layer) -> bool:
    """Whether anything before a layer sums over as much as space has; it costs no computation."""
    leaves = jax.tree.leaves(network.variables)
    if len(layer.shape) < 2 or not all(isinstance(leaf, jax.Array) for leaf in leaves):
        return False
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return False  # Only shapes are asked for.
    field = layer.receptive_field
    if field is not None and 2 * field < min(network.image_shape[:-1]):
        return False
    image = jax.ShapeDtypeStruct(network.image_shape, jnp.float32)
    program = jax.make_jaxpr(network.activations, static_argnums=2)(
        network.variables, image, (layer.name,)
    )
    return "reduce_sum" in str(program)


def _is_measured(network: Network, layer: str) -> bool:
    """Whether every channel that is not dead has one mean, whatever the image."""

    def moments(variables: Variables, image: Image) -> tuple[Array, Array]:
        """Mean and deviation of every channel over space."""
        activation = network.activations(variables, image, (layer,))[layer]
        mean = activation
        while mean.ndim > 1:  # Axis by axis: a sum over a whole volume would round too much.
            mean = mean.mean(axis=0)
        deviations = activation - mean.reshape((1,) * (activation.ndim - 1) + (-1,))
        return mean, jnp.sqrt(jnp.square(deviations).mean(axis=range(activation.ndim - 1)))

    @jax.jit
    def of_all(variables: Variables, images: Array) -> tuple[Array, Array]:
        return jax.lax.map(lambda image: moments(variables, image), images)

    means, deviations = map(np.asarray, of_all(network.variables, _images(network.image_shape)))
    spread, size = np.ptp(means, axis=0), np.abs(means).max(axis=0)
    deviation = deviations.max(axis=0)
    is_alive = deviation > _ROUNDING * size
    is_constant = spread <= _ROUNDING * (deviation + size)
    return bool(is_alive.any() and is_constant[is_alive].all())


def _images(shape: tuple[int, ...]) -> Array:
    """Noise of different brightness, contrast and direction, on [0, 1]."""
    noise = np.random.default_rng(0).random((_IMAGES, *shape), np.float32)
    ramp = np.linspace(0, 1, shape[0], dtype=np.float32).reshape(-1, *(1,) * (len(shape) - 1))
    noise[1] = 0.4 * noise[1]
    noise[2] = 0.5 + 0.5 * noise[2] * ramp
    return jnp.asarray(noise)

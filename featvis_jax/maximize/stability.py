"""Does an image still drive its unit when it is moved a little?

An image made of noise that is tuned to the pixel loses its effect; a pattern keeps it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from featvis_jax.maximize.ascent import reader
from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.maximize.transforms import chain, rotate, scale, translate
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Image, Key, Scalar

Variables = PyTree[Array]


def moved_objective(
    network: Network,
    objective: Objective,
    *,
    max_voxels: int = 3,
    max_degrees: float = 5.0,
    max_scale: float = 0.05,
    num_draws: int = 16,
) -> Callable[..., Scalar]:
    """Make the function that measures f of an image moved at random.

    Args:
      network: The trained network.
      objective: f.
      max_voxels: Largest shift along each axis.
      max_degrees: Largest rotation.
      max_scale: Largest change of size, as a share.
      num_draws: Movements to average over.

    Returns:
      ``(variables, key, image, unit) -> mean of f``, to be jitted.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.nn.cnn import CNN
      >>> from featvis_jax.nn.tracing import linen_network
      >>> from featvis_jax.maximize.objectives import channel
      >>> module = CNN(rank=2, features=(2, 4, 4, 4, 4))
      >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((40, 44, 1)))
      >>> network = linen_network(module, variables, (40, 44, 1))
      >>> moved = moved_objective(network, channel("conv2"))
      >>> moved(variables, jax.random.key(1), jnp.zeros((40, 44, 1)), Unit(jnp.int32(0))).shape
      ()
    """
    read = reader(network, [objective])
    factors = [1 + max_scale * (i - 2) / 2 for i in range(5)]
    move = chain(
        translate(max_voxels=max_voxels), scale(factors=factors), rotate(max_degrees=max_degrees)
    )

    def measure(variables: Variables, key: Key, image: Image, unit: Unit) -> Scalar:
        def one_draw(key: Key) -> Scalar:
            seen = move(key, image, jnp.int32(0))
            (value,) = read(variables, seen, unit)
            return value

        # One after the other: the activations of a large volume are needed once at a time.
        return jax.lax.map(one_draw, jax.random.split(key, num_draws)).mean()

    return measure

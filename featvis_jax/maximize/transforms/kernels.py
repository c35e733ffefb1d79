"""The three interpolation kernels: nearest voxel, linear, and Keys' cubic.

The cubic is the one with a = -0.5, of third order, which `jax.image` uses too; PyTorch's bicubic
without antialiasing has a = -0.75 and rings more.

References:
  Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 1981.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

__all__ = ["INTERPOLATIONS", "SUPPORT", "Interpolation", "kernel", "taps"]

Interpolation = Literal["nearest", "linear", "cubic"]
INTERPOLATIONS = ("nearest", "linear", "cubic")

SUPPORT = {"nearest": 0.5, "linear": 1.0, "cubic": 2.0}
"""How far from a coordinate, in voxels, a kernel reaches."""


def taps(
    coordinates: Float[Array, "..."], interpolation: str
) -> tuple[Int[Array, "..."], list[Float[Array, "..."]]]:
    """The voxels that make the values at coordinates along one axis.

    Args:
      coordinates: Where to read, in voxels.
      interpolation: "nearest", "linear" or "cubic".

    Returns:
      The index of the first voxel read, and the weights of it and of those that follow.
    """
    if interpolation == "nearest":
        return jnp.floor(coordinates + 0.5).astype(jnp.int32), [jnp.ones_like(coordinates)]
    base = jnp.floor(coordinates)
    t = coordinates - base
    first = base.astype(jnp.int32)
    if interpolation == "linear":
        return first, [1 - t, t]
    return first - 1, [
        ((-0.5 * t + 1) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]


def kernel(
    coordinates: Float[Array, "..."], voxels: Float[Array, "..."], interpolation: str
) -> Float[Array, "..."]:
    """The weight of a voxel in the value at a coordinate, along one axis.

    Args:
      coordinates: Where is read, in voxels.
      voxels: Index of the voxel whose weight is asked for, as a float.
      interpolation: "nearest", "linear" or "cubic".

    Returns:
      The weight that `taps` gives to this voxel, 0 where it is not read.
    """
    if interpolation == "nearest":
        return (jnp.floor(coordinates + 0.5) == voxels).astype(coordinates.dtype)
    distance = jnp.abs(coordinates - voxels)
    if interpolation == "linear":
        return jnp.maximum(1 - distance, 0)
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0))

"""Names for the arrays and functions that the whole package passes around.

An image is unbatched: float32 ``(*spatial, channels)``. Two spatial axes make a slice, three a
volume, and the same code serves both; `jax.vmap` adds a batch and nothing else does. Intensities
lie on [0, 1] unless a function says otherwise.
"""

from collections.abc import Callable, Mapping

import jaxtyping
from jaxtyping import Array, Float, Int

__all__ = ["Activations", "Image", "Key", "Scalar", "Step", "Transform"]

Image = Float[Array, "*spatial channels"]
"""One image or feature map: the last axis holds channels, every other axis is spatial."""

Key = jaxtyping.Key[Array, ""]
"""One typed random key, as `jax.random.key` makes it."""

Step = Int[Array, ""] | int
"""Index of an ascent step, counted from 0. It stays a scalar under `jax.vmap`."""

Scalar = Float[Array, ""]
"""One number on the device."""

Activations = Mapping[str, Float[Array, "..."]]
"""The output of every layer that was asked for, by the layer's name."""

Transform = Callable[[Key, Image, Step], Image]
"""A pure function ``(key, image, step) -> image`` that keeps the image's shape and dtype."""

"""What acts on the gradient alone: optax transformations for an ascent's optimizer.

Normalization and clipping are optax's own (`optax.normalize_by_update_norm`, `optax.clip`,
`optax.clip_by_global_norm`); what an image needs beyond them stands here.
"""

from __future__ import annotations

import jax
import optax

from featvis_jax.maximize.transforms import gaussian_blur


def smooth(*, sigma: float) -> optax.GradientTransformation:
    """Blur the gradient, so that a step adds no detail finer than the kernel.

    Unlike a blurred image, a blurred gradient loses nothing that is in the image already.

    Args:
      sigma: Standard deviation of the Gaussian in voxels, at least 0.

    Raises:
      ValueError: Sigma is out of range.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> optimizer = optax.chain(smooth(sigma=1.0), optax.sgd(1.0))
      >>> spike = jnp.zeros((9, 9, 1)).at[4, 4, 0].set(1.0)
      >>> updates, _ = optimizer.update(spike, optimizer.init(spike))
      >>> round(float(updates[4, 4, 0]), 3), round(float(updates.sum()), 3)
      (-0.159, -1.0)
    """
    blur = gaussian_blur(sigma=sigma)

    def update(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        del params
        key = jax.random.key(0)  # Every transform takes one; a blur draws nothing.
        return jax.tree.map(lambda gradient: blur(key, gradient, 0), updates)

    return optax.stateless(update)

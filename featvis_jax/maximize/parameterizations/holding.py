"""Some channels of an image held at a given scan: the others say what a unit wants beside it."""

from __future__ import annotations

from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

from featvis_jax.maximize.objectives import Numbers, fingerprint
from featvis_jax.maximize.parameterizations.base import Parameterization
from featvis_jax.types import Image


def holding(
    image: Numbers, channels: Collection[int], parameterization: Parameterization
) -> Parameterization:
    """Hold some channels of the image at those of a given one.

    They are put in after `decode`, so that whatever transforms the network looks through move them
    along with the others: contrasts of one head stay registered. They have no gradient.

    Args:
      image: ``(*spatial, channels)``; only the channels that are held are looked at.
      channels: Numbers of those, at least one, and not all.
      parameterization: Of the whole image.

    Raises:
      ValueError: There is no such channel, none is left to be optimized, or what is held is not
        finite. An image of another shape than the network's is refused when the ascent is made.

    Example:
      >>> import jax
      >>> from featvis_jax.maximize.parameterizations import pixels
      >>> scan = np.full((6, 7, 2), 0.25)
      >>> start = holding(scan, [1], pixels(noise=0))
      >>> start.decode(start.init(jax.random.key(0), (6, 7, 2)))[0, 0].tolist()
      [0.5, 0.25]
    """
    values = np.asarray(image, np.float32)
    count = values.shape[-1] if values.ndim else 0
    chosen = sorted({int(channel) for channel in channels})
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < count or len(chosen) == count:
        raise ValueError(
            f"holding: channels is {list(channels)} of an image of shape {values.shape}; expected "
            "some of the numbers of its channels, and not all."
        )
    if not np.isfinite(values[..., chosen]).all():
        raise ValueError("holding: what is held is not finite; expected intensities.")
    is_held = np.isin(np.arange(count), chosen).reshape([1] * (values.ndim - 1) + [count])
    values = np.where(is_held, values, np.float32(0))

    def hold(given: Image) -> Image:
        if given.shape != values.shape:
            raise ValueError(
                f"holding: the image has shape {values.shape}, but the network takes "
                f"{given.shape}: resample or crop it to that grid."
            )
        return jnp.where(is_held, values, given)

    inner = parameterization
    held = inner._replace(
        description=f"holding({fingerprint(values)}, channels={chosen}, {inner.description})",
        decode=lambda parameters: hold(inner.decode(parameters)),
        hold=lambda given: hold(inner.hold(given)),
    )
    if not inner.is_image:
        return held
    # A projection works on the parameters, and would move what is held.
    return held._replace(
        init=lambda key, image_shape: hold(inner.init(key, image_shape)),
        constrain=lambda given: hold(inner.constrain(given)),
    )

"""An image written down voxel by voxel, from noise or from a given image, whole or in part."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from featvis_jax.maximize.objectives import Numbers, fingerprint
from featvis_jax.maximize.parameterizations.base import (
    Intensity,
    Parameterization,
    Parameters,
    bounds,
    check_noise,
    unchanged,
)
from featvis_jax.types import Image, Key


def pixels(
    *,
    intensity: Intensity = "clip",
    intensity_range: tuple[float, float] = (0.0, 1.0),
    noise: float = 0.1,
) -> Parameterization:
    """The image itself, clipped to a range after every step.

    The start is the middle of the range plus Gaussian noise. Without bounds the intensities run
    away, since a network has seen nothing outside of its training range.

    Args:
      intensity: How the range is kept (`featvis_jax.maximize.parameterizations`). Only where it
        is clipped are the parameters the image itself, which projections need.
      intensity_range: Lowest and highest intensity.
      noise: Standard deviation of the start, as a share of the range, in [0, 1].

    Raises:
      ValueError: The range is empty or not finite, or the noise out of bounds.

    Example:
      >>> import jax
      >>> image = pixels().init(jax.random.key(0), (8, 8, 1))
      >>> image.shape, bool((image >= 0).all() & (image <= 1).all())
      ((8, 8, 1), True)
    """
    into = bounds("pixels", intensity, intensity_range)
    check_noise("pixels", noise)
    low, high = intensity_range

    if intensity != "clip":
        return Parameterization(
            f"pixels({into.arguments}, noise={noise})",
            lambda key, image_shape: noise * jax.random.normal(key, image_shape),
            decode=into.bring,
            constrain=unchanged,
            is_image=False,
            encode=into.undo,
        )

    def init(key: Key, image_shape: tuple[int, ...]) -> Image:
        start = (low + high) / 2 + noise * (high - low) * jax.random.normal(key, image_shape)
        return jnp.clip(start, low, high)

    return Parameterization(
        f"pixels(intensity_range={intensity_range}, noise={noise})",
        init,
        decode=lambda image: image,
        constrain=lambda image: jnp.clip(image, low, high),
        is_image=True,
        encode=lambda image: jnp.clip(image, low, high),
    )


def from_image(
    image: Numbers, parameterization: Parameterization, *, noise: float = 0.0
) -> Parameterization:
    """Start from a given image, a real slice for example: accentuation.

    What the ascent adds is what the unit finds in that image and would have more of.

    Args:
      image: ``(*spatial, channels)``, intensities in the range of the parameterization.
      parameterization: What is optimized; one that can be made of an image.
      noise: Standard deviation of Gaussian noise on the start, as a share of the range of
        intensities that each channel of the image has, in [0, 1]. The variants of a unit are the
        same without.

    Raises:
      ValueError: The image is not finite, the noise out of bounds, or the parameterization cannot
        start from an image. An image of another shape than the network's is refused when the
        ascent is made.

    References:
      Mordvintsev, Olah, Tyka, Inceptionism: going deeper into neural networks, 2015.

    Example:
      >>> start = from_image(np.full((6, 7, 1), 0.25), pixels())
      >>> float(start.decode(start.init(jax.random.key(0), (6, 7, 1))).mean())
      0.25
    """
    values = np.asarray(image, np.float32)
    check_noise("from_image", noise)
    if values.ndim < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"from_image: the image has shape {values.shape}; expected finite intensities of shape "
            "(*spatial, channels)."
        )
    encode = parameterization.encode
    if encode is None:
        raise ValueError(
            f"from_image: {parameterization.description} cannot be made of an image: use pixels, "
            "fourier or laplacian, without a fixed contrast."
        )
    contrast = np.ptp(values, axis=tuple(range(values.ndim - 1)), keepdims=True)

    def init(key: Key, image_shape: tuple[int, ...]) -> Parameters:
        if values.shape != image_shape:
            raise ValueError(
                f"from_image: the image has shape {values.shape}, but the network takes "
                f"{image_shape}: resample or crop it to that grid."
            )
        start = jnp.asarray(values)
        if noise:
            start = start + noise * contrast * jax.random.normal(key, image_shape)
        return encode(start)

    return parameterization._replace(
        description=(
            f"from_image({fingerprint(values)}, {parameterization.description}, noise={noise})"
        ),
        init=init,
        # Steps as large as from noise would leave little of it.
        learning_rate=parameterization.learning_rate / 10,
    )


def inside(
    mask: Numbers, parameterization: Parameterization, *, outside: float | Numbers = 0.0
) -> Parameterization:
    """Let the image change inside of a mask only, a brain mask for example.

    Args:
      mask: 1 inside, 0 outside, and what is between for a soft edge; ``(*spatial,)``.
      parameterization: Of the whole image.
      outside: What stands outside: an intensity, or an image ``(*spatial, channels)``.

    Raises:
      ValueError: The mask is not in [0, 1] or empty, or `outside` is not finite. A mask of another
        grid than the image's is refused when the ascent is made.

    Example:
      >>> from featvis_jax.maximize.parameterizations.spatial import pixels
      >>> left = inside([[1, 0], [1, 0]], pixels(noise=0), outside=0.25)
      >>> left.init(jax.random.key(0), (2, 2, 1))[..., 0].tolist()
      [[0.5, 0.25], [0.5, 0.25]]
    """
    weights, fill = np.asarray(mask, np.float32), np.asarray(outside, np.float32)
    if not ((weights >= 0) & (weights <= 1)).all() or not weights.any():
        raise ValueError(
            f"inside: the mask of shape {weights.shape} holds values from {weights.min()} to "
            f"{weights.max()}; expected weights in [0, 1], not all 0."
        )
    if not np.isfinite(fill).all():
        raise ValueError("inside: outside is not finite; expected intensities.")

    def keep(image: Image) -> Image:
        if weights.shape != image.shape[:-1]:
            raise ValueError(
                f"inside: the mask's grid is {weights.shape}, but the image's is "
                f"{image.shape[:-1]}: resample the mask to it."
            )
        if fill.ndim and fill.shape != image.shape:
            raise ValueError(
                f"inside: outside has shape {fill.shape}, but the image has {image.shape}: give "
                "one intensity, or an image of that shape."
            )
        share = jnp.asarray(weights)[..., None]
        return share * image + (1 - share) * jnp.asarray(fill)

    description = (
        f"inside({fingerprint(weights)}, {parameterization.description}, "
        f"outside={fingerprint(fill) if fill.ndim else float(fill)})"
    )
    if not parameterization.is_image:
        return parameterization._replace(
            description=description, decode=lambda given: keep(parameterization.decode(given))
        )
    encode = parameterization.encode
    return parameterization._replace(
        description=description,
        init=lambda key, image_shape: keep(parameterization.init(key, image_shape)),
        constrain=lambda image: keep(parameterization.constrain(image)),
        encode=None if encode is None else lambda image: keep(encode(image)),
    )

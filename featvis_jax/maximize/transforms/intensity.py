"""Transforms of intensities, voxel by voxel: brightness, clipping, noise, normalization."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from featvis_jax.maximize.transforms.base import DescribedTransform
from featvis_jax.maximize.transforms.checks import check_choice, check_number, check_numbers
from featvis_jax.types import Image, Key, Step

__all__ = ["clip", "jitter", "noise", "normalize"]


def jitter(
    *, strength: float = 1.0, mode: str = "factor", per_channel: bool = False
) -> DescribedTransform:
    r"""Change the brightness of the whole image by one random number.

    With strength b and the image x:

    - ``mode="factor"``, the default: clip(factor x, 0, 1), factor ~ U[max(0, 1 - b), 1 + b], as
      the colour jitter of the image libraries of the paper's day computes it; b = 1 gives
      U(0, 2).
    - ``mode="literal"``: clip(factor x, 0, 1), factor ~ U[0, b], the paper's sentence at its word:
      with b = 1 "the brightness is uniformly adjusted to a random value between 0 and 1", and a
      larger b widens the range of values and brightens the image.
    - ``mode="shift"``: clip(x + delta, 0, 1), delta ~ U[-b, b], what `dm_pix.random_brightness`
      means by brightness.

    Args:
      strength: b, at least 0, at which modes "factor" and "shift" are the identity; above 0 in
        mode "literal".
      mode: "factor", "literal" or "shift".
      per_channel: Whether each channel has a random number of its own, as contrasts do that a
        scanner scales one by one; colours stay what they are without.

    Returns:
      A transform of images on [0, 1], of any rank.

    Raises:
      ValueError: Where an option is out of range.

    References:
      Eitel, Melkonyan, Ritter, Feature visualization for convolutional neural network models
      trained on neuroimaging data, 2022, section 3.2.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> brighter = jitter(strength=0.5)(jax.random.key(0), jnp.full((2, 2, 1), 0.5), 0)
      >>> bool((brighter >= 0.25).all() & (brighter <= 0.75).all())
      True
    """
    check_choice("jitter", "mode", mode, ("factor", "literal", "shift"))
    strength = check_number("jitter", "strength", strength, low=0, open_low=mode == "literal")
    low, high = (max(0.0, 1 - strength), 1 + strength) if mode == "factor" else (0.0, strength)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del step
        shape = (*[1] * (image.ndim - 1), image.shape[-1]) if per_channel else ()
        if mode == "shift":
            return jnp.clip(
                image + jax.random.uniform(key, shape, image.dtype, -strength, strength), 0, 1
            )
        return jnp.clip(jax.random.uniform(key, shape, image.dtype, low, high) * image, 0, 1)

    options: tuple[tuple[str, Any], ...] = (("strength", strength), ("mode", mode))
    # One random number goes without saying: earlier runs do not tell of it.
    options += (("per_channel", True),) if per_channel else ()
    return DescribedTransform("jitter", options, apply)


def clip(*, low: float = 0.0, high: float = 1.0) -> DescribedTransform:
    """Limit intensities to a range.

    Args:
      low: Smallest intensity.
      high: Largest intensity, above `low`.

    Returns:
      A transform of images of any rank.

    Raises:
      ValueError: Where the range is empty or not finite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> clip(high=0.6)(jax.random.key(0), jnp.array([[-1.0], [0.5], [2.0]]), 0).ravel().tolist()
      [0.0, 0.5, 0.6000000238418579]
    """
    low = check_number("clip", "low", low)
    high = check_number("clip", "high", high, low=low, open_low=True)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del key, step
        return jnp.clip(image, low, high)

    return DescribedTransform("clip", (("low", low), ("high", high)), apply)


def noise(*, standard_deviation: float = 0.1) -> DescribedTransform:
    """Add Gaussian noise, drawn anew for every voxel and step.

    Args:
      standard_deviation: In units of intensity, at least 0.

    Returns:
      A transform of images of any rank; it does not clip.

    Raises:
      ValueError: Where the standard deviation is negative or not finite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> noisy = noise(standard_deviation=0.1)(jax.random.key(0), jnp.zeros((64, 64, 1)), 0)
      >>> round(float(noisy.std()), 2)
      0.1
    """
    standard_deviation = check_number("noise", "standard_deviation", standard_deviation, low=0)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del step
        return image + standard_deviation * jax.random.normal(key, image.shape, image.dtype)

    return DescribedTransform("noise", (("standard_deviation", standard_deviation),), apply)


def normalize(
    *, mean: float | Sequence[float] = 0.0, standard_deviation: float | Sequence[float] = 1.0
) -> DescribedTransform:
    """Subtract a mean and divide by a standard deviation, for networks that expect it.

    The networks of this package do so themselves. It belongs at the end of a robustness chain, as
    every other transform is meant for intensities on [0, 1].

    Args:
      mean: What is subtracted; of several channels one number for all, or one for each.
      standard_deviation: What is then divided by, above 0; likewise.

    Returns:
      A transform of images of any rank.

    Raises:
      ValueError: Where an option is out of range; and for images of another number of channels.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> centred = normalize(mean=0.5, standard_deviation=0.25)
      >>> centred(jax.random.key(0), jnp.array([[0.25], [1.0]]), 0).ravel().tolist()
      [-1.0, 2.0]
    """
    options = {"mean": mean, "standard_deviation": standard_deviation}
    checked: dict[str, float | tuple[float, ...]] = {}
    for (name, value), positive in zip(options.items(), (False, True), strict=True):
        low = 0.0 if positive else -math.inf
        if isinstance(value, Sequence):
            checked[name] = check_numbers("normalize", name, value, low=low, open_low=positive)
        else:
            checked[name] = check_number("normalize", name, value, low=low, open_low=positive)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del key, step
        for name, value in checked.items():
            if np.shape(value) not in ((), image.shape[-1:]):
                raise ValueError(
                    f"normalize: {name}={value} for an image of shape {image.shape}; "
                    f"expected one number, or {image.shape[-1]}, one for each channel"
                )
        shape = [1] * (image.ndim - 1) + [-1]
        first, second = (np.reshape(value, shape) for value in checked.values())
        return (image - jnp.asarray(first, image.dtype)) / jnp.asarray(second, image.dtype)

    return DescribedTransform("normalize", tuple(checked.items()), apply)

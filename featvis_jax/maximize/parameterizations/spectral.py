"""An image written down by its frequencies."""

from __future__ import annotations

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64

from featvis_jax.maximize.objectives import Numbers, fingerprint
from featvis_jax.maximize.parameterizations.base import (
    Intensity,
    Parameterization,
    Shaped,
    bounds,
    check_noise,
    unchanged,
)
from featvis_jax.types import Image, Key


def fourier(
    *,
    decay: float = 1.0,
    intensity: Intensity = "sigmoid",
    intensity_range: tuple[float, float] = (0.0, 1.0),
    noise: float = 0.15,
) -> Parameterization:
    """Frequencies, the lower ones weighing more: the same step changes them further.

        raw = irfftn(c z / max(|frequency|, 1 / longest side)^decay),   z starts as N(0, noise²)

    Steps along z rather than along the voxels remove the high frequencies that an ascent on voxels
    is full of: the set of images is the same, the distance in it another. With c the raw image's
    standard deviation is that of z, so that the start and Adam's steps are shares of the range as
    they are for pixels.

    Args:
      decay: By how much, as a power of the frequency. 0 is no weighing; natural images, and brain
        scans nearly so, have spectra of decay 1.
      intensity: How the range is kept (`featvis_jax.maximize.parameterizations`).
      intensity_range: Lowest and highest intensity.
      noise: Standard deviation of the start, as a share of the range, in [0, 1].

    Raises:
      ValueError: An option is out of bounds.

    References:
      Olah, Mordvintsev, Schubert, Feature visualization, Distill 2017.

    Example:
      >>> import jax
      >>> start = fourier(intensity="clip")
      >>> image = start.decode(start.init(jax.random.key(0), (33, 40, 1)))
      >>> image.shape, abs(float(image.std()) - 0.15) < 0.05
      ((33, 40, 1), True)
    """
    if not 0 <= decay < math.inf:
        raise ValueError(f"fourier: decay is {decay}; expected a number from 0.")
    into = bounds("fourier", intensity, intensity_range)
    check_noise("fourier", noise)

    def init(key: Key, image_shape: tuple[int, ...]) -> Shaped:
        shape = (*frequency_grid(image_shape[:-1]), image_shape[-1], 2)
        return Shaped(noise * jax.random.normal(key, shape), image_shape)

    def decode(parameters: Shaped) -> Image:
        spatial = parameters.image_shape[:-1]
        parts = parameters.values * _weights(spatial, decay)[..., None, None]
        return into.bring(_inverse(lax.complex(parts[..., 0], parts[..., 1]), spatial))

    def write(raw: Image) -> Shaped:
        spatial = raw.shape[:-1]
        spectrum = jnp.fft.rfftn(raw, axes=tuple(range(len(spatial))))
        parts = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
        return Shaped(parts / _weights(spatial, decay)[..., None, None], raw.shape)

    return Parameterization(
        f"fourier(decay={decay}, {into.arguments}, noise={noise})",
        init,
        decode,
        constrain=unchanged,
        is_image=False,
        encode=into.encoder(write),
        learning_rate=0.05,
    )


def phase(
    magnitude: Numbers,
    *,
    intensity: Intensity = "clip",
    intensity_range: tuple[float, float] = (0.0, 1.0),
) -> Parameterization:
    """The phases of the frequencies alone; their magnitudes are prescribed.

        raw = irfftn(magnitude e^(i phase)),   start U(-pi, pi), the mean intensity prescribed too

    No image can leave the spectrum of the training images, so no penalty is needed. It wants
    robustness before the network, and steps that are a good part of a radian: `optax.nadam(0.3)`.
    Its authors take 1.0, with random crops (`random_resized_crop`) and noise.

    Where a frequency is its own mirror image (where the last index is 0 or, for an even side, its
    last), two phases describe one wave and share its magnitude.

    Args:
      magnitude: Mean magnitude spectrum of the training images
        (`mean_magnitude_spectrum`), ``(*frequencies, channels)`` on the grid of `numpy.fft.rfftn`.
      intensity: How the range is kept (`featvis_jax.maximize.parameterizations`). The raw image
        has the intensities of the training images, so that "clip" changes it least.
      intensity_range: Lowest and highest intensity.

    Raises:
      ValueError: The magnitudes are negative, not finite or all 0, or the range is empty. Another
        grid than the image's is refused when the ascent is made.

    References:
      Fel et al., Unlocking feature visualization for deeper networks with magnitude constrained
      optimization, NeurIPS 2023.

    Example:
      >>> import jax
      >>> scan = np.random.default_rng(0).random((20, 24, 1))
      >>> start = phase(mean_magnitude_spectrum([scan]), intensity_range=(-9.0, 9.0))
      >>> image = start.decode(start.init(jax.random.key(0), (20, 24, 1)))
      >>> spectra = (np.abs(np.fft.rfftn(x, axes=(0, 1)))[:, 1:-1] for x in (scan, image))
      >>> bool(np.allclose(*spectra, rtol=1e-4))
      True
    """
    values = np.asarray(magnitude, np.float32)
    if values.ndim < 2 or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ValueError(
            f"phase: magnitude has shape {values.shape}; expected finite numbers from 0, not all "
            "0, of shape (*frequencies, channels): make it with mean_magnitude_spectrum."
        )
    into = bounds("phase", intensity, intensity_range)
    middle, width = (into.low + into.high) / 2, into.high - into.low
    constant = (0,) * (values.ndim - 1)

    def init(key: Key, image_shape: tuple[int, ...]) -> Shaped:
        expected = (*frequency_grid(image_shape[:-1]), image_shape[-1])
        if values.shape != expected:
            raise ValueError(
                f"phase: magnitude has shape {values.shape}, but images of shape {image_shape} "
                f"have spectra of shape {expected}: take it over images of that grid."
            )
        phases = jax.random.uniform(key, expected, minval=-jnp.pi, maxval=jnp.pi)
        return Shaped(phases.at[constant].set(0.0), image_shape)

    def decode(parameters: Shaped) -> Image:
        # The mean of an image has a sign and no phase.
        phases = parameters.values.at[constant].set(0.0)
        spectrum = lax.complex(values * jnp.cos(phases), values * jnp.sin(phases))
        raw = _inverse(spectrum, parameters.image_shape[:-1])
        return into.bring((raw - middle) / width)

    return Parameterization(
        f"phase({fingerprint(values)}, {into.arguments})",
        init,
        decode,
        constrain=unchanged,
        is_image=False,
        learning_rate=0.3,
    )


def mean_magnitude_spectrum(
    images: Iterable[np.ndarray],
) -> Float64[np.ndarray, "*frequencies channels"]:
    """The mean of |rfftn| over images, which is what `phase` prescribes.

    Args:
      images: ``(*spatial, channels)`` each, all of one shape; a generator is read once and no more
        than one image is held.

    Returns:
      ``(*frequencies, channels)``, on the grid of `numpy.fft.rfftn` over the spatial axes.

    Raises:
      ValueError: There is no image, or one of another shape, or one that is not finite.

    Example:
      >>> flat = np.full((4, 5, 1), 0.5)
      >>> spectrum = mean_magnitude_spectrum([flat, 2 * flat])
      >>> spectrum.shape, float(spectrum[0, 0, 0]), float(spectrum.sum())
      ((4, 3, 1), 15.0, 15.0)
    """
    total, count, shape = np.zeros(()), 0, None
    for image in images:
        if shape is None:
            shape = image.shape
        if image.shape != shape or image.ndim < 2 or not np.isfinite(image).all():
            raise ValueError(
                f"mean_magnitude_spectrum: image {count} has shape {image.shape}; expected finite "
                f"intensities and {shape}, the shape of the first, with channels last."
            )
        axes = tuple(range(image.ndim - 1))
        total = total + np.abs(np.fft.rfftn(np.asarray(image, np.float64), axes=axes))
        count += 1
    if not count:
        raise ValueError("mean_magnitude_spectrum: there is no image; expected at least one.")
    return total / count


def frequency_grid(spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the spectrum of real images, as `numpy.fft.rfftn` has it.

    Example:
      >>> frequency_grid((140, 192)), frequency_grid((5,))
      ((140, 97), (3,))
    """
    return (*spatial[:-1], spatial[-1] // 2 + 1)


def _weights(spatial: tuple[int, ...], decay: float) -> Float[Array, "*frequencies"]:
    """What multiplies each frequency, for a raw image as loud as its parameters.

    Made by the program and not put into it: for a volume they are as large as a volume.
    """
    axes = [np.square(np.fft.fftfreq(side)) for side in spatial[:-1]]
    axes.append(np.square(np.fft.rfftfreq(spatial[-1])))
    floor = 1 / max(spatial) ** 2
    # A wave off the symmetric planes has the real parts of two coefficients, one on them of one:
    # for z of variance 1 in both parts it adds 4 and 1 times its weight squared to N² variances.
    shares = np.full(len(axes[-1]), 4.0)
    shares[0] = 1
    if spatial[-1] % 2 == 0:
        shares[-1] = 1
    variance = np.sum(shares * np.maximum(sum(np.ix_(*axes)), floor) ** -decay)
    grids = jnp.meshgrid(*(jnp.asarray(axis, jnp.float32) for axis in axes), indexing="ij")
    scale = math.prod(spatial) / math.sqrt(variance)
    return scale * jnp.maximum(sum(grids), floor) ** (-decay / 2)


def _inverse(spectrum: Array, spatial: tuple[int, ...]) -> Image:
    return jnp.fft.irfftn(spectrum, s=spatial, axes=tuple(range(len(spatial))))

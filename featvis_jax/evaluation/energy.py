"""Where a picture shows most, by its local variance; and the same picture without its phases."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

# The edge of a patch that is pasted fades over this share of its side.
_FADING = 0.2


def phase_scrambled(
    image: Float[np.ndarray, "*spatial channels"], rng: np.random.Generator
) -> Float[np.ndarray, "*spatial channels"]:
    """The same amplitude spectrum with random phases: equal mean and contrast, no shape.

    The phases are those of white noise, so that the result is real.

    Args:
      image: Any range; every channel is scrambled by the same phases.
      rng: Where the noise comes from.

    Example:
      >>> image = np.eye(8)[..., None]
      >>> scrambled = phase_scrambled(image, np.random.default_rng(0))
      >>> bool(np.isclose(scrambled.mean(), 1 / 8)), bool(np.isclose(scrambled.std(), image.std()))
      (True, True)
    """
    axes = tuple(range(image.ndim - 1))
    shape = image.shape[:-1]
    noise = np.fft.rfftn(rng.standard_normal((*shape, 1)), axes=axes)
    turn = noise / np.maximum(np.abs(noise), 1e-12)
    # The frequency 0 is the mean, whose sign is no phase.
    turn[(0,) * len(axes)] = 1.0
    spectrum = np.fft.rfftn(np.asarray(image, np.float64), axes=axes) * turn
    result = np.fft.irfftn(spectrum, shape, axes=axes)
    return np.asarray(result, image.dtype)


def strongest_windows(
    image: Float[np.ndarray, "*spatial channels"], side: int, *, count: int, least: float = 0.5
) -> Int[np.ndarray, "n rank"]:
    """First voxels of the windows of largest variance, strongest first, none touching another.

    The variance is weighted by a Gaussian a quarter of the side wide, so that what a window shows
    lies in its middle.

    Args:
      image: Channels are averaged.
      side: Of a window, in voxels.
      count: At most this many.
      least: Windows with less than this share of the strongest one's standard deviation are left
        out.

    Raises:
      ValueError: The image is smaller than a window.
    """
    plane = np.asarray(image, np.float64).mean(axis=-1)
    if side > min(plane.shape):
        raise ValueError(
            f"The image has {plane.shape} voxels and a window {side} along each axis: take one "
            "that holds the largest lesion twice."
        )
    plane = plane - plane.mean()
    sigma = side / 4
    mean = ndimage.gaussian_filter(plane, sigma, mode="nearest")
    variance = ndimage.gaussian_filter(plane**2, sigma, mode="nearest") - mean**2
    inside = tuple(slice(side // 2, n - side + side // 2 + 1) for n in plane.shape)
    energy = np.array(variance[inside])
    first: list[np.ndarray] = []
    strongest = float(energy.max())
    while len(first) < count:
        place = np.array(np.unravel_index(int(energy.argmax()), energy.shape))
        if energy[tuple(place)] < max(least**2 * strongest, 0.0):
            break
        first.append(place)
        energy[tuple(slice(max(p - side + 1, 0), p + side) for p in place)] = -1.0
    return np.array(first)


def window(
    image: Float[np.ndarray, "*spatial channels"], first: Int[np.ndarray, " rank"], side: int
) -> Float[np.ndarray, "*window channels"]:
    """The voxels of a window.

    Args:
      image: The image.
      first: The window's first voxel.
      side: Its side in voxels.
    """
    return image[tuple(slice(int(f), int(f) + side) for f in first)]


def soft_mask(side: int, rank: int) -> Float[np.ndarray, "*window 1"]:
    """A window that is 1 in the middle and fades to 0 at its edge by a raised cosine.

    Args:
      side: In voxels.
      rank: 2 or 3.

    Example:
      >>> soft_mask(10, 2)[5, :, 0].round(2).tolist()
      [0.15, 0.85, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.85, 0.15]
    """
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    profile = (1 - np.cos(np.pi * np.minimum(distance / (_FADING * side), 1.0))) / 2
    mask = np.ones((1,) * rank)
    for axis in range(rank):
        mask = mask * profile.reshape([-1 if i == axis else 1 for i in range(rank)])
    return mask[..., None]

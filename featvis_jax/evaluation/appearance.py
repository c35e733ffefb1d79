"""Numbers for how an image looks: smoothness, contrast, spectrum, artefacts at its edges.

They describe images of any origin, and say nothing about what a network makes of them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

# A gradient beyond this share of the intensity range per voxel counts as structure.
_SLOPE = 0.05


@dataclasses.dataclass(frozen=True)
class Appearance:
    """How an image looks.

    Attributes:
      brightness: Mean intensity.
      contrast: Standard deviation of the intensity.
      total_variation: Mean length of the gradient, per voxel.
      density: Share of the voxels that lie on a slope, a gradient beyond 0.05 per voxel.
      high_frequency: Share of the energy around the mean that lies above half the Nyquist
        frequency, at more than 0.25 cycles per voxel in any direction: 0.8 of white noise in a
        slice, 0.93 in a volume. NaN for a flat image.
      spectrum_slope: Exponent of the power spectrum against frequency: 0 for white noise, about -2
        for natural images, lower for smoother ones.
      edge_artefact: Gradient in a band along the border over that in the interior; 1 for an image
        that looks the same everywhere.
      edge_brightness: Mean intensity of that band less that of the interior.
    """

    brightness: float
    contrast: float
    total_variation: float
    density: float
    high_frequency: float
    spectrum_slope: float
    edge_artefact: float
    edge_brightness: float


def appearance(image: Float[np.ndarray, "*spatial channels"], *, border: int = 8) -> Appearance:
    """Measure an image.

    Args:
      image: ``(*spatial, channels)``; each channel is measured by itself, and each number is the
        mean over them.
      border: Width in voxels of the band that counts as the image's edge.

    Raises:
      ValueError: The border leaves no interior.

    Example:
      >>> noise = np.random.default_rng(0).normal(size=(64, 64, 1))
      >>> found = appearance(noise)
      >>> abs(found.spectrum_slope) < 0.1, 0.9 < found.edge_artefact < 1.1
      (True, True)
    """
    channels = np.moveaxis(np.asarray(image, np.float64), -1, 0)
    found = [dataclasses.astuple(_of_channel(channel, border)) for channel in channels]
    return Appearance(*(float(value) for value in np.mean(found, axis=0)))


def _of_channel(plane: np.ndarray, border: int) -> Appearance:
    if not 0 < 2 * border < min(plane.shape):
        raise ValueError(
            f"border is {border}; expected 1 to {(min(plane.shape) - 1) // 2} for an image of "
            f"shape {plane.shape}."
        )
    gradient = _gradient_length(plane)
    inner = (slice(border, -border),) * plane.ndim
    in_band = np.ones(plane.shape, bool)
    in_band[inner] = False
    interior = gradient[inner].mean()
    return Appearance(
        brightness=float(plane.mean()),
        contrast=float(plane.std()),
        total_variation=float(gradient.mean()),
        density=float((gradient > _SLOPE).mean()),
        high_frequency=_high_frequency(plane),
        spectrum_slope=_spectrum_slope(plane),
        edge_artefact=float(gradient[in_band].mean() / interior) if interior > 0 else float("nan"),
        edge_brightness=float(plane[in_band].mean() - plane[inner].mean()),
    )


def _gradient_length(plane: np.ndarray) -> np.ndarray:
    """Length of the forward difference at every voxel, 0 across the last face."""
    squares = np.zeros(plane.shape)
    for axis in range(plane.ndim):
        last = np.take(plane, [-1], axis=axis)
        squares += np.diff(plane, axis=axis, append=last) ** 2
    return np.sqrt(squares)


def _high_frequency(plane: np.ndarray) -> float:
    """Share of the power at more than a quarter of a cycle per voxel."""
    power = np.abs(np.fft.fftn(plane - plane.mean())) ** 2
    whole = power.sum()
    # Less is what rounding leaves of a flat image.
    if whole <= 1e-20 * plane.size**2 * np.square(plane).mean():
        return float("nan")
    return float(power[_frequency(plane.shape) > 0.25].sum() / whole)


def _frequency(shape: tuple[int, ...]) -> np.ndarray:
    """Length of the frequency in cycles per voxel, at every place of a spectrum."""
    grids = np.meshgrid(*(np.fft.fftfreq(side) for side in shape), indexing="ij")
    return np.sqrt(sum(grid**2 for grid in grids))


def _spectrum_slope(plane: np.ndarray) -> float:
    """Slope of log power against log frequency, over rings of equal width up to Nyquist."""
    window = np.ones(())
    for axis, side in enumerate(plane.shape):
        # Tapered, since the jump from one border to the other has a spectrum of its own.
        taper = np.hanning(side + 2)[1:-1]
        window = window * taper.reshape([-1 if a == axis else 1 for a in range(plane.ndim)])
    power = np.abs(np.fft.fftn((plane - plane.mean()) * window)) ** 2
    frequency = _frequency(plane.shape)
    edges = np.linspace(2 / min(plane.shape), 0.5, 24)
    ring = np.digitize(frequency.ravel(), edges)
    sums = np.bincount(ring, power.ravel(), minlength=len(edges) + 1)[1:-1]
    counts = np.bincount(ring, minlength=len(edges) + 1)[1:-1]
    filled = (counts > 0) & (sums > 0)
    if filled.sum() < 2:
        return float("nan")
    centers = ((edges[:-1] + edges[1:]) / 2)[filled]
    slope, _ = np.polyfit(np.log(centers), np.log(sums[filled] / counts[filled]), 1)
    return float(slope)

"""Numbers for the images of Figure 2: stripes, edges, and how sharp they are."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from featvis_jax.evaluation.appearance import appearance
from featvis_jax.results.tables import UnitRecord

# Where fewer windows of the network overlap, an image says less; small images have no room for it.
_BORDER = 8
_SMALLEST = 40
_NEIGHBOURHOOD = 4.0
_NEAR_AN_AXIS_DEGREES = 10.0


class Texture(NamedTuple):
    """What lines and edges an image is made of.

    Attributes:
      coherence: How much neighbouring gradients share a direction: 1 for stripes, near 0 for noise.
      orientation_degrees: Direction along which the image varies most, on [0, 180).
      wavelength: Mean period in voxels, the inverse of the power spectrum's mean frequency.
      axis_share: Share of the gradient's energy within 10 degrees of an axis; 0.22 for noise.
      sharpness: 99th percentile of the gradient's length over the range of the intensities, their
        1st to 99th percentile: near 1 where the whole contrast lies between two voxels.
    """

    coherence: float
    orientation_degrees: float
    wavelength: float
    axis_share: float
    sharpness: float


def texture(plane: Float[np.ndarray, "x y"]) -> Texture:
    """Measure the lines and edges of a picture; NaN where it is flat.

    With xx, yy and xy the means of the gradient's products over a Gaussian neighbourhood, the
    coherence is the mean of ``sqrt((xx - yy)^2 + 4 xy^2)`` over the mean of ``xx + yy``.

    Args:
      plane: ``(x, y)``.

    References:
      Bigun, Granlund, Optimal orientation detection of linear symmetry, 1987

    Example:
      >>> x, y = np.meshgrid(np.arange(64.0), np.arange(64.0), indexing="ij")
      >>> found = texture(np.sin(2 * np.pi * y / 8))
      >>> round(found.coherence, 2), round(found.orientation_degrees), round(found.wavelength)
      (1.0, 90, 8)
    """
    # Differences over 2 x 2 voxels: central ones would be blind to stripes of one voxel.
    along, across = (np.diff(plane, axis=axis) for axis in (0, 1))
    g_x = (along[:, 1:] + along[:, :-1]) / 2
    g_y = (across[1:] + across[:-1]) / 2
    energy = g_x**2 + g_y**2
    low, high = np.percentile(plane, (1, 99))
    if energy.sum() <= 0 or high <= low:
        return Texture(*[math.nan] * 5)
    xx, yy, xy = (
        ndimage.gaussian_filter(product, _NEIGHBOURHOOD, mode="nearest")
        for product in (g_x**2, g_y**2, g_x * g_y)
    )
    shared = np.sqrt((xx - yy) ** 2 + 4 * xy**2).sum() / (xx + yy).sum()
    total = math.atan2(2 * (g_x * g_y).sum(), (g_x**2 - g_y**2).sum()) / 2
    angle = np.degrees(np.arctan2(g_y, g_x)) % 90
    near = np.minimum(angle, 90 - angle) <= _NEAR_AN_AXIS_DEGREES
    windowed = (plane - plane.mean()) * np.outer(*(np.hanning(n + 2)[1:-1] for n in plane.shape))
    power = np.abs(np.fft.fft2(windowed)) ** 2
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, plane.shape), indexing="ij"))
    return Texture(
        coherence=float(shared),
        orientation_degrees=math.degrees(total) % 180,
        wavelength=float(power.sum() / (power * frequency).sum()),
        axis_share=float(energy[near].sum() / energy.sum()),
        sharpness=float(np.percentile(np.sqrt(energy), 99) / (high - low)),
    )


def measured(image: Float[np.ndarray, "*spatial 1"], record: UnitRecord) -> dict[str, Any]:
    """The row of an image.

    Args:
      image: ``(x, y, 1)`` or ``(x, y, z, 1)``.
      record: Its unit.
    """
    plane = shown_plane(image).astype(np.float64)
    if min(plane.shape) >= _SMALLEST:
        plane = plane[_BORDER:-_BORDER, _BORDER:-_BORDER]
    look = dataclasses.asdict(appearance(plane[..., None], border=2))
    kept = ("brightness", "contrast", "total_variation", "density", "spectrum_slope")
    return {
        "layer": record.layer,
        "channel": record.channel,
        "status": record.status,
        "initial_objective": record.initial_objective,
        "objective": record.final_objective,
        **{name: look[name] for name in kept},
        **texture(plane)._asdict(),
    }


def shown_plane(image: Float[np.ndarray, "*spatial 1"]) -> Float[np.ndarray, "x y"]:
    """A slice as it is, a volume by its middle axial slice.

    Args:
      image: ``(x, y, 1)`` or ``(x, y, z, 1)``.
    """
    return image[..., 0] if image.ndim == 3 else image[:, :, image.shape[2] // 2, 0]

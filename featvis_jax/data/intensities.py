"""How the intensities of a scan are scaled, whatever the scanner's units were."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

LOWER_PERCENTILE = 0.1
UPPER_PERCENTILE = 99.8


def rescale(data: Float32[np.ndarray, "*spatial"]) -> Float32[np.ndarray, "*spatial"]:
    """Scale intensities to [0, 1], robust to a few very bright or dark voxels.

    `lower` is the 0.1th percentile of all voxels (the background, where there is one), `upper` the
    99.8th percentile of the voxels above `lower`; the result is `(data - lower) / (upper - lower)`,
    clipped. A scan that was scaled by this rule stays as it is.

    Args:
      data: Any shape, any finite range.

    Returns:
      float32 in [0, 1], same shape.

    Raises:
      ValueError: No voxel lies above `lower`, so there is no image to scale.

    Example:
      >>> rescale(np.array([0, 0, 50, 100], np.float32)).round(2)
      array([0. , 0. , 0.5, 1. ], dtype=float32)
    """
    data = np.asarray(data, np.float32)
    # Of few voxels the interpolated percentile would lie above the background.
    lower = np.percentile(data, LOWER_PERCENTILE, method="lower")
    foreground = data[data > lower]
    if foreground.size == 0:
        raise ValueError(
            f"data of shape {data.shape}: no voxel above {lower:g}, the {LOWER_PERCENTILE}th "
            "percentile; expected an image that is not constant"
        )
    upper = np.percentile(foreground, UPPER_PERCENTILE, method="higher")
    # In float64: both ends of a float32 range may be near its limits.
    width = float(upper) - float(lower)
    return np.clip((data - np.float64(lower)) / width, 0, 1).astype(np.float32)


def standardize(
    data: Float32[np.ndarray, "*spatial"], *, nonzero: bool = False
) -> Float32[np.ndarray, "*spatial"]:
    """Scale intensities to z-scores: a mean of 0 and a standard deviation of 1.

    The standard deviation is that of the voxels themselves (`ddof=0`). A scan that was scaled by
    this rule stays as it is.

    Args:
      data: Any shape, any finite range.
      nonzero: Take both over the voxels that are not 0, and leave those that are as they are: the
        rule for skull-stripped scans, whose background is 0.

    Returns:
      float32, same shape.

    Raises:
      ValueError: The voxels that count have one intensity, or there is none.

    Example:
      >>> standardize(np.array([0, 1, 3], np.float32), nonzero=True)
      array([ 0., -1.,  1.], dtype=float32)
    """
    data = np.asarray(data, np.float32)
    counted = data != 0 if nonzero else np.ones(data.shape, bool)
    values = data[counted].astype(np.float64)
    if values.size == 0 or values.min() == values.max():
        raise ValueError(
            f"data of shape {data.shape}: its {values.size} voxels{' that are not 0' * nonzero} "
            "have no standard deviation, and so no z-scores; expected an image that is not constant"
        )
    scores = (data.astype(np.float64) - values.mean()) / values.std()
    return np.where(counted, scores, 0.0).astype(np.float32)


class Scaling(NamedTuple):
    """One way to scale the scans of a network.

    Attributes:
      scale: From a scan's intensities as they are stored to the network's.
      outside: Of a scan once it is scaled, the intensity of air: what stands where an image
        reaches beyond the scan.
      unit: What its numbers are, in words.
      is_centred: Whether scans have a mean of 0.
      ends: The lowest and the highest intensity; None where they are not known beforehand.
      dtype: What keeps them as exactly as they have to be: float16 has eleven bits, which are
        steps of 2 above 2048, and ends at 65504.
    """

    scale: Callable[[Float32[np.ndarray, "*spatial"]], Float32[np.ndarray, "*spatial"]]
    outside: Callable[[np.ndarray], float]
    unit: str
    is_centred: bool = False
    ends: tuple[float, float] | None = None
    dtype: type[np.floating] = np.float16


def _unscaled(data: Float32[np.ndarray, "*spatial"]) -> Float32[np.ndarray, "*spatial"]:
    return np.asarray(data, np.float32)


def _lowest(scaled: np.ndarray) -> float:
    return float(scaled.min())


SCALINGS: Mapping[str, Scaling] = {
    "unit": Scaling(rescale, _lowest, "0 to 1 of each scan", ends=(0.0, 1.0)),
    "zscore": Scaling(standardize, _lowest, "z-score of each scan", is_centred=True),
    "zscore_nonzero": Scaling(
        functools.partial(standardize, nonzero=True),
        lambda scaled: 0.0,
        "z-score of each scan over its nonzero voxels",
        is_centred=True,
    ),
    "raw": Scaling(_unscaled, _lowest, "raw intensity of each scan, HU in CT", dtype=np.float32),
}
"""How scans are scaled, by name; the statistics are always those of one whole scan."""

"""Intensities on [0, 1], whatever the scanner's units were."""

import numpy as np
from jaxtyping import Float32

LOWER_PERCENTILE = 0.1
UPPER_PERCENTILE = 99.8


def rescale(data: Float32[np.ndarray, "*spatial"]) -> Float32[np.ndarray, "*spatial"]:
    """Scales intensities to [0, 1], robust to a few very bright or dark voxels.

    `lower` is the 0.1th percentile of all voxels (the background, where there is one), `upper` the
    99.8th percentile of the voxels above `lower`; the result is `(data - lower) / (upper - lower)`,
    clipped. A scan that was scaled by this rule stays as it is.

    Args:
      data: any shape, any finite range.

    Returns:
      float32 in [0, 1], same shape.

    Raises:
      ValueError: no voxel lies above `lower`, so there is no image to scale.

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

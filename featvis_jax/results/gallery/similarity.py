"""Which channels look alike: an order in which neighbours do, and the nearest of each.

What a channel looks for is a texture, and where it lies in the picture means little. Pictures are
therefore compared by the shares of their power in bands of spatial frequency and orientation, which
do not change when the texture is moved.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster import hierarchy
from scipy.spatial import distance

# Cycles per voxel; each band is about as wide as the octave below it.
_BANDS = (0.0, 1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1.0)
_ORIENTATIONS = 8
# The best order of the leaves takes the cube of their number in time.
_MOST_LEAVES = 512


def features(planes: list[Float[np.ndarray, "_ _"]]) -> Float[np.ndarray, " bands"]:
    """Describe pictures by the square roots of their shares of power.

    Args:
      planes: The pictures of one image, each (height, width); what is not finite counts as the
        mean.

    Returns:
      One number per band, orientation and picture; zeros for a picture of one intensity.

    Example:
      >>> stripes = np.sin(np.arange(32) * np.pi / 2) * np.ones((32, 1))
      >>> bool(np.allclose(features([stripes]), features([np.roll(stripes, 1)])))
      True
    """
    return np.concatenate([_plane_features(plane) for plane in planes])


def _plane_features(plane: Float[np.ndarray, "height width"]) -> Float[np.ndarray, " bands"]:
    """Return the square roots of the shares of power in one picture."""
    finite = np.isfinite(plane)
    mean = plane[finite].mean(dtype=np.float64) if finite.any() else 0.0
    values = np.where(finite, plane, mean).astype(np.float64) - mean
    # Fading out at the border keeps its edges, which wrap around, out of the spectrum.
    faded = values * np.multiply.outer(*(np.hanning(n + 2)[1:-1] for n in plane.shape))
    power = np.abs(np.fft.fft2(faded)) ** 2
    up, right = np.meshgrid(*(np.fft.fftfreq(n) for n in plane.shape), indexing="ij")
    band = np.digitize(np.hypot(up, right), _BANDS[1:-1])
    turn = np.arctan2(up, right) / np.pi % 1.0
    orientation = np.rint(turn * _ORIENTATIONS).astype(np.int64) % _ORIENTATIONS
    bins = band * _ORIENTATIONS + orientation
    power[0, 0] = 0.0
    sums = np.bincount(bins.ravel(), power.ravel(), minlength=(len(_BANDS) - 1) * _ORIENTATIONS)
    total = sums.sum()
    return np.sqrt(sums / total) if total > 1e-12 * values.size else np.zeros_like(sums)


def order(described: Float[np.ndarray, "n bands"]) -> Int[np.ndarray, " n"]:
    """Return an order in which neighbours look alike.

    Args:
      described: `features` of n images.

    Returns:
      Their indices: the leaves of a tree by average linkage, turned so that neighbours are close.

    Example:
      >>> order(np.array([[0.0], [9.0], [1.0], [8.0]])).tolist() in ([0, 2, 3, 1], [1, 3, 2, 0])
      True
    """
    if len(described) < 3:
        return np.arange(len(described))
    apart = distance.pdist(described)
    tree = hierarchy.average(apart)
    if len(described) <= _MOST_LEAVES:
        tree = hierarchy.optimal_leaf_ordering(tree, apart)
    return hierarchy.leaves_list(tree).astype(np.int64)


def nearest(described: Float[np.ndarray, "n bands"], *, count: int) -> Int[np.ndarray, "n k"]:
    """Return the images that look most like each.

    Args:
      described: `features` of n images.
      count: How many to return at most.

    Returns:
      Indices, the nearest first, without the image itself.

    Example:
      >>> nearest(np.array([[0.0], [9.0], [1.0]]), count=1).tolist()
      [[2], [2], [0]]
    """
    apart = distance.squareform(distance.pdist(described))
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, axis=1, kind="stable")[:, : min(count, len(described) - 1)]

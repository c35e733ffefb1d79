"""A picture's patch in other people's images: does it drive its unit there, too?

A picture may drive its unit only because all of the image is unlike any scan. What a unit looks for
drives it wherever it lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int

from featvis_jax.evidence.observing import padding, place_layer
from featvis_jax.maximize.objectives import Objective
from featvis_jax.nn.network import Network

# Voxels over which a patch fades into the image around it, as a share of its side.
_EDGE = 0.15
# Of the image, along each axis, where nobody knows what a place sees.
_PART = 0.5
# Where a place sees more of the image, nothing is left to paste into.
_NEARLY_ALL = 0.8


def patch_mask(
    network: Network, objective: Objective, place: int
) -> Float32[np.ndarray, "*spatial 1"] | None:
    """Where a patch is pasted: 1 within what a place sees, fading to 0 around it.

    Args:
      network: The network.
      objective: What the unit is asked for.
      place: A flat index into the unit's places.

    Returns:
      Weights in [0, 1]; None for a unit without places, or one whose place sees nearly all of the
      image.
    """
    centre, spatial = centre_of(network, objective, place), network.image_shape[:-1]
    layer = place_layer(network, objective)
    if layer is None or centre is None:
        return None
    if layer.receptive_field is None or layer.stride is None:
        sides = [_PART * side for side in spatial]
    else:
        sides = [float(layer.receptive_field)] * len(spatial)
        if any(side > _NEARLY_ALL * whole for side, whole in zip(sides, spatial, strict=True)):
            return None
    mask = np.ones((), np.float32)
    for axis, (whole, middle, side) in enumerate(zip(spatial, centre, sides, strict=True)):
        beyond = np.abs(np.arange(whole) - middle) - side / 2
        fading = np.clip(1 - beyond / max(1.0, _EDGE * side), 0, 1)
        mask = mask * fading.reshape([-1 if a == axis else 1 for a in range(len(spatial))])
    return np.asarray(mask, np.float32)[..., None]


def centre_of(network: Network, objective: Objective, place: int) -> list[float] | None:
    """The voxel in the middle of what a place sees.

    Args:
      network: The network.
      objective: What the unit is asked for.
      place: A flat index into the unit's places.

    Returns:
      An index along each axis, between voxels where the middle is; None for a unit without places.
    """
    layer, spatial = place_layer(network, objective), network.image_shape[:-1]
    if layer is None:
        return None
    grid = layer.shape[:-1]
    index = [int(i) for i in np.unravel_index(place, grid)]
    if layer.receptive_field is None or layer.stride is None:
        # Nobody knows better: as far along as the place is along its grid.
        return [(i + 0.5) / n * side - 0.5 for i, n, side in zip(index, grid, spatial, strict=True)]
    before, half = padding(layer, spatial), (layer.receptive_field - 1) / 2
    return [i * layer.stride - p + half for i, p in zip(index, before, strict=True)]


def pasted(
    picture: Float[np.ndarray, "*spatial channels"],
    image: Float[np.ndarray, "*spatial channels"],
    mask: Float32[np.ndarray, "*spatial 1"],
) -> Float32[np.ndarray, "*spatial channels"]:
    """An image with the patch of a picture in it, at the place where the picture has it.

    Args:
      picture: The picture.
      image: Somebody's image.
      mask: Of `patch_mask`.

    Example:
      >>> picture, image = np.ones((2, 1)), np.zeros((2, 1))
      >>> pasted(picture, image, np.float32([[1], [0.25]])).ravel().tolist()
      [1.0, 0.25]
    """
    return (mask * picture + (1 - mask) * image).astype(np.float32)


def hosts(
    response: Float[np.ndarray, " images"], owners: Sequence[str], *, count: int = 8
) -> list[int]:
    """Images to paste into: one of each of some people, that drives the unit little.

    The image at the lower quartile of each person's, so that what is found is not the image's own.

    Args:
      response: Of the unit to each image.
      owners: Whose image each is.
      count: How many people at most, spread over all.

    Returns:
      Numbers of images.

    Example:
      >>> hosts(np.array([5.0, 1, 2, 3, 9]), ["a", "a", "a", "a", "b"])
      [2, 4]
    """
    people = list(dict.fromkeys(owners))
    chosen = np.unique(np.linspace(0, len(people) - 1, min(count, len(people))).round().astype(int))
    found = []
    for person in (people[i] for i in chosen):
        own: Int[np.ndarray, " n"] = np.flatnonzero(np.asarray(owners) == person)
        found.append(int(own[np.argsort(response[own], kind="stable")[len(own) // 4]]))
    return found

"""The images of the cohorts that options name, where a network looks."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featvis_jax.data import sources
from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.cohorts import DEFAULT_PATTERN, Cohort, single_scan
from featvis_jax.data.errors import CohortError
from featvis_jax.data.grids import Grid, GridError, coincide, described
from featvis_jax.data.headers import NIFTI_SUFFIXES
from featvis_jax.data.masks import brain_mask
from featvis_jax.data.patches import Patches
from featvis_jax.data.sources import Slices, Source, Volumes
from featvis_jax.options import errors_of, tell
from featvis_jax.results.channels import InputChannels
from featvis_jax.runs.cohorts import (
    cached_volumes,
    read,
    resampled,
    tell_unoriented,
    volumes_directory,
)

# Of how many people's brains it is measured what is cut off, and when that is told and refused.
_LOOKED_AT, _TOLD_OUTSIDE, _MOST_OUTSIDE = 2, 0.1, 0.5


def source_of(
    name: str,
    path: str,
    grid: Grid,
    *,
    channels: InputChannels,
    scaling: str | None,
    slices_mm: Sequence[float] | None = None,
    voxel_size_mm: float | None = None,
    cache: str | None = None,
) -> Source:
    """The images of the cohort that an option names, on a network's grid.

    Args:
      name: Of the option.
      path: Its value.
      grid: Of the network's input.
      channels: Of the network's input. The scans of each of several are those whose files end in
        its name; in place of a cohort, one scan for each may be named.
      scaling: How they are scaled; by "unit" where nobody says.
      slices_mm: Between which heights a network of slices looks; None for all.
      voxel_size_mm: What they are resampled to, if they are.
      cache: Where scaled volumes are kept.

    Raises:
      FileNotFoundError: There is no such cohort.
      CohortError: It cannot be read.
      ValueError: Its grid is not the network's, its contrasts have different ones, or the network
        takes colours.
    """
    if channels.is_colour:
        raise ValueError(
            f"`{name}={path}`: the network takes colours, which scans do not have: leave it out."
        )
    found = [
        each._replace(cohort=resampled(each.cohort, voxel_size_mm, told=each.told))
        for each in _of_channels(name, path, channels)
    ]
    first, *others = (Grid(each.cohort.shape, each.cohort.affine) for each in found)
    for contrast, other in zip(channels.names[1:], others, strict=True):
        if not coincide(other, first):
            raise ValueError(
                f"`{name}={path}`: the scans of {contrast} have {described(other)}, those of "
                f"{channels.names[0]} {described(first)}: resample them to one grid."
            )
    each = [
        _all_images(one, grid, scaling=scaling or "unit", slices_mm=slices_mm, cache=cache)
        for one in found
    ]
    return each[0] if len(each) == 1 else sources.Contrasts(each)


class _Named(NamedTuple):
    """The cohort of one input channel.

    Attributes:
      cohort: The cohort.
      told: What named it, for errors.
      origin: What tells it from others of the same name in the cache.
    """

    cohort: Cohort
    told: str
    origin: str


def _of_channels(name: str, path: str, channels: InputChannels) -> list[_Named]:
    """The cohort of each input channel: of single scans, or those whose files end in its name."""
    told, names, scans = f"`{name}={path}`", channels.names, path.split(",")
    if all(scan.endswith(NIFTI_SUFFIXES) and not Path(scan).is_dir() for scan in scans):
        if len(scans) != len(names):
            raise ValueError(
                f"{told}: expected {len(names)} scans, one for each of the network's channels, "
                f"separated by commas; got {len(scans)}."
            )
        with errors_of(name, path):
            cohorts = [single_scan(scan) for scan in scans]
        for cohort, scan in zip(cohorts, scans, strict=True):
            tell_unoriented(cohort, f"`{name}={scan}`")
        return [
            _Named(cohort, f"`{name}={scan}`", str(Path(scan).resolve()))
            for cohort, scan in zip(cohorts, scans, strict=True)
        ]
    origin = str(Path(path).resolve())
    if names == ("",) or (len(names) == 1 and not Path(path).is_dir()):
        return [_Named(read(path, name=name), told, origin)]
    if not Path(path).is_dir():
        raise ValueError(
            f"{told}: expected a BIDS directory, in which the scans of each of the network's "
            f"channels end in its name: {', '.join(names)}."
        )
    found = []
    for contrast in names:
        pattern = DEFAULT_PATTERN.replace("T1w", contrast)
        cohort = read(path, name=name, pattern=pattern, contrast=contrast)
        found.append(_Named(cohort, f"{told}, {contrast}", f"{origin}\n{pattern}"))
    return found


def _all_images(
    of: _Named,
    grid: Grid,
    *,
    scaling: str,
    slices_mm: Sequence[float] | None,
    cache: str | None,
) -> Slices | Volumes | Patches:
    """The images of all of a cohort's subjects."""
    cohort = of.cohort
    directory = volumes_directory(cohort, source=of.origin, cache=cache)
    try:
        cached = cached_volumes(cohort, directory, scaling=scaling)
    except CohortError as error:
        raise CohortError(f"{of.told}: {error}") from error
    volumes = [cached[participant_id] for participant_id in cohort.participant_ids]
    return source(cohort, volumes, grid, told=of.told, slices_mm=slices_mm)


def source(
    cohort: Cohort,
    volumes: Sequence[CachedVolume],
    grid: Grid,
    *,
    told: str,
    slices_mm: Sequence[float] | None = None,
) -> Slices | Volumes | Patches:
    """The images of some of a cohort's subjects on a network's grid, by their place in the world.

    Those of a network of patches are the fixed ones of every subject, wherever they lie.

    Args:
      cohort: The cohort.
      volumes: The subjects' cached volumes.
      grid: Of the network's input.
      told: What named the cohort, for errors: "`cohort=DIR`".
      slices_mm: Between which heights a network of slices looks; None for all.

    Raises:
      ValueError: The cohort's voxels are not the network's, most of a brain is not on its grid, or
        a patch is larger than the scans.
    """
    try:
        placement = sources.cohort_placement(cohort, grid)
        heights = None if slices_mm is None else sources.slices_between(cohort, slices_mm)
    except GridError as error:
        raise ValueError(
            f"{told}: {error}. The scans have {described(Grid(cohort.shape, cohort.affine))}, the "
            f"network's images {described(grid)}: resample the cohort to that grid."
        ) from error
    # Of a network that does not tell where it looks, no image has a place.
    affine = None if grid.affine is None else cohort.affine
    try:
        found = sources.source(
            volumes,
            grid.shape,
            placement=placement,
            heights=heights,
            affine=affine,
            anywhere=grid.anywhere,
        )
    except ValueError as error:
        raise ValueError(f"{told}: {error}") from error
    if isinstance(found, Patches):
        return found
    cut = max((_share_outside(found, volume) for volume in volumes[:_LOOKED_AT]), default=0.0)
    if cut > _MOST_OUTSIDE:
        raise ValueError(
            f"{told}: {100 * cut:.0f} % of a brain lies outside of the network's grid, "
            f"{described(grid)}: its scans lie elsewhere in space than those the network was "
            "trained on; register them to the same space."
        )
    if cut > _TOLD_OUTSIDE:
        tell(
            f"{told}: up to {100 * cut:.0f} % of a brain lies outside of the network's grid and "
            "is cut off"
        )
    return found


def _share_outside(source: Slices | Volumes, volume: CachedVolume) -> float:
    """How much of a subject's brain is cut off."""
    if source.placement is None:
        return 0.0
    scan = np.moveaxis(np.asarray(volume.open(), np.float32), 0, -1)
    # The background is the darkest, where z-scores of the other voxels lie around it, too.
    mask = brain_mask(np.where(scan == volume.outside, scan.min(), scan))
    kept = np.count_nonzero(source.placement(mask))
    return 1 - kept / max(1, np.count_nonzero(mask))

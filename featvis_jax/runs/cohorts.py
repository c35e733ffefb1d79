"""Reading cohorts that options name, and the images of their rescaled volumes."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featvis_jax.data import sources
from featvis_jax.data.cache import CachedVolume, cache_volumes
from featvis_jax.data.cohorts import (
    DEFAULT_PATTERN,
    Cohort,
    named,
    read_cohort,
    single_scan,
)
from featvis_jax.data.errors import CohortError
from featvis_jax.data.grids import Grid, GridError, coincide, described
from featvis_jax.data.headers import NIFTI_SUFFIXES
from featvis_jax.data.masks import brain_mask
from featvis_jax.data.patches import Patches
from featvis_jax.data.resampling import resampled_cohort
from featvis_jax.data.sources import Slices, Source, Volumes
from featvis_jax.data.synthetic import COARSEST_MM, FINEST_MM, write_synthetic_cohort
from featvis_jax.options import errors_of, option, tell
from featvis_jax.progress import callback
from featvis_jax.results.channels import InputChannels
from featvis_jax.runs.cache import CacheOptions, cache_directory

# Of how many people's brains it is measured what is cut off, and when that is told and refused.
_LOOKED_AT, _TOLD_OUTSIDE, _MOST_OUTSIDE = 2, 0.1, 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class CohortOptions(CacheOptions):
    """The cohort."""

    cohort: str = option(
        "synthetic",
        "A BIDS directory with participants.tsv, a TSV file that lists paths and labels, or "
        "synthetic for generated people: the MNI152 brain under random deformations.",
    )
    pattern: str | None = option(
        None,
        "Glob pattern for the images in a `cohort` directory; by default T1w images where BIDS "
        "puts them.",
    )
    voxel_size_mm: float | None = option(
        None,
        "Side of coarser voxels, in mm, to which the scans of `cohort` are resampled when they are "
        "read; by default they stay as they are, and a network that was trained on resampled scans "
        "gets the like.",
        least=0.1,
        most=COARSEST_MM,
    )
    synthetic_subjects: int = option(40, "Number of people in the synthetic cohort.", least=5)
    synthetic_voxel_size_mm: float = option(
        2.0, "Voxel size of the synthetic cohort, in mm.", least=FINEST_MM, most=COARSEST_MM
    )
    synthetic_group_difference: float = option(
        0.0,
        "By how much, as a share, the right frontal lobe of the synthetic group M is darker; "
        "with 0, sex means nothing in the synthetic cohort.",
        least=0.0,
        most=1.0,
    )


def cohort_of(options: CohortOptions, *, voxel_size_mm: float | None = None) -> Cohort:
    """Read the cohort that options name; the synthetic one is written first if need be.

    Args:
      options: Which cohort.
      voxel_size_mm: What its scans are resampled to where the options do not say: as they were for
        a network (`featvis_jax.models.Model.resampled_mm`).

    Raises:
      FileNotFoundError: There is no such cohort.
      CohortError: It cannot be read.
      ValueError: The options contradict each other.
    """
    cohort = _as_it_is(options)
    return _resampled(
        cohort, options.voxel_size_mm or voxel_size_mm, told=f"`cohort={options.cohort}`"
    )


def _resampled(cohort: Cohort, voxel_size_mm: float | None, *, told: str) -> Cohort:
    if voxel_size_mm is None:
        return cohort
    try:
        return resampled_cohort(cohort, voxel_size_mm)
    except CohortError as error:
        raise CohortError(f"{told}: {error}") from error


def _as_it_is(options: CohortOptions) -> Cohort:
    if options.pattern is not None and not Path(options.cohort).is_dir():
        raise ValueError(
            f"`pattern={options.pattern}` selects images in a directory, but "
            f"`cohort={options.cohort}` is not a directory; leave one of the two out."
        )
    if options.cohort != "synthetic":
        pattern = DEFAULT_PATTERN if options.pattern is None else options.pattern
        return read(options.cohort, name="cohort", pattern=pattern)
    name = (
        f"synthetic-{options.synthetic_subjects}-subjects-{options.synthetic_voxel_size_mm:g}mm"
        f"-difference-{options.synthetic_group_difference:g}"
    )
    directory = write_synthetic_cohort(
        cache_directory(options.cache) / name,
        num_subjects=options.synthetic_subjects,
        voxel_size_mm=options.synthetic_voxel_size_mm,
        group_difference=options.synthetic_group_difference,
    )
    return read_cohort(directory)


def cohort_volumes_directory(cohort: Cohort, options: CohortOptions) -> Path:
    """Where the volumes of the cohort that options name are kept.

    Args:
      cohort: The cohort.
      options: Which cohort.
    """
    told = options.cohort
    origin = told if told == "synthetic" else str(Path(told).resolve())
    source = f"{origin}\n{options.pattern}"
    return volumes_directory(cohort, source=source, cache=options.cache)


def volumes_directory(cohort: Cohort, *, source: str, cache: str | None = None) -> Path:
    """Where the volumes of a cohort are kept; another one's would replace those of equal ids.

    Args:
      cohort: The cohort.
      source: What tells it from cohorts of the same name.
      cache: Where such things are kept.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()
    size = "" if cohort.resampled_mm is None else f"-{cohort.resampled_mm:g}mm"
    return cache_directory(cache) / "volumes" / f"{cohort.name}{size}-{digest[:8]}"


def read(
    path: str, *, name: str, pattern: str = DEFAULT_PATTERN, contrast: str | None = None
) -> Cohort:
    """Read a cohort; errors name the option that it came by, and what is left out is told.

    Args:
      path: A directory or a table.
      name: Of the option.
      contrast: The input channel whose scans they are, of several.
      pattern: Glob for the images below a directory.

    Raises:
      FileNotFoundError: There is no such cohort.
      CohortError: It cannot be read.
    """
    told = f"`{name}`"
    if contrast is not None:
        told += f" (scans of {contrast}, by `channel_names`)"
    try:
        cohort = read_cohort(path, pattern=pattern)
    except OSError as error:
        raise type(error)(f"{told}: {error}") from error
    except CohortError as error:
        raise CohortError(f"{told}: {error}") from error
    place = f"`{name}={path}`: {len(cohort.subjects)} participants"
    if cohort.unlisted:
        scans = named(str(scan.relative_to(path)) for scan in cohort.unlisted)
        tell(
            f"{place}; left out because participants.tsv has no row for them: "
            f"{len(cohort.unlisted)} of the scans ({scans})"
        )
    _tell_unoriented(cohort, place)
    return cohort


def _tell_unoriented(cohort: Cohort, place: str) -> None:
    """Say which scans do not tell how they are oriented."""
    if cohort.unoriented:
        tell(
            f"{place}; {len(cohort.unoriented)} scans do not say how they are oriented "
            "(qform_code and sform_code are 0) and are assumed to be stored from right to left, "
            f"back to front and bottom to top: {named(scan.name for scan in cohort.unoriented)}"
        )


def cached_volumes(
    cohort: Cohort, directory: Path, *, ids: Iterable[str] | None = None, scaling: str = "unit"
) -> dict[str, CachedVolume]:
    """A cohort's scaled volumes, by the subjects' ids, and a word on how far it is.

    Args:
      cohort: The cohort.
      directory: Where they are kept (`volumes_directory`).
      ids: Whose; by default everybody's.
      scaling: How they are scaled.

    Raises:
      CohortError: Scans cannot be read.
    """
    subjects = cohort.subjects if ids is None else cohort.select(ids)
    with callback("reading scans", unit="scan") as on_scans:
        return cache_volumes(
            subjects,
            directory if scaling == "unit" else directory / scaling,
            scaling=scaling,
            voxel_size_mm=cohort.resampled_mm,
            progress=on_scans,
        )


def source_of(
    name: str,
    path: str,
    grid: Grid,
    *,
    channels: InputChannels,
    scaling: str | None,
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
        each._replace(cohort=_resampled(each.cohort, voxel_size_mm, told=each.told))
        for each in _of_channels(name, path, channels)
    ]
    first, *others = (Grid(each.cohort.shape, each.cohort.affine) for each in found)
    for contrast, other in zip(channels.names[1:], others, strict=True):
        if not coincide(other, first):
            raise ValueError(
                f"`{name}={path}`: the scans of {contrast} have {described(other)}, those of "
                f"{channels.names[0]} {described(first)}: resample them to one grid."
            )
    each = [_all_images(one, grid, scaling=scaling or "unit", cache=cache) for one in found]
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
            _tell_unoriented(cohort, f"`{name}={scan}`")
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
    of: _Named, grid: Grid, *, scaling: str, cache: str | None
) -> Slices | Volumes | Patches:
    """The images of all of a cohort's subjects."""
    cohort = of.cohort
    directory = volumes_directory(cohort, source=of.origin, cache=cache)
    try:
        cached = cached_volumes(cohort, directory, scaling=scaling)
    except CohortError as error:
        raise CohortError(f"{of.told}: {error}") from error
    volumes = [cached[participant_id] for participant_id in cohort.participant_ids]
    return source(cohort, volumes, grid, told=of.told)


def source(
    cohort: Cohort, volumes: Sequence[CachedVolume], grid: Grid, *, told: str
) -> Slices | Volumes | Patches:
    """The images of some of a cohort's subjects on a network's grid, by their place in the world.

    Those of a network of patches are the fixed ones of every subject, wherever they lie.

    Args:
      cohort: The cohort.
      volumes: The subjects' cached volumes.
      grid: Of the network's input.
      told: What named the cohort, for errors: "`cohort=DIR`".

    Raises:
      ValueError: The cohort's voxels are not the network's, most of a brain is not on its grid, or
        a patch is larger than the scans.
    """
    try:
        placement = sources.cohort_placement(cohort, grid)
    except GridError as error:
        raise ValueError(
            f"{told}: {error}. The scans have {described(Grid(cohort.shape, cohort.affine))}, the "
            f"network's images {described(grid)}: resample the cohort to that grid."
        ) from error
    try:
        found = sources.source(volumes, grid.shape, placement=placement, anywhere=grid.anywhere)
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

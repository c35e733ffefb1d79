"""Reading cohorts that options name, and where their rescaled volumes are kept."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

from featvis_jax.data.cache import CachedVolume, cache_volumes
from featvis_jax.data.cohorts import (
    DEFAULT_PATTERN,
    Cohort,
    named,
    read_cohort,
)
from featvis_jax.data.errors import CohortError
from featvis_jax.data.resampling import resampled_cohort
from featvis_jax.data.synthetic import COARSEST_MM, FINEST_MM, write_synthetic_cohort
from featvis_jax.options import option, tell
from featvis_jax.progress import callback
from featvis_jax.runs.cache import CacheOptions, cache_directory


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
    return resampled(
        cohort, options.voxel_size_mm or voxel_size_mm, told=f"`cohort={options.cohort}`"
    )


def resampled(cohort: Cohort, voxel_size_mm: float | None, *, told: str) -> Cohort:
    """The cohort on coarser voxels, if there is a size.

    Args:
      cohort: The cohort.
      voxel_size_mm: What its scans are resampled to, when they are read; None for as they are.
      told: What named it, for errors.

    Raises:
      CohortError: They cannot be.
    """
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
    tell_unoriented(cohort, place)
    return cohort


def tell_unoriented(cohort: Cohort, place: str) -> None:
    """Say which scans do not tell how they are oriented.

    Args:
      cohort: The cohort.
      place: What named it, and how many people it has.
    """
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

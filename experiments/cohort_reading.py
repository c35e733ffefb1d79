"""Reading a cohort that a flag names, and where its rescaled volumes are kept between runs."""

import atexit
import functools
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments.flag_values import errors_of
from experiments.progress import callback
from featvis_jax.data import pipeline
from featvis_jax.data.cache import CachedVolume, cache_volumes
from featvis_jax.data.cohorts import (
    DEFAULT_PATTERN,
    Cohort,
    Subject,
    named,
    read_cohort,
    single_scan,
)
from featvis_jax.data.errors import CohortError
from featvis_jax.data.grids import Grid, GridError, coincide, described
from featvis_jax.data.headers import NIFTI_SUFFIXES
from featvis_jax.data.masks import brain_mask
from featvis_jax.data.pipeline import Slices, Source, Volumes
from featvis_jax.results.channels import InputChannels

# Of how many people's brains it is measured what is cut off, and when that is told and refused.
_LOOKED_AT, _TOLD_OUTSIDE, _MOST_OUTSIDE = 2, 0.1, 0.5

CACHE = flags.DEFINE_string(
    "cache",
    str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "featvis_jax"),
    "Where rescaled volumes and synthetic cohorts are kept between runs.",
)


def cache_directory() -> Path:
    """The cache, with `~` expanded; it is made if it is missing.

    A home that cannot be written, as on the nodes of some clusters, does not stop a run: what is
    read from there is then kept in a temporary directory, and forgotten with the process.

    Raises:
      ValueError: The directory of --cache cannot be written.
    """
    try:
        directory = Path(CACHE.value).expanduser()
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except (OSError, RuntimeError) as error:
        if CACHE.present:
            raise ValueError(
                f"--cache={CACHE.value}: no file can be made there ({error}); give a directory "
                "that you may write to."
            ) from error
        return _temporary_cache(f"--cache={CACHE.value}: no file can be made there ({error})")
    return directory


@functools.cache
def _temporary_cache(why: str) -> Path:
    """A cache for this process alone, which says so once."""
    directory = Path(tempfile.mkdtemp(prefix="featvis_jax-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    print(f"{why}; volumes are kept in {directory} until this process ends.", file=sys.stderr)
    return directory


def volumes_directory(cohort: Cohort, *, source: str) -> Path:
    """Where the volumes of a cohort are kept; another one's would replace those of equal ids.

    Args:
      cohort: The cohort.
      source: What tells it from cohorts of the same name.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()
    return cache_directory() / "volumes" / f"{cohort.name}-{digest[:8]}"


def read(path: str, *, flag: str, pattern: str = DEFAULT_PATTERN) -> Cohort:
    """Read a cohort; errors name the flag that it came by, and what is left out is told.

    Args:
      path: A directory or a table.
      flag: Its name, with the dashes.
      pattern: Glob for the images below a directory.

    Raises:
      FileNotFoundError: There is no such cohort.
      CohortError: It cannot be read.
    """
    try:
        cohort = read_cohort(path, pattern=pattern)
    except OSError as error:
        raise type(error)(f"{flag}: {error}") from error
    except CohortError as error:
        raise CohortError(f"{flag}: {error}") from error
    place = f"{flag}={path}: {len(cohort.subjects)} participants"
    if cohort.unlisted:
        scans = named(str(scan.relative_to(path)) for scan in cohort.unlisted)
        print(
            f"{place}; left out, for want of a row in participants.tsv: {len(cohort.unlisted)} of "
            f"the scans ({scans})",
            file=sys.stderr,
        )
    _tell_unoriented(cohort, place)
    return cohort


def _tell_unoriented(cohort: Cohort, place: str) -> None:
    """Say which scans do not tell how they are oriented."""
    if cohort.unoriented:
        print(
            f"{place}; {len(cohort.unoriented)} scans do not tell how they are oriented "
            "(qform_code and sform_code are 0), and are taken for stored from right to left, back "
            f"to front and bottom to top: {named(scan.name for scan in cohort.unoriented)}",
            file=sys.stderr,
        )


def cached_volumes(
    subjects: Sequence[Subject], directory: Path, *, scaling: str = "unit"
) -> dict[str, CachedVolume]:
    """The subjects' scaled volumes, by their ids, and a word on how far it is.

    Args:
      subjects: Whose.
      directory: Where they are kept (`volumes_directory`).
      scaling: How they are scaled.

    Raises:
      CohortError: Scans cannot be read.
    """
    with callback("reading scans", unit="scan") as on_scans:
        directory = directory if scaling == "unit" else directory / scaling
        return cache_volumes(subjects, directory, scaling=scaling, progress=on_scans)


def flagged_source(
    name: str, grid: Grid, *, channels: InputChannels, scaling: str | None
) -> Source | None:
    """The images of the cohort that a flag names, on a network's grid; None without the flag.

    Args:
      name: Of the flag, without the dashes.
      grid: Of the network's input.
      channels: Of the network's input. The scans of each of several are those whose files end in
        its name; in place of a cohort, one scan for each may be named.
      scaling: How they are scaled; by "unit" where nobody says.

    Raises:
      FileNotFoundError: There is no such cohort.
      CohortError: It cannot be read.
      ValueError: Its grid is not the network's, its contrasts have different ones, or the network
        takes colours.
    """
    path = flags.FLAGS[name].value
    if path is None:
        return None
    if channels.is_colour:
        raise ValueError(
            f"--{name}={path}: scans have no colours, which the network takes: leave it out."
        )
    found = _of_channels(name, path, channels)
    first, *others = (Grid(each.cohort.shape, each.cohort.affine) for each in found)
    for contrast, other in zip(channels.names[1:], others, strict=True):
        if not coincide(other, first):
            raise ValueError(
                f"--{name}={path}: the scans of {contrast} have {described(other)}, those of "
                f"{channels.names[0]} {described(first)}: resample them to one grid."
            )
    sources = [_all_images(each, grid, scaling=scaling or "unit") for each in found]
    return sources[0] if len(sources) == 1 else pipeline.Contrasts(sources)


class _Named(NamedTuple):
    """The cohort of one input channel.

    Attributes:
      cohort: The cohort.
      flag: What named it, for errors.
      origin: What tells it from others of the same name in the cache.
    """

    cohort: Cohort
    flag: str
    origin: str


def _of_channels(name: str, path: str, channels: InputChannels) -> list[_Named]:
    """The cohort of each input channel that a flag names: of single scans, or by their endings."""
    flag, names, scans = f"--{name}={path}", channels.names, path.split(",")
    if all(scan.endswith(NIFTI_SUFFIXES) and not Path(scan).is_dir() for scan in scans):
        if len(scans) != len(names):
            raise ValueError(
                f"{flag}: expected {len(names)} scans, one for each of the network's channels, "
                f"joined with commas; got {len(scans)}."
            )
        with errors_of(f"--{name}="):
            cohorts = [single_scan(scan) for scan in scans]
        for cohort, scan in zip(cohorts, scans, strict=True):
            _tell_unoriented(cohort, f"--{name}={scan}")
        return [
            _Named(cohort, f"--{name}={scan}", str(Path(scan).resolve()))
            for cohort, scan in zip(cohorts, scans, strict=True)
        ]
    origin = str(Path(path).resolve())
    if len(names) == 1:
        return [_Named(read(path, flag=f"--{name}"), flag, origin)]
    if not Path(path).is_dir():
        raise ValueError(
            f"{flag}: expected a BIDS directory, in which the scans of each of the network's "
            f"channels end in its name: {', '.join(names)}."
        )
    found = []
    for contrast in names:
        pattern = DEFAULT_PATTERN.replace("T1w", contrast)
        told = f"--{name} (scans of {contrast}, by --channel_names)"
        cohort = read(path, flag=told, pattern=pattern)
        found.append(_Named(cohort, f"{flag}, {contrast}", f"{origin}\n{pattern}"))
    return found


def _all_images(of: _Named, grid: Grid, *, scaling: str) -> Slices | Volumes:
    """The images of all of a cohort's subjects."""
    cohort = of.cohort
    directory = volumes_directory(cohort, source=of.origin)
    with errors_of(f"{of.flag}: "):
        cached = cached_volumes(cohort.subjects, directory, scaling=scaling)
    volumes = [cached[participant_id] for participant_id in cohort.participant_ids]
    return source(cohort, volumes, grid, flag=of.flag)


def source(
    cohort: Cohort, volumes: Sequence[CachedVolume], grid: Grid, *, flag: str
) -> Slices | Volumes:
    """The images of some of a cohort's subjects on a network's grid, by their place in the world.

    Args:
      cohort: The cohort.
      volumes: The subjects' cached volumes.
      grid: Of the network's input.
      flag: What named the cohort, for errors: "--cohort=DIR".

    Raises:
      ValueError: The cohort's voxels are not the network's, or most of a brain is not on its grid.
    """
    try:
        placement = pipeline.cohort_placement(cohort, grid)
    except GridError as error:
        raise ValueError(
            f"{flag}: {error}. The scans have {described(Grid(cohort.shape, cohort.affine))}, the "
            f"network's images {described(grid)}: resample the cohort to that grid."
        ) from error
    found = pipeline.source(volumes, grid.shape, placement=placement)
    cut = max((_share_outside(found, volume) for volume in volumes[:_LOOKED_AT]), default=0.0)
    if cut > _MOST_OUTSIDE:
        raise ValueError(
            f"{flag}: {100 * cut:.0f} % of a brain lies outside of the network's grid, "
            f"{described(grid)}: its scans lie elsewhere in space than those the network was "
            "trained on; register them to the same space."
        )
    if cut > _TOLD_OUTSIDE:
        print(
            f"{flag}: up to {100 * cut:.0f} % of a brain lies outside of the network's grid and "
            "is cut off",
            file=sys.stderr,
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

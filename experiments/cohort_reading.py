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

from absl import flags

from featvis_jax.data import pipeline
from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.cohorts import DEFAULT_PATTERN, Cohort, named, read_cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.grids import Grid, GridError, described
from featvis_jax.data.pipeline import Source

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
    if cohort.unlisted:
        scans = named(str(scan.relative_to(path)) for scan in cohort.unlisted)
        print(
            f"{flag}={path}: {len(cohort.subjects)} participants; {len(cohort.unlisted)} scans "
            f"have no row in participants.tsv and are left out: {scans}",
            file=sys.stderr,
        )
    return cohort


def source(cohort: Cohort, volumes: Sequence[CachedVolume], grid: Grid, *, flag: str) -> Source:
    """The images of some of a cohort's subjects on a network's grid, by their place in the world.

    Args:
      cohort: The cohort.
      volumes: The subjects' cached volumes.
      grid: Of the network's input.
      flag: What named the cohort, for errors: "--cohort=DIR".

    Raises:
      ValueError: The cohort's voxels are not the network's.
    """
    try:
        placement = pipeline.cohort_placement(cohort, grid)
    except GridError as error:
        raise ValueError(
            f"{flag}: {error}. The scans have {described(Grid(cohort.shape, cohort.affine))}, the "
            f"network's images {described(grid)}: resample the cohort to that grid."
        ) from error
    return pipeline.source(volumes, grid.shape, placement=placement)

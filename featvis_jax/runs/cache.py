"""Where rescaled volumes and synthetic cohorts are kept between runs."""

import atexit
import dataclasses
import functools
import os
import shutil
import tempfile
from pathlib import Path

from featvis_jax.options import Options, option, tell


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """Cache."""

    cache: str | None = option(
        None,
        "Directory that keeps rescaled volumes and synthetic cohorts between runs; by default "
        "featvis_jax in $XDG_CACHE_HOME or ~/.cache.",
        belongs_to_run=False,
    )


def cache_directory(cache: str | None) -> Path:
    """The cache; it is made if it is missing.

    A home that cannot be written, as on the nodes of some clusters, does not stop a run: what is
    read from there is then kept in a temporary directory, and forgotten with the process.

    Args:
      cache: Where, with ``~`` for the home; None for the usual place of the user.

    Raises:
      ValueError: The directory that is named cannot be written.
    """
    place = cache
    if place is None:
        place = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "featvis_jax")
    try:
        directory = Path(place).expanduser()
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except (OSError, RuntimeError) as error:
        if cache is not None:
            raise ValueError(
                f"`cache={cache}`: no file can be made there ({error}); give a directory that you "
                "may write to."
            ) from error
        return _temporary_cache(f"`cache={place}`: no file can be made there ({error})")
    return directory


@functools.cache
def _temporary_cache(why: str) -> Path:
    """A cache for this process alone, which says so once."""
    directory = Path(tempfile.mkdtemp(prefix="featvis_jax-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    tell(f"{why}; volumes are kept in {directory} until this process ends.")
    return directory

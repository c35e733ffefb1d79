"""The flag that says where rescaled volumes are kept between runs."""

import hashlib
import os
from pathlib import Path

from absl import flags

from featvis_jax.data.cohorts import Cohort

CACHE = flags.DEFINE_string(
    "cache",
    str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "featvis_jax"),
    "Where rescaled volumes and synthetic cohorts are kept between runs.",
)


def cache_directory() -> Path:
    """The cache, with `~` expanded; it is made if it is missing."""
    try:
        directory = Path(CACHE.value).expanduser()
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"--cache={CACHE.value}: no directory can be made there ({error}); give one that you "
            "may write to."
        ) from error
    return directory


def volumes_directory(cohort: Cohort, *, source: str) -> Path:
    """Where the volumes of a cohort are kept; another one's would replace those of equal ids.

    Args:
      cohort: The cohort.
      source: What tells it from cohorts of the same name.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()
    return cache_directory() / "volumes" / f"{cohort.name}-{digest[:8]}"

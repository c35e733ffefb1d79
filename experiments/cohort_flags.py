"""The flags that name a cohort, shared by the launchers."""

import hashlib
import os
from pathlib import Path

from absl import flags

from featvis_jax.data.cohorts import Cohort, read_cohort
from featvis_jax.data.synthetic import write_synthetic_cohort

COHORT = flags.DEFINE_string(
    "cohort",
    "synthetic",
    "A BIDS directory with participants.tsv, a TSV that lists paths and labels, or 'synthetic' for "
    "the embedded cohort: MNI152 brains under random deformation.",
)
PATTERN = flags.DEFINE_string(
    "pattern", None, "Glob for the images below --cohort; T1w images at the usual BIDS places."
)
SUBJECTS = flags.DEFINE_integer(
    "synthetic_subjects", 40, "Subjects of the synthetic cohort.", lower_bound=5
)
VOXEL_SIZE_MM = flags.DEFINE_float(
    "synthetic_voxel_size_mm", 2.0, "Voxel size of the synthetic cohort.", lower_bound=1.0
)
GROUP_DIFFERENCE = flags.DEFINE_float(
    "synthetic_group_difference",
    0.0,
    "Share of the right frontal lobe's intensity that the synthetic group M lacks; the synthetic "
    "stand-in for sex means nothing without it.",
    lower_bound=0.0,
    upper_bound=1.0,
)
CACHE = flags.DEFINE_string(
    "cache",
    str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "featvis_jax"),
    "Where rescaled volumes and synthetic cohorts are kept between runs.",
)


def cache_directory() -> Path:
    """The cache, with `~` expanded."""
    return Path(CACHE.value).expanduser()


def volume_cache_directory(cohort: Cohort) -> Path:
    """Where a cohort's volumes are cached; another cohort's would replace those of equal ids."""
    source = "synthetic" if COHORT.value == "synthetic" else str(Path(COHORT.value).resolve())
    digest = hashlib.sha256(f"{source}\n{PATTERN.value}".encode()).hexdigest()
    return cache_directory() / "volumes" / f"{cohort.name}-{digest[:8]}"


def cohort_from_flags() -> Cohort:
    """Read the cohort that the flags name; the synthetic one is written first if need be."""
    if COHORT.value != "synthetic":
        if PATTERN.value is not None:
            return read_cohort(COHORT.value, pattern=PATTERN.value)
        return read_cohort(COHORT.value)
    name = (
        f"synthetic-{SUBJECTS.value}-subjects-{VOXEL_SIZE_MM.value:g}mm"
        f"-difference-{GROUP_DIFFERENCE.value:g}"
    )
    directory = write_synthetic_cohort(
        cache_directory() / name,
        num_subjects=SUBJECTS.value,
        voxel_size_mm=VOXEL_SIZE_MM.value,
        group_difference=GROUP_DIFFERENCE.value,
    )
    return read_cohort(directory)

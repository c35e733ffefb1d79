"""The flags that name a cohort, shared by the launchers."""

import math
from pathlib import Path

from absl import flags

from experiments import cohort_reading
from featvis_jax.data.cohorts import DEFAULT_PATTERN, Cohort, read_cohort
from featvis_jax.data.synthetic import COARSEST_MM, FINEST_MM, write_synthetic_cohort

COHORT = flags.DEFINE_string(
    "cohort",
    "synthetic",
    "A BIDS directory with participants.tsv, a TSV that lists paths and labels, or 'synthetic' for "
    "the embedded cohort: MNI152 brains under random deformation.",
)
PATTERN = flags.DEFINE_string(
    "pattern",
    None,
    "Glob for the images below a --cohort directory; T1w images at the usual BIDS places.",
)
SUBJECTS = flags.DEFINE_integer(
    "synthetic_subjects", 40, "Subjects of the synthetic cohort.", lower_bound=5
)
VOXEL_SIZE_MM = flags.DEFINE_float(
    "synthetic_voxel_size_mm",
    2.0,
    "Voxel size of the synthetic cohort.",
    lower_bound=FINEST_MM,
    upper_bound=COARSEST_MM,
)
GROUP_DIFFERENCE = flags.DEFINE_float(
    "synthetic_group_difference",
    0.0,
    "Share of the right frontal lobe's intensity that the synthetic group M lacks; the synthetic "
    "stand-in for sex means nothing without it.",
    lower_bound=0.0,
    upper_bound=1.0,
)
# NaN is neither below nor above a bound.
for _flag in (VOXEL_SIZE_MM, GROUP_DIFFERENCE):
    flags.register_validator(_flag, math.isfinite, message="expected a finite number")


def volume_cache_directory(cohort: Cohort) -> Path:
    """Where a cohort's volumes are cached."""
    source = "synthetic" if COHORT.value == "synthetic" else str(Path(COHORT.value).resolve())
    return cohort_reading.volumes_directory(cohort, source=f"{source}\n{PATTERN.value}")


def cohort_from_flags() -> Cohort:
    """Read the cohort that the flags name; the synthetic one is written first if need be."""
    if PATTERN.value is not None and not Path(COHORT.value).is_dir():
        raise ValueError(
            f"--pattern={PATTERN.value}: chooses the images of a directory, but --cohort="
            f"{COHORT.value} is none; leave one of the two flags out."
        )
    if COHORT.value != "synthetic":
        pattern = DEFAULT_PATTERN if PATTERN.value is None else PATTERN.value
        return cohort_reading.read(COHORT.value, flag="--cohort", pattern=pattern)
    name = (
        f"synthetic-{SUBJECTS.value}-subjects-{VOXEL_SIZE_MM.value:g}mm"
        f"-difference-{GROUP_DIFFERENCE.value:g}"
    )
    directory = write_synthetic_cohort(
        cohort_reading.cache_directory() / name,
        num_subjects=SUBJECTS.value,
        voxel_size_mm=VOXEL_SIZE_MM.value,
        group_difference=GROUP_DIFFERENCE.value,
    )
    return read_cohort(directory)

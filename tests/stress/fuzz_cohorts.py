"""Reads damaged scans and cohorts by the hundred thousand, and counts what must not happen.

    python -m tests.stress.fuzz_cohorts --cases=100000

A case is a scan, a cohort or a bomb, drawn from the seed and its own number (`--first=N --cases=1`
repeats one). It has to be read, or refused by an error that names the file
(`tests/stress/fuzzing.py` says what is counted). The exit status is 0 if nothing bad happened.
"""

import re
import sys
import tempfile
from pathlib import Path
from random import Random

from featvis_jax.data.cache import cache_volumes
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.errors import CohortError, VolumeError
from featvis_jax.data.splits import split_subjects
from featvis_jax.data.volumes import load_volume
from tests.data import mutations
from tests.stress import fuzzing

# Every line about a row or a file says where it is.
_PLACE = re.compile(r"\.(tsv|nii|nii\.gz)\b|line \d+")


def scan_case(random: Random, folder: Path) -> str:
    """One damaged file."""
    path = folder / random.choice(("scan.nii", "scan.nii.gz"))
    path.write_bytes(mutations.bomb(random) if random.random() < 0.002 else mutations.scan(random))
    try:
        load_volume(path)
    except VolumeError as error:
        return "refused" if str(path) in str(error) else f"unnamed error: {error}"
    return "read"


def cohort_case(random: Random, folder: Path) -> str:
    """Three scans and a table, some of them damaged, on their way to a split."""
    path = mutations.cohort(random, folder / "cohort")
    try:
        cohort = read_cohort(path)
        cache_volumes(cohort.subjects, folder / "cache")
    except CohortError as error:
        heading = str(error).split("\n")[0]
        named = str(path) in heading or all(_PLACE.search(line) for line in error.problems)
        return "refused" if named and error.problems else f"unnamed error: {error}"
    try:
        label = "sex" if "sex" in cohort.subjects[0].labels else None
        split_subjects(cohort, label=label, test_fraction=0.34, validation_fraction=0.5)
    except CohortError as error:
        return "refused" if str(cohort.table) in str(error) else f"unnamed error: {error}"
    return "read"


def run_case(seed: int, number: int) -> tuple[str, str]:
    """Kind and outcome of one case."""
    random = Random(f"{seed} {number}")
    kind, case = ("cohort", cohort_case) if random.random() < 0.2 else ("scan", scan_case)
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        try:
            return kind, case(random, Path(folder))
        except Exception as error:
            return kind, f"crash: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(fuzzing.main(run_case, __doc__.splitlines()[0]))

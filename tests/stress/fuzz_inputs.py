"""Gives launchers' flags random images and tables, and compares with a second reading of them.

    python -m tests.stress.fuzz_inputs --count=10000

A case is a NIfTI file for --mask, --attention, --start_image or --images, in any orientation and
encoding, on a network's grid, elsewhere or damaged; or a cohort whose table was edited. It is drawn
from the seed and its own number (`--first=N --count=1` repeats one). It has to be what nibabel and
the places of its voxels say, or a table's lines, or be refused by one error that names the file
(`tests/stress/fuzzing.py` says what is counted). The exit status is 0 if nothing bad happened.
"""

import gzip
import logging
import os
import sys
import tempfile
from pathlib import Path
from random import Random

import nibabel
import numpy as np

from tests.data import placed, tables
from tests.experiments.flag_files import read_by_flag
from tests.stress import fuzzing

_FLAGS = ("mask", "attention", "start_image", "images")


def image_case(random: Random, folder: Path, flag: str) -> str:
    """One file for a flag."""
    case = placed.case(random, folder)
    if flag != "start_image" and case.channels > 1:
        case = case._replace(channels=1, fits=False)
    return placed.outcome(case, lambda: read_by_flag(flag, case.path, case.grid, case.channels))


def large_case(random: Random, folder: Path) -> str:
    """A small file that unpacks to up to a gigabyte, around the grid or not."""
    grid = placed.Grid((4, 5, 6), np.diag([2.0, 2, 2, 1]))
    header = nibabel.Nifti1Header()
    header.set_data_shape(random.choice(((600, 600, 600), (1000, 1000, 1000), (30000, 9, 900))))
    header.set_data_dtype(np.float32)
    affine = grid.affine[[*random.sample(range(3), 3), 3]]
    header.set_sform(affine, 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path = folder / "large.nii.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(random.choice((1, 864))):
            file.write(bytes(10**6))
    case = placed.Case(path, grid, 1, None)
    try:
        found = read_by_flag("start_image", path, grid, 1)
    except Exception as error:
        return placed.refused(case, error)
    return "silent difference: a large file" if found.any() else "read"


def run_case(seed: int, number: int) -> tuple[str, str]:
    """Kind and outcome of one case."""
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    random = Random(f"{seed} {number}")
    kind = "table" if random.random() < 0.3 else random.choice(_FLAGS)
    if random.random() < 0.001:
        kind = "large"
    # In memory where there is such a place: a case writes a dozen files.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=memory) as folder:
        try:
            if kind == "table":
                return kind, tables.outcome(tables.cohort(random, Path(folder, "cohort")))
            if kind == "large":
                return kind, large_case(random, Path(folder))
            return kind, image_case(random, Path(folder), kind)
        except Exception as error:
            return kind, f"crash: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(fuzzing.main(run_case, __doc__.splitlines()[0]))

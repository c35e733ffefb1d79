"""Damages the directory of a trained model at random, and loads it.

    python -m tests.stress.fuzz_models --count=10000

A case is a model of which one file, or two, were changed, cut, emptied, lost, swapped, or replaced
by what a version control leaves in their place; drawn from the seed and its own number (`--first=N
--count=1` repeats one). It has to give what was saved, or to be refused by one line that names a
file (`tests/stress/fuzzing.py` says what is counted). The exit status is 0 if nothing bad happened.
"""

import sys
import tempfile
from pathlib import Path
from random import Random

from tests import damaged_models
from tests.stress import fuzzing


def run_case(seed: int, number: int) -> tuple[str, str]:
    """Kind and outcome of one case."""
    random = Random(f"{seed} {number}")
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        return damaged_models.case(random, Path(folder))


if __name__ == "__main__":
    sys.exit(fuzzing.main(run_case, __doc__.splitlines()[0]))

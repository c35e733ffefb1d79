"""Whatever file a flag names, it lies where its voxels do, or is refused in one line.

`tests/stress/fuzz_inputs.py` does the same ten thousand times, and with tables of participants.
"""

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import placed, tables
from tests.experiments.flag_files import FLAGS_OF_FILES, read_by_flag

fuzzed = settings(derandomize=True, deadline=None, max_examples=60, database=None)
choices = st.randoms(use_true_random=False)
pytestmark = pytest.mark.usefixtures("quiet_nibabel")


@pytest.mark.parametrize("flag", FLAGS_OF_FILES)
@fuzzed
@given(choices)
def test_an_image_for_any_flag(flag: str, random: Random):
    with tempfile.TemporaryDirectory() as folder:
        case = placed.case(random, Path(folder))
        if flag != "start_image" and case.channels > 1:
            case = case._replace(channels=1, fits=False)
        outcome = placed.outcome(
            case, lambda: read_by_flag(flag, case.path, case.grid, case.channels)
        )
        assert outcome in ("read", "refused")


@fuzzed
@given(choices)
def test_a_table_is_what_its_lines_say_and_nobody_vanishes(random: Random):
    with tempfile.TemporaryDirectory() as folder:
        assert tables.outcome(tables.cohort(random, Path(folder, "cohort"))) in ("read", "refused")

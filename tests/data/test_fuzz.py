"""Damaged scans and tables: read right or refused by name, whatever was done to them.

`tests/stress/fuzz_cohorts.py` does the same a hundred thousand times.
"""

import tempfile
import warnings
from pathlib import Path
from random import Random

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featvis_jax.data.cache import cache_volumes
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.errors import CohortError, VolumeError
from featvis_jax.data.splits import split_subjects
from featvis_jax.data.volumes import load_volume
from tests.data import mutations

fuzzed = settings(derandomize=True, deadline=None, max_examples=500, database=None)
choices = st.randoms(use_true_random=False)
pytestmark = pytest.mark.usefixtures("quiet_nibabel")


@fuzzed
@given(choices)
def test_a_damaged_scan_is_refused_by_name_or_read_as_nibabel_reads_it(random: Random):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scan.nii")
        path.write_bytes(mutations.scan(random))
        if path.read_bytes()[:2] == b"\x1f\x8b":
            path = path.rename(path.with_name("scan.nii.gz"))
        try:
            volume = load_volume(path)
        except VolumeError as error:
            assert str(path) in str(error)
            return
        assert np.isfinite(volume.data).all()
        assert np.ptp(volume.data) > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = nibabel.load(path)
                reference = nibabel.as_closest_canonical(image)
                expected = np.asarray(reference.dataobj, np.float32)
            except Exception:
                return  # What nibabel refuses and we do not, it reads no other way.
        if image.dataobj.offset < image.header.single_vox_offset:
            return  # An offset of 0 stands for the usual one; nibabel reads the header as voxels.
        np.testing.assert_allclose(volume.data, expected.reshape(volume.data.shape), rtol=1e-6)
        np.testing.assert_allclose(volume.affine, reference.affine, rtol=1e-5)


@fuzzed
@given(choices)
def test_a_sound_scan_of_any_kind_is_read(random: Random):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scan.nii")
        path.write_bytes(mutations.scan(random, most_edits=0))
        data = load_volume(path).data
        assert sorted(data.shape) == sorted(mutations.SHAPE)
        np.testing.assert_allclose(np.sort(data, axis=None), np.arange(data.size), rtol=1e-6)


@settings(fuzzed, max_examples=100)
@given(choices)
def test_a_damaged_cohort_is_refused_by_name_or_read_and_split(random: Random):
    with tempfile.TemporaryDirectory() as folder:
        path = mutations.cohort(random, Path(folder, "cohort"))
        try:
            cohort = read_cohort(path)
            cache_volumes(cohort.subjects, Path(folder, "cache"))
        except CohortError as error:
            assert str(Path(folder, "cohort")) in str(error)
            for problem in error.problems:
                assert problem.strip()
            return
        assert len(set(cohort.participant_ids)) == len(cohort.subjects) > 0
        label = "sex" if "sex" in cohort.subjects[0].labels else None
        try:
            split = split_subjects(cohort, label=label, test_fraction=0.34, validation_fraction=0.5)
        except CohortError as error:
            assert str(cohort.table) in str(error)
            return
        parts = [*split.train, *split.validation, *split.test]
        assert sorted(parts) == sorted(cohort.participant_ids)

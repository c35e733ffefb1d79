"""Coarser volumes lie where the fine ones do, and are as bright."""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.processing import resample_to_output
from scipy import ndimage

from featvis_jax.data import preparation, tasks
from featvis_jax.data.cache import cache_volumes
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.intensities import rescale
from featvis_jax.data.resampling import resampled, resampled_cohort
from featvis_jax.data.synthetic import write_synthetic_cohort
from featvis_jax.data.volumes import Volume, load_volume


def center_mm(volume: Volume) -> np.ndarray:
    return apply_affine(volume.affine, np.argwhere(volume.data > 50).mean(axis=0))


def test_a_coarser_volume_keeps_its_place_and_its_brightness(rng):
    data = np.zeros((40, 44, 36), np.float32)
    data[8:32, 10:34, 6:30] = 100 + 10 * rng.standard_normal((24, 24, 24))
    fine = Volume(data, np.array([[1.0, 0, 0, -20], [0, 1, 0, -25], [0, 0, 1, -10], [0, 0, 0, 1]]))
    coarse = resampled(fine, 2.0)
    assert coarse.data.shape == (20, 22, 18)
    np.testing.assert_allclose(voxel_sizes(coarse.affine), 2.0)
    # Both grids begin at the same corner, so that nothing is cut off.
    corner = [-0.5, -0.5, -0.5, 1.0]
    np.testing.assert_allclose(coarse.affine @ corner, fine.affine @ corner, atol=1e-6)
    assert coarse.data[7:13, 8:14, 6:12].mean() == pytest.approx(100, rel=0.02)
    np.testing.assert_allclose(center_mm(coarse), center_mm(fine), atol=0.6)


def test_what_is_finer_than_the_new_voxels_does_not_fold_back():
    data = np.zeros((24, 24, 24), np.float32)
    data[::2] = 100.0  # Planes of one voxel would be all there, or not at all.
    coarse = resampled(Volume(data, np.eye(4)), 2.0)
    inner = coarse.data[3:-3, 3:-3, 3:-3]
    np.testing.assert_allclose(inner, 50.0, atol=12.0)


AFFINES = {
    "1 mm": np.array([[1.0, 0, 0, -20], [0, 1, 0, -25], [0, 0, 1, -10], [0, 0, 0, 1]]),
    "of three sizes": np.array(
        [[0.9, 0, 0, -20], [0, 1.3, 0, -25], [0, 0, 1.6, -10], [0, 0, 0, 1]]
    ),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=list(AFFINES))
@pytest.mark.parametrize("voxel_size_mm", [2.0, 2.7])
def test_what_varies_slowly_is_where_it_was_in_the_world(affine, voxel_size_mm):
    shape = (46, 37, 33)
    places = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))

    def level(world: np.ndarray) -> np.ndarray:
        return 100 + world @ [1.0, -0.7, 0.4] + 10 * np.sin(world @ [0.05, 0.1, -0.08])

    coarse = resampled(Volume(level(places).astype(np.float32), affine), voxel_size_mm)
    found = apply_affine(coarse.affine, np.moveaxis(np.indices(coarse.data.shape), 0, -1))
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(coarse.data[inner], level(found)[inner], atol=0.4)
    # All of the scan, to half a voxel of the new grid.
    for n, m, size in zip(shape, coarse.data.shape, voxel_sizes(affine), strict=True):
        assert abs(n * size - m * voxel_size_mm) <= voxel_size_mm / 2


def test_it_is_nibabels_resampling_of_a_smoothed_scan(rng):
    data = ndimage.gaussian_filter(rng.random((40, 44, 36)), 1.5).astype(np.float32) * 100
    affine = AFFINES["1 mm"]
    coarse = resampled(Volume(data, affine), 2.0)
    # As wide as what makes a voxel of 1 mm one of 2 mm, which nibabel leaves to its user.
    deviation = np.sqrt(2.0**2 - 1.0**2) / np.sqrt(8 * np.log(2))
    smooth = nibabel.Nifti1Image(ndimage.gaussian_filter(data, deviation), affine)
    other = resample_to_output(smooth, 2.0, order=3)
    between = np.linalg.inv(other.affine) @ coarse.affine
    where = apply_affine(between, np.moveaxis(np.indices(coarse.data.shape), 0, -1))
    expected = ndimage.map_coordinates(other.get_fdata(), np.moveaxis(where, -1, 0), order=3)
    inner = (slice(3, -3),) * 3
    # nibabel's grid begins half a voxel elsewhere, and is interpolated once more here.
    correlation = np.corrcoef(coarse.data[inner].ravel(), expected[inner].ravel())[0, 1]
    assert correlation > 0.99
    shifted = np.roll(coarse.data, 1, axis=0)[inner].ravel()
    assert np.corrcoef(shifted, expected[inner].ravel())[0, 1] < 0.9


# Cohorts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cohorts") / "heads"
    return write_synthetic_cohort(place, num_subjects=5, voxel_size_mm=5)


def test_a_cohort_is_read_on_coarser_voxels(folder, tmp_path):
    cohort = read_cohort(folder)
    coarse = resampled_cohort(cohort, 10.0)
    scans = [resampled(load_volume(subject.path), 10.0) for subject in cohort.subjects]
    assert coarse.shape == scans[0].data.shape
    np.testing.assert_allclose(coarse.affine, scans[0].affine)
    cached = cache_volumes(coarse.subjects, tmp_path, voxel_size_mm=coarse.resampled_mm)
    for subject, scan in zip(coarse.subjects, scans, strict=True):
        stored = np.moveaxis(np.asarray(cached[subject.participant_id].open()), 0, -1)
        np.testing.assert_allclose(stored, rescale(scan.data), atol=1e-3)
    # What is there on one grid is not taken for another.
    fine = cache_volumes(cohort.subjects, tmp_path)
    assert fine["sub-0001"].shape == tuple(cohort.shape[axis] for axis in (2, 0, 1))


def test_a_task_on_a_coarser_cohort_tells_of_it(folder, tmp_path):
    spec = tasks.TaskSpec("square_lesion", lesion_options={"size_mm": (20.0, 30.0)})
    coarse = resampled_cohort(read_cohort(folder), 6.0)
    prepared = preparation.prepare(spec, coarse, rank=3, cache=tmp_path)
    assert prepared.description["resampled_mm"] == 6.0
    assert prepared.voxel_size_mm == pytest.approx(6.0)
    assert prepared.shape == prepared.train[0].shape[:-1] == coarse.shape
    assert prepared.description["lesions"]["voxel_size_mm"] == pytest.approx(6.0)


def test_voxels_as_they_are_stay_and_finer_ones_are_refused(folder):
    cohort = read_cohort(folder)
    assert resampled_cohort(cohort, 5.0) is cohort
    with pytest.raises(
        CohortError, match=r"participants.tsv: .*\[5.0, 5.0, 5.0\] mm.* to 4 mm: ask"
    ):
        resampled_cohort(cohort, 4.0)
    flat = dataclasses.replace(cohort, affine=cohort.affine * [[1], [1], [1.6], [1]])
    with pytest.raises(CohortError, match="to 7 mm"):
        resampled_cohort(flat, 7.0)
    assert resampled_cohort(flat, 8.0).resampled_mm == 8.0

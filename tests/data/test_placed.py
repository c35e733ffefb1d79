"""What is laid onto a grid lies where it lies in the world, or is refused with what is wrong."""

import tempfile
from pathlib import Path
from random import Random

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.grids import Grid, coincide
from featvis_jax.data.intensities import standardize
from featvis_jax.data.volumes import load_on_grid, load_volume, read_grid
from tests.data import placed
from tests.data.scans import OBLIQUE

SHAPE = (5, 6, 4)
ORIENTATIONS = ("RAS", "LAS", "LPS", "PIR", "SAL", "ARI")
RAS = np.array([[2.0, 0, 0, -4], [0, 2, 0, -5], [0, 0, 2, 7], [0, 0, 0, 1]])
LAS = np.array([[-1.0, 0, 0, 4], [0, 1, 0, -5], [0, 0, 1, 7], [0, 0, 0, 1]])
GRIDS = {
    "RAS": Grid(SHAPE, RAS),
    "LAS": Grid(SHAPE, LAS),
    "oblique": Grid(SHAPE, OBLIQUE),
    "slice": Grid(SHAPE[:2], LAS),
    "oblique slice": Grid(SHAPE[:2], OBLIQUE),
}


def reoriented(image: nibabel.Nifti1Image, codes: str) -> nibabel.Nifti1Image:
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))


def image_on(grid: Grid, rng: np.random.Generator, *, padding: int = 0) -> nibabel.Nifti1Image:
    """An image of random integers on a grid, or on a larger one around it."""
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, padding)
    data = rng.integers(0, 200, np.array(grid.box) + 2 * padding).astype(np.int16)
    return nibabel.Nifti1Image(data, affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("padding", [0, 2])
def test_an_image_is_the_same_in_any_orientation(tmp_path, rng, codes, name, padding):
    grid = GRIDS[name]
    image = image_on(grid, rng, padding=padding)
    inner = tuple(slice(padding, n + padding) for n in grid.box)
    expected = np.asarray(image.dataobj)[inner].reshape(*grid.shape, 1)
    path = tmp_path / "image.nii.gz"
    nibabel.save(reoriented(image, codes), path)
    found = load_on_grid(path, grid)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["RAS", "slice"])
def test_channels_are_volumes_along_a_fourth_axis(tmp_path, rng, name):
    grid, path = GRIDS[name], tmp_path / "image.nii"
    data = rng.normal(size=(*grid.box, 3)).astype(np.float32)
    nibabel.save(reoriented(nibabel.Nifti1Image(data, grid.affine), "PIR"), path)
    found = load_on_grid(path, grid, channels=3)
    np.testing.assert_array_equal(found, data.reshape(*grid.shape, 3))
    with pytest.raises(VolumeError, match=r"image\.nii: holds 3 volumes, expected 1"):
        load_on_grid(path, grid)


def test_a_slice_as_a_file_of_two_dimensions_whatever_its_thickness(tmp_path):
    grid, path = GRIDS["slice"], tmp_path / "slice.nii"
    data = np.arange(30, dtype=np.float32).reshape(SHAPE[:2])
    thick = grid.affine.copy()
    thick[:3, 2] *= 5
    nibabel.save(nibabel.Nifti1Image(data, thick), path)
    np.testing.assert_array_equal(load_on_grid(path, grid)[..., 0], data)


def test_without_an_affine_axes_are_taken_as_they_are_stored(tmp_path, rng):
    path = tmp_path / "image.nii"
    image = reoriented(image_on(GRIDS["RAS"], rng), "PIR")
    nibabel.save(image, path)
    found = load_on_grid(path, Grid(image.shape, None))
    np.testing.assert_array_equal(found[..., 0], np.asarray(image.dataobj))
    with pytest.raises(VolumeError, match=r"6 x 4 x 5 voxels, expected 5 x 6 x 4 voxels.*--grid"):
        load_on_grid(path, Grid(SHAPE, None))


def moved(affine: np.ndarray, mm: float) -> np.ndarray:
    return affine + np.array([[0, 0, 0, mm], [0] * 4, [0] * 4, [0] * 4])


ELSEWHERE = {
    "40 mm off": (lambda a: moved(a, 40), r"reaches up to 40 mm beyond"),
    "half a voxel off": (lambda a: moved(a, 1), r"up to 1 mm from where"),
    "finer": (lambda a: a * [[0.5], [0.5], [0.5], [1]], r"voxels are 1 x 1 x 1 mm, expected 2 x 2"),
    "turned": (
        lambda a: np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ a,
        "turned by 36.9 degrees",
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_lies_elsewhere_is_refused_with_how_far(tmp_path, rng, name):
    grid, path = GRIDS["RAS"], tmp_path / "image.nii"
    move, told = ELSEWHERE[name]
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), move(grid.affine)), path)
    with pytest.raises(VolumeError, match=told) as caught:
        load_on_grid(path, grid)
    assert str(path) in str(caught.value)
    assert "crop or resample it to that grid" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slice_of_another_height_is_refused(tmp_path):
    grid, path = GRIDS["slice"], tmp_path / "slice.nii"
    for height_mm, told in ((9.0, "up to 9 mm"), (0.4, "up to 0.4 mm")):
        affine = grid.affine.copy()
        affine[2, 3] += height_mm
        nibabel.save(nibabel.Nifti1Image(np.ones(grid.box, np.uint8), affine), path)
        with pytest.raises(VolumeError, match=told):
            load_on_grid(path, grid)


def test_a_file_that_does_not_tell_where_it_lies_is_refused(tmp_path):
    grid, path = GRIDS["RAS"], tmp_path / "image.nii"
    image = nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), grid.affine)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, path)
    with pytest.raises(VolumeError, match="does not tell where it lies"):
        load_on_grid(path, grid)
    with pytest.raises(VolumeError, match="does not tell where it lies"):
        read_grid(path, rank=3)
    assert (load_on_grid(path, Grid(SHAPE, None)) == 1).all()


def test_a_constant_mask_is_read_and_nan_is_refused(tmp_path):
    grid, path = GRIDS["LAS"], tmp_path / "image.nii.gz"
    values = np.ones(SHAPE, np.float32)
    nibabel.save(nibabel.Nifti1Image(values, grid.affine), path)
    assert (load_on_grid(path, grid) == 1).all()
    with pytest.raises(VolumeError, match="every voxel is 1"):
        load_volume(path)  # As a scan it is none.
    values[1, 2, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, grid.affine), path)
    with pytest.raises(VolumeError, match="1 of 120 voxels are NaN"):
        load_on_grid(path, grid)


def test_a_grid_is_read_with_its_axes_as_they_are_stored(tmp_path, rng):
    path = tmp_path / "image.nii"
    image = reoriented(image_on(GRIDS["oblique"], rng), "PIR")
    nibabel.save(image, path)
    found = read_grid(path, rank=3)
    assert found.shape == image.shape
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
    nibabel.save(image_on(GRIDS["slice"], rng), path)
    assert read_grid(path, rank=2).shape == SHAPE[:2]
    assert coincide(read_grid(path, rank=2), GRIDS["slice"])
    assert not coincide(read_grid(path, rank=2), GRIDS["RAS"])


@pytest.mark.usefixtures("quiet_nibabel")
@settings(derandomize=True, deadline=None, max_examples=300, database=None)
@given(st.randoms(use_true_random=False))
def test_any_file_is_what_its_voxels_places_say_or_refused_by_name(random: Random):
    with tempfile.TemporaryDirectory() as folder:
        case = placed.case(random, Path(folder))
        outcome = placed.outcome(
            case, lambda: load_on_grid(case.path, case.grid, channels=case.channels)
        )
        assert outcome in ("read", "refused")


@pytest.mark.parametrize("name", ["RAS", "slice"])
def test_scaling_is_that_of_the_whole_file_whatever_of_it_is_on_the_grid(tmp_path, rng, name):
    grid, path = GRIDS[name], tmp_path / "image.nii"
    data = rng.normal(5, 2, (7, 8, 6, 2)).astype(np.float32)
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ (1, 1, 1)
    nibabel.save(reoriented(nibabel.Nifti1Image(data, affine), "PIR"), path)
    exact = data.astype(np.float64)
    expected = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    inside = tuple(slice(1, 1 + n) for n in grid.box)
    found = load_on_grid(path, grid, channels=2, scale=standardize)
    np.testing.assert_allclose(found, expected[inside].reshape(found.shape), atol=1e-5)
    flat = np.stack([data[..., 0], np.ones(data.shape[:3], np.float32)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(flat, affine), path)
    with pytest.raises(VolumeError, match=r"image\.nii: data of shape .* no standard deviation"):
        load_on_grid(path, grid, channels=2, scale=standardize)

"""Volumes: equal to nibabel's, and refused where a file is damaged."""

import gzip
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.volumes import load_volume
from tests.data.scans import OBLIQUE


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_equals_nibabel(tmp_path, rng, suffix, endianness, dtype):
    data = rng.integers(0, 200, (3, 4, 5)).astype(dtype)
    header = nibabel.Nifti1Header(endianness=endianness)
    header.set_data_dtype(dtype)
    image = nibabel.Nifti1Image(data, OBLIQUE, header)
    path = tmp_path / f"scan{suffix}"
    image.to_filename(path)
    reference = nibabel.as_closest_canonical(nibabel.load(path))
    volume = load_volume(path)
    assert volume.data.dtype == np.float32
    assert volume.affine.dtype == np.float64
    np.testing.assert_allclose(volume.data, reference.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-5)


@pytest.mark.parametrize(("slope", "intercept"), [(0.25, -7.5), (-2, 100), (1 / 255, 0)])
def test_slope_and_intercept(tmp_path, write_nifti, slope, intercept):
    path = write_nifti(tmp_path / "scan.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<2f", content, 112, slope, intercept)
    path.write_bytes(content)
    expected = nibabel.load(path).get_fdata()
    assert expected.max() != nibabel.load(path).dataobj.get_unscaled().max()
    np.testing.assert_allclose(load_volume(path).data, expected, rtol=1e-6)


def test_every_voxel_stays_where_it_is_in_the_world(tmp_path, write_nifti, rng):
    data = rng.uniform(1, 2, (4, 5, 6)).astype(np.float32)
    volume = load_volume(write_nifti(tmp_path / "scan.nii", data=data, affine=OBLIQUE))
    for index in [(0, 0, 0), (3, 0, 5), (1, 4, 2)]:
        world = OBLIQUE @ [*index, 1]
        there = np.round(np.linalg.solve(volume.affine, world)[:3]).astype(int)
        assert volume.data[tuple(there)] == data[index]
    assert (np.abs(volume.affine[:3, :3]).argmax(axis=1) == [0, 1, 2]).all()
    assert (np.diag(volume.affine)[:3] > 0).all()


def test_fourth_axis_of_one(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii.gz", shape=(3, 4, 5, 1))
    assert load_volume(path).data.shape == (3, 4, 5)


def test_header_extensions_are_skipped(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii")
    image = nibabel.load(path)
    expected = image.get_fdata()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 500))
    image.to_filename(tmp_path / "extended.nii.gz")
    np.testing.assert_array_equal(load_volume(tmp_path / "extended.nii.gz").data, expected)


def test_time_series(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii.gz", shape=(3, 4, 5, 2))
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz: expected one volume"):
        load_volume(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_that_are_no_float32(tmp_path, write_nifti, rng, bad):
    data = rng.uniform(size=(3, 4, 5))
    data[1, 2, 3] = bad
    path = write_nifti(tmp_path / "scan.nii", data=data)
    with pytest.raises(VolumeError, match=r"scan\.nii: 1 of 60 voxels are NaN, infinite"):
        load_volume(path)


def test_constant(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii", data=np.full((3, 4, 5), 7, np.int16))
    with pytest.raises(VolumeError, match=r"scan\.nii: every voxel is 7"):
        load_volume(path)


@pytest.mark.parametrize("lost", [1, 8, 9, 40, 700])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated(tmp_path, write_nifti, suffix, lost):
    path = write_nifti(tmp_path / f"scan{suffix}", shape=(9, 9, 9))
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(VolumeError, match=r"truncated|cannot be read"):
        load_volume(path)


def test_corrupt_checksum_and_corrupt_stream(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii.gz", shape=(20, 20, 20))
    content = path.read_bytes()
    for position in (-6, len(content) // 2):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(VolumeError, match="corrupt"):
            load_volume(path)


def test_claims_over_the_limit(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii.gz", shape=(9, 9, 9))
    load_volume(path, max_bytes=9**3 * 4)
    with pytest.raises(VolumeError, match="max_bytes"):
        load_volume(path, max_bytes=9**3 * 4 - 1)


def test_a_decompression_bomb_takes_no_memory(tmp_path, write_nifti):
    plain = write_nifti(tmp_path / "scan.nii").read_bytes()
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb") as file:
        file.write(plain)
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError, match="goes on after"):
            load_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_little_padding_is_fine(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii")
    expected = load_volume(path).data
    path.write_bytes(path.read_bytes() + bytes(100))
    np.testing.assert_array_equal(load_volume(path).data, expected)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.nii"):
        load_volume(tmp_path / "gone.nii")

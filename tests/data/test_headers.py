"""NIfTI headers: read as nibabel reads them, and refused where they claim what cannot be."""

import gzip
import os
import tracemalloc

import nibabel
import numpy as np
import pytest

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.headers import read_header
from tests.data.scans import AFFINE, overwrite


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("endianness", ["<", ">"])
def test_says_what_nibabel_says(tmp_path, rng, suffix, kind, endianness):
    affine = np.array([[0, 0, 3.0, -9], [-2, 0, 0, 5], [0, 1.5, 0, 1], [0, 0, 0, 1]])
    data = rng.integers(-9, 9, (3, 4, 5)).astype(np.int16)
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(np.int16)
    path = tmp_path / f"scan{suffix}"
    kind(data, affine, header).to_filename(path)
    ours = read_header(path)
    reference = nibabel.as_closest_canonical(nibabel.load(path))
    assert ours.dtype == np.dtype(np.int16).newbyteorder(endianness)
    assert ours.shape == data.shape
    assert ours.canonical_shape == reference.shape
    assert ours.num_bytes == data.nbytes
    np.testing.assert_allclose(ours.canonical_affine, reference.affine, atol=1e-5)


def test_a_qform_alone_and_a_qfac_of_zero(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii")
    overwrite(path, 254, "h", 0)  # sform_code
    overwrite(path, 252, "h", 1)  # qform_code
    overwrite(path, 76, "f", 0)  # qfac
    np.testing.assert_allclose(read_header(path).affine, AFFINE, atol=1e-5)


def test_a_fourth_axis_of_one_is_fine(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii.gz", shape=(3, 4, 5, 1))
    assert read_header(path).shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("offset", "code", "values", "message"),
    [
        (40, "8h", (4, 6, 7, 8, 3, 1, 1, 1), "three dimensions"),
        (40, "8h", (2, 6, 7, 1, 1, 1, 1, 1), "three dimensions"),
        (40, "8h", (3, 6, 0, 8, 1, 1, 1, 1), "three dimensions"),
        (40, "8h", (3, 6, -7, 8, 1, 1, 1, 1), "three dimensions"),
        (40, "8h", (0, 6, 7, 8, 1, 1, 1, 1), "three dimensions"),
        (40, "8h", (9, 6, 7, 8, 1, 1, 1, 1), "three dimensions"),
        (40, "8h", (3, 32767, 32767, 32767, 1, 1, 1, 1), "limit of 4,294,967,296 bytes"),
        (40, "8h", (3, 500, 500, 500, 1, 1, 1, 1), "truncated"),
        (70, "2h", (128, 24), "real numbers"),  # RGB
        (70, "2h", (32, 64), "real numbers"),  # complex
        (70, "2h", (1, 1), "unknown NIfTI datatype|real numbers"),  # bits
        (70, "2h", (77, 16), "unknown NIfTI datatype"),
        (70, "2h", (4, 8), "bitpix 8"),
        (280, "4f", (0, 0, 0, 0), "not invertible"),
        (280, "4f", (float("nan"), 0, 0, 0), "not finite"),
        (280, "4f", (0, 0, 0, float("inf")), "not finite"),
        (252, "h", (-1,), "qform_code is -1, expected 0 to 5"),
        (254, "h", (7,), "sform_code is 7, expected 0 to 5"),
        (108, "f", (2.0**30,), "byte 1.07374e[+]09"),
        (108, "f", (float("nan"),), "byte nan"),
        (280, "4f", (float("nan"), 0, 0, 0), "not invertible|damaged"),
        (108, "f", (10.0,), "byte 10"),
        (108, "f", (1e30,), "byte 1e"),
        (112, "2f", (2.0, float("inf")), "scl_inter"),
        (344, "4s", (b"ni1\0",), "single-file NIfTI"),
        (0, "i", (1234,), "single-file NIfTI"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damaged_headers(tmp_path, write_nifti, suffix, offset, code, values, message):
    path = write_nifti(tmp_path / f"scan{suffix}")
    overwrite(path, offset, code, *values)
    with pytest.raises(VolumeError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_axes_in_one_plane_have_no_inverse(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii")
    overwrite(path, 280, "12f", 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0)
    with pytest.raises(VolumeError, match="not invertible"):
        read_header(path)


@pytest.mark.parametrize(
    "content", [b"", b"text", gzip.compress(b"x" * 900, mtime=0), b"\x1f\x8bzzzz"]
)
def test_files_that_are_no_nifti(tmp_path, content):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz"):
        read_header(path)


def test_missing_file_and_dangling_link(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_header(tmp_path / "gone.nii")
    link = tmp_path / "link.nii"
    link.symlink_to("content/not/fetched")
    with pytest.raises(
        FileNotFoundError, match="a link to content/not/fetched, which is not there"
    ):
        read_header(link)


def test_terabytes_take_no_memory(tmp_path):
    header = nibabel.Nifti2Header()
    header["dim"][:4] = 3, 2**20, 2**20, 2**20
    header["vox_offset"] = 544
    path = tmp_path / "scan.nii.gz"
    with gzip.open(path, "wb") as file:
        file.write(header.binaryblock + bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(VolumeError, match=r"scan\.nii\.gz: its header claims .*limit of"):
            read_header(path)
        with pytest.raises(VolumeError, match=r"scan\.nii\.gz: truncated"):
            read_header(path, max_bytes=2**63)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_told_and_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe.nii"
    os.mkfifo(pipe)
    folder = tmp_path / "folder.nii"
    folder.mkdir()
    for path, told in ((pipe, "not a regular file"), (folder, "a directory")):
        with pytest.raises(VolumeError, match=f"{path.name}: {told}"):
            read_header(path)
    loop = tmp_path / "loop.nii"
    loop.symlink_to(loop)
    with pytest.raises(VolumeError, match=r"loop\.nii: cannot be opened"):
        read_header(loop)
    with pytest.raises(VolumeError, match="cannot name a file"):
        read_header(tmp_path / "a\0b.nii")


def test_a_voxel_size_with_a_sign_is_read_as_nibabel_reads_it(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "scan.nii")
    overwrite(path, 252, "2h", 0, 0)
    overwrite(path, 80, "f", -2.0)
    reference = nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_allclose(read_header(path).canonical_affine, reference.affine)

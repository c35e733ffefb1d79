"""Label images: the region of a point, and files that are none."""

import nibabel
import numpy as np
import pytest

from featvis_jax.data.errors import VolumeError
from featvis_jax.data.regions import commonest, read_regions


@pytest.fixture
def labels(tmp_path):
    """Two halves of a box, stored from left to right reversed."""
    data = np.zeros((10, 8, 6), np.int16)
    data[:5, 2:6, 1:5], data[5:, 2:6, 1:5] = 3, 8
    affine = np.diag([-2.0, 2, 2, 1])
    affine[:3, 3] = [9, -7, -5]
    path = tmp_path / "atlas.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path, data, affine


def test_a_point_lies_where_nibabel_says(labels, rng):
    path, data, affine = labels
    (path.parent / "atlas.tsv").write_text("index\tname\n3\tright half\n8\tleft half\n")
    regions = read_regions(path)
    voxels = rng.integers(0, data.shape, (50, 3))
    points = nibabel.affines.apply_affine(affine, voxels + rng.uniform(-0.4, 0.4, voxels.shape))
    names = {0: None, 3: "right half", 8: "left half"}
    assert regions.at(points) == [names[int(data[tuple(voxel)])] for voxel in voxels]
    assert regions.at(np.array([[1e3, 0, 0]])) == [None]


def test_without_names_regions_have_their_numbers(labels):
    path, data, affine = labels
    voxel = np.argwhere(data == 8)[:1]
    assert read_regions(path).at(nibabel.affines.apply_affine(affine, voxel)) == ["8"]


def test_the_commonest_region_says_how_common_it_is():
    assert commonest(["a", "b", "a"]) == "a (2 of 3)"
    assert commonest([None, None, "a"]) is None
    assert commonest([]) is None


def test_what_is_no_label_image_is_refused(labels, tmp_path):
    path, _, affine = labels
    scan = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), scan)
    with pytest.raises(VolumeError, match=r"scan.nii.gz: its voxels are not whole numbers"):
        read_regions(scan)
    (path.parent / "atlas.tsv").write_text("number\tregion\n3\tright\n")
    with pytest.raises(VolumeError, match=r"atlas.tsv, line 2: expected the columns index"):
        read_regions(path)
    with pytest.raises(FileNotFoundError):
        read_regions(tmp_path / "nothing.nii.gz")

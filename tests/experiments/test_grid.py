"""--grid, end to end: where the pictures of a network lie that does not tell where it looks."""

import json
import shutil

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

NETWORK = """
import jax, jax.numpy as jnp
from flax import linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(2, (3, 3), name="stem")(x)

def net():
    return Net(), Net().init(jax.random.key(0), jnp.zeros((1, 10, 8, 1))), (10, 8, 1)
"""
# A slice from left to right, seen from the front: its axes are x and z, and x runs to the left.
AFFINE = np.array([[-2.0, 0, 0, 9], [0, 0, 2, 31], [0, 2, 0, -7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("grid")
    (place / "net.py").write_text(NETWORK)
    mask = np.zeros((10, 8, 1), np.uint8)
    mask[:5, 2:] = 1
    image = nibabel.Nifti1Image(mask, AFFINE)
    nibabel.save(image, place / "mask.nii.gz")
    turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt("RAS"))
    nibabel.save(image.as_reoriented(turn), place / "mask-ras.nii.gz")
    other = nibabel.Nifti1Image(mask, np.diag([2.0, 2, 2, 1]))
    nibabel.save(other, place / "other.nii.gz")
    return place


@pytest.fixture(scope="module")
def outcomes(drive, files):
    common = [f"--model={files / 'net.py'}:net", "--layer=stem", "--steps=2", "--batch=2"]
    common += ["--regularization=none", "--nogallery"]
    grid = f"--grid={files / 'mask.nii.gz'}"
    commands = {
        "plain": ["--mask={place}/mask.nii.gz"],
        "known": [grid, "--mask={place}/mask.nii.gz"],
        "turned": [grid, "--mask={place}/mask-ras.nii.gz"],
        "as it lies": ["--mask={place}/mask-ras.nii.gz"],
        "other": [grid, "--mask={place}/other.nii.gz"],
        "not its shape": ["--grid={place}/mask-ras.nii.gz"],
    }
    flags = {
        name: [*common, f"--out={files / name}", *(flag.format(place=files) for flag in own)]
        for name, own in commands.items()
    }
    # The same directory with another grid is another run.
    flags["again"] = [*flags["known"][:-2], "--grid={}".format(files / "other.nii.gz")]
    return dict(zip(flags, drive("visualize", list(flags.values())), strict=True))


def test_pictures_lie_where_the_reference_does(outcomes, files):
    for name in ("known", "turned"):
        assert outcomes[name]["status"] == 0, outcomes[name]["errors"]
        for channel in range(2):
            image = nibabel.load(files / name / "images" / "stem" / f"000{channel}.nii.gz")
            np.testing.assert_allclose(image.affine, AFFINE)
            assert image.header["sform_code"] > 0
    first, second = (files / name / "images" / "stem" for name in ("known", "turned"))
    for channel in range(2):
        file = f"000{channel}.nii.gz"
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_without_a_reference_pictures_have_no_orientation(outcomes, files):
    assert outcomes["plain"]["status"] == 0, outcomes["plain"]["errors"]
    image = nibabel.load(files / "plain" / "images" / "stem" / "0000.nii.gz")
    assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0)
    configuration = json.loads((files / "plain" / "run.json").read_text())["configuration"]
    assert configuration["affine"] is None
    known = nibabel.load(files / "known" / "images" / "stem" / "0000.nii.gz")
    np.testing.assert_array_equal(image.dataobj, known.dataobj)  # The mask as it is stored.


def test_another_grid_is_refused(outcomes, refused, files):
    for name in ("other", "not its shape", "as it lies"):
        shutil.rmtree(files / name, ignore_errors=True)
    refused(outcomes["other"], ["--mask=", "other.nii.gz", "resample it to that grid"])
    refused(outcomes["not its shape"], ["--grid=", "the network takes 10 x 8 x 1 voxels"])
    refused(outcomes["as it lies"], ["10 x 1 x 8 voxels", "--grid"])
    refused(outcomes["again"], ["affine"])

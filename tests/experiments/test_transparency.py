"""The second image of a unit: it lies beside the first one, and its page shows it."""

import nibabel
import numpy as np


def test_a_run_keeps_and_shows_where_the_network_was_looking(drive, trained, tmp_path):
    flags = [f"--model={trained(2)[0]}", "--layer=conv2", "--channels=1,3", "--steps=4"]
    ran, refused, without = drive(
        "visualize",
        [
            [*flags, "--transparency", f"--out={tmp_path / 'with'}"],
            [*flags, f"--out={tmp_path / 'with'}"],
            [*flags, f"--out={tmp_path / 'without'}"],
        ],
    )
    assert ran["status"] == 0, ran["errors"]
    for channel in ("0001", "0003"):
        image = nibabel.load(tmp_path / "with" / "images" / "conv2" / f"{channel}.nii.gz")
        seen = nibabel.load(tmp_path / "with" / "transparency" / "conv2" / f"{channel}.nii.gz")
        values = seen.get_fdata()
        assert values.shape == image.shape
        np.testing.assert_array_equal(seen.affine, image.affine)
        assert 0 <= values.min() < values.max()
        page = (tmp_path / "with" / "gallery" / "units" / "conv2" / f"{channel}.html").read_text()
        assert "Where the network was looking" in page
    # It is part of what the run was asked for.
    assert refused["status"] == 2
    assert "transparency" in refused["errors"]
    assert without["status"] == 0, without["errors"]
    assert not (tmp_path / "without" / "transparency").exists()
    image = tmp_path / "without" / "images" / "conv2" / "0003.nii.gz"
    assert (
        image.read_bytes() == (tmp_path / "with" / "images" / "conv2" / "0003.nii.gz").read_bytes()
    )

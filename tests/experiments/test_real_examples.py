"""Real images on the pages of a run: only where asked for, framed, and without ids."""

import csv
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image as Pillow

from featvis_jax.runs import real_examples

BOX = (230, 120, 30)


def moved(cohort: Path, copy: Path, mm: float) -> Path:
    """The cohort on a larger grid that it is off the middle of, and so many mm to the right."""
    for scan in cohort.glob("*/anat/*.nii.gz"):
        image = nibabel.load(scan)
        affine = image.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ [9, 1, 4]
        affine[0, 3] += mm
        data = np.pad(np.asarray(image.dataobj), ((9, 2), (1, 12), (4, 0)))
        path = copy / scan.relative_to(cohort)
        path.parent.mkdir(parents=True)
        larger = nibabel.Nifti1Image(data, affine)
        turn = ornt_transform(io_orientation(affine), axcodes2ornt("LPS"))
        nibabel.save(larger.as_reoriented(turn), path)
    shutil.copy(cohort / "participants.tsv", copy / "participants.tsv")
    return copy


@pytest.fixture(scope="module")
def outcomes(drive, trained, cohort, place):
    """Runs with and without real images, and one with a cohort of another grid."""
    common = [f"--model={trained(2)[0]}", "--layer=conv2", "--channels=0,3", "--steps=2"]
    commands = {
        "with": [f"--real_examples={cohort}", f"--cache={place / 'cache'}"],
        "without": [],
        "missing": [f"--real_examples={place / 'nobody'}"],
        "larger": [f"--real_examples={moved(cohort, place / 'larger', 0.0)}"],
        "beside": [f"--real_examples={moved(cohort, place / 'beside', 1.5)}"],
    }
    commands["far"] = [f"--real_examples={moved(cohort, place / 'far', 100.0)}"]
    for name in ("larger", "beside", "far"):
        commands[name].append(f"--cache={place / 'cache'}")
    flags = [[*common, *own, f"--out={place / 'real' / name}"] for name, own in commands.items()]
    return dict(zip(commands, drive("visualize", flags), strict=True))


def test_the_pages_show_real_images_where_asked_for(outcomes, place, cohort):
    assert outcomes["with"]["status"] == 0, outcomes["with"]["errors"]
    out = place / "real" / "with"
    for channel in (0, 3):
        with Pillow.open(out / "real" / "conv2" / f"{channel:04d}.png") as opened:
            pixels = np.asarray(opened.convert("RGB"))
        # Four slices of 40 x 44 voxels, one of each person, with a gap between them.
        assert pixels.shape == (44, 4 * 40 + 3 * 4, 3)
        frames = (pixels == BOX).all(axis=-1)
        # Each sees 7 x 7 voxels, of which 24 are the frame.
        assert [frames[:, i * 44 : i * 44 + 40].sum() for i in range(4)] == [24] * 4
        page = (out / "gallery" / "units" / "conv2" / f"{channel:04d}.html").read_text()
        assert "Real images that drive it most" in page
        assert "sub-" not in page
    with (out / "real.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, dialect="excel-tab"))
    assert [row["channel"] for row in rows] == ["0", "3"]
    assert all(float(row["largest"]) >= float(row["largest_mean"]) for row in rows)


def test_nothing_real_is_written_unless_asked_for(outcomes, place):
    assert outcomes["without"]["status"] == 0, outcomes["without"]["errors"]
    out = place / "real" / "without"
    assert not (out / "real").exists()
    assert not (out / "real.tsv").exists()
    assert "Real images" not in (out / "gallery" / "units" / "conv2" / "0003.html").read_text()


def test_a_cohort_that_is_not_there_is_refused(outcomes, refused, place):
    refused(outcomes["missing"], ["--real_examples", str(place / "nobody")])


def test_a_cohort_on_a_larger_grid_gives_the_same_pages(outcomes, place):
    assert outcomes["larger"]["status"] == 0, outcomes["larger"]["errors"]
    first, second = place / "real" / "with", place / "real" / "larger"
    for name in ("real.tsv", "real/conv2/0000.png", "real/conv2/0003.png"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_cohort_beside_the_grid_is_refused(outcomes, refused, place):
    told = [f"--real_examples={place / 'beside'}: its voxels lie up to 1.5 mm beside"]
    refused(outcomes["beside"], [*told, "resample the cohort"])


def test_brains_that_the_grid_would_cut_off_are_refused(outcomes, refused, place):
    refused(outcomes["far"], [f"--real_examples={place / 'far'}: ", "% of a brain lies outside"])
    assert "of a brain" not in outcomes["larger"]["errors"]


def test_the_frame_lies_where_the_box_does():
    image = np.zeros((20, 30, 1), np.float32)
    framed = real_examples._framed(image, np.array([[2, 7], [10, 16]]), window=(0.0, 1.0))
    rows, columns = np.nonzero((framed == BOX).all(axis=-1))
    assert (columns.min(), columns.max()) == (2, 6)
    # Anterior is up: the second axis runs from the last row to the first.
    assert (rows.min(), rows.max()) == (30 - 16, 30 - 11)
    volume = np.zeros((20, 30, 9, 1), np.float32)
    volume[:, :, 5] = 1.0
    framed = real_examples._framed(volume, np.array([[2, 7], [10, 16], [4, 7]]), window=(0.0, 1.0))
    assert framed.shape == (30, 20, 3)
    assert (framed[0, 0] == 255).all()  # The slice through the middle of the box.

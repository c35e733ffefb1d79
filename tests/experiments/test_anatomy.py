"""The launcher that tells what deformed scans have in common."""

import csv

import nibabel
import numpy as np
import pytest

from featvis_jax.results.store import read_run


@pytest.fixture(scope="module")
def run(drive, trained, cohort, place):
    """Scans of four people deformed for both logits, with a target and without, and looked at."""
    out = place / "anatomy"
    flags = [
        f"--model={trained(2)[0]}", "--layer=logits", "--objective=logit", "--steps=3",
        "--parameterization=deformation", "--start_image=reference", f"--reference={cohort}",
        "--reference_images=4", "--regularization=none", f"--cache={place / 'cache'}",
        "--nogallery", "--variants=4",
    ]  # fmt: skip
    made = drive(
        "visualize",
        [
            [*flags, "--up_to=5", f"--out={out / 'people'}"],
            [*flags, "--channels=1", f"--out={out / 'open'}"],
            [*flags, "--variants=400", f"--out={out / 'many'}"],
        ],
    )  # fmt: skip
    assert [outcome["status"] for outcome in made] == [0, 0, 2], made
    labels = np.zeros((50, 60, 50), np.int16)
    labels[:25], labels[25:] = 1, 2
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = [-98, -134, -72]
    nibabel.save(nibabel.Nifti1Image(labels, affine), out / "halves.nii.gz")
    (out / "halves.tsv").write_text("index\tname\n1\tleft half\n2\tright half\n")
    regions = f"--regions={out / 'halves.nii.gz'}"
    outcomes = drive(
        "anatomy",
        [
            [f"--run={out / 'people'}", regions],
            [f"--run={out / 'open'}"],
            [f"--run={out / 'nothing'}"],
            [f"--run={out / 'people'}", "--regions=none.nii"],
        ],
    )
    return out, made, outcomes


def test_every_unit_and_region_has_a_row_and_every_scan_its_person(run):
    out, _, (done, *_) = run
    assert done["status"] == 0, done["errors"]
    with (out / "people/anatomy.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, dialect="excel-tab"))
    assert sorted((row["channel"], row["region"]) for row in rows) == [
        (channel, half) for channel in "01" for half in ("left half", "right half")
    ]
    view = read_run(out / "people")
    assert len({start.person for start in view.starts}) == 4
    assert [scan.person for scan in view.anatomy_scans()] == [s.person for s in view.starts] * 2
    told = done["output"]
    assert "logit 1 of logits: " in told and str(out / "people/anatomy.tsv") in told
    page = (out / "people/gallery/units/logits/0001.html").read_text()
    assert "What the scans have in common" in page


def test_bad_input_is_named(run, refused):
    _, made, (_, *outcomes) = run
    # Before it, that six people are few.
    alone = {**made[-1], "errors": made[-1]["errors"].splitlines()[-1]}
    refused(alone, ["--variants=400", "--start_image=reference", "--reference has"])
    told = ["without --up_to", "such as --up_to=8"], ["--run="], ["--regions=none.nii"]
    for outcome, texts in zip(outcomes, told, strict=True):
        refused(outcome, texts)

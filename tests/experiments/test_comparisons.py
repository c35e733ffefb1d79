"""The launchers that lay images of the same channels beside each other."""

import csv

import nibabel
import numpy as np
import optax
from PIL import Image as Pillow

from experiments import side_by_side
from featvis_jax.visualize import objectives, parameterizations
from featvis_jax.visualize.ascent import Recipe


def rows_of(out):
    with (out / "comparison.tsv").open(newline="") as table:
        return list(csv.DictReader(table, dialect="excel-tab"))


def test_strategies_are_laid_beside_each_other(drive, trained, place):
    out = place / "strategies"
    common = [f"--model={trained(2)[0]}", "--layer=conv2", "--channels=1,3", "--steps=4"]
    outcomes = drive(
        "compare_regularizers",
        [
            [*common, "--strategies=none,rotation_30+blur_0.5", f"--out={out}"],
            [*common, "--strategies=rotate", f"--out={place / 'never'}"],
            [*common, "--layer=conv3", f"--out={place / 'never'}"],
        ],
    )
    assert outcomes[0]["status"] == 0, outcomes[0]["errors"]
    rows = rows_of(out)
    names = ["none", "none", "rotation_30,blur_0.5", "rotation_30,blur_0.5"]
    assert [row["strategy"] for row in rows] == names
    assert [row["channel"] for row in rows] == ["1", "3", "1", "3"]
    assert all(np.isfinite(float(row["moved_objective"])) for row in rows)
    # The table measures the images that are stored.
    image = nibabel.load(out / "images" / "none" / "0003.nii.gz").get_fdata()
    assert float(rows[1]["brightness"]) == float(f"{image.mean():.6g}")
    assert (out / "comparison.pdf").read_bytes().startswith(b"%PDF")
    with Pillow.open(out / "comparison.png") as opened:
        opened.load()
    assert "regularization 'rotate' is unknown" in outcomes[1]["errors"]
    assert "name one" in outcomes[2]["errors"]
    assert not (place / "never").exists()


def test_parameterizations_are_laid_beside_each_other(drive, trained, place, cohort_flags):
    out = place / "parameterizations"
    common = [f"--model={trained(2)[0]}", "--layer=conv2", "--channels=1", "--steps=3"]
    outcomes = drive(
        "compare_parameterizations",
        [
            [*common, *cohort_flags, f"--out={out}"],
            [*common, "--parameterizations=pixels,wavelets", f"--out={place / 'never'}"],
        ],
    )
    assert outcomes[0]["status"] == 0, outcomes[0]["errors"]
    rows = rows_of(out)
    assert [row["parameterization"] for row in rows] == [
        *["pixels", "fourier", "laplacian", "cppn", "phase", "from_image", "from_image_fourier"]
    ]
    assert all(float(row["objective"]) > float(row["initial_objective"]) for row in rows)
    assert "there is no wavelets" in outcomes[1]["errors"]


def test_a_figure_says_what_its_images_do():
    driving, against = objectives.channel("conv2"), -objectives.channel("conv2")
    for objective, told in (
        (driving, "m, conv2, 8 steps"),
        (against, "m, conv2: what suppresses each channel most, 8 steps"),
    ):
        recipe = Recipe(objective, parameterizations.pixels(), optax.sgd(1.0), steps=8)
        assert side_by_side.title("m", "conv2", {"none": recipe}, steps=8) == told

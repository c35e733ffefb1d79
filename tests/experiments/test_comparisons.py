"""The launchers that lay images of the same channels beside each other."""

import csv

import jax.numpy as jnp
import nibabel
import numpy as np
import optax
import pytest
from PIL import Image as Pillow

from featvis_jax.maximize import objectives, parameterizations
from featvis_jax.maximize.ascent import Recipe
from featvis_jax.models import load
from featvis_jax.runs import side_by_side


def rows_of(out, name="comparison.tsv"):
    with (out / name).open(newline="") as table:
        return list(csv.DictReader(table, dialect="excel-tab"))


def test_strategies_are_laid_beside_each_other(drive, trained, place):
    out = place / "strategies"
    common = [f"--model={trained(2)[0]}", "--layer=conv2", "--channels=1,3", "--steps=4"]
    outcomes = drive(
        "compare",
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
    assert {row["strength"] for row in rows} == {"n/a"}
    assert [row["strength"] for row in rows_of(out, "summary.tsv")] == ["n/a", "n/a"]
    # The table measures the images that are stored.
    image = nibabel.load(out / "images" / "none" / "0003.nii.gz").get_fdata()
    assert float(rows[1]["brightness"]) == float(f"{image.mean():.6g}")
    assert (out / "comparison.pdf").read_bytes().startswith(b"%PDF")
    with Pillow.open(out / "comparison.png") as opened:
        opened.load()
    assert "regularization 'rotate' is unknown" in outcomes[1]["errors"]
    assert "name one" in outcomes[2]["errors"]
    assert not (place / "never").exists()


def test_strategies_are_compared_by_how_strongly_they_drive_their_units(
    drive, trained, place, cohort
):
    out, model = place / "strong", load(str(trained(2)[0]))
    (outcome,) = drive(
        "compare",
        [
            [
                *[f"--model={trained(2)[0]}", "--layer=conv2", "--channels=1,3,4,6", "--steps=4"],
                *["--strategies=none,blur_0.5", f"--out={out}", f"--reference={cohort}"],
                *["--reference_images=12", f"--cache={place / 'cache'}"],
            ]
        ],
    )
    assert outcome["status"] == 0, outcome["errors"]
    told = "the strongest of 12 real slices, with and without lesions"
    assert f"Strengths are shares of the response to {told}" in outcome["output"]
    rows, summary = rows_of(out), rows_of(out, "summary.tsv")
    assert [row["strategy"] for row in summary] == ["none", "blur_0.5"]
    found = {
        (row["strategy"], int(row["channel"])): float(row["response"]) / float(row["strength"])
        for row in rows
        if row["strength"] != "n/a"
    }
    for row in summary:
        own = [each for each in rows if each["strategy"] == row["strategy"]]
        strengths = [float(each["strength"]) for each in own if each["strength"] != "n/a"]
        assert int(row["living"]) == len(strengths) > 0
        assert float(row["strength"]) == pytest.approx(np.median(strengths), rel=1e-4)
        assert float(row["at_least_half"]) == pytest.approx(np.mean(np.array(strengths) >= 0.5))
        assert float(row["at_least_one"]) == pytest.approx(np.mean(np.array(strengths) >= 1.0))
        for name in ("total_variation", "high_frequency"):
            values = [float(each[name]) for each in own]
            assert float(row[name]) == pytest.approx(np.median(values), rel=1e-4)
        selective = [float(each["selectivity"]) for each in own if each["selectivity"] != "n/a"]
        assert float(row["standing_out"]) == pytest.approx(np.mean(np.array(selective) >= 0.9))
        assert float(row["seconds"]) > 0
        assert -1 <= float(row["likeness_correlation"]) <= 1
    # Both columns are beside the same real inputs, and a picture's response is that to its image.
    network = model.network
    for row in rows:
        path = out / "images" / row["strategy"] / f"{int(row['channel']):04d}.nii.gz"
        image = np.asarray(nibabel.load(path).dataobj, np.float32).reshape(network.image_shape)
        layer = network.activations(network.variables, jnp.asarray(image), ("conv2",))["conv2"]
        largest = np.asarray(layer).reshape(-1, layer.shape[-1]).max(axis=0)
        assert float(row["response"]) == pytest.approx(largest[int(row["channel"])], rel=1e-3)
    for channel in {channel for _, channel in found}:
        assert found["none", channel] == pytest.approx(found["blur_0.5", channel], rel=1e-4)


def test_parameterizations_are_laid_beside_each_other(drive, trained, place, cohort_flags):
    out = place / "parameterizations"
    common = [f"--model={trained(2)[0]}", "--layer=conv2", "--channels=1", "--steps=3"]
    outcomes = drive(
        "compare",
        [
            [*common, *cohort_flags, "--parameterizations=all", f"--out={out}"],
            [*common, "--parameterizations=pixels,wavelets", f"--out={place / 'never'}"],
        ],
    )
    assert outcomes[0]["status"] == 0, outcomes[0]["errors"]
    rows = rows_of(out)
    assert [row["parameterization"] for row in rows] == [
        *["pixels", "fourier", "laplacian", "cppn", "phase", "from_image", "from_image_fourier"]
    ]
    assert all(float(row["objective"]) > float(row["initial_objective"]) for row in rows)
    assert "expected some of all, pixels, fourier" in outcomes[1]["errors"]


def test_a_figure_says_what_its_images_do():
    driving, against = objectives.channel("conv2"), -objectives.channel("conv2")
    for objective, told in (
        (driving, "m, conv2, 8 steps"),
        (against, "m, conv2: what suppresses each channel most, 8 steps"),
    ):
        recipe = Recipe(objective, parameterizations.pixels(), optax.sgd(1.0), steps=8)
        assert side_by_side.title("m", "conv2", {"none": recipe}, steps=8) == told

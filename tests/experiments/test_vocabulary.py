"""What --objective, --parameterization and --model can say, from the flag to the stored image."""

import csv
import json
import shutil

import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from featvis_jax import models
from featvis_jax.checkpoints import load_model
from featvis_jax.maximize import objectives
from featvis_jax.maximize.objectives import Unit

SHAPE = (40, 44)
ASKED = {
    "neuron": ["--objective=neuron", "--position=3,4", "--channels=2"],
    "layer": ["--objective=layer"],
    "direction": ["--objective=direction", "--direction={place}/direction.npy"],
    "directions": [
        *("--objective=cosine_direction", "--direction={place}/directions.npz"),
        *("--channels=age,pca/1", "--sign=-1"),
    ],
    "suppressing": ["--sign=-1", "--channels=2"],
    "variants": ["--variants=2", "--channels=1,2", "--diversity=2"],
    "fourier": ["--parameterization=fourier", "--intensity=affine", "--channels=2"],
    "fixed contrast": [
        "--parameterization=fourier",
        "--intensity=dark",
        "--contrast=0.2",
        "--channels=2",
    ],
    "bodies": [
        *("--parameterization=level_set", "--intensity=bright", "--contrast=0.5"),
        *("--spacing_mm=9", "--regularization=driven", "--channels=2"),
    ],
    "phase": ["--parameterization=phase", "--channels=2"],
    "accentuation": ["--start_image={place}/image.nii", "--mask={place}/mask.nii", "--channels=2"],
    "accentuation of LAS": [
        "--start_image={place}/image-las.nii.gz",
        "--mask={place}/mask-volume.nii.gz",
        "--channels=2",
    ],
    "attention": ["--attention={place}/mask.nii", "--channels=2"],
    "attention of LAS": ["--attention={place}/mask-las.nii.gz", "--channels=2"],
    "own grid": ["--grid={place}/mask.nii", "--channels=2"],
}
REFUSED = {
    "bodies of a scan": (
        ["--parameterization=level_set", "--start_image={place}/image.nii"],
        "bodies on an even background, which no scan is",
    ),
    "bodies of both polarities": (
        ["--parameterization=level_set", "--intensity=both"],
        "bodies of --parameterization=level_set are dark or bright",
    ),
    "bodies beyond the range": (
        ["--parameterization=level_set", "--contrast=0.7"],
        "level_set: the background has level 0.6 and the contrast is 0.7",
    ),
    "bodies of a voxel": (
        ["--parameterization=level_set", "--spacing_mm=1"],
        "--parameterization=level_set: spacing_mm is 1, and the voxels are of 4 mm",
    ),
    "position of a channel": (["--position=3,4"], "--position is for --objective=neuron"),
    "position outside": (["--objective=neuron", "--position=99,4"], "99"),
    "no direction": (["--objective=direction"], "needs --direction=FILE"),
    "short direction": (
        ["--objective=direction", "--direction={place}/short.npy"],
        "--direction={place}/short.npy: a vector has 3 numbers, but layer 'conv2' has 16 channels",
    ),
    "no such direction": (
        ["--objective=direction", "--direction={place}/directions.npz", "--channels=sex"],
        "--channels=sex: there are directions 0 to 2 (age, pca/0, pca/1); expected all",
    ),
    "scans of a direction": (
        ["--objective=direction", "--direction={place}/direction.npy", "--real_examples={place}"],
        "the units here are no channels: leave it out, or ask for --objective=channel",
    ),
    "small mask": (["--mask={place}/small.nii"], "reaches up to 80 mm beyond it"),
    "small start": (["--start_image={place}/small.nii"], "crop or resample it to that grid"),
    "mask elsewhere": (["--mask={place}/elsewhere.nii"], "--mask={place}/elsewhere.nii: lies else"),
    "attention elsewhere": (["--attention={place}/elsewhere.nii"], "up to 40 mm beyond it"),
    "start elsewhere": (["--start_image={place}/elsewhere.nii"], "up to 40 mm beyond it"),
    "mask of 255": (["--mask={place}/bright.nii"], "--mask={place}/bright.nii: inside: the mask"),
    "start of 255": (["--start_image={place}/bright.nii"], "intensities from 0 to 255; the networ"),
    "empty attention": (["--attention={place}/empty.nii"], "--attention={place}/empty.nii: "),
    "mask nowhere": (["--mask={place}/nowhere.nii"], "does not tell where it lies"),
    "mask not fetched": (["--mask={place}/annexed.nii"], "run: datalad get {place}/annexed.nii"),
    "direction not fetched": (
        ["--objective=direction", "--direction={place}/annexed.npy"],
        "run: datalad get {place}/annexed.npy",
    ),
    "mask of a folder": (["--mask={place}"], "--mask={place}: a directory; expected a NIfTI file"),
    "damaged mask": (["--mask={place}/damaged.nii.gz"], "damaged.nii.gz: truncated or corrupt"),
    "another grid": (["--grid={place}/elsewhere.nii"], "was trained on 40 x 44 x 1 voxels"),
    "grid of another shape": (["--grid={place}/small.nii"], "20 x 44 x 1 voxels"),
    "missing mask": (["--mask={place}/none.nii"], "--mask={place}/none.nii: there is no such file"),
    "no NIfTI": (["--mask={place}/direction.npy"], "not a single-file NIfTI"),
    "channels of a layer": (["--objective=layer", "--channels=1"], "leave --channels out"),
    "projection of phases": (
        ["--parameterization=phase", "--regularization=tv_0.1"],
        "Give --regularization=lucid",
    ),
    "contrast without a polarity": (
        ["--contrast=0.1"],
        "give an --intensity of dark or bright or both",
    ),
    "no contrast": (["--intensity=both", "--contrast=0"], "the contrast in (0, 1]"),
    "lonely diversity": (["--diversity=1"], "give --variants too"),
    "range": (["--intensity_range=1,0"], "LOW < HIGH"),
    "another range": (["--intensity_range=0,2"], "trained on scans scaled by unit, from 0 to 1"),
    "z-scores": (["--scaling=zscore"], "--scaling=zscore: trained-2d was trained on scans scaled"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, trained):
    """Files that flags name."""
    affine = load_model(trained(2)[0]).affine
    place = tmp_path_factory.mktemp("vocabulary")
    rng = np.random.default_rng(0)
    np.save(place / "direction.npy", rng.normal(size=16).astype(np.float32))
    np.save(place / "short.npy", np.ones(3, np.float32))
    np.savez(place / "directions.npz", age=rng.normal(size=16), pca=rng.normal(size=(2, 16)))
    image = rng.uniform(0.2, 0.8, SHAPE).astype(np.float32)
    mask = np.zeros(SHAPE, np.float32)
    mask[10:30, 12:34] = 1
    for name, values in {"image": image, "mask": mask, "small": mask[:20]}.items():
        nibabel.save(nibabel.Nifti1Image(values[..., None], affine), place / f"{name}.nii")
    for name in ("image", "mask"):
        las = reoriented(nibabel.load(place / f"{name}.nii"), "LAS")
        nibabel.save(las, place / f"{name}-las.nii.gz")
    below = affine.copy()
    below[:3, 3] -= 2 * affine[:3, 2]
    volume = np.stack([mask * 0, mask * 0, mask, mask * 0], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volume, below), place / "mask-volume.nii.gz")
    elsewhere = affine.copy()
    elsewhere[0, 3] += 40
    nibabel.save(nibabel.Nifti1Image(mask[..., None], elsewhere), place / "elsewhere.nii")
    for name, factor in {"bright": 255, "empty": 0}.items():
        scaled = nibabel.Nifti1Image(factor * mask[..., None], affine)
        nibabel.save(scaled, place / f"{name}.nii")
    nowhere = nibabel.Nifti1Image(mask[..., None], None)
    nibabel.save(nowhere, place / "nowhere.nii")
    content = bytearray((place / "mask-las.nii.gz").read_bytes())
    content[-6] ^= 1  # Of the checksum.
    (place / "damaged.nii.gz").write_bytes(content)
    for suffix in ("nii", "npy"):
        (place / f"annexed.{suffix}").symlink_to(".git/annex/objects/x/y/MD5E-s9--d/MD5E-s9--d")
    return place


def reoriented(image, codes):
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))


@pytest.fixture(scope="module")
def outcomes(drive, trained, place, files):
    """What became of every command, all run in one process."""
    model = trained(2)[0]
    common = [f"--model={model}", "--layer=conv2", "--steps=3", "--batch=2"]
    plain = [*common, "--regularization=none", "--nogallery"]
    commands = {
        name: [*plain, f"--out={place / 'vocabulary' / name}"]
        + [flag.format(place=files) for flag in asked]
        for name, asked in ASKED.items()
    }
    for name, (asked, _) in REFUSED.items():
        commands[name] = [*plain, f"--out={place / 'never'}"]
        commands[name] += [flag.format(place=files) for flag in asked]
    commands["list"] = [f"--model={model}", "--list_layers", f"--out={place / 'never'}"]
    return dict(zip(commands, drive("visualize", list(commands.values())), strict=True))


def images_of(out, layer="conv2"):
    return {
        int(path.name[:4]): nibabel.load(path).get_fdata(dtype=np.float32).reshape(*SHAPE, 1)
        for path in sorted((out / "images" / layer).glob("*.nii.gz"))
    }


def rows_of(out):
    with (out / "units.tsv").open(newline="") as table:
        return list(csv.DictReader(table, dialect="excel-tab"))


@pytest.mark.parametrize("name", ASKED)
def test_it_runs_and_rises(outcomes, place, name):
    assert outcomes[name]["status"] == 0, outcomes[name]["errors"]
    for row in rows_of(place / "vocabulary" / name):
        assert float(row["final_objective"]) > float(row["initial_objective"])


@pytest.mark.parametrize("name", ["neuron", "layer", "direction", "suppressing", "attention"])
def test_the_objective_is_the_one_that_was_asked_for(outcomes, trained, place, files, name):
    assert outcomes[name]["status"] == 0, outcomes[name]["errors"]
    network = models.load(str(trained(2)[0])).network
    mask = nibabel.load(files / "mask.nii").get_fdata()[..., 0]
    expected = {
        "neuron": objectives.neuron("conv2", position=(3, 4)),
        "layer": objectives.layer("conv2"),
        "direction": objectives.direction("conv2", vector=np.load(files / "direction.npy")),
        "suppressing": -objectives.channel("conv2"),
        "attention": objectives.attention("conv2", objectives.on_layer(mask, network, "conv2")),
    }[name]
    ((channel, image),) = images_of(place / "vocabulary" / name).items()
    image = jnp.asarray(image)
    activations = network.activations(network.variables, image, ("conv2",))
    value = float(expected.value(activations, image, Unit(jnp.int32(channel))))
    (row,) = rows_of(place / "vocabulary" / name)
    assert float(row["final_objective"]) == pytest.approx(value, rel=1e-4)


def test_variants_are_images_of_one_unit(outcomes, place):
    out = place / "vocabulary" / "variants"
    names = sorted(path.name for path in (out / "images" / "conv2").glob("*.nii.gz"))
    both = [f"{channel:04d}{rest}.nii.gz" for channel in (1, 2) for rest in ("", "-variant2")]
    assert names == sorted(both)
    assert not list((out / "images").glob("*variant*"))
    images = [nibabel.load(out / "images" / "conv2" / name).get_fdata() for name in both]
    assert np.abs(images[0] - images[1]).max() > 0.05
    assert np.abs(images[2] - images[3]).max() > 0.05
    keys = [(row["layer"], row["channel"], row["variant"]) for row in rows_of(out)]
    assert keys == [("conv2", channel, variant) for channel in "12" for variant in "12"]
    assert "variant" not in (out / "layers.tsv").read_text()
    assert [path.name for path in (out / "sheets").iterdir()] == ["conv2.png"]
    assert "2 channels, 4 images: " in outcomes["variants"]["output"]


def test_a_table_has_what_the_ascent_saw_and_what_the_image_is_worth(outcomes, place):
    out = place / "vocabulary" / "variants"
    rows = rows_of(out)
    with np.load(out / "traces" / "conv2.npz", allow_pickle=False) as traces:
        assert traces["channel"].tolist() == [1, 1, 2, 2]
        assert traces["variant"].tolist() == [1, 2, 1, 2]
        for row, trace in zip(rows, traces["objective"], strict=True):
            assert float(row["transformed_objective"]) == float(trace[-1])
            assert float(row["final_objective"]) > float(trace[-1])


def test_a_run_that_goes_on_within_variants_loses_and_repeats_none(outcomes, drive, trained, place):
    whole, half = (place / "vocabulary" / name for name in ("variants", "half"))
    shutil.copytree(whole, half)
    lines = (half / "units.tsv").read_text().splitlines(keepends=True)
    (half / "units.tsv").write_text("".join(line for line in lines if "conv2\t2\t1" not in line))
    command = [f"--model={trained(2)[0]}", "--layer=conv2", "--steps=3", "--batch=2", "--nogallery"]
    command += ["--regularization=none", *ASKED["variants"], f"--out={half}"]
    trial, again = drive("visualize", [[*command, "--dry_run"], command])
    assert "1 of 2 channels are finished already" in trial["output"]
    assert again["status"] == 0, again["errors"]
    for path in [*(whole / "images").rglob("*.nii.gz"), whole / "traces" / "conv2.npz"]:
        assert (half / path.relative_to(whole)).read_bytes() == path.read_bytes()
    told = [[{**row, "seconds": ""} for row in rows_of(each)] for each in (whole, half)]
    assert told[0] == told[1]


def test_nothing_changes_outside_of_a_mask(outcomes, place, files):
    (image,) = images_of(place / "vocabulary" / "accentuation").values()
    start = nibabel.load(files / "image.nii").get_fdata()[..., 0]
    mask = nibabel.load(files / "mask.nii").get_fdata()[..., 0] > 0
    np.testing.assert_allclose(image[..., 0][~mask], start[~mask], atol=1e-6)
    assert np.abs(image[..., 0][mask] - start[mask]).max() > 1e-3


@pytest.mark.parametrize("name", ["accentuation", "attention"])
def test_files_in_another_orientation_or_on_a_larger_grid_give_the_same_bytes(
    outcomes, place, name
):
    first, second = (
        place / "vocabulary" / each / "images" / "conv2" / "0002.nii.gz"
        for each in (name, f"{name} of LAS")
    )
    assert first.read_bytes() == second.read_bytes()


def test_the_grid_is_in_the_flags_and_the_configuration_of_a_run(place, files, trained):
    run = place / "vocabulary" / "own grid"
    assert f"--grid={files / 'mask.nii'}" in (run / "flags.txt").read_text().splitlines()
    configuration = json.loads((run / "run.json").read_text())["configuration"]
    np.testing.assert_array_equal(configuration["affine"], load_model(trained(2)[0]).affine)


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(outcomes, refused, place, files, name):
    refused(outcomes[name], [REFUSED[name][1].format(place=files)])
    assert not (place / "never").exists()


def test_the_layers_are_listed(outcomes):
    lines = outcomes["list"]["output"].splitlines()
    assert lines[0].split()[:4] == ["layer", "operator", "output", "channels"]
    assert [line.split()[0] for line in lines[1:4]] == ["conv1", "pool1", "conv2"]

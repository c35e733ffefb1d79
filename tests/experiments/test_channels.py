"""Networks of several input channels, end to end: contrasts, colour, what is held and given."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax.results.store import read_run

NETWORKS = """
import numpy as np
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(3, (3, 3), name="stem")(x)

def colour():
    import jax, jax.numpy as jnp
    return Net(), Net().init(jax.random.key(0), jnp.zeros((1, 12, 14, 3))), (12, 14, 3)

def contrasts():
    def net(weights, x):
        names = ("NXYZC", "XYZIO", "NXYZC")
        out = lax.conv_general_dilated(x, weights, (1, 1, 1), "SAME", dimension_numbers=names)
        return checkpoint_name(out, "stem")
    weights = np.random.default_rng(0).normal(size=(3, 3, 3, 4, 3)).astype("f4")
    return net, weights, (8, 9, 7, 4)

def slices():
    import jax, jax.numpy as jnp
    return Net(), Net().init(jax.random.key(0), jnp.zeros((1, 12, 14, 2))), (12, 14, 2)
"""
NAMES = ("T1w", "T1ce", "T2w", "FLAIR")
AFFINE = np.diag([2.0, 2, 2, 1])
OPTIONS = ["--layer=stem", "--channels=0:2", "--steps=2", "--batch=2"]


def scan(path: Path, shape: tuple[int, ...], seed: int, *, high: float = 1.0) -> None:
    """A random scan, bright in its middle, so that there is a brain to find."""
    data = 0.3 * np.random.default_rng(seed).random(shape)
    data[tuple(slice(n // 4, -(n // 4)) for n in shape[:3])] += 0.7
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image((high * data).astype(np.float32), AFFINE), path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("channels")
    (place / "nets.py").write_text(NETWORKS)
    scan(place / "t1.nii.gz", (8, 9, 7), 1)
    scan(place / "flair.nii.gz", (8, 9, 7), 2)
    scan(place / "four.nii.gz", (8, 9, 7, 4), 3)
    scan(place / "loud.nii.gz", (8, 9, 7), 4, high=900.0)
    scan(place / "small.nii.gz", (8, 9, 5), 5)
    rows = ["participant_id"]
    for person in range(3):
        rows.append(f"sub-{person}")
        for number, contrast in enumerate(("T1w", "FLAIR")):
            name = f"sub-{person}_{contrast}.nii.gz"
            path = place / "cohort" / f"sub-{person}" / "anat" / name
            scan(path, (12, 14, 6), 10 * person + number)
    (place / "cohort" / "participants.tsv").write_text("\n".join(rows) + "\n")
    return place


NAMED = f"--channel_names={','.join(NAMES)}"
HELD = "--hold=T1w:{place}/t1.nii.gz"
MADE = {
    "colour": ("colour", ["--channel_names=rgb", "--transparency"]),
    "apart": ("colour", ["--nogallery"]),
    "held": ("contrasts", [NAMED, HELD, "--grid={place}/t1.nii.gz", "--variants=2"]),
    "start": (
        "contrasts",
        [NAMED, "--start_image={place}/four.nii.gz", "--regularization=none", "--nogallery"],
    ),
    "starts": (
        "contrasts",
        [
            NAMED,
            "--start_image={place}/t1.nii.gz,{place}/t1.nii.gz,{place}/t1.nii.gz,"
            "{place}/flair.nii.gz",
            "--regularization=none",
            "--nogallery",
        ],
    ),
    "shard": ("contrasts", [NAMED, "--shard=1/2", "--batch=1", "--out={place}/sharded"]),
    "whole": ("contrasts", [NAMED, "--batch=1", "--out={place}/sharded"]),
    "again": ("contrasts", [NAMED, "--batch=1", "--out={place}/sharded"]),
    "renamed": ("contrasts", ["--batch=1", "--out={place}/sharded"]),
    "real": (
        "slices",
        [
            "--channel_names=T1w,FLAIR",
            *("--real_examples={place}/cohort", "--reference={place}/cohort"),
            "--cache={place}/cache",
        ],
    ),
}
REFUSED = {
    "too few names": (
        "contrasts",
        ["--channel_names=T1w,FLAIR"],
        ["--channel_names=T1w,FLAIR: 2 names; expected 4"],
    ),
    "odd name": ("colour", ["--channel_names=T1w,T2/w,a"], ["'T2/w'", "letters and digits"]),
    "same name": ("colour", ["--channel_names=T1w,t1W,a"], ["the same but for capitals"]),
    "colour of four": ("contrasts", ["--channel_names=rgb"], ["rgb stands for 3 channels"]),
    "no channel": ("contrasts", [NAMED, "--hold={place}/t1.nii.gz"], ["expected CHANNEL:FILE"]),
    "other channel": ("contrasts", [NAMED, "--hold=PD:x.nii"], ["--hold=PD:x.nii", *NAMES]),
    "twice": ("contrasts", [NAMED, HELD, HELD], ["T1w is already held at"]),
    "all": (
        "slices",
        ["--hold=channel0:{place}/t1.nii.gz,channel1:{place}/t1.nii.gz"],
        ["holds every channel"],
    ),
    "missing": ("contrasts", [NAMED, "--hold=T1w:{place}/no.nii"], ["--hold=T1w:", "no.nii"]),
    "loud": ("contrasts", [NAMED, "--hold=T1w:{place}/loud.nii.gz"], ["--hold=T1w:", "[0, 1]"]),
    "small": ("contrasts", [NAMED, "--hold=T1w:{place}/small.nii.gz"], ["--hold=T1w:", "8 x 9 x"]),
    "few starts": (
        "contrasts",
        ["--start_image={place}/t1.nii.gz,{place}/flair.nii.gz"],
        ["2 files; expected one file with 4 volumes, or 4"],
    ),
    "few volumes": ("contrasts", ["--start_image={place}/t1.nii.gz"], ["holds 1 volumes", "4"]),
    "scans in colour": (
        "colour",
        ["--channel_names=rgb", "--real_examples={place}/cohort"],
        ["takes colours, which scans do not have"],
    ),
    "no such contrast": (
        "slices",
        ["--channel_names=T1w,T2w", "--real_examples={place}/cohort"],
        ["scans of T2w, by --channel_names", "*_T2w.nii*"],
    ),
}


@pytest.fixture(scope="module")
def outcomes(drive, files):
    cases = {**MADE, **{name: case[:2] for name, case in REFUSED.items()}}
    commands = [
        [
            f"--model={files / 'nets.py'}:{network}",
            f"--out={files / name.replace(' ', '-')}",
            *OPTIONS,
            *(flag.format(place=files) for flag in flags),
        ]
        for name, (network, flags) in cases.items()
    ]
    return dict(zip(cases, drive("visualize", commands), strict=True))


def volume(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def succeeded(outcomes, name: str) -> None:
    assert outcomes[name]["status"] == 0, outcomes[name]["errors"]


def test_colour_is_one_picture_and_a_file_for_each_channel(outcomes, files):
    succeeded(outcomes, "colour")
    run = read_run(files / "colour")
    image, affine = run.image("stem", 0)
    assert (image.shape, affine) == ((12, 14, 3), None)
    for number, name in enumerate("RGB"):
        stored = volume(files / "colour" / "images" / "stem" / f"0000_{name}.nii.gz")
        np.testing.assert_array_equal(stored[..., 0], image[..., number])
    with Pillow.open(files / "colour" / "images" / "stem" / "0000.png") as opened:
        drawn = np.asarray(opened)
    # Rows run down, as in a photograph.
    np.testing.assert_array_equal(drawn, np.rint(image.clip(0, 1) * 255).astype(np.uint8))
    page = (files / "colour" / "gallery" / "units" / "stem" / "0000.html").read_text()
    assert "R, G, B, in colour" in page
    assert run.transparency("stem", 0) is not None


def test_channels_without_names_are_numbered_and_that_is_told(outcomes, files):
    succeeded(outcomes, "apart")
    told = outcomes["apart"]["errors"]
    assert "takes 3 channels, called channel0, channel1, channel2" in told
    assert "--channel_names=rgb" in told
    assert (files / "apart" / "images" / "stem" / "0001_channel2.nii.gz").is_file()
    assert "takes" not in outcomes["colour"]["errors"]


def test_what_is_held_stays_and_is_shown_as_held(outcomes, files):
    succeeded(outcomes, "held")
    given = volume(files / "t1.nii.gz")
    run = read_run(files / "held")
    for variant in (1, 2):
        image, affine = run.image("stem", 1, variant)
        np.testing.assert_array_equal(affine, AFFINE)
        np.testing.assert_array_equal(image[..., 0], given)
        assert np.abs(image[..., 1:] - given[..., None]).max() > 0.1
    settings = json.loads((files / "held" / "run.json").read_text())["configuration"]
    assert settings["parameterization"].startswith("holding(")
    told = settings["input_channels"]
    assert (told["names"], told["colour"], list(told["held"])) == (list(NAMES), False, ["T1w"])
    page = (files / "held" / "gallery" / "units" / "stem" / "0001.html").read_text()
    assert "T1w, held" in page
    assert "held at a given scan: T1w" in page
    assert "FLAIR, held" not in page
    # A volume for each contrast, for the viewer to choose from.
    volumes = sorted(path.name for path in (files / "held" / "gallery/volumes/stem").iterdir())
    assert [f"0001-variant2_{name}.js" in volumes for name in NAMES] == [True] * 4


def test_a_start_is_one_file_of_all_channels_or_one_for_each(outcomes, files):
    for name in ("start", "starts"):
        succeeded(outcomes, name)
    four, t1, flair = (volume(files / f"{name}.nii.gz") for name in ("four", "t1", "flair"))
    # Two steps take an image less than a tenth of the range from its start.
    image, _ = read_run(files / "start").image("stem", 0)
    assert np.abs(image - four).max() < 0.1
    image, _ = read_run(files / "starts").image("stem", 0)
    assert np.abs(image - np.stack([t1, t1, t1, flair], axis=-1)).max() < 0.1


def test_shards_and_a_run_that_goes_on_hold_all_channels(outcomes, files):
    for name in ("shard", "whole", "again"):
        succeeded(outcomes, name)
    assert outcomes["again"]["output"].startswith("2 channels: ")
    run = read_run(files / "sharded")
    assert len(run.records()) == 2
    assert run.image("stem", 0)[0].shape == (8, 9, 7, 4)
    assert not (files / "sharded" / "shards").exists()
    assert "input_channels.names" in outcomes["renamed"]["errors"]


def test_real_images_have_a_row_for_every_contrast(outcomes, files):
    succeeded(outcomes, "real")
    with Pillow.open(files / "real" / "real" / "stem" / "0000.png") as opened:
        # Three people side by side, a labelled row for each contrast.
        assert opened.size == (3 * 12 + 2 * 4, 2 * (20 + 14) + 6)
    with (files / "real" / "reference.tsv").open(newline="") as table:
        assert len(list(csv.DictReader(table, dialect="excel-tab"))) == 2
    assert "scans of 3 people" in outcomes["real"]["errors"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(outcomes, refused, files, name):
    refused(outcomes[name], [text.format(place=files) for text in REFUSED[name][2]])
    assert not (files / name.replace(" ", "-")).exists()

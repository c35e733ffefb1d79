"""Grading as its users run it: runs of ours, controls, and images of any tool."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from featvis_jax.models import load
from featvis_jax.runs import graded_pictures
from featvis_jax.runs.grade import grade
from tests.results import gallery_runs

# A network that counts neighbours of one grey level: it finds lesions, and knows no shape.
CONTRAST = """
import jax.numpy as jnp
from flax import linen as nn

class Contrast(nn.Module):
    @nn.compact
    def __call__(self, images):
        alike = (images[:, 1:] == images[:, :-1]) & (images[:, 1:] > 0.01)
        # Less than one neighbour's worth, so that no two images have equal logits: the test of
        # pairs with ties takes a second.
        mean = 0.01 * images.mean(axis=(1, 2))
        return nn.Dense(2, name="logits")(100 * (alike.mean(axis=(1, 2)) + mean))

def network():
    dense = {"kernel": jnp.array([[0.0, 1.0]]), "bias": jnp.zeros(2)}
    return Contrast(), {"params": {"logits": dense}}, (40, 44, 1)
"""

RING = """
import numpy as np

def ring(coordinates, center, size):
    offsets = coordinates - np.reshape(center, (-1,) + (1,) * (coordinates.ndim - 1))
    radius = np.sqrt((offsets**2).sum(axis=0))
    return ((radius < 0.7 * size) & (radius > 0.35 * size)).astype(float)
"""


@pytest.fixture(scope="module")
def ring(place, launch, training_flags):
    """The task of finding rings, and a network that was trained on it."""
    (place / "shapes.py").write_text(RING)
    task, model = f"--task={place / 'shapes.py'}:ring", place / "ring-model"
    ran = launch("train", task, *training_flags[2], f"--out={model}")
    assert ran.returncode == 0, ran.stderr
    return task, model


@pytest.fixture(scope="module")
def runs(place, trained, ring, drive):
    """A run of two layers with two variants, the same with permuted weights, and one of rings."""
    common = ["--steps=2", "--gallery=false"]
    own = ["--layer=conv3", "--layer=logits", "--channels=0,1", "--variants=2"]
    own.append(f"--model={trained(2)[0]}")
    flags = {
        "run": own,
        "random": [*own, "--random_weights=1"],
        "ring": [f"--model={ring[1]}", "--layer=logits", "--channels=1"],
    }
    made = {name: place / "graded" / name for name in flags}
    commands = [[*common, *flags[name], f"--out={out}"] for name, out in made.items()]
    for outcome in drive("visualize", commands):
        assert outcome["status"] == 0, outcome["errors"]
    return made


@pytest.fixture(scope="module")
def outcomes(drive, place, runs, ring, cohort_flags):
    """What each list of flags led to."""
    network = place / "contrast.py"
    network.write_text(CONTRAST)
    images = place / "images"
    images.mkdir()
    square = np.full((40, 44), 0.5, np.float32)
    square[10:15, 20:25] = 0.9
    np.save(images / "square.npy", square)
    # Where the network's images lie, but stored from the left and from the front.
    reference = next((runs["run"] / "images").glob("*/0001.nii.gz"))
    image = nibabel.Nifti1Image(square[..., None], nibabel.load(reference).affine)
    lps = ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS"))
    nibabel.save(image.as_reoriented(lps), images / "again.nii.gz")
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    nibabel.save(nibabel.Nifti1Image(square[..., None], np.eye(4)), elsewhere / "odd.nii.gz")
    pointer = place / "pointers"
    pointer.mkdir()
    (pointer / "odd.npy").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    # Another cohort by its name; its first subjects are those that the networks were trained on.
    cohort = ["--synthetic_subjects=10", *cohort_flags[1:], "--classifier_patches=128"]
    common = [*cohort, "--task=square_lesion", f"--transfer_model={network}:network"]
    run = f"--run={runs['run']}"
    commands = {
        "run": [run, f"--control=random={runs['random']}"],
        "images": [f"--images={images}", "--made_controls=scrambled", f"--grid={reference}"],
        "no_grid": [f"--images={images}"],
        "elsewhere": [f"--images={elsewhere}", f"--grid={reference}"],
        "pointer": [f"--images={pointer}", f"--grid={reference}"],
        "nothing": [],
        "wrong_model": [f"--run={runs['random']}"],
        "wrong_control": [run, "--control=random"],
        "wrong_shape": [f"--images={images}", "--shape=ring", f"--grid={reference}"],
        "no_images": [f"--images={place / 'nobody'}", f"--grid={reference}"],
        "known": [run, "--synthetic_subjects=5"],
        "ring": [ring[0], f"--run={runs['ring']}"],
    }
    flags = [[*common, *own, f"--out={place / 'grades' / name}"] for name, own in commands.items()]
    return dict(zip(commands, drive("grade", flags), strict=True))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def test_scans_that_a_network_was_trained_on_are_known_under_another_name(outcomes, refused):
    refused(outcomes["known"], ["--cohort=synthetic: 0 subjects are held out", "at least 2"])


def test_a_run_and_its_controls_are_graded(outcomes, place):
    assert outcomes["run"]["status"] == 0, outcomes["run"]["errors"]
    out = place / "grades" / "run"
    rows = table(out / "scores.tsv")
    pictures = [row for row in rows if row["control"] == "picture"]
    # The logit of class 0 has no shape; each unit has two variants.
    assert {(row["channel"], row["variant"]) for row in pictures if row["layer"] == "logits"} == {
        ("1", "1"),
        ("1", "2"),
    }
    kinds = {row["control"] for row in rows}
    assert kinds == {"picture", "scrambled", "real", "random"}
    for row in rows:
        assert (row["named"] == "1") == (float(row["share"]) > 0.5)
    scores = json.loads((out / "scores.json").read_bytes())
    for kind, found in (("picture", scores), *scores["controls"].items()):
        own = [row for row in rows if row["control"] == kind]
        for key, column in (("shape_accuracy", "named"), ("size_accuracy", "size_ok")):
            passed = sum(row[column] == "1" for row in own)
            assert found[key]["value"] == pytest.approx(passed / len(own))
            assert found[key]["n"] == len(own)
            low, high = found[key]["ci95"]
            assert low <= found[key]["value"] <= high
    assert set(scores["controls"]) == kinds - {"picture"}
    summary = table(out / "summary.tsv")
    assert {row["layer"] for row in summary} == {"all", *(row["layer"] for row in rows)}
    # The same grade of drawn pictures stands beside.
    known = table(out / "known.tsv")
    assert known[0]["drawn"] == "perfect" and {"rectangle", "cluster"} <= {
        r["drawn"] for r in known
    }
    said = scores["known"]["square"]
    assert said["perfect"]["value"] == pytest.approx(float(known[0]["named"]), abs=1e-4)
    wrong = [row for row in known if row["drawn"] != "perfect"]
    assert said["wrong"]["n"] == sum(int(row["n"]) for row in wrong)
    assert said["worst"]["value"] == pytest.approx(max(float(r["named"]) for r in wrong), abs=1e-4)
    assert "the same grade names square" in outcomes["run"]["output"]
    # The network itself is asked for lesions of every shape.
    answers = {row["shape"]: row for row in table(out / "responses.tsv")}
    assert set(answers) >= {"square", "disc", "line along axis 0", "line along axis 1"}
    assert float(answers["square"]["p"]) == 1
    for name, beginning in (("scores.png", b"\x89PNG"), ("scores.pdf", b"%PDF")):
        assert (out / name).read_bytes().startswith(beginning)


def test_images_of_any_tool_are_graded_alike(outcomes, place):
    assert outcomes["images"]["status"] == 0, outcomes["images"]["errors"]
    rows = table(place / "grades" / "images" / "scores.tsv")
    pictures = [row for row in rows if row["control"] == "picture"]
    assert [row["run"] for row in pictures] == ["again.nii.gz", "square.npy"]
    apart = ("run", "channel")
    first, second = ({k: v for k, v in row.items() if k not in apart} for row in rows[:2])
    assert first == second
    # A lesion of three voxels is too little to tell its outline by; it is enough to insert it.
    assert float(first["insertion"]) > 0 and float(first["insertion_p"]) < 0.05


def test_what_does_not_fit_is_refused(outcomes, refused, runs, place):
    refused(outcomes["nothing"], ["--run", "--images", "expected either runs or a directory"])
    refused(outcomes["wrong_model"], ["--run", str(runs["random"]), "weights"])
    refused(outcomes["wrong_control"], ["--control=random", "NAME=RUN"])
    refused(outcomes["wrong_shape"], ["--shape=ring", "square"])
    refused(outcomes["no_images"], ["--images", str(place / "nobody")])
    refused(outcomes["no_grid"], ["contrast.py:network", "--grid=FILE.nii.gz"])
    odd = str(place / "elsewhere" / "odd.nii.gz")
    refused(outcomes["elsewhere"], [odd, "resample it to that grid"])
    refused(outcomes["pointer"], [str(place / "pointers" / "odd.npy"), "lfs pull"])


def test_python_grades_with_objects_and_writes_nothing(place, outcomes, cohort_flags, capsys):
    images, before = place / "images", sorted(place.rglob("scores.*"))
    reference = next((place / "graded" / "run" / "images").glob("*/0001.nii.gz"))
    transfer = load(f"{place / 'contrast.py'}:network", grid=reference)
    grades = grade(
        (),
        images=str(images),
        task="square_lesion",
        transfer_model=transfer,
        made_controls=(),
        classifier_patches=128,
        synthetic_subjects=10,
        synthetic_voxel_size_mm=4,
        cache=str(place / "cache"),
    )
    assert [row["run"] for row in grades.pictures] == ["again.nii.gz", "square.npy"]
    assert grades.scores["shape_accuracy"]["n"] == 2
    assert grades.scores["models"]["transfer"]["name"] == transfer.name
    assert grades.responses is None
    assert "the same grade names square" in str(grades)
    assert sorted(place.rglob("scores.*")) == before


def test_python_is_told_of_options_and_networks_by_their_names(tmp_path):
    with pytest.raises(
        ValueError, match=r"^`run` and `images`: expected either runs or a directory"
    ):
        grade((), task="square_lesion", transfer_model="square-lesion")
    with pytest.raises(FileNotFoundError, match=r"^`transfer_model=square-lesoin`: .*Did you mean"):
        grade((), images=str(tmp_path), task="square_lesion", transfer_model="square-lesoin")
    with pytest.raises(FileNotFoundError, match=r"^`control=random=.*nowhere`"):
        grade(
            (),
            images=str(tmp_path),
            task="square_lesion",
            transfer_model="square-lesion",
            controls={"random": tmp_path / "nowhere"},
        )


def test_permuted_weights_are_another_configuration(runs):
    run, random = (json.loads((runs[name] / "run.json").read_bytes()) for name in ("run", "random"))
    assert "permuted by seed 1" in random["configuration"]["model"]
    assert run["configuration"]["weights_sha256"] != random["configuration"]["weights_sha256"]
    assert run["fingerprint"] != random["fingerprint"]


def test_a_shape_of_the_users_own_is_trained_visualized_and_graded(outcomes, ring, place):
    assert outcomes["ring"]["status"] == 0, outcomes["ring"]["errors"]
    card = json.loads((ring[1] / "model" / "card.json").read_bytes())
    assert card["task"] == card["data"]["lesions"]["shape"] == "ring"
    rows = table(place / "grades" / "ring" / "scores.tsv")
    assert {row["concept"] for row in rows} == {"ring"}
    assert all(0 <= float(row["share"]) <= 1 for row in rows)
    known = {"ring", "square", "disc", "gaussian", "line", "something else", "clean"}
    assert {row["judge"] for row in rows} <= known


@pytest.mark.parametrize(
    "objective",
    ["(-1.0) * logit('conv1')", "layer('conv1')", "(-1.0) * channel('conv1') + diversity('conv1')"],
)
def test_pictures_of_what_does_not_drive_a_unit_are_not_graded_as_if_they_did(tmp_path, objective):
    gallery_runs.suppressing(tmp_path, objective={"conv1": objective})
    with pytest.raises(ValueError, match=r"^`run=.* the pictures of conv1 show what .*--sign=-1"):
        graded_pictures.open_runs([str(tmp_path)])


def test_every_variant_of_a_run_is_a_picture_of_its_unit(tmp_path):
    run = gallery_runs.variants(tmp_path)
    found = graded_pictures.of_run(run, {("conv1", 1): "square"})
    assert [(each.layer, each.channel, each.variant) for each in found] == [
        ("conv1", 1, variant) for variant in (1, 2, 3)
    ]
    for each in found:
        np.testing.assert_array_equal(each.load(), run.image("conv1", 1, each.variant)[0])
    assert graded_pictures.channels_of([run]) == {"conv1": [0, 1, 5]}

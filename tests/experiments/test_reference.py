"""Real inputs that pictures are told beside: what is measured, kept, warned of and refused."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest

from featvis_jax.data import pipeline, sources
from featvis_jax.data.cache import CachedVolume, cache_volumes
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.lesions import Lesions
from featvis_jax.data.shapes import square
from featvis_jax.data.tasks import LesionTask
from featvis_jax.models import Model, load
from featvis_jax.nn.network import Network
from featvis_jax.results.store import read_run
from featvis_jax.runs import reference_scans
from featvis_jax.runs.reference_scans import Inputs, ReferenceOptions
from tests.experiments.test_real_examples import moved

# Of three channels real images drive the first; the second is nothing but its bias.
NETWORK = """
import jax, jax.numpy as jnp
from flax import linen as nn

def make():
    module = nn.Sequential([nn.Conv(3, (3, 3), padding="VALID"), lambda x: x.mean(axis=(1, 2))])
    shape = (40, 44, 1)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    kernel = jnp.zeros((3, 3, 1, 3)).at[1, 1, 0].set(jnp.array([1.0, 0.0, -2.0]))
    weights = {"kernel": kernel, "bias": jnp.array([0.0, -5.0, 3.0])}
    return module, {"params": {"layers_0": weights}}, shape
"""


@pytest.fixture(scope="module")
def outcomes(drive, trained, cohort, place):
    """Runs with a reference, again, in shards, with another one, and with what cannot be used."""
    model, root = trained(2)[0], place / "reference"
    root.mkdir()
    (root / "net.py").write_text(NETWORK)
    cache = f"--cache={place / 'cache'}"
    common = [f"--model={model}", "--layer=conv2", "--channels=0:4", "--steps=2", "--batch=2"]
    given = [*common, f"--reference={cohort}", "--reference_images=20", "--seed=3", cache]
    grid = plane(cohort, root)
    foreign = [
        *[f"--model={root / 'net.py'}:make", "--intensity_range=-3,2", f"--grid={grid}", cache],
        *["--layer=layers_0", "--steps=2", f"--reference={cohort}", "--gallery=false"],
    ]
    commands = {
        "first": [*given, f"--out={root / 'run'}"],
        "again": [*given, f"--out={root / 'run'}", "--channels=0:4"],
        "others": [*given, "--reference_percentile=50", f"--out={root / 'run'}"],
        "one": [*given, "--shard=1/2", f"--out={root / 'parts'}", "--gallery=false"],
        "two": [*given, "--shard=2/2", f"--out={root / 'parts'}", "--gallery=false"],
        "whole": [*given, f"--out={root / 'parts'}"],
        "foreign": [*foreign, f"--out={root / 'foreign'}"],
        "missing": [*common, f"--reference={root / 'nobody'}", f"--out={root / 'missing'}"],
        "beside": [
            *[*common, f"--reference={moved(cohort, root / 'beside', 1.5)}", cache],
            f"--out={root / 'out'}",
        ],
        "idle": [*common, "--reference_images=9", f"--out={root / 'idle'}"],
        "task": [*given, f"--reference_task={root / 'net.py'}:make", f"--out={root / 'task'}"],
    }
    return dict(zip(commands, drive("visualize", list(commands.values())), strict=True))


def plane(cohort: Path, place: Path) -> Path:
    """A slice of the cohort's grid, as a file for --grid."""
    scan = next(iter(sorted(cohort.glob("*/anat/*.nii.gz"))))
    image = nibabel.load(scan)
    size = np.array(image.shape[:2])
    start = (size - (40, 44)) // 2
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :2] @ start
    path = place / "grid.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((40, 44, 1), np.float32), affine), path)
    return path


@pytest.fixture(scope="module")
def root(outcomes, place) -> Path:
    for name in ("first", "again", "one", "two", "whole", "foreign"):
        assert outcomes[name]["status"] == 0, outcomes[name]["errors"]
    return place / "reference"


def test_the_reference_is_the_largest_activation_over_slices_with_and_without_lesions(
    root, trained, cohort, place
):
    model = load(str(trained(2)[0]))
    found = read_cohort(cohort)
    cached = cache_volumes(found.subjects, next((place / "cache" / "volumes").glob("*-*")))
    source = sources.source(
        [cached[who] for who in found.participant_ids],
        (40, 44),
        placement=sources.cohort_placement(found, model.grid),
    )
    drawn = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in model.card["data"]["lesions"].items()
    }
    task = LesionTask(Lesions(**{**drawn, "shape": square}))
    largest = np.full(4, -np.inf)
    batches = list(pipeline.evaluation_batches(source, task, batch_size=2, seed=3, max_images=20))
    assert len(batches) == 10
    network = model.network
    one = jax.jit(lambda image: network.activations(network.variables, image, ("conv2",)))
    for image in np.concatenate([batch["image"] for batch in batches]):
        activations = one(jnp.asarray(image))["conv2"]
        for channel in range(4):
            largest[channel] = max(largest[channel], float(activations[..., channel].max()))
    rows = read_run(root / "run").reference()
    assert [row.unit for row in rows] == [("conv2", channel) for channel in range(4)]
    np.testing.assert_allclose([row.reference for row in rows], largest, rtol=1e-5)
    for row, record in zip(rows, read_run(root / "run").records(), strict=True):
        activations = one(jnp.asarray(read_run(root / "run").image(*record.key)[0]))["conv2"]
        response = float(activations[..., record.channel].max())
        assert record.response == pytest.approx(response, rel=1e-4, abs=1e-5)
        if row.reference > 0:
            assert record.target == row.reference
            assert record.strength == pytest.approx(record.response / row.reference)
            assert record.status in ("driven", "weak", "dead", "uniform")
            assert record.status != "driven" or record.strength > 0.98
        else:
            assert record.strength is None


def test_what_it_was_is_told_and_nobody_is_named(outcomes, root):
    configuration = json.loads((root / "run" / "run.json").read_text())["configuration"]
    told = configuration["reference"]
    assert (told["scans"], told["images"], told["of"]) == (6, 20, "slices")
    assert (told["lesions"], told["percentile"]) == ("with and without", 100.0)
    for path in (root / "run").rglob("*"):
        if path.suffix in (".json", ".tsv", ".html", ".txt"):
            assert "sub-" not in path.read_text(), path
    page = (root / "run" / "gallery" / "layers" / "conv2.html").read_text()
    assert "that to the strongest of 20 real slices, with and without lesions" in page
    assert "median strength" in outcomes["first"]["output"]
    assert (
        "scans of 6 people; the strongest image of fewer than 20 people"
        in outcomes["first"]["errors"]
    )
    assert "--reference=" in (root / "run" / "flags.txt").read_text()


def test_by_default_pictures_are_driven_and_other_units_and_ranges_change_how(root):
    ours, foreign = (
        json.loads((root / name / "run.json").read_text())["configuration"]
        for name in ("run", "foreign")
    )
    assert ours["regularization"] == foreign["regularization"] == "driven"
    assert ours["objective"] == {"conv2": "strongest(channel('conv2'))"}
    assert ours["parameterization"].startswith("fourier(decay=1.5, ")
    assert ours["optimizer"] == "adam(learning_rate=settling(0.05, 2))"
    assert "clutter(intensity_range=(0, 1), ground=0.5)" in ours["drive"]
    assert "clutter(intensity_range=(-3, 2), ground=-0.5)" in foreign["drive"]
    # Noise of a tenth of the range, and around the image the middle of it.
    assert "noise(standard_deviation=0.5)" in foreign["robustness"]
    assert "fill=-0.5" in foreign["robustness"]


def test_what_is_stored_is_not_measured_again_and_another_reference_is_refused(outcomes, root):
    assert "of_image" in outcomes["first"]["compiled"]
    assert "of_image" not in outcomes["again"]["compiled"]
    others = outcomes["others"]
    assert others["status"] == 2
    assert "reference.percentile: the run has 100.0, asked for is 50.0" in others["errors"]


def test_shards_have_the_same_values(outcomes, root):
    assert "of_image" in outcomes["one"]["compiled"]
    for name in ("two", "whole"):
        assert "of_image" not in outcomes[name]["compiled"]
    for name in ("reference.tsv", "sheets/conv2.png"):
        assert (root / "run" / name).read_bytes() == (root / "parts" / name).read_bytes()
    tables = []
    for run in ("run", "parts"):
        with (root / run / "units.tsv").open(newline="") as table:
            tables.append([{**r, "seconds": 0} for r in csv.DictReader(table, dialect="excel-tab")])
    assert tables[0] == tables[1]


def test_a_unit_that_no_real_input_drives_has_no_strength_and_other_intensities_are_told(
    outcomes, root
):
    errors = outcomes["foreign"]["errors"]
    assert "no image drives 1 of 3 units, which get no strength" in errors
    assert "intensities from 0 to 1, those of the network from -3 to 2" in errors
    records = read_run(root / "foreign").records()
    assert [record.strength is None for record in records] == [False, True, False]
    # It looks for a target of its own then.
    assert records[1].target == pytest.approx(-2.5)
    assert records[1].status == "dead"
    values = [row.reference for row in read_run(root / "foreign").reference()]
    np.testing.assert_allclose(values, [1.0, -5.0, 3.0], atol=1e-3)
    told = json.loads((root / "foreign" / "run.json").read_text())["configuration"]["reference"]
    assert told["lesions"] is None


def test_what_cannot_be_used_is_refused(outcomes, refused, root):
    refused(outcomes["missing"], ["--reference", str(root / "nobody")])
    told = [f"--reference={root / 'beside'}: its voxels lie up to 1.5 mm beside"]
    refused(outcomes["beside"], [*told, "resample the cohort"])
    refused(outcomes["idle"], ["--reference_images concerns the scans of --reference"])
    refused(outcomes["task"], ["--reference_task=", "was trained on 'square_lesion'"])


def slices(place: Path, images) -> sources.Slices:
    """A source of one slice of each person."""
    volumes = []
    for number, image in enumerate(images):
        path = place / f"{number}.npy"
        np.save(path, np.moveaxis(image, -1, 0).astype(np.float16))
        shape = (1, *image.shape[:-1])
        volumes.append(CachedVolume(f"sub-{number}", path, shape, np.ones(1), str(number)))
    return sources.Slices(volumes, images[0].shape[:-1])


def test_an_image_without_room_for_lesions_is_taken_as_it_is(rng, tmp_path):
    task = LesionTask(Lesions(square, voxel_size_mm=1.0, size_mm=(4.0, 6.0), min_contrast=0.1))
    brain = np.pad(rng.uniform(0.3, 0.7, (24, 26, 1)), ((3, 3), (3, 3), (0, 0)))
    source = slices(tmp_path, [np.zeros((30, 32, 1)), brain])
    inputs = Inputs(source, (0, 1), task, None, 100.0, 0)
    found = list(inputs.images())
    assert len(found) == inputs.total == 4
    for number, place in enumerate((0, 0, 1)):
        np.testing.assert_array_equal(found[number], source[place])
    assert (found[3] != source[1]).any()
    # Another run's seed draws others.
    others = list(inputs._replace(seed=1).images())
    assert (others[3] != found[3]).any()


@pytest.mark.parametrize(
    ("mean", "deviation", "told"),
    [
        *[(0.5, 0.29, False), (0.4, 0.3, False), (0.0, 1.0, False)],  # The last is nobody's.
        *[(0.2, 0.29, True), (0.5, 0.1, True), (0.5, 0.7, True)],
    ],
)
def test_a_brightness_that_the_network_has_not_seen_is_told(
    rng, tmp_path, capsys, mean, deviation, told
):
    source = slices(tmp_path, rng.random((8, 30, 32, 1)))
    statistics = {"mean": jnp.float32(mean), "std": jnp.float32(deviation)}
    network = Network(None, None, {"params": {}, "statistics": statistics}, (30, 32, 1), ())
    inputs = Inputs(source, tuple(range(8)), None, None, 100.0, 0)
    reference_scans._warn(
        inputs, Model(network, {"name": "m"}, None, (0.0, 1.0)), ReferenceOptions(reference="DIR")
    )
    errors = capsys.readouterr().err
    assert ("may answer to the brightness alone" in errors) == told
    assert not told or "with a standard deviation of 0.29, those" in errors
    assert "scans of 8 people; the strongest image of fewer than 20 people" in errors

"""Places that grow, by options: coordinates, regions of a label image, and what is refused."""

import nibabel
import numpy as np
import pytest

from featvis_jax.data.anatomy import described_anatomy
from featvis_jax.data.grids import Grid
from featvis_jax.data.synthetic import write_synthetic_cohort
from featvis_jax.runs.planting import PlantingOptions, planted
from featvis_jax.runs.reference_scans import ReferenceOptions, read
from featvis_jax.runs.train import train
from featvis_jax.runs.training_results import summary


@pytest.fixture
def labels(tmp_path):
    values = np.zeros((10, 12, 14), np.int16)
    values[2:5, 4:7, 6:9] = 17
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-10, -20, -4)
    path = tmp_path / "labels.nii.gz"
    nibabel.Nifti1Image(values, affine).to_filename(path)
    (tmp_path / "labels.tsv").write_text("index\tname\n17\tLeft-Hippocampus\n")
    return path


def test_places_are_coordinates_or_regions(labels):
    options = PlantingOptions(
        grows=f"0,18.5,-8; {labels}:17", shrinks=f"{labels}:Left-Hippocampus", decoys=(1, 1)
    )
    found = planted("anatomy", options, seed=3)
    assert found.grows == ((0.0, 18.5, -8.0), (-4.0, -10.0, 10.0))
    assert found.shrinks == ((-4.0, -10.0, 10.0),)
    assert (found.decoys, found.radius_mm, found.seed) == ((1, 1), 26.0, 3)


def test_other_tasks_have_none():
    assert planted("square_lesion", PlantingOptions(), seed=0) is None
    with pytest.raises(
        ValueError, match=r"`radius_mm=9\.0` concerns the task anatomy, and the task"
    ):
        planted("square_lesion", PlantingOptions(radius_mm=9.0), seed=0)


def test_a_pattern_has_no_place():
    assert planted("anatomy", PlantingOptions(cue="pattern"), seed=5).places == ()
    with pytest.raises(ValueError, match="`task=anatomy`: cue is 'pattern' with 1 places"):
        planted("anatomy", PlantingOptions(cue="pattern", grows="0,0,0"), seed=0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "`task=anatomy` needs a place: give `grows=x,y,z` or `shrinks=x,y,z`"),
        ({"grows": "1,2"}, "`grows=1,2`: expected x,y,z in mm, or LABELS"),
        ({"shrinks": "1,2,a"}, "`shrinks=1,2,a`: expected x,y,z in mm"),
        ({"grows": "{labels}:3"}, "has no region 3: give one of its numbers, or a name"),
        ({"grows": "{labels}:Amygdala"}, "has no region Amygdala"),
        ({"grows": "0,0,0", "radius_mm": -1.0}, "`task=anatomy`: radius_mm is -1"),
    ],
)
def test_what_is_no_place_is_refused_by_name(labels, options, told):
    given = {
        name: value.format(labels=labels) if isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(ValueError, match=told):
        planted("anatomy", PlantingOptions(**given), seed=0)


def test_a_label_image_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`grows="):
        planted("anatomy", PlantingOptions(grows=f"{tmp_path}/none.nii.gz:4"), seed=0)


@pytest.mark.optax
def test_a_training_on_planted_anatomy_ends_with_what_blind_classifiers_make_of_it(tmp_path):
    """Slices at the height of the place, a card that makes the task again, and baselines."""
    cohort = write_synthetic_cohort(tmp_path / "heads", num_subjects=6, voxel_size_mm=4)
    model = train(
        "anatomy",
        cohort=cohort,
        cache=tmp_path / "cache",
        out=tmp_path / "out",
        grows="0,18,8",
        steps=2,
        evaluate_every=2,
        batch=4,
        augment=False,
    )
    low, high = model.card["data"]["slices_mm"]
    assert (low, high) == (pytest.approx(0.2), pytest.approx(15.8))
    assert low <= model.affine[2, 3] <= high
    task = described_anatomy(model.card["data"], Grid(model.image_shape[:-1], model.affine))
    assert task.planted.grows == ((0.0, 18.0, 8.0),)
    report = model.card["report"]
    assert set(report["shape_blind_baselines"]) == {"threshold", "histogram"}
    assert set(report["volume_blind_baselines"]) == {"brightness_by_place"}
    assert "volume-blind baseline, brightness by place: " in summary(report, ("elsewhere", "here"))
    # Reference scans are read at these heights, too.
    options = ReferenceOptions(reference=str(cohort), cache=str(tmp_path / "cache"))
    _, inputs = read(model, options, seed=0)
    heights = {inputs.source.height_mm(position) for position in inputs.positions}
    assert heights
    assert all(low <= height <= high for height in heights)

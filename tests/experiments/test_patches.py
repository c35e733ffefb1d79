"""A network of patches, on scans that are resampled: trained, and what reads scans for it."""

import json
from pathlib import Path

import numpy as np
import pytest

from featvis_jax import models
from featvis_jax.data.patches import Patches
from featvis_jax.data.synthetic import write_synthetic_cohort
from featvis_jax.runs import cohort_images, cohorts, graders, reference_scans, train, trust
from featvis_jax.runs.channels import input_channels
from featvis_jax.runs.deformations import with_starts
from featvis_jax.runs.reference_scans import ReferenceOptions
from featvis_jax.runs.training_job import job
from featvis_jax.runs.training_options import TrainOptions

PATCH = (36, 34)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_cohort(
        tmp_path_factory.mktemp("cohorts") / "heads", num_subjects=12, voxel_size_mm=3
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def options(folder, cache) -> dict[str, object]:
    return {
        **{"cohort": str(folder), "cache": str(cache), "patch": PATCH, "voxel_size_mm": 4.0},
        **{"lesion_size_mm": (16, 28), "distractors": (0, 1), "steps": 1, "batch": 4},
        **{"validation_images": 4},
    }


@pytest.fixture(scope="module")
def model(options, tmp_path_factory) -> models.Model:
    return train.train(
        "square_or_disc", out=tmp_path_factory.mktemp("trained") / "patches", **options
    )


@pytest.mark.optax
def test_the_card_tells_of_patches_and_of_coarser_voxels(model):
    told = json.loads(json.dumps(model.card["data"]))
    assert told["patch"] == list(PATCH)
    assert told["resampled_mm"] == model.resampled_mm == 4.0
    assert told["distractors"] == [0, 1]
    assert model.image_shape == (*PATCH, 1)
    assert model.grid.anywhere
    assert model.card["report"]["images"] == 2 * told["images"]["test"]


@pytest.mark.optax
def test_scans_are_read_for_it_as_they_were_for_its_training(model, folder, cache):
    asked = ReferenceOptions(reference=str(folder), reference_images=20, cache=str(cache))
    _, inputs = reference_scans.read(model, asked, seed=0)
    assert inputs is not None
    told = inputs.configuration()
    assert (told["of"], told["images"], told["lesions"]) == ("patches", 20, "with")
    images = list(inputs.images())
    assert {image.shape for image in images} == {model.image_shape}
    owners = {inputs.source.owner(position) for position in inputs.positions}
    assert len(owners) == 10
    source = cohort_images.source_of(
        *("real_examples", str(folder), model.grid),
        channels=input_channels(model),
        scaling=model.scaling,
        voxel_size_mm=model.resampled_mm,
        cache=str(cache),
    )
    assert isinstance(source, Patches)
    np.testing.assert_array_equal(source[3], inputs.source[3])
    # On other voxels they would be refused.
    with pytest.raises(ValueError, match=r"voxels are 3 x 3 x 3 mm, expected 4 .*resample"):
        cohort_images.source_of(
            *("real_examples", str(folder), model.grid),
            channels=input_channels(model),
            scaling=model.scaling,
            cache=str(cache),
        )


@pytest.mark.optax
def test_pictures_are_graded_on_patches_of_people_who_were_held_out(model, options, folder):
    plain = TrainOptions(task="square_or_disc", cohort=str(folder), cache=str(options["cache"]))
    cohort = cohorts.cohort_of(plain, voxel_size_mm=model.resampled_mm)
    held_out = graders.hold_out(cohort, [model], plain)
    whose = {held_out.all.owner(position) for position in range(len(held_out.all))}
    assert whose == set(model.card["report"]["subjects"])
    assert held_out.training[0].shape == model.image_shape
    assert {*map(held_out.training.owner, range(len(held_out.training)))}.isdisjoint(
        map(held_out.testing.owner, range(len(held_out.testing)))
    )


@pytest.mark.optax
def test_what_needs_a_place_in_the_world_is_refused(model, tmp_path, folder, cache):
    asked = ReferenceOptions(reference=str(folder), reference_images=4, cache=str(cache))
    _, inputs = reference_scans.read(model, asked, seed=0)
    with pytest.raises(ValueError, match="`start_image=mean`: the network takes patches"):
        with_starts(model, inputs, "mean", variants=1)
    with pytest.raises(ValueError, match=r"`regions=.*anywhere in the brain; expected volumes"):
        trust._regions(trust.TrustOptions(run="run", regions="r.nii.gz"), model)


def test_training_patches_are_random_and_not_shifted(options, tmp_path):
    begun = job(TrainOptions(task="square_or_disc", out=str(tmp_path), **options))
    assert begun.augmentation is not None
    assert begun.augmentation.max_shift_mm == 0
    assert begun.settings()["patch"] == list(PATCH)
    source = begun.prepared.train
    fixed = {source[position].tobytes() for position in range(len(source))}
    batch = next(begun.training(0))
    assert batch["image"].shape == (4, *PATCH, 1)
    assert not fixed & {image.tobytes() for image in batch["image"]}


def test_three_classes_come_in_equal_parts_of_a_batch(options, tmp_path):
    asked = {"task": "square_disc_or_neither", "out": str(tmp_path), **options, "batch": None}
    begun = job(TrainOptions(**asked))
    assert begun.module.num_classes == 3
    labels = next(begun.training(0))["label"]
    np.testing.assert_array_equal(np.bincount(labels), [11, 11, 11])
    with pytest.raises(ValueError, match=r"`batch=8`: .* makes 3 images .* a multiple of 3"):
        job(TrainOptions(**{**asked, "batch": 8}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch": (99, 34)}, r"patch is \(99, 34\), and the scans have .* a smaller one"),
        (
            {"patch": (12, 12), "lesion_size_mm": (6, 8)},
            r"`patch=12,12` is too small for the network",
        ),
        ({"crop": (36, 34)}, r"give one of the two"),
        ({"task": "sex", "dims": 3, "distractors": (0, 0)}, r"ask for no patches"),
        ({"voxel_size_mm": 2.0}, r"`cohort=.*voxels of \[3.0, 3.0, 3.0\] mm.* to 2 mm"),
    ],
)
def test_what_does_not_go_together_is_refused(options, tmp_path, changes, told):
    given = {"task": "square_or_disc", **options, **changes}
    with pytest.raises(ValueError, match=told):
        job(TrainOptions(out=str(tmp_path), **given))


def test_the_head_of_means_is_part_of_what_a_training_is(options, tmp_path):
    asked = {"task": "square_or_disc", "out": str(tmp_path), **options}
    paper, means = (job(TrainOptions(**asked, **head)) for head in ({}, {"head": "mean"}))
    assert (paper.module.head, means.module.head) == ("flatten", "mean")
    assert {*means.settings()} - {*paper.settings()} == {"head"}
    weights = means.first_variables()["params"]["logits"]["kernel"]
    assert weights.shape == (means.module.features[-1], 2)

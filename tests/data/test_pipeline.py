"""Batches: which images, in which order, with which draws, and the same again after a resume."""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import nibabel
import numpy as np
import pytest

from featvis_jax.data import pipeline, preparation, sources, tasks
from featvis_jax.data.augmentation import Augmentation
from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.lesions import Lesions
from featvis_jax.data.shapes import square

NUM_SUBJECTS = 3
# Four of the eight slices have at least 0.4 of the fullest slice's brain.
BRAIN_FRACTION = np.array([0.0, 0.1, 0.3, 0.5, 0.5, 0.3, 0.1, 0.0])
USABLE = [2, 3, 4, 5]
AUGMENTATION = Augmentation(max_shift_mm=2.0)
LESION_TASK = tasks.LesionTask(Lesions(square, count=(1, 2), size_mm=(3.0, 5.0), min_contrast=0.1))


@pytest.fixture
def volumes(tmp_path: Path, rng: np.random.Generator) -> list[CachedVolume]:
    """Cached volumes of 8 slices of 24 x 20 voxels, different everywhere, dark around a box."""
    found = []
    for number in range(NUM_SUBJECTS):
        data = np.zeros((8, 24, 20), np.float16)
        data[:, 2:-2, 2:-2] = rng.uniform(0.2, 1.0, (8, 20, 16))
        path = tmp_path / f"sub-{number}.npy"
        np.save(path, data)
        found.append(CachedVolume(f"sub-{number}", path, data.shape, BRAIN_FRACTION, ""))
    return found


@pytest.fixture
def slices(volumes: list[CachedVolume]) -> sources.Slices:
    return sources.Slices(volumes, (24, 20))


class PositionTask:
    """Makes of an image its position, the difficulty and a random number."""

    images_per_element = 1

    def __init__(self, source: sources.Source):
        self.owners = [source.owner(position) for position in range(len(source))]
        self.positions = {source[i].tobytes(): i for i in range(len(source))}
        assert len(self.positions) == len(source), "images have to differ to be told apart"

    def examples(
        self,
        image: np.ndarray,
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> pipeline.Examples:
        position = self.positions[image.tobytes()]
        assert owner == self.owners[position]
        numbers = np.array([difficulty, rng.random()], np.float32).reshape(1, 2, 1, 1)
        return {"image": numbers, "label": np.array([position], np.int32)}


class PositionTwiceTask(PositionTask):
    """The same, two to an image."""

    images_per_element = 2

    def examples(
        self,
        image: np.ndarray,
        owner: str,
        rng: np.random.Generator,
        difficulty: float,
    ) -> pipeline.Examples:
        one = super().examples(image, owner, rng, difficulty)
        return {"image": np.repeat(one["image"], 2, 0), "label": np.repeat(one["label"], 2, 0)}


def assert_same(found: list[pipeline.Examples], expected: list[pipeline.Examples]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])


def labels(batches: Iterator[pipeline.Examples]) -> list[int]:
    return np.concatenate([batch["label"] for batch in batches]).tolist()


# Sources


def test_slices_are_the_usable_ones_of_every_subject(slices, volumes):
    assert slices.index == tuple((n, z) for n in range(NUM_SUBJECTS) for z in USABLE)
    assert len(slices) == NUM_SUBJECTS * len(USABLE)
    for position, (number, z) in enumerate(slices.index):
        stored = np.load(volumes[number].path)[z].astype(np.float32)
        np.testing.assert_array_equal(slices[position], stored[..., None])
        assert slices[position].dtype == np.float32
        assert slices.owner(position) == f"sub-{number}"


def test_slices_are_cropped_about_their_centre(volumes):
    stored = np.load(volumes[1].path)[3]
    cropped = sources.Slices(volumes, (20, 10))[len(USABLE) + 1]
    np.testing.assert_array_equal(cropped[..., 0], stored[2:22, 5:15])


@pytest.mark.parametrize("depth", [(), (8,)])
def test_what_a_scan_does_not_reach_has_its_intensity_of_air(volumes, depth):
    cold = [dataclasses.replace(volume, outside=-1.5) for volume in volumes]
    image = sources.source(cold, (28, 20, *depth))[0]
    assert (image[[0, 1, -2, -1]] == -1.5).all()
    assert image[2:-2].min() == 0


def test_volumes_have_their_axes_in_the_order_x_y_z(volumes):
    source = sources.Volumes(volumes, (24, 20, 8))
    assert len(source) == NUM_SUBJECTS
    for position in range(NUM_SUBJECTS):
        stored = np.load(volumes[position].path)
        image = source[position]
        assert image.shape == (24, 20, 8, 1)
        assert image.dtype == np.float32
        assert image[5, 9, 3, 0] == stored[3, 5, 9]
        np.testing.assert_array_equal(image[..., 0], stored.transpose(1, 2, 0))
        assert source.owner(position) == f"sub-{position}"
    cropped = sources.Volumes(volumes, (20, 18, 4))[0]
    np.testing.assert_array_equal(cropped, source[0][2:22, 1:19, 2:6])


# Training batches


def test_an_epoch_holds_every_image_once_and_the_next_one_has_another_order(slices):
    batches = pipeline.training_batches(slices, PositionTask(slices), batch_size=4, seed=3)
    order = np.reshape(labels(islice(batches, 9)), (3, 12))
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(epoch) for epoch in order.tolist()}) == 3


def test_batches_may_reach_over_the_end_of_an_epoch(slices):
    batches = pipeline.training_batches(slices, PositionTask(slices), batch_size=5, seed=3)
    found = list(islice(batches, 12))
    assert {len(batch["label"]) for batch in found} == {5}
    np.testing.assert_array_equal(np.bincount(labels(iter(found))), 5)


@pytest.mark.parametrize("augmentation", [None, AUGMENTATION], ids=["plain", "augmented"])
def test_the_same_seed_gives_the_same_batches_and_another_seed_others(slices, augmentation):
    def batches(seed: int) -> list[pipeline.Examples]:
        found = pipeline.training_batches(
            slices, LESION_TASK, batch_size=4, seed=seed, augmentation=augmentation
        )
        return list(islice(found, 10))

    first = batches(0)
    assert_same(batches(0), first)
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, batches(1), strict=True))


@pytest.mark.parametrize("first_step", [1, 2, 3, 7, 13])
def test_batches_from_a_step_on_are_those_of_an_uninterrupted_run(slices, first_step):
    def batches(first_step: int, count: int) -> list[pipeline.Examples]:
        found = pipeline.training_batches(
            slices,
            LESION_TASK,
            batch_size=10,
            seed=4,
            first_step=first_step,
            difficulty=lambda step: step / 20,
            augmentation=AUGMENTATION,
        )
        return list(islice(found, count))

    assert_same(batches(first_step, 4), batches(0, first_step + 4)[first_step:])


@pytest.mark.parametrize("kind", [PositionTask, PositionTwiceTask])
def test_the_difficulty_is_that_of_the_step(slices, kind):
    batches = pipeline.training_batches(
        slices,
        kind(slices),
        batch_size=3 * kind.images_per_element,
        seed=0,
        first_step=5,
        difficulty=lambda step: step / 64,
    )
    for step, batch in enumerate(islice(batches, 6), start=5):
        np.testing.assert_array_equal(batch["image"][:, 0], step / 64)


def test_every_example_has_draws_of_its_own(slices):
    batches = pipeline.training_batches(slices, PositionTask(slices), batch_size=4, seed=0)
    draws = np.concatenate([batch["image"][:, 1] for batch in islice(batches, 12)])
    assert len(np.unique(draws)) == 48


@pytest.mark.parametrize("volumetric", [False, True], ids=["slices", "volumes"])
def test_a_pair_differs_by_the_lesion_alone(volumes, slices, volumetric):
    source = sources.Volumes(volumes, (24, 20, 8)) if volumetric else slices
    originals = [source[position] for position in range(len(source))]
    batches = pipeline.training_batches(source, LESION_TASK, batch_size=4, seed=0)
    for batch in islice(batches, 4):
        np.testing.assert_array_equal(batch["label"], [0, 1, 0, 1])
        assert batch["image"].dtype == np.float32
        for clean, damaged in batch["image"].reshape(2, 2, *originals[0].shape):
            owners = [np.array_equal(clean, original) for original in originals]
            assert sum(owners) == 1
            changed = clean != damaged
            assert 0 < changed.mean() < 0.5
            inside = np.zeros(clean.shape, bool)
            inside[2:-2, 2:-2] = True
            assert not changed[~inside].any()


def test_pairs_of_one_image_get_new_lesions_in_every_epoch(slices):
    batches = pipeline.training_batches(slices, LESION_TASK, batch_size=2, seed=0)
    seen: dict[bytes, set[bytes]] = {}
    for batch in islice(batches, 36):
        clean, damaged = batch["image"]
        seen.setdefault(clean.tobytes(), set()).add(damaged.tobytes())
    assert [len(damaged) for damaged in seen.values()] == [3] * 12


def test_lesions_are_drawn_after_the_augmentation(slices):
    augmented = pipeline.training_batches(
        slices, LESION_TASK, batch_size=2, seed=0, augmentation=AUGMENTATION
    )
    plain = pipeline.training_batches(slices, LESION_TASK, batch_size=2, seed=0)
    moved = 0
    for with_changes, without in zip(islice(augmented, 12), islice(plain, 12), strict=True):
        clean, damaged = with_changes["image"]
        moved += (clean != without["image"][0]).any()
        inside = clean > 0
        assert (clean != damaged).any()
        np.testing.assert_array_equal(clean[~inside], damaged[~inside])
        # Lesions have a grey level of the image as the network sees it, not of the one on disk.
        levels = np.unique(damaged[clean != damaged])
        assert abs(levels[:, None] - np.unique(clean)).min(axis=1).max() < 1e-6
    assert moved == 12


def test_noise_lies_over_the_finished_examples(slices):
    seen = pipeline.training_batches(slices, LESION_TASK, batch_size=2, seed=0, noise=0.2)
    plain = pipeline.training_batches(slices, LESION_TASK, batch_size=2, seed=0)
    deviations = []
    for noisy, clean in zip(islice(seen, 40), islice(plain, 40), strict=True):
        np.testing.assert_array_equal(noisy["label"], clean["label"])
        difference = noisy["image"].astype(np.float64) - clean["image"]
        assert noisy["image"].dtype == np.float32
        # The background outside of the brain, where no lesion lies, is seen through noise too.
        deviations += [float(each[:2].std()) for each in difference]
    # Drawn evenly between 0 and 0.2: 80 of them, each known from 40 voxels.
    assert min(deviations) < 0.03
    assert max(deviations) > 0.17
    assert np.mean(deviations) == pytest.approx(0.1, abs=0.02)


def test_evaluations_see_the_same_images_through_noise_each_time(slices):
    def images(noise):
        found = pipeline.evaluation_batches(
            slices, LESION_TASK, batch_size=2, seed=0, max_images=8, noise=noise
        )
        return np.concatenate([batch["image"] for batch in found])

    clean, noisy = images(0.0), images(0.2)
    np.testing.assert_array_equal(noisy, images(0.2))
    deviations = (noisy - clean)[:, :2].std(axis=(1, 2, 3))
    assert len(set(deviations)) == len(clean)
    assert 0 < deviations.min() < deviations.max() < 0.25


@pytest.mark.parametrize("noise", [-0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("batches", [pipeline.training_batches, pipeline.evaluation_batches])
def test_noise_that_is_no_deviation_is_refused_at_once(slices, batches, noise):
    with pytest.raises(ValueError, match=r"noise is .*expected a number from 0"):
        batches(slices, LESION_TASK, batch_size=2, seed=0, noise=noise)


def test_an_image_that_loses_its_room_by_the_augmentation_is_taken_as_it_is(slices):
    """Shifted out of sight, no brain is left for a lesion."""
    far = Augmentation(max_shift_mm=1000.0, mirror=False)
    batches = pipeline.training_batches(slices, LESION_TASK, batch_size=4, seed=0, augmentation=far)
    originals = [source.tobytes() for source in slices]
    for batch in islice(batches, 6):
        for clean, damaged in batch["image"].reshape(2, 2, 24, 20, 1):
            assert clean.tobytes() in originals
            assert (damaged != clean).any()


def test_examples_of_an_evaluation_lie_on_the_unit_interval(slices):
    for batch in pipeline.evaluation_batches(slices, LESION_TASK, batch_size=4, seed=0):
        assert batch["image"].min() >= -1e-6
        assert batch["image"].max() <= 1 + 1e-6


# Evaluation batches


@pytest.mark.parametrize("kind", [PositionTask, PositionTwiceTask])
@pytest.mark.parametrize("elements", [1, 4, 5, 12, 100])
def test_evaluation_covers_each_image_once_in_order(slices, kind, elements):
    per_element = kind.images_per_element
    batches = list(
        pipeline.evaluation_batches(slices, kind(slices), batch_size=elements * per_element, seed=0)
    )
    assert labels(iter(batches)) == np.repeat(np.arange(12), per_element).tolist()
    sizes = [len(batch["label"]) // per_element for batch in batches]
    assert sizes == [elements] * (12 // elements) + [12 % elements] * (12 % elements > 0)


def test_evaluation_is_of_the_final_difficulty(slices):
    for batch in pipeline.evaluation_batches(slices, PositionTask(slices), batch_size=5, seed=0):
        np.testing.assert_array_equal(batch["image"][:, 0], 1.0)


def test_lesions_of_an_evaluation_depend_on_the_seed_and_the_position_alone(slices):
    def images(**options) -> np.ndarray:
        options = {"batch_size": 4, "seed": 0, **options}
        batches = pipeline.evaluation_batches(slices, LESION_TASK, **options)
        return np.concatenate([batch["image"] for batch in batches]).reshape(-1, 2, 24, 20, 1)

    expected = images()
    np.testing.assert_array_equal(images(batch_size=10), expected)
    assert (images(seed=1) != expected).any()
    np.testing.assert_array_equal(images(max_images=6), expected[[0, 5, 11]])


def test_an_evaluation_draws_other_lesions_than_training_does(slices):
    trained = {
        batch["image"][1].tobytes()
        for batch in islice(
            pipeline.training_batches(slices, LESION_TASK, batch_size=2, seed=0), 12
        )
    }
    for batch in pipeline.evaluation_batches(slices, LESION_TASK, batch_size=2, seed=0):
        assert batch["image"][1].tobytes() not in trained


@pytest.mark.parametrize("kind", [PositionTask, PositionTwiceTask])
def test_a_smaller_evaluation_is_spread_evenly(slices, kind):
    per_element, task = kind.images_per_element, kind(slices)
    for max_images in range(per_element, 40):
        batches = pipeline.evaluation_batches(
            slices, task, batch_size=per_element, seed=0, max_images=max_images
        )
        found = labels(batches)[::per_element]
        assert len(found) == min(max_images // per_element, 12)
        assert found == sorted(set(found))
        if len(found) > 1:
            assert (found[0], found[-1]) == (0, 11)
            assert np.ptp(np.diff(found)) <= 1


# Held-out subjects


def write_cohort(directory: Path, rng: np.random.Generator, num_subjects: int) -> None:
    directory.mkdir()
    rows = ["participant_id\tsex"]
    for number in range(num_subjects):
        name = f"sub-{number:02d}"
        data = np.zeros((16, 18, 8), np.uint8)
        data[2:-2, 2:-2, 1:-1] = rng.integers(50, 255, (12, 14, 6))
        path = directory / name / "anat" / f"{name}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.Nifti1Image(data, np.eye(4)).to_filename(path)
        rows.append(f"{name}\t{'FM'[number % 2]}")
    (directory / "participants.tsv").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("name", "rank"), [("square_lesion", 2), ("gaussian_lesion", 3), ("sex", 3)]
)
def test_held_out_subjects_never_appear_in_training(name, rank, tmp_path, rng, monkeypatch):
    write_cohort(tmp_path / "cohort", rng, 10)
    prepared = preparation.prepare(
        tasks.TaskSpec(name, lesion_options={"size_mm": (2.0, 4.0), "min_contrast": 0.1}),
        read_cohort(tmp_path / "cohort"),
        rank=rank,
        cache=tmp_path / "cache",
        seed=5,
    )
    split = prepared.split
    parts = [set(split.train), set(split.validation), set(split.test)]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert len(set.union(*parts)) == 10

    read_from_disk: list[str] = []
    open_volume: Callable[[CachedVolume], np.ndarray] = CachedVolume.open

    def recorded(volume: CachedVolume) -> np.ndarray:
        read_from_disk.append(volume.participant_id)
        return open_volume(volume)

    monkeypatch.setattr(CachedVolume, "open", recorded)
    sources.intensity_statistics(prepared.train)
    task, owners, trained_on = prepared.task, [], set()

    class Recorded:
        images_per_element = task.images_per_element

        def examples(
            self,
            image: np.ndarray,
            owner: str,
            rng: np.random.Generator,
            difficulty: float,
        ) -> pipeline.Examples:
            owners.append(owner)
            trained_on.add(image.tobytes())
            return task.examples(image, owner, rng, difficulty)

    batches = pipeline.training_batches(
        prepared.train, Recorded(), batch_size=task.images_per_element, seed=5
    )
    assert len(list(islice(batches, 2 * len(prepared.train)))) == 2 * len(prepared.train)
    assert set(owners) == set(split.train)
    assert set(read_from_disk) == set(split.train)

    # By content too: every voxel of every subject is another.
    monkeypatch.undo()
    for source, expected in (
        (prepared.train, True),
        (prepared.validation, False),
        (prepared.test, False),
    ):
        for position in range(len(source)):
            assert (source[position].tobytes() in trained_on) == expected
    assert {prepared.test.owner(i) for i in range(len(prepared.test))} == set(split.test)
    assert {prepared.validation.owner(i) for i in range(len(prepared.validation))} == set(
        split.validation
    )


# Statistics


def test_statistics_are_those_of_all_voxels(slices, volumes):
    voxels = np.stack([np.load(volume.path)[USABLE] for volume in volumes]).astype(np.float64)
    mean, std = sources.intensity_statistics(slices)
    assert mean == pytest.approx(voxels.mean(), rel=1e-12)
    assert std == pytest.approx(voxels.std(), rel=1e-10)


def test_statistics_of_a_part_come_from_images_spread_evenly(slices):
    voxels = np.stack([slices[position] for position in (0, 5, 11)]).astype(np.float64)
    mean, std = sources.intensity_statistics(slices, max_images=3)
    assert mean == pytest.approx(voxels.mean(), rel=1e-12)
    assert std == pytest.approx(voxels.std(), rel=1e-10)


# What does not fit


@pytest.mark.parametrize("batches", [pipeline.training_batches, pipeline.evaluation_batches])
@pytest.mark.parametrize("batch_size", [-2, 0, 1, 3])
def test_a_batch_size_that_does_not_fit_is_refused_at_once(slices, batches, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size is {batch_size};.*multiple of"):
        batches(slices, LESION_TASK, batch_size=batch_size, seed=0)


@pytest.mark.parametrize("batches", [pipeline.training_batches, pipeline.evaluation_batches])
def test_an_empty_part_is_refused_at_once(batches):
    with pytest.raises(ValueError, match="no image to read"):
        batches(sources.Slices([], (24, 20)), LESION_TASK, batch_size=2, seed=0)


@pytest.mark.parametrize("max_images", [-5, 0, 1])
def test_fewer_images_than_one_element_are_refused_at_once(slices, max_images):
    with pytest.raises(ValueError, match=rf"max_images is {max_images};.*makes 2 images"):
        pipeline.evaluation_batches(
            slices, LESION_TASK, batch_size=2, seed=0, max_images=max_images
        )


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 8)])
def test_contrasts_are_channels_of_the_same_places(volumes, shape):
    # The second contrast has other subjects' voxels, and other slices that are usable by itself.
    turned = [*volumes[1:], volumes[0]]
    others = [
        dataclasses.replace(other, participant_id=own.participant_id, brain_fraction=np.ones(8))
        for own, other in zip(volumes, turned, strict=True)
    ]
    first, second = (sources.source(some, shape) for some in (volumes, others))
    both = sources.Contrasts([first, second])
    assert (len(both), both.shape) == (len(first), shape)
    assert len(both.volumes) == 2 * NUM_SUBJECTS
    for position in range(len(both)):
        image = both[position]
        assert image.shape == (*shape, 2)
        assert both.owner(position) == first.owner(position)
        np.testing.assert_array_equal(image[..., :1], first[position])
        number, place = (position, slice(None)) if len(shape) == 3 else first.index[position]
        expected = np.moveaxis(others[number].open(), 0, -1)[..., place]
        np.testing.assert_array_equal(image[..., 1], expected)

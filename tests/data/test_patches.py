"""Patches: what they show, where they lie, and that a lesion in them is whole."""

import dataclasses
import functools
import json
import tracemalloc
from itertools import islice
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine

from featvis_jax.data import pipeline, preparation, sources, tasks
from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.cohorts import Cohort, read_cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.grids import Grid, GridError, coincide, described
from featvis_jax.data.lesions import Lesions, NoRoomError
from featvis_jax.data.patches import Patches
from featvis_jax.data.shapes import disc, square

# Along x, y and z, of which the brain is an ellipsoid.
SCAN = (40, 48, 36)
PATCHES = {2: (12, 10), 3: (12, 10, 8)}
both_ranks = pytest.mark.parametrize("rank", [2, 3])


@functools.cache
def brain() -> np.ndarray:
    """Whether a voxel is brain, on the scan's grid."""
    middle = np.reshape(np.array(SCAN) / 2 - 0.5, (3, 1, 1, 1))
    radii = 0.45 * np.reshape(SCAN, (3, 1, 1, 1))
    return (((np.indices(SCAN) - middle) / radii) ** 2).sum(axis=0) < 1


@functools.cache
def scans() -> list[np.ndarray]:
    """Three scans of voxels that all differ, dark around the brain."""
    found = []
    for number in range(3):
        levels = np.random.default_rng(number).permutation(brain().sum())
        data = np.zeros(SCAN, np.float32)
        data[brain()] = 0.2 + 0.8 * levels / levels.max()
        found.append(data)
    return found


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[CachedVolume]:
    place, found = tmp_path_factory.mktemp("scans"), []
    for number, data in enumerate(scans()):
        path = place / f"sub-{number}.npy"
        np.save(path, data.transpose(2, 0, 1))
        fraction = brain().mean(axis=(0, 1))
        found.append(CachedVolume(f"sub-{number}", path, (36, 40, 48), fraction, f"{number}"))
    return found


def box(start, rank: int) -> tuple[slice, ...]:
    """The voxels of a patch on the scan's grid."""
    shape = (*PATCHES[rank], 1)[:3]
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


def place_of(patch: np.ndarray, scan: np.ndarray) -> tuple[int, ...]:
    """First voxel of a patch in the scan that it was cut from: by its brightest voxel."""
    (there,) = np.argwhere(scan == patch.max())
    here = np.unravel_index(patch[..., 0].argmax(), patch.shape[:-1])
    return tuple(int(a - b) for a, b in zip(there, (*here, 0)[:3], strict=True))


# Where they lie


@both_ranks
def test_a_patch_is_a_box_of_a_scan_with_enough_brain(volumes, rank):
    source, data = Patches(volumes, PATCHES[rank]), scans()
    windows = np.lib.stride_tricks.sliding_window_view(brain(), (*PATCHES[rank], 1)[:3])
    fullest = windows.mean(axis=(3, 4, 5)).max()
    for position, (number, start) in enumerate(source.index):
        patch, cut = source[position], data[number][box(start, rank)]
        assert patch.shape == (*PATCHES[rank], 1)
        assert patch.dtype == np.float32
        np.testing.assert_array_equal(patch, cut.reshape(patch.shape))
        assert brain()[box(start, rank)].mean() >= 0.5 * fullest
        assert source.owner(position) == f"sub-{number}"
        assert source.place(position) == f"sub-{number}, patch from voxel {start}"


@both_ranks
def test_fixed_patches_are_spread_over_every_brain(volumes, rank):
    source = Patches(volumes, PATCHES[rank])
    for number in range(len(volumes)):
        starts = [start for of, start in source.index if of == number]
        assert len(set(starts)) == len(starts) >= 8
        covered = np.zeros(SCAN, bool)
        for start in starts:
            covered[box(start, rank)] = True
        if rank == 3:
            assert covered[brain()].mean() > 0.8
        else:  # Slices from the bottom to the top, and none that is hardly in the brain.
            heights = {start[2] for start in starts}
            usable = np.flatnonzero(brain().mean(axis=(0, 1)) >= 0.4 * brain().mean((0, 1)).max())
            assert heights <= set(usable.tolist())
            assert max(heights) - min(heights) > 0.8 * np.ptp(usable)


@both_ranks
def test_random_patches_come_from_all_of_the_brain_and_from_the_generator_alone(volumes, rank):
    source, data = Patches(volumes, PATCHES[rank]), scans()
    position = len(source) - 1
    one, other = (
        [source.drawn(position, rng) for _ in range(60)]
        for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    np.testing.assert_array_equal(one, other)
    starts = np.array([place_of(patch, data[2]) for patch in one])
    for patch, start in zip(one, starts, strict=True):
        np.testing.assert_array_equal(patch[..., 0].ravel(), data[2][box(start, rank)].ravel())
    # From wherever a fixed one may lie, and not on a lattice.
    fixed = np.array([start for number, start in source.index if number == 2])
    assert (np.ptp(starts, axis=0) > 0.6 * np.ptp(fixed, axis=0)).all()
    assert len(np.unique(starts[:, 0])) > 8


def test_starts_that_a_lattice_leaves_out_are_drawn_too(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.uniform(0.2, 1.0, (60, 50, 70)).astype(np.float32)
    np.save(tmp_path / "a.npy", data)
    volume = CachedVolume("sub-0", tmp_path / "a.npy", data.shape, np.ones(60), "")
    source = Patches([volume], (40, 40, 40))  # Every fifth voxel, and 50 - 40 is two of them.
    scan = np.moveaxis(data, 0, -1)
    starts = np.array([place_of(source.drawn(0, rng), scan) for _ in range(200)])
    assert starts.min(axis=0).tolist() == [0, 0, 0]
    assert starts.max(axis=0).tolist() == [10, 30, 20]
    assert set(starts[:, 0].tolist()) == set(range(11))


def test_only_the_patch_is_read(tmp_path):
    data = np.random.default_rng(0).uniform(0.2, 1.0, (64, 64, 64)).astype(np.float16)
    np.save(tmp_path / "a.npy", data)
    source = Patches(
        [CachedVolume("sub-0", tmp_path / "a.npy", data.shape, np.ones(64), "")], (8, 8, 8)
    )
    tracemalloc.start()
    source.drawn(0, np.random.default_rng(0))
    source[3]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < data.nbytes / 10


def test_a_patch_larger_than_a_scan_is_refused(volumes):
    with pytest.raises(ValueError, match=r"41 x 10 x 8 voxels does not fit into .* sub-0, 40 x 48"):
        Patches(volumes, (41, 10, 8))


def test_the_patches_of_several_contrasts_are_those_of_the_first(volumes):
    first = Patches(volumes[:1], PATCHES[3])
    both = sources.Contrasts([first, Patches(volumes[1:2], PATCHES[3])])
    image = both[2]
    _, start = first.index[2]
    for channel, data in enumerate(scans()[:2]):
        np.testing.assert_array_equal(image[..., channel], data[box(start, 3)])
    assert sources.kind(both) == "patches"


# Batches


TASK = tasks.LesionTask(
    Lesions(square, count=(1, 1), size_mm=(3.0, 4.0), min_contrast=0.1, whole=True)
)


@both_ranks
def test_batches_of_random_patches_are_those_of_an_uninterrupted_run(volumes, rank):
    source = Patches(volumes, PATCHES[rank])

    def batches(first_step: int, count: int) -> list[pipeline.Examples]:
        found = pipeline.training_batches(source, TASK, batch_size=6, seed=4, first_step=first_step)
        return list(islice(found, count))

    whole = batches(0, 12)
    for one, other in zip(batches(7, 5), whole[7:], strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    # An image of the source comes back in another place.
    clean = np.concatenate([batch["image"][::2] for batch in whole])
    assert len(np.unique(clean, axis=0)) == len(clean)
    fixed = {source[position].tobytes() for position in range(len(source))}
    assert not any(patch.tobytes() in fixed for patch in clean)
    ends = pipeline.evaluation_batches(source, TASK, batch_size=6, seed=4)
    assert {patch.tobytes() for batch in ends for patch in batch["image"][::2]} == fixed


class Choosy:
    """A task that has room in the patches of one subject's upper half alone, and says so late."""

    images_per_element = 1

    def __init__(self, scan: np.ndarray):
        self.scan = scan

    def examples(self, image, owner, rng, difficulty) -> pipeline.Examples:
        del owner, rng, difficulty
        height = place_of(image, self.scan)[2]
        if height < 18:
            raise NoRoomError("too low")
        return {"image": image[None], "label": np.array([height], np.int32)}


def test_where_a_random_patch_has_no_room_another_one_is_drawn(volumes):
    source = Patches(volumes[:1], PATCHES[3])
    batches = pipeline.training_batches(source, Choosy(scans()[0]), batch_size=8, seed=0)
    heights = np.concatenate([batch["label"] for batch in islice(batches, 4)])
    assert heights.min() >= 18
    assert len(np.unique(heights)) > 2


# Lesions that no border cuts


@both_ranks
def test_no_border_of_an_image_cuts_a_whole_lesion(rank):
    image = np.random.default_rng(1).uniform(0.2, 1.0, (24,) * rank).astype(np.float32)[..., None]
    widths: dict[bool, set[int]] = {}
    for whole in (False, True):
        lesions = Lesions(square, count=(1, 1), size_mm=(7.0, 7.0), min_contrast=0.1, whole=whole)
        masks = [lesions.add(image, np.random.default_rng(seed))[1] for seed in range(40)]
        widths[whole] = {
            int(n) + 1 for mask in masks for n in np.ptp(np.argwhere(mask), axis=0)[:-1]
        }
    assert widths[True] == {7}
    assert min(widths[False]) < 7, "where nobody asks, a border cuts some"


def test_images_that_have_a_margin_get_the_same_lesions_whole_or_not():
    image = np.zeros((40, 40, 1), np.float32)
    image[12:-12, 12:-12] = np.random.default_rng(1).uniform(0.2, 1.0, (16, 16, 1))
    options = {"size_mm": (3.0, 5.0), "min_contrast": 0.1}
    for seed in range(5):
        one, other = (
            Lesions(disc, **options, whole=whole).add(image, np.random.default_rng(seed))[0]
            for whole in (False, True)
        )
        np.testing.assert_array_equal(one, other)


# Cohorts


AFFINE = np.array([[2.0, 0, 0, -40], [0, 2, 0, -60], [0, 0, 2, -30], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cohorts") / "brains"
    folder.mkdir()
    for number in range(5):
        path = folder / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        data = np.round(200 * scans()[number % 3]).astype(np.uint8)
        nibabel.Nifti1Image(data, AFFINE).to_filename(path)
    rows = "".join(f"sub-{number}\t{'FM'[number % 2]}\n" for number in range(5))
    (folder / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    return read_cohort(folder)


def prepare(cohort: Cohort, cache: Path, name: str = "square_lesion", **options):
    spec = tasks.TaskSpec(
        name, lesion_options={"size_mm": (6.0, 8.0), "min_contrast": 0.1}, distractor_count=(0, 2)
    )
    if name == "sex":
        spec = tasks.TaskSpec(name)
    return preparation.prepare(spec, cohort, cache=cache, **options)


@both_ranks
@pytest.mark.parametrize("name", ["square_lesion", "square_or_disc"])
def test_a_task_on_patches_tells_of_them_and_draws_whole_lesions(cohort, tmp_path, rank, name):
    prepared = prepare(cohort, tmp_path, name, rank=rank, patch=PATCHES[rank])
    assert prepared.shape == PATCHES[rank]
    assert isinstance(prepared.train, Patches)
    images = {part: len(getattr(prepared, part)) for part in ("train", "validation", "test")}
    assert prepared.description["images"] == images
    assert min(images.values()) >= 8
    card = json.loads(json.dumps(prepared.description))
    assert card["patch"] == list(PATCHES[rank])
    assert card["lesions"]["whole"] is True
    again = tasks.described_task(name, card, rank=rank)
    made = [
        task.examples(prepared.test[0], "", np.random.default_rng(3), 1.0)["image"]
        for task in (prepared.task, again)
    ]
    np.testing.assert_array_equal(*made)
    # In the middle of the scans, as one place that stands for all.
    shape = (*PATCHES[rank], 1)[:3]
    middle = apply_affine(prepared.affine, (np.array(shape) - 1) / 2)
    expected = apply_affine(AFFINE, (np.array(SCAN) - 1) / 2)
    np.testing.assert_allclose(middle, expected, atol=2.0)


def test_patches_without_room_for_lesions_are_left_out(cohort, tmp_path):
    options = {"size_mm": (16.0, 16.0), "min_contrast": 0.1}
    common = {"rank": 3, "cache": tmp_path}
    spec = tasks.TaskSpec("square_lesion", lesion_options=options)
    prepared = preparation.prepare(spec, cohort, patch=(12, 10, 9), **common)
    parts = [getattr(prepared, part) for part in ("train", "validation", "test")]
    whole = [Patches(part.volumes, part.shape) for part in parts]
    kept = [set(part.index) < set(every.index) for part, every in zip(parts, whole, strict=True)]
    assert any(kept)
    assert prepared.description["images"]["train"] == len(parts[0])
    assert isinstance(prepared.task, tasks.LesionTask)
    for part, every in zip(parts, whole, strict=True):
        for position in range(len(every)):
            rng = np.random.default_rng(position)
            try:
                prepared.task.lesions.check_room(every[position], rng)
            except NoRoomError:
                assert every.index[position] not in part.index
            else:
                assert every.index[position] in part.index
    too_large = dataclasses.replace(spec, lesion_options={**options, "size_mm": (21.0, 21.0)})
    with pytest.raises(CohortError, match="8 of 8 images that were looked at have no room"):
        preparation.prepare(too_large, cohort, patch=(12, 10, 9), **common)


def test_whole_brains_are_told_of_as_ever(cohort, tmp_path):
    described = prepare(cohort, tmp_path, rank=3).description
    assert not {"patch", "resampled_mm"} & set(described)
    assert "whole" not in described["lesions"]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("square_lesion", {"crop": (9, 9, 9)}, r"crop is \(9, 9, 9\), and patches .* one of the"),
        ("sex", {}, r"'sex' takes whole volumes: ask for no patches"),
        ("square_lesion", {"patch": (12, 49, 8)}, r"patch is \(12, 49, 8\), and .* a smaller one"),
        ("square_lesion", {"patch": (12, 10)}, r"patch is \(12, 10\); expected 3 positive"),
    ],
)
def test_patches_that_make_no_sense_are_refused(cohort, tmp_path, name, options, told):
    with pytest.raises(ValueError, match=told):
        prepare(cohort, tmp_path, name, **{"rank": 3, "patch": (12, 10, 8), **options})


@both_ranks
def test_a_network_of_patches_reads_scans_wherever_they_lie(cohort, tmp_path, rank):
    prepared = prepare(cohort, tmp_path, rank=rank, patch=PATCHES[rank])
    grid = Grid(PATCHES[rank], prepared.affine, anywhere=True)
    own = list(prepared.test.volumes)
    # The same voxels, from another corner of the world, by a fraction of a voxel.
    moved = AFFINE.copy()
    moved[:3, 3] += (31.3, -8.7, 5.1)
    for affine in (AFFINE, moved):
        placed = sources.cohort_placement(dataclasses.replace(cohort, affine=affine), grid)
        found = sources.source(own, grid.shape, placement=placed, anywhere=True)
        assert isinstance(found, Patches)
        assert found.index == prepared.test.index
        np.testing.assert_array_equal(found[1], prepared.test[1])
    # A network that sees left and right the other way round.
    flipped = prepared.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
    placed = sources.cohort_placement(cohort, grid._replace(affine=flipped))
    found = sources.source(own, grid.shape, placement=placed, anywhere=True)
    _, (x, y, z) = found.index[0]
    scan = np.moveaxis(np.asarray(own[0].open(), np.float32), 0, -1)[::-1]
    cut = scan[box((x, y, z), rank)]
    np.testing.assert_array_equal(found[0], cut.reshape(found[0].shape))
    for wrong in (np.diag([1.5, 1, 1, 1]), np.diag([1.0, 1, 1.5, 1])):
        if rank == 3 or wrong[0, 0] != 1:
            with pytest.raises(GridError, match="voxels are 2 x 2 x 2 mm"):
                sources.cohort_placement(cohort, grid._replace(affine=prepared.affine @ wrong))


def test_grids_of_patches_coincide_wherever_they_lie():
    here = Grid((8, 9, 10), AFFINE, anywhere=True)
    moved = AFFINE.copy()
    moved[:3, 3] += (31.3, -8.7, 5.1)
    assert coincide(here, here._replace(affine=moved))
    assert not coincide(here, here._replace(affine=moved, anywhere=False))
    assert not coincide(here, here._replace(shape=(8, 9, 11)))
    assert not coincide(here, here._replace(affine=AFFINE * [[1.5], [1], [1], [1]]))
    assert described(here).endswith("voxels of 2 x 2 x 2 mm, RAS, anywhere in the brain")

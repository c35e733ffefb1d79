"""Tasks: crops in millimetres, world positions, labels, and what is refused before training."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine

from featvis_jax.data import labels, preparation, tasks
from featvis_jax.data.cohorts import Cohort, read_cohort
from featvis_jax.data.errors import CohortError
from featvis_jax.data.intensities import rescale
from featvis_jax.data.lesions import Lesions
from featvis_jax.data.shapes import square
from featvis_jax.data.sources import Slices, Volumes

SHAPE = (22, 26, 14)
AFFINE = np.array([[3.0, 0, 0, -33], [0, 3, 0, -50], [0, 0, 3, -20], [0, 0, 0, 1]])
# Stored from right to left and from top to bottom, as some scanners write.
FLIPPED = AFFINE @ np.array([[-1.0, 0, 0, 21], [0, 1, 0, 0], [0, 0, -1, 13], [0, 0, 0, 1]])


def write_cohort(directory: Path, *, shape=SHAPE, affine=AFFINE, sexes="FMFMFMFMFM") -> Cohort:
    """A cohort whose subjects are a bright box in the dark, different at every voxel."""
    rng = np.random.default_rng(7)
    directory.mkdir()
    rows = ["participant_id\tsex"]
    for number, sex in enumerate(sexes):
        name = f"sub-{number:02d}"
        data = np.zeros(shape, np.uint8)
        inner = tuple(slice(2, n - 2) for n in shape)
        data[inner] = rng.integers(50, 255, data[inner].shape)
        path = directory / name / "anat" / f"{name}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.Nifti1Image(data, affine).to_filename(path)
        rows.append(f"{name}\t{sex}")
    (directory / "participants.tsv").write_text("\n".join(rows) + "\n")
    return read_cohort(directory)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("cohorts") / "boxes")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


SPEC = {"shape", "lesion_options", "distractor_count", "shuffle_labels"}


def prepare(name: str, cohort: Cohort, cache: Path, **options) -> preparation.Prepared:
    spec = {key: options.pop(key) for key in SPEC & set(options)}
    options = {"rank": 3, **options}
    return preparation.prepare(tasks.TaskSpec(name, **spec), cohort, cache=cache, **options)


# The grid


@pytest.mark.parametrize(
    ("shape", "voxel_size_mm", "expected"),
    [
        ((182, 218, 5), 1.0, (140, 192)),
        ((91, 109, 5), 2.0, (70, 96)),
        ((45, 54, 5), 4.0, (35, 48)),
        ((61, 73, 5), 3.0, (47, 64)),
        ((30, 109, 5), 2.0, (30, 96)),
    ],
)
def test_slices_are_140_by_192_mm_by_default(tmp_path, shape, voxel_size_mm, expected):
    affine = np.diag([voxel_size_mm] * 3 + [1.0])
    small = write_cohort(tmp_path / "cohort", shape=shape, affine=affine, sexes="FMFMF")
    prepared = prepare("square_lesion", small, tmp_path / "cache", rank=2)
    assert prepared.shape == expected
    assert prepared.train[0].shape == (*expected, 1)
    assert isinstance(prepared.task, tasks.LesionTask)
    assert prepared.task.lesions.voxel_size_mm == voxel_size_mm


def test_volumes_are_whole_by_default(cohort, cache):
    prepared = prepare("gaussian_lesion", cohort, cache)
    assert prepared.shape == SHAPE
    np.testing.assert_array_equal(prepared.affine, AFFINE)
    assert isinstance(prepared.train, Volumes)


@pytest.mark.parametrize("affine", [AFFINE, FLIPPED], ids=["RAS", "flipped"])
@pytest.mark.parametrize("crop", [(10, 12, 6), (11, 13, 7), (21, 26, 9)])
def test_kept_voxels_of_a_volume_stay_where_they_are(tmp_path, affine, crop):
    cohort = write_cohort(tmp_path / "cohort", affine=affine, sexes="FMFMF")
    prepared = prepare("square_lesion", cohort, tmp_path / "cache", crop=crop)
    starts = [(n - m) // 2 for n, m in zip(SHAPE, crop, strict=True)]
    cut = tuple(slice(a, a + m) for a, m in zip(starts, crop, strict=True))
    for position in range(len(prepared.train)):
        name = prepared.train.owner(position)
        stored = nibabel.Nifti1Image.from_filename(
            tmp_path / "cohort" / name / "anat" / f"{name}_T1w.nii.gz"
        )
        canonical = nibabel.as_closest_canonical(stored)
        cropped = canonical.slicer[cut]
        np.testing.assert_allclose(prepared.affine, cropped.affine, atol=1e-5)
        expected = rescale(np.asarray(canonical.dataobj, np.float32))[cut]
        np.testing.assert_allclose(prepared.train[position][..., 0], expected, atol=1e-3)


@pytest.mark.parametrize("affine", [AFFINE, FLIPPED], ids=["RAS", "flipped"])
@pytest.mark.parametrize("crop", [(10, 12), (11, 13), (22, 26)])
def test_a_slice_lies_in_the_middle_axial_plane(tmp_path, affine, crop):
    cohort = write_cohort(tmp_path / "cohort", affine=affine, sexes="FMFMF")
    prepared = prepare("square_lesion", cohort, tmp_path / "cache", rank=2, crop=crop)
    name = prepared.test.owner(0)
    stored = nibabel.Nifti1Image.from_filename(
        tmp_path / "cohort" / name / "anat" / f"{name}_T1w.nii.gz"
    )
    canonical = nibabel.as_closest_canonical(stored)
    x, y = ((n - m) // 2 for n, m in zip(SHAPE[:2], crop, strict=True))
    z = SHAPE[2] // 2
    plane = canonical.slicer[x : x + crop[0], y : y + crop[1], z : z + 1]
    np.testing.assert_allclose(prepared.affine, plane.affine, atol=1e-5)
    np.testing.assert_allclose(
        apply_affine(prepared.affine, [3, 4, 0]),
        apply_affine(canonical.affine, [x + 3, y + 4, z]),
        atol=1e-4,
    )
    assert isinstance(prepared.test, Slices)
    position = prepared.test.index.index((0, z))
    scaled = rescale(np.asarray(canonical.dataobj, np.float32))
    np.testing.assert_allclose(
        prepared.test[position][..., 0],
        scaled[x : x + crop[0], y : y + crop[1], z],
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("rank", "crop"), [(2, (10, 10, 10)), (2, (10,)), (3, (10, 10)), (3, (0, 5, 5)), (2, (-4, 8))]
)
def test_a_wrong_crop_is_refused(cohort, cache, rank, crop):
    told = rf"crop or patch is \({crop[0]},.*expected {rank} positive numbers of voxels"
    with pytest.raises(ValueError, match=told):
        prepare("square_lesion", cohort, cache, rank=rank, crop=crop)


# Subjects and labels


def test_sex_is_stratified_over_the_parts(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", sexes="FFM" * 8)
    prepared = prepare("sex", cohort, tmp_path / "cache", seed=3)
    sex = {subject.participant_id: subject.labels["sex"] for subject in cohort.subjects}
    for part in ("train", "validation", "test"):
        counts = Counter(sex[who] for who in getattr(prepared.split, part))
        expected = sum(counts.values()) * 2 / 3
        assert abs(counts["F"] - expected) <= 1
    assert prepared.class_names == ("F", "M")
    source = prepared.validation
    for position in range(len(source)):
        image, owner = source[position], source.owner(position)
        found = prepared.task.examples(image, owner, np.random.default_rng(0), 1.0)
        assert found["label"].tolist() == [int(sex[owner] == "M")]
        np.testing.assert_array_equal(found["image"][0], source[position])


def test_the_split_follows_the_seed(cohort, cache):
    parts = [prepare("square_lesion", cohort, cache, seed=seed).split for seed in (1, 1, 2)]
    assert parts[0] == parts[1]
    assert parts[0] != parts[2]


def test_a_single_class_is_refused_before_a_volume_is_read(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", sexes="FFFFFF")
    with pytest.raises(CohortError, match=r"'sex' needs at least two values, it has 'F': 6"):
        prepare("sex", cohort, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_two_spellings_of_a_class_are_refused_before_a_volume_is_read(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", sexes="FMFMfmfm")
    with pytest.raises(CohortError, match="'sex' has one value in several spellings") as caught:
        prepare("sex", cohort, tmp_path / "cache")
    assert caught.value.problems == (
        "'F': 2 subjects (line 2, 4); 'f': 2 subjects (line 6, 8)",
        "'M': 2 subjects (line 3, 5); 'm': 2 subjects (line 7, 9)",
    )
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match=r"several spellings: \[\('F', 'f'\)\]"):
        labels.label_task({"sub-01": "F", "sub-02": "M", "sub-03": "f"})


def test_a_label_task_needs_two_classes():
    with pytest.raises(ValueError, match=r"1 class\(es\): \('F',\). Two or more"):
        labels.label_task({"sub-01": "F", "sub-02": "F"})
    task = labels.label_task({"sub-01": "b", "sub-02": "a", "sub-03": "c", "sub-04": "a"})
    assert task.class_names == ("a", "b", "c")
    assert task.class_by_participant == {"sub-01": 1, "sub-02": 0, "sub-03": 2, "sub-04": 0}


# Any column of the table


def with_column(cohort: Cohort, values: list[str], *, name: str = "told") -> Cohort:
    """The cohort with one more column."""
    subjects = tuple(
        dataclasses.replace(subject, labels={**subject.labels, name: value})
        for subject, value in zip(cohort.subjects, values, strict=True)
    )
    return dataclasses.replace(cohort, subjects=subjects)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("many") / "boxes", sexes="FM" * 12)


def test_a_column_of_three_values_is_stratified_over_the_parts(many, cache):
    sites = ["10", "9", "10", "n/a", "9", "11"] * 4
    prepared = prepare("label:site", with_column(many, sites, name="site"), cache, seed=3)
    assert prepared.class_names == ("9", "10", "11")  # As numbers are sorted.
    site = dict(zip(many.participant_ids, sites, strict=True))
    assert prepared.left_out == tuple(who for who in site if site[who] == "n/a")
    assert prepared.description["column"] == {"name": "site", "left_out": 4}
    for part, expected in {"train": (5, 5, 3), "validation": (1, 1, 1), "test": (2, 2, 1)}.items():
        counts = Counter(site[who] for who in getattr(prepared.split, part))
        found = [counts[name] for name in prepared.class_names]
        assert np.abs(np.subtract(found, expected)).max() <= 1
    for position in range(len(prepared.test)):
        owner = prepared.test.owner(position)
        found = prepared.task.examples(
            prepared.test[position], owner, np.random.default_rng(0), 1.0
        )
        assert prepared.class_names[found["label"][0]] == site[owner]


def test_many_different_numbers_are_estimated_and_standardized_by_the_training(many, cache):
    ages = [str(20 + 2.5 * number) for number in range(23)] + ["n/a"]
    prepared = prepare("label:age", with_column(many, ages, name="age"), cache)
    age = dict(zip(many.participant_ids, ages, strict=True))
    assert prepared.class_names == ("age",)
    assert prepared.left_out == (many.participant_ids[-1],)
    quarter = {who: 4 * rank // 23 for rank, who in enumerate(many.participant_ids[:-1])}
    for part in ("train", "validation", "test"):
        assert {quarter[who] for who in getattr(prepared.split, part)} == {0, 1, 2, 3}
    labels = [
        prepared.task.examples(
            prepared.train[n], prepared.train.owner(n), np.random.default_rng(0), 1.0
        )["label"]
        for n in range(len(prepared.train))
    ]
    standardized = np.concatenate(labels)
    assert standardized.dtype == np.float32
    assert standardized.mean() == pytest.approx(0, abs=1e-6)
    assert standardized.std() == pytest.approx(1, abs=1e-6)
    column = prepared.description["column"]
    assert isinstance(column, dict)
    back = column["mean"] + column["std"] * standardized
    np.testing.assert_allclose(back, [float(age[who]) for who in prepared.split.train], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["a"] * 24, "has one value only ('a': 24)"),
        (["n/a"] * 24, "is empty or n/a for all 24 people"),
        (["a"] * 21 + ["b"] * 3, "has 'a': 21, 'b': 3: "),
        (["a"] * 23 + ["b"], "has 'a': 23, 'b': 1: "),
        (["a", "A"] * 12, "has one value in several spellings, 'A' and 'a': write it one way"),
    ],
)
def test_a_column_that_teaches_nothing_is_refused_in_one_line(many, tmp_path, values, told):
    with pytest.raises(CohortError) as caught:
        prepare("label:told", with_column(many, values), tmp_path / "cache")
    assert str(caught.value).startswith(f"{many.table}: the column 'told' {told}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_column_that_is_not_there_is_refused_with_those_that_are(many):
    with pytest.raises(CohortError, match=r"participants.tsv: the column 'age' is not there"):
        labels.read_column(many, "age")
    with pytest.raises(CohortError, match="the table has 'sex'"):
        labels.read_column(many, "Sex")


@pytest.mark.parametrize("count", range(11, 25))
def test_numbers_of_however_many_people_are_in_every_part(many, count):
    cohort = dataclasses.replace(many, subjects=many.subjects[:count])
    column = labels.read_column(with_column(cohort, [str(n**2) for n in range(count)]), "told")
    task, split = column.task(seed=count)
    assert isinstance(task, labels.ValueTask)
    assert sorted((*split.train, *split.validation, *split.test)) == list(cohort.participant_ids)
    for part in (split.train, split.validation, split.test):
        places = [cohort.participant_ids.index(who) for who in part]
        assert min(places) < count / 2 <= max(places)


def test_ten_numbers_are_classes_and_eleven_are_estimated(many):
    for count in (10, 11):
        numbers = with_column(many, [str(n % count) for n in range(24)])
        assert labels.read_column(numbers, "told").is_measured == (count == 11)
    words = with_column(many, [f"site{n % 12}" for n in range(24)])
    assert not labels.read_column(words, "told").is_measured


# Lesions


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", ["square_lesion", "gaussian_lesion"])
def test_half_of_the_examples_have_lesions(cohort, cache, name, rank):
    options = {"count": (1, 1), "size_mm": (6.0, 12.0), "min_contrast": 0.1}
    prepared = prepare(name, cohort, cache, rank=rank, lesion_options=options)
    assert prepared.class_names == ("clean", "lesion")
    assert prepared.task.images_per_element == 2
    found = prepared.task.examples(prepared.train[0], "", np.random.default_rng(4), 1.0)
    assert found["label"].tolist() == [0, 1]
    np.testing.assert_array_equal(found["image"][0], prepared.train[0])
    assert (found["image"][1] != found["image"][0]).any()
    assert isinstance(prepared.task, tasks.LesionTask)
    expected, _ = prepared.task.lesions.add(prepared.train[0], np.random.default_rng(4))
    np.testing.assert_array_equal(found["image"][1], expected)
    for option, value in options.items():
        assert getattr(prepared.task.lesions, option) == value


def test_a_lesion_shape_of_ones_own_makes_a_task(cohort, cache):
    def cross(coordinates, center, size):
        offsets = abs(coordinates - center.reshape(-1, *[1] * (coordinates.ndim - 1)))
        near = np.sort(offsets, axis=0)
        return ((near[0] < 2) & (near[-1] < size / 2)).astype(float)

    prepared = prepare(
        "cross_lesion",
        cohort,
        cache,
        rank=2,
        shape=cross,
        lesion_options={"size_mm": (9.0, 15.0), "min_contrast": 0.1},
    )
    found = prepared.task.examples(prepared.train[0], "", np.random.default_rng(0), 1.0)
    assert (found["image"][0] != found["image"][1]).any()
    lesions = prepared.description["lesions"]
    assert isinstance(lesions, dict)
    assert lesions["shape"] == "cross"


def test_the_description_counts_subjects_and_images(cohort, cache):
    prepared = prepare("square_lesion", cohort, cache, rank=2)
    described = json.loads(json.dumps(prepared.description))
    assert described["cohort"] == "boxes"
    assert described["subjects"] == {"train": 6, "validation": 2, "test": 2}
    # The box fills ten of the fourteen planes.
    assert described["images"] == {"train": 60, "validation": 20, "test": 20}
    assert described["lesions"]["shape"] == "square"
    assert described["lesions"]["voxel_size_mm"] == 3.0


# Room for lesions


def flatten(scan: Path, axial: int | None = None) -> None:
    """Leaves next to no contrast in a scan, or in one slice of it."""
    image = nibabel.Nifti1Image.from_filename(scan)
    data = np.asarray(image.dataobj)
    where = ... if axial is None else np.s_[:, :, axial]
    data = data.copy()
    data[where] = np.where(data[where] > 0, 150 + data[where] // 64, 0)
    nibabel.Nifti1Image(data, image.affine).to_filename(scan)


def scan_of(directory: Path, number: int) -> Path:
    return next(directory.glob(f"sub-{number:02d}/anat/*.nii.gz"))


def test_all_images_without_room_are_named_before_training(tmp_path):
    write_cohort(tmp_path / "cohort")
    flatten(scan_of(tmp_path / "cohort", 3), axial=5)
    flatten(scan_of(tmp_path / "cohort", 3), axial=9)
    flatten(scan_of(tmp_path / "cohort", 8), axial=4)
    cohort = read_cohort(tmp_path / "cohort")
    with pytest.raises(CohortError, match=r"participants.tsv: 3 of 100 images") as caught:
        prepare("square_lesion", cohort, tmp_path / "cache", rank=2)
    named = {problem.split(":")[0] for problem in caught.value.problems}
    assert named == {
        "sub-03, axial slice 5",
        "sub-03, axial slice 9",
        "sub-08, axial slice 4",
    }
    assert all("less contrast" in problem for problem in caught.value.problems)
    # A label needs no lesions, and slices are as before.
    assert len(prepare("sex", cohort, tmp_path / "cache").train) == 6


def test_a_volume_without_room_is_named(tmp_path):
    write_cohort(tmp_path / "cohort", sexes="FMFMF")
    rng = np.random.default_rng(0)
    flat = np.zeros(SHAPE, np.uint8)
    flat[2:-2, 2:-2, 2:-2] = rng.integers(200, 203, (18, 22, 10))
    nibabel.Nifti1Image(flat, AFFINE).to_filename(scan_of(tmp_path / "cohort", 2))
    cohort = read_cohort(tmp_path / "cohort")
    with pytest.raises(CohortError, match=r"1 of 5 images") as caught:
        prepare("square_lesion", cohort, tmp_path / "cache")
    (problem,) = caught.value.problems
    assert problem.startswith("sub-02: No place for a lesion")


def test_where_the_options_leave_no_room_the_search_ends_early(cohort, cache):
    with pytest.raises(CohortError, match="8 of 8 images that were looked at"):
        options = {"size_mm": (300.0, 400.0)}
        prepare("square_lesion", cohort, cache, rank=2, lesion_options=options)


# What is refused


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("age", {}, "no task 'age'; expected one of square_lesion, .*, anatomy, sex"),
        ("square_lesion", {"rank": 4}, r"rank is 4; expected 2 .* or 3"),
        ("sex", {"rank": 2}, r"'sex' takes whole volumes: use 3 dimensions"),
        ("label:sex", {"rank": 2}, r"'label:sex' takes whole volumes: use 3 dimensions"),
        ("label:sex", {"shuffle_labels": True}, "Only labels of what is planted can be shuffled"),
        ("label:sex", {"distractor_count": (0, 2)}, "takes no distractors"),
        ("square_lesion", {"lesion_options": {"count": (0, 1)}}, r"count is \(0, 1\)"),
    ],
)
def test_what_does_not_exist_is_refused(cohort, cache, name, options, told):
    with pytest.raises(ValueError, match=told):
        prepare(name, cohort, cache, **options)


def test_voxels_have_to_be_as_long_as_they_are_wide(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", affine=np.diag([1.0, 1.0, 2.5, 1.0]), sexes="FMFMF")
    with pytest.raises(CohortError, match=r"\[1.0, 1.0, 2.5\] mm\n.*resample the volumes first"):
        prepare("square_lesion", cohort, tmp_path / "cache")


def test_pairs_need_no_labels(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", sexes="FFFFF")
    prepared = prepare(
        "square_lesion", cohort, tmp_path / "cache", lesion_options={"min_contrast": 0.0}
    )
    assert prepared.task == tasks.LesionTask(Lesions(square, voxel_size_mm=3.0, min_contrast=0.0))


# Shapes against each other, and labels without meaning


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A cohort of slices on which a lesion of 10 mm has 10 voxels."""
    directory = tmp_path_factory.mktemp("slices") / "boxes"
    return write_cohort(directory, shape=(70, 80, 5), affine=np.eye(4), sexes="FMFMFMFMFM")


def drawn(prepared: preparation.Prepared, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images and labels, ``(n, 2, ...)``."""
    made = [
        prepared.task.examples(prepared.train[i % len(prepared.train)], "", rng, 1.0)
        for i, rng in enumerate(map(np.random.default_rng, range(n)))
    ]
    return np.stack([m["image"] for m in made]), np.stack([m["label"] for m in made])


def test_square_or_disc_differs_in_the_outline_only(slices, cache):
    options = {"size_mm": (9.0, 17.0), "min_contrast": 0.1}
    prepared = prepare("square_or_disc", slices, cache, rank=2, lesion_options=options)
    assert prepared.class_names == ("disc", "square")
    assert prepared.description["lesions"]["shape"] == "disc or square"
    assert prepared.description["lesions"]["count"] == (1, 1)
    images, labels = drawn(prepared)
    np.testing.assert_array_equal(labels, [[0, 1]] * len(labels))
    clean = np.stack([prepared.train[i % len(prepared.train)] for i in range(len(images))])
    changed = images != clean[:, None]
    area = changed.sum(axis=(2, 3, 4))
    assert area[:, 0].mean() == pytest.approx(area[:, 1].mean(), rel=0.03)
    both = changed.all(axis=1)
    for pair, shared in zip(images, both, strict=True):
        assert shared.any()
        np.testing.assert_array_equal(pair[0][shared], pair[1][shared])
    # A square fills its bounding box and a disc does not.
    for pair in changed:
        disc, square_ = (mask[np.ix_(mask.any((1, 2)), mask.any((0, 2)))] for mask in pair)
        assert square_.mean() > disc.mean()


def test_images_with_neither_have_the_distractors_alone(slices, cache):
    options = {"size_mm": (9.0, 17.0), "min_contrast": 0.1}
    common = {"rank": 2, "distractor_count": (1, 2), "lesion_options": options}
    two, three = (
        prepare(name, slices, cache, **common)
        for name in ("square_or_disc", "square_disc_or_neither")
    )
    assert three.class_names == ("disc", "square", "neither")
    images, labels = drawn(three)
    np.testing.assert_array_equal(labels, [[0, 1, 2]] * len(labels))
    np.testing.assert_array_equal(images[:, :2], drawn(two)[0])
    for number, (disc, square_, neither) in enumerate(images):
        clean = three.train[number % len(three.train)]
        assert (neither != clean).any()
        assert (disc != neither).any()
        assert (square_ != neither).any()
    shuffled = prepare("square_disc_or_neither", slices, cache, shuffle_labels=True, **common)
    np.testing.assert_array_equal(drawn(shuffled)[0], images)
    assert {tuple(each) for each in drawn(shuffled)[1].tolist()} > {(0, 1, 2)}


@pytest.mark.parametrize("rank", [2, 3])
def test_distractors_are_in_both_images_of_a_pair(slices, cohort, cache, rank):
    options = {"size_mm": (9.0, 9.0), "count": (1, 1), "min_contrast": 0.1}
    prepared = prepare(
        *("square_lesion", slices if rank == 2 else cohort, cache),
        **{"rank": rank, "distractor_count": (1, 2), "lesion_options": options},
    )
    assert prepared.description["distractors"] == [1, 2]
    task = prepared.task
    assert isinstance(task, tasks.LesionTask)
    for seed in range(4):
        image = prepared.train[0]
        made = task.examples(image, "somebody", np.random.default_rng(seed), 1.0)
        clean, damaged = made["image"]
        assert made["label"].tolist() == [0, 1]
        assert (clean != image).any()
        # What tells the two apart is no larger than the one lesion, a square of 9 mm.
        places = np.argwhere((clean != damaged)[..., 0])
        assert len(places) > 0
        assert (np.ptp(places, axis=0) < 9 / prepared.voxel_size_mm).all()


@pytest.mark.parametrize("rank", [2, 3])
def test_distractors_of_two_shapes_are_the_same_in_both_images(slices, cohort, cache, rank):
    size = 12.0 if rank == 2 else 15.0
    options = {"size_mm": (size, size), "min_contrast": 0.1}
    common = {"rank": rank, "lesion_options": options}
    cohort = slices if rank == 2 else cohort
    prepared = prepare("square_or_disc", cohort, cache, distractor_count=(2, 2), **common)
    assert prepared.description["distractors"] == [2, 2]
    assert prepared.class_names == ("disc", "square")
    voxels = (size / prepared.voxel_size_mm) ** rank
    for number, (disc, square_) in enumerate(drawn(prepared, 6)[0]):
        image = prepared.train[number % len(prepared.train)]
        # What tells the two apart is one square or one disc; there is much more in both.
        places = np.argwhere((disc != square_)[..., 0])
        assert len(places) > 0
        assert (np.ptp(places, axis=0) <= 1.25 * size / prepared.voxel_size_mm).all()
        assert ((disc != image) & (square_ != image)).sum() > 1.25 * voxels


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(
    ("name", "distractor_count"),
    [
        *[("square_lesion", (0, 0)), ("square_lesion", (1, 2))],
        *[("square_or_disc", (0, 0)), ("square_or_disc", (1, 2))],
        ("square_disc_or_neither", (1, 2)),
    ],
)
def test_a_card_tells_how_lesions_were_drawn(slices, cohort, cache, rank, name, distractor_count):
    options = {"size_mm": (6.0, 9.0), "min_contrast": 0.1}
    prepared = prepare(
        *(name, slices if rank == 2 else cohort, cache),
        **{"rank": rank, "distractor_count": distractor_count, "lesion_options": options},
    )
    card = json.loads(json.dumps(prepared.description))
    task = tasks.described_task(name, card, rank=rank)
    assert type(task) is type(prepared.task)
    for seed in range(3):
        made = [
            each.examples(prepared.train[0], "", np.random.default_rng(seed), 1.0)["image"]
            for each in (prepared.task, task)
        ]
        np.testing.assert_array_equal(*made)


def test_a_card_of_version_0_1_calls_distractors_decoys(slices, cache):
    options = {"lesion_options": {"size_mm": (6.0, 9.0), "min_contrast": 0.1}}
    prepared = prepare("square_lesion", slices, cache, rank=2, distractor_count=(1, 2), **options)
    old = dict(prepared.description)
    old["decoys"] = old.pop("distractors")
    now, before = (
        tasks.described_task("square_lesion", each, rank=2) for each in (prepared.description, old)
    )
    assert before.distractor_count == now.distractor_count == (1, 2)


def test_a_card_without_lesions_or_with_a_shape_of_ones_own_gives_no_task(cohort, cache):
    assert tasks.described_task("sex", {"cohort": "boxes"}, rank=3) is None
    options = {"size_mm": (6.0, 9.0), "min_contrast": 0.1}
    own = prepare("mine", cohort, cache, shape=square, lesion_options=options)
    assert tasks.described_task("mine", own.description, rank=3) is None
    assert tasks.described_task("mine", own.description, rank=3, shape=square) == own.task


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        ("square_lesion", (3, 1), "distractor_count is"),
        ("sex", (0, 2), "takes no distractors"),
        ("square_or_disc", (3, 1), "distractor_count is"),
    ],
)
def test_distractors_that_make_no_sense_are_refused(cohort, cache, name, count, told):
    with pytest.raises(ValueError, match=told):
        prepare(name, cohort, cache, distractor_count=count)


def test_shuffled_labels_tell_nothing_and_leave_the_images_alone(slices, cache):
    options = {"size_mm": (9.0, 17.0), "min_contrast": 0.1}
    common = {"rank": 2, "lesion_options": options}
    plain, _ = drawn(prepare("square_lesion", slices, cache, **common))
    prepared = prepare("square_lesion", slices, cache, shuffle_labels=True, **common)
    images, labels = drawn(prepared)
    np.testing.assert_array_equal(images, plain)
    assert set(map(tuple, labels)) == {(0, 1), (1, 0)}
    assert 0.3 < labels[:, 0].mean() < 0.7
    assert prepared.description["labels"] == "shuffled"
    with pytest.raises(ValueError, match="sex"):
        prepare("sex", slices, cache, shuffle_labels=True)

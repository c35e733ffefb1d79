"""A cohort's images on a network's grid lie where they lie in the world, or are refused."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from featvis_jax.data import preparation, sources, tasks
from featvis_jax.data.cache import cache_volumes
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.crops import crop_affine
from featvis_jax.data.grids import Grid, GridError

SHAPE = (14, 16, 12)
AFFINE = np.array([[2.0, 0, 0, -11], [0, 2, 0, -20], [0, 0, 2, 6], [0, 0, 0, 1]])
LAS = AFFINE @ np.array([[-1.0, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    """Brains of two people, off the middle of their grid."""
    rng = np.random.default_rng(3)
    made = [np.zeros(SHAPE, np.float32) for _ in range(2)]
    for scan in made:
        scan[2:-3, 1:-2, 2:-4] = rng.uniform(1, 2, (9, 13, 6))
    return made


def write(folder: Path, scans: list[np.ndarray], affine: np.ndarray, codes: str = "RAS") -> Path:
    rows = ["participant_id\tsex"]
    for number, data in enumerate(scans):
        path = folder / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        image = nibabel.Nifti1Image(data, affine)
        turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
        nibabel.save(image.as_reoriented(turn), path)
        rows.append(f"sub-{number}\t{'FM'[number % 2]}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


def images_on(folder: Path, grid: Grid | None) -> np.ndarray:
    """The images of a cohort on a grid; without one its whole volumes."""
    cohort = read_cohort(folder)
    volumes = list(cache_volumes(cohort.subjects, folder / "cache").values())
    shape = cohort.shape if grid is None else grid.shape
    placement = None if grid is None else sources.cohort_placement(cohort, grid)
    source = sources.source(volumes, shape, placement=placement)
    return np.stack([source[position] for position in range(len(source))])


GRIDS = {
    "cut": ((10, 12, 9), crop_affine(AFFINE, (3, 1, 2))),
    "reaching beyond": ((17, 15, 13), crop_affine(AFFINE, (-2, 3, -1))),
    "LAS": ((10, 12, 9), crop_affine(LAS, (3, 1, 2))),
}


@pytest.mark.parametrize("name", GRIDS)
def test_every_voxel_lies_where_the_scan_has_it(tmp_path, scans, name):
    grid = Grid(*GRIDS[name])
    folder = write(tmp_path / "cohort", scans, AFFINE)
    found, whole = images_on(folder, grid), images_on(folder, None)
    for index in np.ndindex(*grid.shape):
        world = grid.affine @ [*index, 1]
        there = np.round(np.linalg.solve(AFFINE, world)[:3]).astype(int)
        inside = all(0 <= i < n for i, n in zip(there, SHAPE, strict=True))
        expected = whole[(slice(None), *there)] if inside else np.zeros((2, 1))
        np.testing.assert_array_equal(found[(slice(None), *index)], expected)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("rank", [2, 3])
def test_a_larger_grid_with_the_head_off_its_middle_gives_the_same_images(
    tmp_path, scans, name, rank
):
    shape, affine = GRIDS[name]
    grid = Grid(shape[:rank], affine)  # Of slices the height means nothing.
    expected = images_on(write(tmp_path / "plain", scans, AFFINE), grid)
    assert expected.shape[1:] == (*grid.shape, 1)
    for (before, after), codes in {(2, 17): "LAS", (21, 3): "PSR"}.items():
        large = [np.pad(scan, (before, after)) for scan in scans]
        folder = tmp_path / f"large-{codes}"
        write(folder, large, crop_affine(AFFINE, (-before,) * 3), codes)
        np.testing.assert_array_equal(images_on(folder, grid), expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4]), "lie up to 0.5 mm beside"),
        (np.diag([0.1, 0, 0, 0]), r"voxels are 2 x 2 x 2 mm, expected 2\.1 x 2 x 2 mm"),
        (np.array([[0, 0, 0, 400.0], [0] * 4, [0] * 4, [0] * 4]), "beside the network's grid"),
    ],
)
def test_voxels_that_do_not_coincide_are_refused_with_numbers(tmp_path, scans, change, told):
    cohort = read_cohort(write(tmp_path / "cohort", scans, AFFINE))
    for rank in (2, 3):
        with pytest.raises(GridError, match=told):
            sources.cohort_placement(cohort, Grid((10, 12, 9)[:rank], AFFINE + change))


def test_slices_may_be_of_any_height_and_spacing_but_have_to_be_axial(tmp_path, scans):
    cohort = read_cohort(write(tmp_path / "cohort", scans, AFFINE))
    usual = sources.cohort_placement(cohort, Grid((10, 12), AFFINE))
    between = crop_affine(AFFINE, (0, 0, 3)) @ np.diag([1, 1, 0.4, 1])
    between[2, 3] += 0.7
    assert sources.cohort_placement(cohort, Grid((10, 12), between)) == usual
    with pytest.raises(GridError, match="along another axis"):
        sources.cohort_placement(cohort, Grid((10, 12), AFFINE[:, [1, 2, 0, 3]]))


def test_without_an_affine_the_whole_shape_has_to_be_the_same(tmp_path, scans):
    cohort = read_cohort(write(tmp_path / "cohort", scans, AFFINE))
    assert sources.cohort_placement(cohort, Grid(SHAPE, None)).start == (0, 0, 0)
    with pytest.raises(GridError, match="does not tell where it looks: give --grid"):
        sources.cohort_placement(cohort, Grid((10, 12), None))


def test_a_task_is_prepared_on_the_grid_of_a_network_that_is_there(tmp_path, scans):
    people = [scan * (1 + number) for number in range(5) for scan in scans]
    cohort = read_cohort(write(tmp_path / "cohort", people, AFFINE))
    options = {"rank": 3, "cache": tmp_path / "cache"}
    sex = tasks.TaskSpec("sex")
    usual = preparation.prepare(sex, cohort, crop=(10, 12, 8), **options)
    same = preparation.prepare(sex, cohort, grid=Grid((10, 12, 8), usual.affine), **options)
    np.testing.assert_array_equal(usual.test[0], same.test[0])
    moved = crop_affine(usual.affine, (-1, 2, 0))
    other = preparation.prepare(sex, cohort, grid=Grid((10, 12, 8), moved), **options)
    np.testing.assert_array_equal(other.test[0][1:, :10], usual.test[0][:-1, 2:])
    np.testing.assert_array_equal(other.affine, moved)

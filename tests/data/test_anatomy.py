"""Planted anatomy: what grows by how much, and that nothing else tells the classes apart."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.data.anatomy import AnatomyTask, PlantedAnatomy, described_anatomy
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.grids import Grid
from featvis_jax.data.lesions import NoRoomError
from featvis_jax.data.preparation import prepare
from featvis_jax.data.tasks import ShuffledTask, TaskSpec
from tests.data.test_lesions import brain
from tests.data.test_tasks import write_cohort

both_ranks = pytest.mark.parametrize("rank", [2, 3])
MM = 2.0
PLACE = (20.0, 60.0, 30.0)


def grid(rank: int, side: int = 64) -> Grid:
    affine = np.diag([MM, MM, MM, 1.0])
    affine[:3, 3] = (-40.0, -10.0, 30.0 if rank == 2 else -30.0)
    return Grid((side,) * rank, affine)


def middle(rank: int) -> np.ndarray:
    """The place, in voxels."""
    return ((np.array(PLACE) - grid(rank).affine[:3, 3]) / MM)[:rank]


def task(rank: int, **options) -> AnatomyTask:
    options = {"grows": (PLACE,), "radius_mm": 24.0, **options}
    return AnatomyTask(PlantedAnatomy(**options), grid(rank))


def distances(rank: int) -> np.ndarray:
    offsets = np.indices(grid(rank).shape) - middle(rank).reshape(-1, *[1] * rank)
    return MM * np.sqrt((offsets**2).sum(axis=0))


def ball(rank: int) -> np.ndarray:
    """A head: bright within 58 mm of its middle, with a texture."""
    offsets = np.indices(grid(rank).shape) - 31.5
    texture = ndimage.gaussian_filter(np.random.default_rng(0).random(grid(rank).shape), 2.0)
    inside = (offsets**2).sum(axis=0) < 29**2
    return np.where(inside, 0.3 + 2 * (texture - 0.3), 0.0).astype(np.float32)[..., None]


@both_ranks
@pytest.mark.parametrize(("side", "sign"), [("grows", 1), ("shrinks", -1)])
def test_a_place_changes_by_the_share_that_is_told(rank, side, sign):
    """In the middle by all of it, in closed form around it, and beyond the radius not at all."""
    planted = task(rank, **{"grows": (), side: (PLACE,)})
    growth, distance = planted.log_growth(0.5), distances(rank)
    assert growth.flat[int(distance.argmin())] == pytest.approx(sign * math.log(1.5), abs=0.02)
    closer = 1 - 1.5 ** (-sign / rank)
    s = np.minimum((distance / 24.0) ** 2, 1.0)
    along, across = 1 - closer * (1 - s) * (1 - 5 * s), 1 - closer * (1 - s) ** 2
    expected = -np.log(along) - (rank - 1) * np.log(across)
    np.testing.assert_allclose(growth, expected, atol=0.05)
    np.testing.assert_array_equal(planted.within(PLACE), distance < 24.0)


@both_ranks
def test_what_lies_at_a_distance_is_seen_farther_out(rank):
    """Of rings around the place, each is found where the closed form moves it."""
    planted, distance = task(rank), distances(rank)
    rings = (0.5 + 0.4 * np.cos(distance / 4.0)).astype(np.float32)[..., None]
    closer = 1 - 1.6 ** (-1 / rank)
    read = distance * (1 - closer * np.clip(1 - (distance / 24.0) ** 2, 0, None) ** 2)
    expected = 0.5 + 0.4 * np.cos(read / 4.0)
    inner = distance < 30.0
    found = planted.changed(rings, 0.6)[..., 0]
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.03)
    assert np.abs(found - rings[..., 0])[inner].max() > 0.05


@both_ranks
def test_only_the_place_tells_a_pair_apart(rank):
    """The same warp, the same further places, and the same change at two of them."""
    planted = task(rank, decoys=(2, 2), radius_mm=14.0)
    made = planted.examples(ball(rank), "sub-01", np.random.default_rng(1), 1.0)
    elsewhere, here = made["image"][..., 0]
    assert made["label"].tolist() == [0, 1]
    differ = np.abs(here - elsewhere) > 1e-6
    assert differ[planted.within(PLACE, 0.5)].any()
    other = np.argwhere(differ & ~planted.within(PLACE))
    assert len(other)
    assert np.ptp(other, axis=0).max() * MM <= 2 * 14.0
    # Both are seen through a warp, which is another one in the next pair.
    again = planted.examples(ball(rank), "sub-01", np.random.default_rng(2), 1.0)["image"]
    assert np.abs(here - ball(rank)[..., 0]).mean() > 1e-3
    assert np.abs(again[1, ..., 0] - here).mean() > 1e-3
    assert made["image"].dtype == np.float32


@both_ranks
def test_brightness_changes_no_shape(rank):
    planted = task(rank, cue="brightness", change=(0.3, 0.3))
    image = np.full((*grid(rank).shape, 1), 0.5, np.float32)
    changed = planted.changed(image, 0.3)[..., 0]
    distance = distances(rank)
    assert changed.flat[int(distance.argmin())] == pytest.approx(0.5 * 1.3, rel=1e-3)
    np.testing.assert_array_equal(changed[distance >= 24.0], 0.5)
    ratio = np.exp(planted.log_growth(0.3))
    np.testing.assert_allclose(changed / 0.5, ratio, rtol=1e-5)


@both_ranks
def test_a_pattern_is_one_and_the_same_for_all_of_its_class(rank):
    planted = task(rank, grows=(), cue="pattern", change=(1.0, 1.0))
    fields = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        pair = planted.examples(ball(rank), "", rng, 1.0)["image"][..., 0]
        fields.append(pair - ball(rank)[..., 0])
    (other1, own1), (other2, own2) = fields
    own = np.corrcoef(own1.ravel(), own2.ravel())[0, 1]
    assert own > np.corrcoef(other1.ravel(), other2.ravel())[0, 1] + 0.1
    assert planted.log_growth(1.0).std() == pytest.approx(
        planted.log_growth(0.5).std() * 2, rel=0.3
    )
    assert planted.planted.slices_mm is None


def test_images_without_room_are_refused():
    small = AnatomyTask(
        PlantedAnatomy(grows=((0.0, 0.0, 0.0),), radius_mm=60.0), Grid((64, 80), np.eye(4))
    )
    with pytest.raises(NoRoomError, match="No room for 1 planted places and 3 elsewhere"):
        small.check_room(brain(2), np.random.default_rng(0))
    with pytest.raises(NoRoomError, match="smaller radius or fewer decoys"):
        task(2).examples(np.zeros((64, 64, 1), np.float32), "", np.random.default_rng(0), 1.0)
    task(2, radius_mm=10.0).check_room(ball(2), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cue": "smell"}, "cue is 'smell'"),
        ({"grows": ()}, "0 places that grow or shrink; expected one or more"),
        ({"cue": "pattern"}, "1 places that grow or shrink; expected none"),
        ({"radius_mm": 0.0}, "radius_mm is 0.0"),
        ({"change": (0.5, 0.2)}, "change is"),
        ({"decoys": (3, 1)}, "decoys is"),
        ({"grows": ((500.0, 0.0, 0.0),)}, "500,0,0 mm lies outside of the images"),
    ],
)
def test_what_cannot_be_planted_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        task(2, **options)


@both_ranks
def test_a_cohort_is_prepared_at_the_heights_of_the_places(tmp_path, rank):
    """Slices far from a place do not show it; the card tells all that makes the task again."""
    cohort = write_cohort(tmp_path / "bids", shape=(30, 32, 14))
    place = (12.0, -2.0, 5.0)
    planted = PlantedAnatomy(grows=(place,), radius_mm=15.0, decoys=(0, 0))
    spec = TaskSpec("anatomy", planted=planted)
    found = prepare(spec, cohort, rank=rank, cache=tmp_path / "cache")
    if rank == 2:
        heights = {z for _, z in found.train.index}
        assert {-20 + 3 * z for z in heights} == {1, 4, 7}
        assert found.affine[2, 3] == 4
    kept = json.loads(json.dumps(found.description))
    again = described_anatomy(kept, Grid(found.shape, found.affine))
    assert again.planted.places == planted.places
    assert again.planted.change == (0.3, 1.0)
    np.testing.assert_array_equal(again.log_growth(0.5), found.task.log_growth(0.5))
    assert described_anatomy({"lesions": {}}, Grid((4, 4), np.eye(4))) is None
    shuffled = prepare(
        TaskSpec("anatomy", planted=planted, shuffle_labels=True),
        cohort,
        rank=rank,
        cache=tmp_path / "cache",
    )
    assert isinstance(shuffled.task, ShuffledTask)
    assert shuffled.class_names == ("elsewhere", "here")


def test_a_height_without_slices_is_refused(tmp_path):
    write_cohort(tmp_path / "bids")
    spec = TaskSpec("anatomy", planted=PlantedAnatomy(grows=((0.0, 0.0, 300.0),)))
    with pytest.raises(ValueError, match=r"no axial slice lies between 292\.2 and 307\.8 mm"):
        prepare(spec, read_cohort(tmp_path / "bids"), rank=2, cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="needs something planted"):
        prepare(TaskSpec("anatomy"), read_cohort(tmp_path / "bids"), rank=2, cache=tmp_path)

"""Artificial lesions: where they lie, how grey they are, and that nothing else changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from featvis_jax.data.lesions import Lesions, NoRoomError
from featvis_jax.data.shapes import SHAPES, disc, gaussian, square

SHAPE_OF_RANK = {2: (64, 80), 3: (30, 34, 32)}
SMALL = {2: (5.0, 9.0), 3: (4.0, 7.0)}
both_ranks = pytest.mark.parametrize("rank", [2, 3])
both_shapes = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


def inside(rank: int) -> np.ndarray:
    """The ellipse that is the brain of `brain`."""
    shape = SHAPE_OF_RANK[rank]
    offsets = np.indices(shape) - np.reshape(shape, (-1,) + (1,) * rank) / 2 + 0.5
    return ((offsets / (0.45 * np.reshape(shape, (-1,) + (1,) * rank))) ** 2).sum(axis=0) < 1


def brain(rank: int, seed: int = 0) -> np.ndarray:
    """An image whose grey levels fill [0.2, 1] inside an ellipse and are 0 around it."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(rng.random(SHAPE_OF_RANK[rank]), 4.0)
    ranks = stats.rankdata(texture).reshape(texture.shape) / texture.size
    return np.where(inside(rank), 0.2 + 0.8 * ranks, 0.0).astype(np.float32)[..., None]


def one_lesion(shape, rank: int, seed: int, **options) -> tuple[np.ndarray, ...]:
    """An image, the same with one lesion, its mask, its grey level and the tissue's mean."""
    options = {"count": (1, 1), "size_mm": SMALL[rank], **options}
    difficulty = options.pop("difficulty", 1.0)
    image = brain(rank)
    rng = np.random.default_rng(seed)
    damaged, mask = Lesions(shape, **options).add(image, rng, difficulty=difficulty)
    weights, values = mask.astype(np.float64), image.astype(np.float64)
    tissue = (weights * values).sum() / weights.sum()
    middle = np.unravel_index(mask.argmax(), mask.shape)
    level = values[middle] + (damaged[middle] - values[middle]) / weights[middle]
    return image, damaged, mask, level, tissue


def ring(coordinates, center, size):
    radius = np.sqrt(((coordinates - center.reshape(-1, *[1] * (len(center)))) ** 2).sum(axis=0))
    return (abs(radius - size / 2) <= 1.0).astype(float)


@both_ranks
@pytest.mark.parametrize("shape", [square, gaussian])
def test_a_size_is_in_millimetres(rank, shape):
    extents = []
    for voxel_size_mm in (1.0, 3.0):
        options = {"voxel_size_mm": voxel_size_mm, "size_mm": (15.0, 15.0), "min_contrast": 0.1}
        for seed in range(6):
            _, _, mask, _, _ = one_lesion(shape, rank, seed, **options)
            half = ndimage.find_objects((mask[..., 0] >= 0.5).astype(int))[0]
            extents.append(max(s.stop - s.start for s in half) * voxel_size_mm)
    np.testing.assert_allclose(extents, 15.0, atol=1e-6)


@both_ranks
def test_each_shape_gets_the_same_places_sizes_and_grey_levels(rank):
    image = brain(rank)
    lesions = Lesions(square, count=(1, 1), size_mm=SMALL[rank], min_contrast=0.1)
    for seed in range(6):
        (a, mask_a), (b, mask_b) = lesions.add_each(
            (square, disc), image, np.random.default_rng(seed)
        )
        shared = (mask_a * mask_b).astype(bool)
        np.testing.assert_array_equal(a[shared], b[shared])
        np.testing.assert_array_equal(a[(mask_a + mask_b) == 0], image[(mask_a + mask_b) == 0])


# Grey levels


@both_ranks
@both_shapes
def test_the_grey_level_of_a_lesion_is_one_that_the_brain_has_elsewhere(rank, shape):
    for seed in range(10):
        image, damaged, _, level, _ = one_lesion(shape, rank, seed)
        levels = image[inside(rank)]
        assert abs(levels - level).min() < 1e-6
        assert levels.min() <= damaged[inside(rank)].min()
        assert damaged.max() <= levels.max()


@both_ranks
@both_shapes
@pytest.mark.parametrize("min_contrast", [0.0, 0.3, 0.45])
def test_a_lesion_differs_from_its_tissue_by_the_least_contrast(rank, shape, min_contrast):
    contrasts = []
    for seed in range(12):
        _, _, _, level, tissue = one_lesion(shape, rank, seed, min_contrast=min_contrast)
        contrasts.append(abs(level - tissue))
    assert min(contrasts) >= min_contrast - 1e-5
    assert max(contrasts) > min_contrast + 0.05, "the contrast is a bound and not a constant"


@both_ranks
def test_both_polarities_occur_or_the_one_that_is_asked_for(rank):
    def share_of_bright(polarity: str) -> float:
        signs = []
        for seed in range(60):
            _, _, _, level, tissue = one_lesion(square, rank, seed, polarity=polarity)
            signs.append(level > tissue)
        return float(np.mean(signs))

    assert 0.25 < share_of_bright("both") < 0.75
    assert share_of_bright("bright") == 1
    assert share_of_bright("dark") == 0


@both_ranks
def test_at_difficulty_zero_every_lesion_has_the_easy_contrast(rank):
    for easy_contrast in ((0.7, 0.7), (0.5, 0.9)):
        signed = []
        for seed in range(12):
            _, _, _, level, tissue = one_lesion(
                square, rank, seed, difficulty=0.0, easy_contrast=easy_contrast, min_contrast=0.1
            )
            signed.append(level - tissue)
        assert min(signed) < 0 < max(signed)
        low, high = np.abs(signed).min(), np.abs(signed).max()
        assert easy_contrast[0] - 1e-5 < low <= high < easy_contrast[1] + 1e-5
        assert high - low > 0.5 * (easy_contrast[1] - easy_contrast[0]) - 1e-5


def test_the_difficulty_is_the_share_of_final_lesions():
    easy = 0
    for seed in range(200):
        _, _, _, level, tissue = one_lesion(
            square, 2, seed, difficulty=0.7, easy_contrast=(1.5, 1.5)
        )
        easy += abs(level - tissue) > 1.2
    low, high = stats.binom(200, 0.3).interval(0.999)
    assert low <= easy <= high


@both_ranks
@both_shapes
@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_only_easy_lesions_leave_the_unit_interval_and_by_their_contrast_at_most(
    rank, shape, difficulty
):
    beyond = []
    for seed in range(8):
        lesions = Lesions(
            shape, count=(1, 4), size_mm=SMALL[rank], min_contrast=0.2, easy_contrast=(0.6, 0.7)
        )
        damaged, _ = lesions.add(brain(rank), np.random.default_rng(seed), difficulty=difficulty)
        beyond.append(max(-damaged.min(), damaged.max() - 1))
    if difficulty == 1:
        assert max(beyond) <= 1e-6
    else:
        assert 0 < max(beyond) <= 0.7


# Places, counts and sizes


@both_ranks
@both_shapes
@given(seed=st.integers(0, 2**31))
def test_nothing_changes_outside_the_mask_nor_outside_the_brain(rank, shape, seed):
    image = brain(rank)
    before = image.copy()
    lesions = Lesions(shape, count=(1, 4), size_mm=SMALL[rank], min_contrast=0.2)
    damaged, mask = lesions.add(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(damaged[mask == 0], image[mask == 0])
    assert not mask[~inside(rank)].any()
    assert mask.any()
    assert 0 <= mask.min() <= mask.max() <= 1
    assert (damaged != image).any()
    assert damaged.shape == mask.shape == image.shape
    assert damaged.dtype == mask.dtype == np.float32


def test_a_lesion_may_cover_a_hole_in_the_brain():
    image = brain(2)
    image[28:36, 36:44] = 0
    lesions = Lesions(square, count=(20, 20), size_mm=SMALL[2])
    _, mask = lesions.add(image, np.random.default_rng(0))
    assert mask[28:36, 36:44].any()


def test_at_the_border_a_lesion_keeps_most_of_its_extent():
    lost = []
    for seed in range(60):
        _, _, mask, _, _ = one_lesion(square, 2, seed, size_mm=(9.0, 9.0))
        lost.append(1 - mask.sum() / 81)
    assert max(lost) <= 0.25
    assert max(lost) > 0, "some have to lie at the border for this test to see it"


@both_ranks
def test_counts_are_uniform_and_so_are_centres(rank):
    lesions = Lesions(square, count=(1, 3), size_mm=(1.0, 1.0), min_contrast=0.0)
    image = brain(rank)
    counts, places = [], np.zeros(image.shape)
    for seed in range(300):
        _, mask = lesions.add(image, np.random.default_rng(seed))
        counts.append(int(mask.sum()))
        places += mask
    found = np.bincount(counts, minlength=4)[1:]
    assert found.sum() == 300
    assert stats.chisquare(found).pvalue > 0.001
    halves = [slice(0, SHAPE_OF_RANK[rank][0] // 2), slice(SHAPE_OF_RANK[rank][0] // 2, None)]
    assert stats.chisquare([places[half].sum() for half in halves]).pvalue > 0.001
    assert places.max() <= 3, "no place is preferred"


def test_sizes_are_uniform_over_their_range():
    drawn = []

    def recording_square(coordinates, center, size):
        drawn.append(size)
        return square(coordinates, center, size)

    accepted = []
    for seed in range(200):
        one_lesion(recording_square, 2, seed, size_mm=(2.0, 6.0), min_contrast=0.0)
        accepted.append(drawn[-1])
    assert min(drawn) >= 2.0
    assert max(drawn) <= 6.0
    assert stats.kstest(accepted, stats.uniform(2.0, 4.0).cdf).pvalue > 0.01


# Draws


@both_ranks
def test_the_same_seed_gives_the_same_lesions_and_another_seed_others(rank):
    lesions = Lesions(gaussian, size_mm=SMALL[rank], min_contrast=0.2)
    first, again, other = (
        lesions.add(brain(rank), np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


# A shape of one's own


@both_ranks
def test_a_ring_can_be_drawn(rank):
    for seed in range(5):
        image, damaged, mask, level, tissue = one_lesion(
            ring, rank, seed, size_mm=(8.0, 8.0), min_contrast=0.15
        )
        assert set(np.unique(mask)) == {0.0, 1.0}
        places = np.argwhere(mask[..., 0])
        center = (places.min(axis=0) + places.max(axis=0)) / 2
        radius = np.sqrt(((places - center) ** 2).sum(axis=1))
        assert radius.min() > 2, "its middle is left alone"
        np.testing.assert_array_equal(damaged[mask == 0], image[mask == 0])
        assert len(np.unique(damaged[mask == 1])) == 1
        assert abs(level - tissue) >= 0.15 - 1e-5


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float64])
def test_a_shape_may_return_any_kind_of_number(kind):
    def typed_square(coordinates, center, size):
        return square(coordinates, center, size).astype(kind)

    _, damaged, mask, _, _ = one_lesion(typed_square, 2, 0)
    _, expected, expected_mask, _, _ = one_lesion(square, 2, 0)
    np.testing.assert_array_equal(damaged, expected)
    np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (lambda coordinates: coordinates, r"float64 and shape \(2, "),
        (lambda coordinates: 1.0, r"shape \(\)"),
        (lambda coordinates: np.zeros(0), r"shape \(0,\)"),
        (lambda coordinates: None, "object"),
        (lambda coordinates: np.full(coordinates.shape[1:], "x"), "<U1"),
        (lambda coordinates: np.full(coordinates.shape[1:], 2.0), r"on \[2.0, 2.0\]"),
        (lambda coordinates: np.full(coordinates.shape[1:], -0.1), r"on \[-0.1, -0.1\]"),
        (lambda coordinates: np.full(coordinates.shape[1:], np.nan), r"on \[nan, nan\]"),
    ],
)
def test_a_bad_shape_is_named_with_what_it_returned(values, told):
    def my_shape(coordinates, center, size):
        return values(coordinates)

    lesions = Lesions(my_shape)
    with pytest.raises(ValueError, match=rf"(?s)'my_shape'.*{told}.*expected a mask of shape \("):
        lesions.add(brain(2), np.random.default_rng(0))


# What cannot be drawn


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"count": (0, 2)}, r"count is \(0, 2\); expected 1 <="),
        ({"count": (3, 2)}, r"count is \(3, 2\)"),
        ({"size_mm": (0.0, 2.0)}, r"size_mm is \(0.0, 2.0\); expected 0 <"),
        ({"size_mm": (3.0, 2.0)}, "size_mm"),
        ({"size_mm": (3.0, float("inf"))}, "size_mm"),
        ({"size_mm": (float("nan"), 2.0)}, "size_mm"),
        ({"min_contrast": -0.1}, "min_contrast is -0.1; expected 0 <= it < 1"),
        ({"min_contrast": 1.0}, "min_contrast"),
        ({"min_contrast": float("nan")}, "min_contrast"),
        ({"polarity": "grey"}, "polarity is 'grey'; expected 'both', 'bright' or 'dark'"),
        ({"voxel_size_mm": 0.0}, "voxel_size_mm is 0.0; expected a positive number"),
        ({"voxel_size_mm": float("inf")}, "voxel_size_mm"),
        ({"easy_contrast": (0.0, 0.5)}, r"easy_contrast is \(0.0, 0.5\); expected 0 < smallest"),
        ({"easy_contrast": (0.8, 0.4)}, r"easy_contrast is \(0.8, 0.4\)"),
        ({"easy_contrast": (float("nan"), 0.4)}, "easy_contrast"),
    ],
)
def test_options_out_of_range_are_refused_with_the_range(options, told):
    with pytest.raises(ValueError, match=told):
        Lesions(square, **options)


def test_an_image_without_brain_is_refused():
    with pytest.raises(ValueError, match=r"the image is empty: leave such slices out"):
        Lesions(square).add(np.zeros((8, 8, 1), np.float32), np.random.default_rng(0))


@pytest.mark.parametrize("options", [{"size_mm": (200.0, 300.0)}, {"min_contrast": 0.99}])
def test_lesions_that_fit_nowhere_are_refused_with_the_fix(options):
    with pytest.raises(ValueError, match=r"\(64, 80\).*allow smaller lesions or less contrast"):
        Lesions(square, **options).add(brain(2), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (np.zeros((20, 20, 1), np.float32), {}),
        (brain(2), {"size_mm": (200.0, 300.0)}),
        (brain(2), {"min_contrast": 0.99}),
        (brain(3), {"min_contrast": 0.99}),
        # A brain of two grey levels that hardly differ.
        (np.where(brain(2) > 0.5, 0.5, 0.48).astype(np.float32), {}),
    ],
)
def test_an_image_without_room_is_told_beforehand(image, options):
    lesions = Lesions(square, **options)
    for check in (lesions.check_room, lesions.add):
        with pytest.raises(NoRoomError, match=r"the image is empty|allow smaller lesions or less"):
            check(image, np.random.default_rng(0))


def test_where_one_place_in_thirty_fits_lesions_are_still_drawn():
    """A bright patch is the only place in which a dark lesion has its contrast."""
    image = np.full((64, 64, 1), 0.3, np.float32)
    image += np.random.default_rng(0).uniform(0, 0.02, image.shape).astype(np.float32)
    image[20:32, 20:32] = 0.9
    image[0] = 0
    lesions = Lesions(square, count=(3, 3), size_mm=(3.0, 3.0), polarity="dark", min_contrast=0.5)
    for seed in range(40):
        _, mask = lesions.add(image, np.random.default_rng(seed))
        assert not mask[:17].any()
        assert not mask[35:].any()

"""What a network answers to lesions of several shapes: a detector that is known gives it away."""

import doctest
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage, stats

from featvis_jax.data.distractors import of_shapes
from featvis_jax.data.lesions import Lesions, NoRoomError
from featvis_jax.data.shapes import bar, disc, gaussian, square
from featvis_jax.evaluation import responses
from featvis_jax.evaluation.concepts import TEMPLATES
from featvis_jax.evaluation.responses import of_equal_area, shape_responses

SHAPES = {
    "square": of_equal_area(TEMPLATES["square"]),
    "disc": of_equal_area(TEMPLATES["disc"]),
    "line along axis 1": of_equal_area(TEMPLATES["line"], axis=1),
}
LESIONS = Lesions(square, size_mm=(10.0, 10.0), min_contrast=0.2, polarity="dark")


def brains(rng, count=12):
    """Bright ellipses with some texture."""
    x, y = np.meshgrid(np.linspace(-1, 1, 80), np.linspace(-1, 1, 96), indexing="ij")
    for _ in range(count):
        texture = ndimage.gaussian_filter(rng.standard_normal((80, 96)), 3)
        image = np.where(x**2 + y**2 < 0.9, 0.6 + 1.5 * texture, 0).clip(0, 1)
        yield image[..., None].astype(np.float32)


def height(images):
    """Logits that grow with the longest dark run along the first axis: what a square has most."""
    found = []
    for image in images:
        dark = np.abs(image[..., 0] - images[0, ..., 0]) > 1e-4
        found.append([0.0, float(dark.sum(axis=0).max())])
    return np.array(found)


def test_the_docstrings_examples_are_true():
    assert doctest.testmod(responses).failed == 0


def test_a_detector_of_height_answers_least_to_a_flat_bar(rng):
    found = shape_responses(height, brains(rng), LESIONS, SHAPES, own={1: "square"})["square"]
    by_shape = {each.shape: each for each in found}
    assert [each.shape for each in found] == list(SHAPES)
    assert all(each.images == 12 for each in found)
    own, flat = by_shape["square"], by_shape["line along axis 1"]
    assert own.change == pytest.approx(10, abs=1)
    assert (own.harder, own.p) == (0, 1)
    # 10 / sqrt(3) voxels high, in every image less than a square: all signs are the same.
    assert flat.change == pytest.approx(10 / np.sqrt(3), abs=1)
    assert flat.harder == 0
    assert flat.p < 0.01
    # A disc of that area is higher than the square, by 2 / sqrt(pi).
    assert by_shape["disc"].change > own.change


def test_images_without_room_for_every_shape_are_passed_over_unless_all_are(rng):
    roomy = list(brains(rng, 3))
    small = np.zeros_like(roomy[0])
    small[40:47, 40:47] = roomy[0][40:47, 40:47]
    images = [roomy[0], small, *roomy[1:]]
    found = shape_responses(height, images, LESIONS, SHAPES, own={1: "square"})["square"]
    assert all(each.images == 3 for each in found)
    with pytest.raises(NoRoomError, match="No place for a lesion"):
        shape_responses(height, [small], LESIONS, SHAPES, own={1: "square"})


def test_p_is_that_of_wilcoxons_test(rng):
    def noisy(images):
        areas = np.abs(images - images[:1]).sum(axis=(1, 2, 3))
        return np.stack([0 * areas, areas], axis=1)

    images = list(brains(rng))
    answers = shape_responses(noisy, images, LESIONS, SHAPES, own={1: "square"}, seed=3)
    found = answers["square"]
    leads = []
    for number, image in enumerate(images):
        drawn = Lesions(
            square, count=(1, 1), size_mm=(10, 10), min_contrast=0.2, polarity="dark"
        ).add_each(tuple(SHAPES.values()), image, np.random.default_rng([3, 5, number]))
        leads.append([float(np.abs(each - image).sum()) for each, _ in drawn])
    first, second, _ = np.transpose(leads)
    expected = stats.wilcoxon(second - first).pvalue  # pyright: ignore
    assert found[1].p == pytest.approx(expected, rel=1e-3)
    assert found[1].change == pytest.approx(np.mean(leads, axis=0)[1], rel=1e-4)


def test_a_network_of_two_shapes_is_asked_for_one_against_the_other(rng):
    own = {0: "disc", 1: "square"}
    found = shape_responses(height, brains(rng), LESIONS, SHAPES, own=own)
    assert list(found) == ["disc", "square"]
    to_disc, to_square = ({each.shape: each.change for each in found[name]} for name in found)
    # A disc is higher than a square, and what one class gains the other loses.
    assert to_square["disc"] == to_disc["square"] == 0
    assert to_square["square"] == to_disc["disc"] < 0


@pytest.mark.parametrize("rank", [2, 3])
def test_distractors_are_of_another_outline(rank):
    axis = np.arange(40.0)
    grid = np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))
    center = np.full(rank, 19.5)
    for shape in (square, disc, gaussian):
        found = of_shapes([shape], rank)
        # But for the other whole shape, which comes several times, all are different.
        different = {each(grid, center, 12.0).tobytes() for each in found}
        boxes, quarters, ellipsoids, knobs, lumps = 12, 12, 6, 14, 12
        round_ones = 0 if shape is square else ellipsoids + knobs + lumps
        assert len(different) == (3 if rank == 2 else 1 + boxes + quarters + round_ones)
        for distractor in found:
            mask, own = distractor(grid, center, 12.0), shape(grid, center, 12.0)
            overlap = 2 * (mask * own).sum() / (mask.sum() + own.sum())
            assert overlap < 0.95
            # But for the grid, on which a bar is a voxel narrower or wider.
            size = 12.0**rank if rank == 2 else own.sum()
            on_grid = 0.2 if rank == 2 or distractor.__name__ not in ("bar", "plate") else 0.4
            assert mask.sum() == pytest.approx(size, rel=on_grid)
    # Bars lie along every axis, and plates in volumes across every one.
    for kind, which, ratio in (("bar", np.argmax, 3), ("plate", np.argmin, 1 / 3)):
        boxes = [
            each(grid, center, 12.0) for each in of_shapes([square], rank) if each.__name__ == kind
        ]
        lengths = [
            [int(each.any(axis=tuple({*range(rank)} - {k})).sum()) for k in range(rank)]
            for each in boxes
        ]
        told = [int(which(each)) for each in lengths]
        times = {("bar", 2): 1, ("bar", 3): 2, ("plate", 2): 0, ("plate", 3): 2}[kind, rank]
        assert told == list(range(rank)) * times
        assert all(
            each.sum() == bar(grid, center, 12.0, ratio=ratio).sum() for each in boxes[:rank]
        )
        ratios = [round(max(each) / min(each)) for each in lengths]
        assert ratios == [3] * rank * (times > 0) + [2] * rank * (times > 1)


def corners(mask: np.ndarray, axes: tuple[int, ...]) -> int:
    """Corners that point outwards: 2 x 2 voxels of which one is filled."""
    filled = np.lib.stride_tricks.sliding_window_view(mask, (2, 2), axis=axes).sum(axis=(-2, -1))
    return int((filled == 1).sum())


@pytest.mark.parametrize("rank", [2, 3])
def test_two_shapes_have_distractors_that_share_corners_and_arcs_and_are_neither(rank):
    axis = np.arange(48.0)
    grid = np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))
    center = np.full(rank, 23.5)
    found = of_shapes([disc, square], rank)
    kinds = Counter(each.__name__ for each in found)
    boxes = {"bar"} if rank == 2 else {"bar", "plate"}
    assert set(kinds) == boxes | {f"three quarters of {name}" for name in ("disc", "square")}
    assert len(set(kinds.values())) == 1, "each kind is drawn equally often"
    masks = {each.__name__: [] for each in found}
    for each in found:
        mask = each(grid, center, 16.0)
        assert mask.sum() == pytest.approx(16.0**rank, rel=0.25)  # But for the grid.
        for shape in (disc, square):
            own = shape(grid, center, 16.0)
            assert 2 * (mask * own).sum() / (mask.sum() + own.sum()) < 0.9
        masks[each.__name__].append(mask)
    # None but bars and plates comes twice.
    for name, several in masks.items():
        different = {mask.tobytes() for mask in several}
        assert len(different) == ((1 if rank == 2 else 2) * rank if name in boxes else len(several))
    # Where a quarter is missing three corners are left, and two more point outwards.
    cuts = {
        tuple(
            corners(mask.take(23, axis=k) if rank == 3 else mask, (0, 1))
            for k in range(3 if rank == 3 else 1)
        )
        for mask in masks["three quarters of square"]
    }
    assert {max(each) for each in cuts} == {5}
    # A disc keeps three quarters of its arc: what is left of it lies within a larger disc.
    for mask in masks["three quarters of disc"]:
        whole = disc(grid, center, 16.0 * (4 / 3) ** (1 / rank))
        assert (mask <= whole).all()
        assert mask.sum() == pytest.approx(0.75 * whole.sum(), rel=1e-6)

"""Shape-blind baselines find what a threshold finds, and are at chance where only shape tells."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from featvis_jax.data.pipeline import Examples
from featvis_jax.evaluation.baselines import (
    brightness_by_place,
    histogram_features,
    shape_blind_baselines,
)


def batches(images: np.ndarray, labels: np.ndarray, size: int = 16) -> Iterator[Examples]:
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        yield {
            "image": images[part].astype(np.float32),
            "label": labels[part].astype(np.int32),
        }


def foreground(rng: np.random.Generator, count: int) -> np.ndarray:
    """Grey noise in a dark frame."""
    images = np.zeros((count, 16, 16, 1), np.float32)
    images[:, 2:-2, 2:-2] = rng.uniform(0.2, 0.6, (count, 12, 12, 1))
    return images


def both_halves(make, rng: np.random.Generator) -> dict[str, float]:
    return shape_blind_baselines(batches(*make(rng, 120)), batches(*make(rng, 100)))


@pytest.mark.parametrize("level", [0.9, 0.05], ids=["bright", "dark"])
def test_a_spot_out_of_range_is_found_by_a_threshold(rng, level):
    def make(rng, count):
        images, labels = foreground(rng, count), rng.permutation(np.arange(count) % 2)
        images[labels == 1, 6:9, 6:9] = level
        return images, labels

    found = both_halves(make, rng)
    # The threshold is a value of the training images: a test image may lie a hair beyond it.
    assert found["threshold"] >= 0.98
    assert found["histogram"] == 1.0


def test_three_classes_take_two_thresholds(rng):
    def make(rng, count):
        images, labels = foreground(rng, count), rng.permutation(np.arange(count) % 3)
        images[labels == 1, 6:9, 6:9] = 0.9
        images[labels == 2, 6:9, 6:9] = 0.05
        return images, labels

    assert min(both_halves(make, rng).values()) >= 0.98
    nothing = both_halves(lambda rng, n: (foreground(rng, n), rng.integers(0, 3, n)), rng)
    # A third by chance; four standard deviations.
    assert max(nothing.values()) < 1 / 3 + 4 * np.sqrt(2 / 9 / 100)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_of_the_mean_is_found_by_a_threshold(rng, sign):
    def make(rng, count):
        labels = rng.permutation(np.arange(count) % 2)
        images = foreground(rng, count)
        # The same highest and lowest value everywhere leaves the mean alone to tell.
        images[:, 2, 2], images[:, 2, 3] = 0.9, 0.1
        images[:, 3:-2, 2:-2] += sign * 0.05 * labels[:, None, None, None]
        return images, labels

    assert both_halves(make, rng)["threshold"] == 1.0


def test_what_only_the_shape_tells_is_left_to_chance(rng):
    def make(rng, count):
        images, labels = foreground(rng, count), np.arange(count) % 2
        images[0::2, 4:10, 4:10] = 0.4
        # The partner has the very same voxels, thrown about within the frame.
        voxels = images[0::2, 2:-2, 2:-2].reshape(count // 2, -1)
        images[1::2, 2:-2, 2:-2] = rng.permuted(voxels, axis=1).reshape(-1, 12, 12, 1)
        return images, labels

    assert both_halves(make, rng) == {"threshold": 0.5, "histogram": 0.5}


def test_equal_values_are_no_evidence():
    # Sorted by label, a run of equal values must not look as if a threshold could part it.
    labels = np.repeat([0, 1], 40)
    images = np.full((80, 4, 4, 1), 0.5)
    images[:, 0, 0], images[:, 0, 1] = 0.75, 0.25
    # A fifth of class 1 is brighter at one place; minimum and mean are those of all others.
    images[72:, 0, 0], images[72:, 0, 2] = 1.0, 0.25
    shuffled = np.random.default_rng(0).permutation(80)
    found = shape_blind_baselines(
        batches(images, labels), batches(images[shuffled], labels[shuffled])
    )
    assert found["threshold"] == pytest.approx(0.6)


def test_features_are_those_of_numpy(rng):
    images, labels = foreground(rng, 20), rng.integers(0, 2, 20)
    images[3] = 0
    histograms, summaries, found = histogram_features(batches(images, labels, size=7))
    np.testing.assert_array_equal(found, labels)
    for image, histogram, summary in zip(images, histograms, summaries, strict=True):
        bright = image[image > 0]
        edges = np.arange(65) / 64
        expected = [np.sum((bright >= low) & (bright < high)) for low, high in pairwise(edges)]
        np.testing.assert_allclose(histogram, np.array(expected) / max(bright.size, 1), atol=1e-12)
        lowest = bright.min() if bright.size else 1.0
        np.testing.assert_allclose(summary, [image.max(), lowest, image.mean()], rtol=1e-6)


def test_the_threshold_is_the_best_of_all_by_trial(rng):
    images, labels = foreground(rng, 60), rng.permutation(np.arange(60) % 2)
    images *= 1 + 0.1 * labels[:, None, None, None] * rng.random((60, 1, 1, 1))
    best = 0.0
    for summary in (
        images.max,
        lambda axis: np.where(images > 0, images, 1).min(axis),
        images.mean,
    ):
        values = summary((1, 2, 3))
        for threshold in values:
            above = values > threshold
            recall = [np.mean(above[labels == 1]), np.mean(~above[labels == 0])]
            best = max(best, float(np.mean(recall)), 1 - float(np.mean(recall)))
    found = shape_blind_baselines(batches(images, labels), batches(images, labels))
    assert found["threshold"] == pytest.approx(best)
    assert stats.binomtest(round(best * 60), 60).pvalue < 0.5, "there is something to find"


def test_brightness_by_place_finds_where_and_not_how_large(rng):
    """A corner that is brighter is found; a checkerboard that is coarser in it is not."""

    def brighter(rng, count):
        images, labels = foreground(rng, count), rng.permutation(np.arange(count) % 2)
        images[labels == 1, 2:6, 2:6] += 0.2
        images[labels == 0, 10:14, 10:14] += 0.2
        return images, labels

    def coarser(rng, count):
        images, labels = foreground(rng, count), rng.permutation(np.arange(count) % 2)
        x, y = np.indices((8, 8))
        fine, coarse = ((x + y) % 2)[..., None], ((x // 2 + y // 2) % 2)[..., None]
        sign = np.where(rng.random(count) < 0.5, 1, -1)[:, None, None, None]
        pattern = np.where(labels[:, None, None, None] == 1, coarse, fine) - 0.5
        images[:, 4:12, 4:12] = 0.4 + 0.2 * sign * pattern
        return images, labels

    def found(make):
        blind = brightness_by_place(batches(*make(rng, 120)), batches(*make(rng, 100)))
        return blind["brightness_by_place"]

    assert found(brighter) == 1.0
    assert found(coarser) < 0.65
    # Volumes have cells, too, and sides that eight does not divide.
    volumes, labels = rng.random((20, 9, 10, 11, 1)), np.arange(20) % 2
    volumes[labels == 1] += 0.5
    made = list(batches(volumes, labels))
    assert brightness_by_place(made, made) == {"brightness_by_place": 1.0}

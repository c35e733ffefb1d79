"""Grades of maps of growth, on maps that are right and on some that only look it."""

import numpy as np
import pytest
from scipy import stats

from featvis_jax.evaluation.growth import growth_grades

SHAPES = [(40, 48), (20, 24, 22)]
all_shapes = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])


def distance(shape, middle):
    offsets = np.indices(shape) - np.reshape(middle, (-1,) + (1,) * len(shape))
    return np.sqrt((offsets**2).sum(axis=0))


def bump(shape, middle, radius):
    return np.clip(1 - (distance(shape, middle) / radius) ** 2, 0, None) ** 2


def masks(shape):
    place = np.array(shape) // 3
    return {
        "core": distance(shape, place) < 3,
        "place": distance(shape, place) < 6,
        "brain": distance(shape, np.array(shape) / 2) < min(shape) / 2,
    }


@all_shapes
def test_the_planted_map_has_the_best_grades(shape):
    planted = 0.4 * bump(shape, np.array(shape) // 3, 6)
    found = growth_grades(0.5 * planted, planted, **masks(shape))
    assert found.signed_auc > 0.999
    assert found.share == pytest.approx(1.0)
    assert found.is_peak_inside
    assert found.is_sign_right
    assert found.growth == pytest.approx(found.planted / 2)
    assert found.correlation == pytest.approx(1.0)


@all_shapes
def test_maps_that_look_right_lose_the_grade_that_they_miss(shape):
    place = np.array(shape) // 3
    planted, where = 0.4 * bump(shape, place, 6), masks(shape)
    wrong_sign = growth_grades(-planted, planted, **where)
    assert wrong_sign.signed_auc < 0.001
    assert wrong_sign.unsigned_auc > 0.999
    assert wrong_sign.is_peak_inside
    assert not wrong_sign.is_sign_right
    assert wrong_sign.growth < 0
    elsewhere = growth_grades(bump(shape, 2 * place, 6), planted, **where)
    assert elsewhere.share < 0.05
    assert not elsewhere.is_peak_inside
    assert elsewhere.correlation < 0.05
    shrinking = growth_grades(-planted, -planted, **where)
    assert shrinking.is_sign_right
    assert shrinking.planted > 0
    assert shrinking.signed_auc > 0.999


@all_shapes
def test_noise_is_at_chance_and_an_even_map_shows_nothing(shape):
    planted = 0.4 * bump(shape, np.array(shape) // 3, 6)
    noise = np.random.default_rng(0).standard_normal(shape)
    found = growth_grades(noise, planted, **masks(shape))
    inside = masks(shape)["core"][masks(shape)["brain"]]
    values = noise[masks(shape)["brain"]]
    test = stats.mannwhitneyu(values[inside], values[~inside])
    assert found.signed_auc == pytest.approx(test.statistic / (inside.sum() * (~inside).sum()))
    assert 0.2 < found.signed_auc < 0.8
    even = growth_grades(np.zeros(shape), planted, **masks(shape))
    assert (even.signed_auc, even.share, even.correlation) == (0.5, 0.0, 0.0)
    assert not even.is_peak_inside
    assert not even.is_sign_right


def test_a_core_that_is_no_part_is_refused():
    where = masks((40, 48))
    planted = bump((40, 48), (13, 16), 6)
    for change in (
        {"core": np.zeros((40, 48), bool)},
        {"place": np.zeros((40, 48), bool)},
        {"brain": where["core"]},
    ):
        with pytest.raises(ValueError, match="expected a part of the brain and of the place"):
            growth_grades(planted, planted, **{**where, **change})

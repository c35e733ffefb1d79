"""Pairs in the right order, and intervals over people."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from featvis_jax.evidence.predicting import concordance, likeness, median, strongest


def people(count, *, each=1):
    return [f"sub-{i // each:02d}" for i in range(count)]


def test_concordance_with_two_classes_is_the_area_under_the_curve(rng):
    label = rng.integers(0, 2, 60).astype(float)
    score = np.round(label + rng.standard_normal(60), 1)  # With ties.
    found = concordance(score, label, people(60))
    assert found.value == pytest.approx(roc_auc_score(label, score))
    assert found.low < found.value < found.high


def test_concordance_with_numbers_is_somers_d(rng):
    outcome = np.round(rng.standard_normal(40), 1)
    score = np.round(outcome + rng.standard_normal(40), 1)
    expected = (stats.somersd(outcome, score).statistic + 1) / 2
    assert concordance(score, outcome, people(40)).value == pytest.approx(expected)


def test_an_interval_knows_that_images_of_one_person_are_not_independent(rng):
    outcome = np.repeat(rng.standard_normal(8), 10)
    score = outcome + np.repeat(rng.standard_normal(8), 10)
    alone = concordance(score, outcome, people(80))
    together = concordance(score, outcome, people(80, each=10))
    assert together.value == alone.value
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_the_interval_holds_what_is_true_about_95_times_in_100(rng):
    held = 0
    for seed in range(200):
        label = np.repeat([0.0, 1.0], 15)
        found = concordance(label + rng.standard_normal(30), label, people(30), seed=seed)
        held += found.low <= stats.norm.cdf(1 / np.sqrt(2)) <= found.high
    assert 175 <= held <= 200


def test_nothing_to_compare_has_no_number():
    assert np.isnan(concordance(np.arange(3.0), np.ones(3), people(3)).value)
    assert np.isnan(concordance(np.arange(3.0), np.full(3, np.nan), people(3)).value)
    assert np.isnan(median(np.empty(0)).value)


def test_likeness_leaves_out_a_channel_that_never_changes():
    features, template = np.array([1.0, 2.0, 9.0]), np.array([2.0, 4.0, -9.0])
    assert likeness(features, template, np.array([1.0, 1.0, 0.0])) == pytest.approx(1.0)
    assert likeness(features, np.zeros(3), np.ones(3)) == 0


def test_of_each_person_the_strongest_image_counts():
    assert strongest(np.array([1.0, 5, 4, 3]), ["a", "a", "b", "b"]) == [1, 2]

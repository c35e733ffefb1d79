"""The word for a picture follows from its measures, and names what speaks against it."""

import math

import pytest

from featvis_jax.evidence.measuring import Measures
from featvis_jax.evidence.predicting import UNKNOWN, Interval
from featvis_jax.evidence.verdict import belongs, verdict


def measures(**told):
    """Of a picture that nothing speaks against, but for what is told."""
    good = {
        "liveliness": 1.0,
        "strength": 1.5,
        "pasted": Interval(1.4, 1.2, 1.5),
        "selectivity": 0.98,
        "standing": 1.0,
        "other_ways": 0.02,
        "below": ("conv4",),
        "likeness": 0.7,
        "picture_predicts": UNKNOWN,
        "examples_predict": UNKNOWN,
        "both_predict": UNKNOWN,
        "label": UNKNOWN,
        "examples": (0, 1),
        "places": (0, 1),
    }
    return Measures(**{**good, **told})


def test_nothing_speaks_against_a_good_picture():
    found = verdict(measures())
    assert (found.word, found.reason) == ("not refuted", "")
    assert found.belongs > 0.8


@pytest.mark.parametrize(
    ("told", "word", "reason"),
    [
        ({"liveliness": 0.0, "strength": math.nan}, "not measured", "no real input"),
        ({"liveliness": 0.01, "strength": 90.0}, "not measured", "hardly any real input"),
        ({"strength": 0.3}, "does not drive its unit", "0.30 of the response"),
        ({"other_ways": 0.9}, "refuted", "90% of the response comes by ways"),
        ({"pasted": Interval(0.1, 0.0, 0.2)}, "refuted", "in other people's images"),
        ({"standing": 0.2, "selectivity": 0.4}, "refuted", "80% of the layer's other pictures"),
        ({"standing": 0.4, "selectivity": 0.1}, "refuted", "90% of the layer's other units more"),
    ],
)
def test_what_speaks_against_a_picture_is_named(told, word, reason):
    found = verdict(measures(**told))
    assert found.word == word
    assert reason in found.reason


@pytest.mark.parametrize("unknown", [{"standing": math.nan}, {"selectivity": math.nan}])
def test_what_is_not_known_is_left_out(unknown):
    known = measures(**unknown, pasted=UNKNOWN)
    assert verdict(known).word == "not refuted"
    assert 0.5 < belongs(known) < 1


def test_more_of_anything_belongs_more():
    better = belongs(measures())
    for worse in ({"standing": 0.7}, {"selectivity": 0.7}, {"pasted": Interval(0.7, 0, 1)}):
        assert belongs(measures(**worse)) < better


def test_beyond_the_strongest_real_input_nothing_is_gained():
    assert belongs(measures(strength=9.0, pasted=Interval(9.0, 9, 9))) == belongs(measures())

"""What a run asked, read off the descriptions that objectives themselves give."""

import numpy as np
import pytest

from featvis_jax.maximize import objectives
from featvis_jax.results.asked import question

A, B = objectives.channel("a"), objectives.channel("b")


@pytest.mark.parametrize(
    ("objective", "suppresses", "unit"),
    [
        (A, False, "channel"),
        (-A, True, "channel"),
        (-0.5 * A, True, "channel"),
        (2.0 * A, False, "channel"),
        (2.0 * -A, True, "channel"),
        (1e-7 * -A, True, "channel"),
        (-1.0 * -A, False, "channel"),
        (-1.0 * (-1.0 * -A), True, "channel"),
        (A - B, False, "channel"),
        (-(A - B), True, "channel"),
        (-A + B, True, "channel"),
        ((-A - B).of(3), True, "channel"),
        (A.of(3) - A, False, "channel"),
        (-objectives.neuron("a", position=(1, 2)), True, "channel"),
        (-objectives.attention("a", np.ones((2, 2))), True, "channel"),
        (-A + 1.0 * objectives.diversity("a"), True, "channel"),
        (A + 1.0 * objectives.diversity("a"), False, "channel"),
        (objectives.logit("a"), False, "logit"),
        (-objectives.logit_difference("a", other=1), True, "logit"),
        (-objectives.layer("a"), True, "whole layer"),
        (objectives.direction("a", vector=np.ones(3)), False, "direction"),
        (-objectives.cosine_direction("a", vector=np.ones(3)), True, "direction"),
        (-objectives.direction("a", np.eye(3)), True, "direction"),
        (objectives.up_to(objectives.strongest(-A), 8.0), True, "channel"),
        (objectives.up_to(objectives.logit("a"), 8.0), False, "logit"),
    ],
    ids=lambda each: getattr(each, "description", None),
)
def test_sign_and_unit_are_those_of_the_objective(objective, suppresses, unit):
    found = question({"objective": {"a": objective.description}}, "a")
    assert (found.suppresses, found.unit) == (suppresses, unit)
    assert found.objective == objective.description
    assert found.verb in found.sought


def test_a_run_that_does_not_say_is_of_channels_that_are_driven():
    for settings in ({}, {"objective": None}, {"objective": {"b": "-"}}, {"objective": 3}):
        assert question(settings, "a").sought == "what drives each channel most"


def test_directions_with_names_are_several_units():
    settings = {"objective": {"a": objectives.direction("a", np.eye(3)).description}}
    one, several = (
        question(each, "a") for each in (settings, {**settings, "unit_names": {"a": list("xyz")}})
    )
    assert [each.sought for each in (one, several)] == [
        "what drives the direction most",
        "what drives each direction most",
    ]
    assert (several.label(1), several.called(1), several.name("a", 1)) == (
        *("y", "direction y", "direction y in a"),
    )
    assert (one.label(0), one.called(0), one.name("a", 0)) == ("0", "direction", "a direction in a")
    # Of a layer of 64 channels.
    assert (several.counted(2, 64), one.counted(1, 64)) == ("2 of 3 directions", "the direction")
    assert question({**settings, "unit_names": {"b": ["x"]}}, "a").names == ()

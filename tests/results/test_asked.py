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

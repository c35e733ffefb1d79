"""Options: one declaration for Python and for the command line."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from featvis_jax.commands import flags
from featvis_jax.options import Options, as_flags, as_lines, errors_of, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walk(Options):
    """A walk."""

    steps: int = option(3, "How far.", least=1, most=9)
    pace: float | None = option(None, "How fast.", least=0.0)
    mood: str = option("calm", "How it feels.", choices=("calm", "brisk"))
    past: tuple[str, ...] | None = option(None, "What to pass by.", repeats=True)
    stops: tuple[str, ...] = option(("home",), "Where to rest.")
    between: tuple[float, float] | None = option(None, "From and to.")
    rain: bool = option(False, "Whether it rains.")
    secret: str | None = option(None, "What the run does not keep.", belongs_to_run=False)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"steps": np.int64(4)}, 4),
        ({"pace": 2}, 2.0),
        ({"past": "mill"}, ("mill",)),
        ({"past": ["mill", "inn"]}, ("mill", "inn")),
        ({"stops": Path("a/b")}, ("a/b",)),
        ({"between": [0, 2]}, (0.0, 2.0)),
    ],
)
def test_values_of_python_come_to_their_kind(given, kept):
    (name,) = given
    found = getattr(Walk(**given), name)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": 0}, "`steps=0`: expected a number from 1 to 9."),
        ({"pace": -1.0}, "`pace=-1.0`: expected a number from 0."),
        ({"mood": "odd"}, "`mood=odd`: expected one of calm, brisk."),
        ({"between": (1.0,)}, "`between=1`: expected 2 values."),
    ],
)
def test_a_wrong_value_is_told_by_its_option(given, told):
    with pytest.raises(ValueError) as raised:
        Walk(**given)
    assert str(raised.value) == told


COMMAND_LINES = [
    [],
    ["--steps=5", "--pace=0.5", "--mood=brisk", "--rain", "--secret=s"],
    ["--past=mill", "--past=inn", "--stops=a,b", "--between=0,2.5", "--norain"],
    ["--stops="],
]


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_lines_of_a_run_are_its_flags_again(arguments, tmp_path):
    first = flags.parse(Walk, ["walk", *arguments])
    file = tmp_path / "flags.txt"
    file.write_text(as_lines(first))
    again = flags.parse(Walk, ["walk", f"--flagfile={file}"])
    assert again == dataclasses.replace(first, secret=None)


def test_flags_of_two_commands_do_not_meet():
    assert flags.parse(Walk, ["walk", "--steps=5"]).steps == 5
    assert flags.parse(Walk, ["walk"]).steps == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--steps=0"], "steps"),
        (["--speed=3"], "speed"),
        (["--between=0"], "--between=0: expected 2 numbers, separated by commas."),
        (["--between=a,b"], "--between=a,b: expected 2 numbers, separated by commas."),
        (["far"], "'far' is not a flag; options look like --name=value."),
    ],
)
def test_a_wrong_command_line_is_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        flags.parse(Walk, ["walk", *arguments])


def test_what_must_be_given_is_asked_for():
    with pytest.raises(ValueError, match="past"):
        flags.parse(Walk, ["walk"], required=["past"])


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        ("a.nii", "a.nii: is not there", "`mask=a.nii`: is not there"),
        ("a.nii", "a.nii holds nothing", "`mask=a.nii` holds nothing"),
        ("a.nii", "nothing in it", "`mask=a.nii`: nothing in it"),
        (("a", "b"), "a: is not there", "`mask=a,b`: a: is not there"),
    ],
)
def test_an_error_begins_with_its_option_once(value, error, told):
    with pytest.raises(FileNotFoundError) as raised, errors_of("mask", value):
        raise FileNotFoundError(error)
    assert str(raised.value) == told


def test_only_options_are_spelled_as_flags():
    text = "`steps=3` and `pace`, but not `x` of `units.tsv`"
    assert as_flags(text, {"steps", "pace"}) == "--steps=3 and --pace, but not `x` of `units.tsv`"

"""The zoo's own page: every model has its line, and what the line says is what its card says."""

import json
import re
from pathlib import Path

import pytest

from featvis_jax.checkpoints import zoo_names

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "featvis_jax" / "zoo"
LINES = re.findall(
    r"^\| `([^`]+)` \| ([^|]+) \| ([0-9.]+) % \| ([^|]+) \|$", (ZOO / "README.md").read_text(), re.M
)
TASKS = {
    "square_lesion": ("slices, squares", "volumes, cubes"),
    "gaussian_lesion": ("slices, soft discs",),
    "square_or_disc": ("slices, a square or a disc", "volumes, a cube or a ball"),
}


def test_every_model_has_one_line_and_every_line_a_model():
    assert sorted(name for name, *_ in LINES) == sorted(zoo_names())


@pytest.mark.parametrize("name", zoo_names())
def test_a_line_says_what_the_card_says_and_what_the_model_is_for(name):
    card = json.loads((ZOO / name / "card.json").read_bytes())
    (task, accuracy, purpose) = next(rest for each, *rest in LINES if each == name)
    assert task in TASKS[card["task"]]
    assert task.startswith("slices" if len(card["grid"]["shape"]) == 2 else "volumes")
    assert accuracy == f"{100 * card['report']['balanced_accuracy']:.2f}"
    assert len(purpose) > 20
    for other in re.findall(r"`([a-z0-9-]+)`", purpose):
        assert other in zoo_names() or other.startswith("--")


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_the_number_of_models_is_the_one_that_is_told(name):
    told = re.findall(r"(\d+) (?:small )?trained (?:networks|models)", (ROOT / name).read_text())
    assert told
    assert set(told) == {str(len(zoo_names()))}

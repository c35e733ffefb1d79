"""Recipes from a Python file: the documented one works, and what is wrong is told by name."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import ascent_flags
from experiments.networks import load
from featvis_jax.visualize.transforms import describe

DOCUMENTATION = Path(__file__).parents[2] / "docs/regularizers.md"
WRONG = {
    "no function": ("x = 1", "define a function 'recipe'"),
    "does not run": ("import no_such_package", "ModuleNotFoundError"),
    "fails": ("def recipe(given, model, layer): return given.nothing", "AttributeError"),
    "returns nothing": ("def recipe(given, model, layer): pass", "returned NoneType"),
    "other steps": (
        "def recipe(given, model, layer): return given._replace(steps=7)",
        "pass --steps=7",
    ),
    "another layer": (
        "from featvis_jax.visualize import objectives\n"
        "def recipe(given, *rest): return given._replace(objective=objectives.channel('conv1'))",
        "about layer 'conv1', and units of layer 'conv5' are asked for",
    ),
    "no gradient": (
        "from featvis_jax.visualize import transforms\n"
        "def recipe(given, model, layer): return given._replace(robustness=transforms.median())",
        "use it as a projection",
    ),
}


@pytest.fixture(scope="module")
def model():
    """A model of the zoo."""
    return load("square-lesion")


@pytest.fixture(autouse=True)
def parsed(tmp_path):
    """Flags as if none but the required ones were given."""
    with flagsaver.as_parsed(model="square-lesion", out=str(tmp_path / "out")):
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        yield


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.optax
def test_the_documented_file_makes_its_recipe(model, tmp_path):
    text = re.search(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)[1]
    with flagsaver.as_parsed(config=write(tmp_path / "mine.py", text), penalty="layer_l1"):
        recipe = ascent_flags.recipe(model, "conv5", "none")
    assert describe(recipe.projection).startswith("chain(every(total_variation(weight=0.1,")
    assert recipe.penalty.layers == ("conv5",)  # As the flags have it.
    spike = jax.numpy.zeros((9, 9, 1)).at[4, 4, 0].set(1.0)
    state = recipe.optimizer.init(spike)
    updates, _ = recipe.optimizer.update(spike, state, spike)
    assert np.count_nonzero(updates) > 9  # Spread by the smoothing; plain Adam moves one voxel.


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_told_by_its_name(model, tmp_path, name):
    text, told = WRONG[name]
    path = write(tmp_path / "wrong.py", text)
    with (
        flagsaver.as_parsed(config=path),
        pytest.raises(ValueError, match=re.escape(told)) as raised,
    ):
        ascent_flags.recipe(model, "conv5", "none")
    if name != "no gradient":
        assert f"--config={path}" in str(raised.value)


@pytest.mark.parametrize("parameterization", ["fourier", "laplacian", "cppn", "phase"])
def test_a_strategy_that_acts_on_pixels_names_the_flag_that_works(model, parameterization):
    with flagsaver.as_parsed(parameterization=parameterization):
        with pytest.raises(
            ValueError, match=f"--parameterization={parameterization} .*--regularization=lucid"
        ):
            ascent_flags.recipe(model, "conv5", "recommended")
        for works in ("lucid", "none"):
            ascent_flags.recipe(model, "conv5", works)


def test_a_missing_file_is_told(model, tmp_path):
    with (
        flagsaver.as_parsed(config=str(tmp_path / "none.py")),
        pytest.raises(FileNotFoundError, match=r"--config=.*none\.py: there is no such file"),
    ):
        ascent_flags.recipe(model, "conv5", "none")


def test_a_changed_file_is_another_configuration(tmp_path):
    assert ascent_flags.config_sha256() is None
    path = tmp_path / "mine.py"
    with flagsaver.as_parsed(config=write(path, "def recipe(given, *rest): return given")):
        first = ascent_flags.config_sha256()
        assert ascent_flags.config_sha256() == first
        write(path, "def recipe(given, *rest): return given._replace(penalty_weight=1.0)")
        assert ascent_flags.config_sha256() != first

"""Recipes from a Python file: the documented one works, and what is wrong is told by name."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from featvis_jax.maximize.transforms import describe
from featvis_jax.models import load
from featvis_jax.runs.recipes import RecipeOptions, config_sha256, recipe

DOCUMENTATION = Path(__file__).parents[2] / "docs/regularizers.md"
WRONG = {
    "no function": ("x = 1", "define a function 'recipe'"),
    "does not run": ("import no_such_package", "ModuleNotFoundError"),
    "fails": ("def recipe(given, model, layer): return given.nothing", "AttributeError"),
    "returns nothing": ("def recipe(given, model, layer): pass", "returned NoneType"),
    "other steps": (
        "def recipe(given, model, layer): return given._replace(steps=7)",
        "pass `steps=7`",
    ),
    "another layer": (
        "from featvis_jax.maximize import objectives\n"
        "def recipe(given, *rest): return given._replace(objective=objectives.channel('conv1'))",
        "about layer 'conv1', and units of layer 'conv5' are asked for",
    ),
    "no gradient": (
        "from featvis_jax.maximize import transforms\n"
        "def recipe(given, model, layer): return given._replace(robustness=transforms.median())",
        "use it as a projection",
    ),
}


@pytest.fixture(scope="module")
def model():
    """A model of the zoo."""
    return load("square-lesion")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.optax
def test_the_documented_file_makes_its_recipe(model, tmp_path):
    text = re.search(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)[1]
    options = RecipeOptions(
        config=write(tmp_path / "mine.py", text), penalty="layer_l1", regularization="none"
    )
    made = recipe(model, "conv5", options)
    assert describe(made.projection).startswith("chain(every(total_variation(weight=0.1,")
    assert made.penalty.layers == ("conv5",)  # As the options have it.
    spike = jax.numpy.zeros((9, 9, 1)).at[4, 4, 0].set(1.0)
    state = made.optimizer.init(spike)
    updates, _ = made.optimizer.update(spike, state, spike)
    assert np.count_nonzero(updates) > 9  # Spread by the smoothing; plain Adam moves one voxel.


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_told_by_its_name(model, tmp_path, name):
    text, told = WRONG[name]
    path = write(tmp_path / "wrong.py", text)
    options = RecipeOptions(config=path, regularization="none")
    with pytest.raises(ValueError, match=re.escape(told)) as raised:
        recipe(model, "conv5", options)
    if name != "no gradient":
        assert f"`config={path}`" in str(raised.value)


@pytest.mark.parametrize("parameterization", ["fourier", "laplacian", "cppn", "phase"])
def test_a_strategy_that_acts_on_pixels_names_one_that_works(model, parameterization):
    options = RecipeOptions(parameterization=parameterization)
    told = f"`parameterization={parameterization}` .*`regularization=lucid`"
    with pytest.raises(ValueError, match=told):
        recipe(model, "conv5", options, regularization="recommended")
    for works in ("lucid", "none"):
        recipe(model, "conv5", options, regularization=works)


def test_a_missing_file_is_told(model, tmp_path):
    options = RecipeOptions(config=str(tmp_path / "none.py"))
    with pytest.raises(FileNotFoundError, match=r"`config=.*none\.py`: there is no such file"):
        recipe(model, "conv5", options)


def test_a_changed_file_is_another_configuration(tmp_path):
    assert config_sha256(RecipeOptions()) is None
    path = tmp_path / "mine.py"
    options = RecipeOptions(config=write(path, "def recipe(given, *rest): return given"))
    first = config_sha256(options)
    assert config_sha256(options) == first
    write(path, "def recipe(given, *rest): return given._replace(penalty_weight=1.0)")
    assert config_sha256(options) != first

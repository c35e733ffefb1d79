"""Visualizing from Python: a few lines from a network to a picture and to a directory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from featvis_jax import models
from featvis_jax.maximize import objectives, parameterizations
from featvis_jax.model_options import ModelOptions
from featvis_jax.models import from_flax, from_function, load
from featvis_jax.results.store import read_run
from featvis_jax.runs.in_memory import visualize

pytestmark = pytest.mark.optax
SHAPE = (20, 24, 1)


class Small(nn.Module):
    @nn.compact
    def __call__(self, images):
        images = nn.relu(nn.Conv(3, (3, 3), name="stem")(images))
        return nn.Conv(4, (3, 3), name="out")(images)


@pytest.fixture(scope="module")
def model():
    module = Small()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    return from_flax(module, variables, SHAPE)


@pytest.fixture(scope="module")
def units(model):
    with jax.numpy_dtype_promotion("standard"):
        return visualize(model, "out", channels=[3, 1], steps=3, batch=2)


def test_a_model_is_seen_as_its_layers(model):
    lines = repr(model).splitlines()
    assert lines[0] == "Small, images of 20 x 24 voxels"
    assert [line.split()[0] for line in lines[2:5]] == ["layer", "stem", "out"]


def test_units_are_images_with_a_status_and_a_trace(units):
    assert [unit.channel for unit in units] == [1, 3]
    unit = units[1]
    assert (unit.layer, unit.image.shape, unit.trace.shape) == ("out", SHAPE, (3,))
    assert unit.trace[-1] > unit.trace[0]
    assert repr(units).splitlines()[1] == f"out 3: {unit.status}, an image of 20 x 24 x 1"
    assert units.sheet().startswith(b"\x89PNG")
    assert units._repr_html_().count("<img") == 1


def test_a_saved_run_is_that_of_the_command_line_and_reads_back(units, tmp_path):
    run = units.save(tmp_path / "run", gallery=False)
    assert [row.unit for row in run.records()] == [("out", 1), ("out", 3)]
    for kept, unit in zip(read_run(tmp_path / "run").units(), units, strict=True):
        assert kept.record == unit.record
        np.testing.assert_array_equal(kept.image, unit.image)
        np.testing.assert_array_equal(kept.trace, unit.trace)
    assert (tmp_path / "run" / "sheets" / "out.png").read_bytes() == units.sheet()
    told = (tmp_path / "run" / "flags.txt").read_text()
    assert "# model was given in Python: Small" in told
    assert "--steps=3" in told
    units.save(tmp_path / "run", gallery=False)  # Again, and nothing is done twice.


def test_names_and_values_mean_the_same(model):
    named = visualize(model, "out", channels=0, steps=2, parameterization="pixels")
    valued = visualize(
        model,
        "out",
        channels=0,
        steps=2,
        objective=objectives.strongest(objectives.channel("out")),
        parameterization=parameterizations.pixels(),
    )
    np.testing.assert_array_equal(named[0].image, valued[0].image)


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"stepz": 3}, TypeError, "no option 'stepz'; did you mean 'steps'"),
        ({"steps": 0}, ValueError, "`steps=0`: expected a number from 1"),
        ({"channels": 9}, ValueError, "`channels=9`: layer 'out' has channels 0 to 3"),
        ({"mask": "no.nii"}, FileNotFoundError, "`mask=no.nii`: there is no such file"),
        ({"objective": "neurone"}, ValueError, "`objective=neurone`: expected one of channel"),
        ({"batch": 0}, ValueError, "`batch=0`: expected auto or a number from 1"),
    ],
)
def test_what_cannot_be_is_told_in_the_words_of_python(model, options, kind, told):
    with pytest.raises(kind, match=told):
        visualize(model, "out", **options)


def test_a_function_is_a_model():
    def blur(weights, images):
        return checkpoint_name(images * weights, "scaled")

    model = from_function(blur, jnp.ones(()), SHAPE)
    assert model.name == "blur"
    assert [layer.name for layer in model.network.layers] == ["scaled"]


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match=r"got Small; expected \(Linen module, var"):
        from_flax(Small())  # pyright: ignore
    with pytest.raises(ValueError, match=r"image_shape is \(4,\); expected"):
        from_flax(Small(), {}, (4,))


def test_what_is_said_of_a_model_is_kept_and_must_not_contradict_it():
    model = load("square-lesion", channel_names=["T1w"])
    assert model.told.channel_names == ("T1w",)
    with pytest.raises(ValueError, match="`scaling=zscore`: square-lesion was trained on scans"):
        load("square-lesion", scaling="zscore")
    with pytest.raises(ValueError, match="`model` is missing"):
        models.loaded(ModelOptions())

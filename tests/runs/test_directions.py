"""Several directions of a layer: units of one run, each with a name."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from featvis_jax.maximize import objectives
from featvis_jax.maximize.layer import LayerProgram
from featvis_jax.maximize.reference import Asked, reference_responses
from featvis_jax.models import from_flax
from featvis_jax.results.manifest import ConfigurationMismatch
from featvis_jax.results.store import read_run
from featvis_jax.runs import recipes, visualize_job
from featvis_jax.runs.in_memory import visualize as units_of_model
from featvis_jax.runs.visualize_job import AscentOptions

pytestmark = pytest.mark.optax
SHAPE, CHANNELS = (12, 14, 1), 4
RNG = np.random.default_rng(0)
AGE, PCA = RNG.normal(size=CHANNELS), RNG.normal(size=(2, CHANNELS))
NAMED = {"age": AGE, "pca": PCA}
NAMES = ["age", "pca/0", "pca/1"]


class Small(nn.Module):
    @nn.compact
    def __call__(self, images):
        images = nn.relu(nn.Conv(3, (3, 3), name="stem")(images))
        return nn.Conv(CHANNELS, (3, 3), name="out")(images)


@pytest.fixture(scope="module")
def model():
    module = Small()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    return from_flax(module, variables, SHAPE)


def run(model, direction, **options):
    """A short run of one unit at a time, so that every run has the same program."""
    given = {"objective": "direction", "direction": direction, "steps": 3, "batch": 1}
    given |= {"regularization": "none", **options}
    with jax.numpy_dtype_promotion("standard"):
        return units_of_model(model, "out", **given)


@pytest.fixture(scope="module")
def units(model):
    return run(model, NAMED)


def test_every_direction_is_a_unit_with_a_name(units):
    assert [unit.name for unit in units] == NAMES
    assert [unit.channel for unit in units] == [0, 1, 2]
    assert [line.split(":")[0] for line in repr(units).splitlines()] == [
        f"out {name}" for name in NAMES
    ]
    assert all(unit.trace[-1] > unit.trace[0] for unit in units)
    assert units.sheet().startswith(b"\x89PNG")


def test_a_row_makes_its_image_whatever_other_rows_there_are(model, units):
    others = np.stack([PCA[1], PCA[0], AGE, AGE, AGE])
    (alone,) = run(model, others, channels=[1])
    assert alone.name == "1"
    np.testing.assert_array_equal(alone.image, units[1].image)
    assert not np.array_equal(units[0].image, units[1].image)


def test_a_vector_alone_is_the_first_of_several(model, units):
    (alone,) = run(model, AGE)
    assert (alone.name, alone.channel) == (None, 0)
    np.testing.assert_allclose(alone.image, units[0].image, rtol=1e-4, atol=1e-5)


def test_one_program_serves_all_directions(model):
    recipe = recipes.recipe(model, "out", options(direction=NAMED))
    network, traced = model.network, []

    def activations(*arguments):
        traced.append(arguments)
        return network.activations(*arguments)

    program = LayerProgram(
        network._replace(activations=activations), recipe, num_units=3, batch_size=1
    )
    compiled = len(traced)
    job = visualize_job.job(model, options(direction=NAMED))
    for _, batch in job.batches(1):
        keys = jax.random.split(jax.random.key(0), 1)
        program.run(batch, keys)
    assert len(job.batches(1)) == 3
    assert len(traced) == compiled


def options(**given):
    plain = {"layer": ("out",), "objective": "direction", "steps": 1, "regularization": "none"}
    return AscentOptions(**{**plain, **given})


@pytest.mark.parametrize(
    ("channels", "chosen"),
    [
        ("all", [0, 1, 2]),
        ("1:", [1, 2]),
        ("2,0", [0, 2]),
        ("pca/1,age", [0, 2]),
        ("pca", [1, 2]),
        (["age", 2], [0, 2]),
        ([1], [1]),
    ],
)
def test_directions_are_chosen_as_channels_are_and_by_name(model, channels, chosen):
    job = visualize_job.job(model, options(direction=NAMED, channels=channels))
    assert job.work.channels == {"out": chosen}
    assert job.configuration["unit_names"] == {"out": NAMES}


def test_a_file_is_what_it_holds(model, tmp_path):
    np.savez(tmp_path / "d.npz", **NAMED)
    np.save(tmp_path / "d.npy", PCA)
    for file, value in {"d.npz": NAMED, "d.npy": PCA.tolist()}.items():
        of_file = visualize_job.job(model, options(direction=str(tmp_path / file))).configuration
        assert of_file == visualize_job.job(model, options(direction=value)).configuration
    as_value = options(objective=objectives.direction("out", NAMED))
    assert visualize_job.job(model, as_value).configuration["unit_names"] == {"out": NAMES}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"direction": NAMED, "channels": "sex"}, r"channels=sex`: there are directions 0 to 2 "
         r"\(age, pca/0, pca/1\); expected all, .* list such as 0,pca/1"),
        ({"direction": NAMED, "channels": "0,7"}, "there are directions 0 to 2"),
        ({"direction": NAMED, "channels": "1,,2"}, "there are directions 0 to 2"),
        ({"direction": np.ones((2, 5))}, "`direction`: a vector has 5 numbers, but layer 'out' ha"),
        ({"direction": {"a": np.ones(4), "b": np.ones(3)}}, "`direction`: 'a' has 4 numbers and"),
        ({"direction": [[1, 0, 0, 0], [0, 0, 0, 0]]}, "`direction`: direction '1' is all 0"),
        ({"direction": None}, "`objective=direction` needs `direction=FILE`"),
        ({"direction": AGE, "channels": "0"}, "concerns the layer as a whole; leave `channels`"),
        ({"direction": NAMED, "objective": "channel"}, "`direction` is for `objective=direction o"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(model, given, told):
    with pytest.raises(ValueError, match=told) as raised:
        visualize_job.job(model, options(**given))
    assert "\n" not in str(raised.value)


def test_an_error_names_the_file(model, tmp_path):
    file = tmp_path / "d.npz"
    for arrays, told in [
        ({"age": np.ones(3)}, "a vector has 3 numbers, but layer 'out' has 4 channels"),
        ({"age": np.full(4, np.inf)}, "'age' holds NaN, infinite numbers"),
        ({"age": np.zeros(4)}, "direction 'age' is all 0"),
        ({"a,b": np.ones(4)}, "'a,b' cannot name a direction"),
        ({"age": np.array([None] * 4)}, "'age' holds object; expected real numbers"),
        ({}, "there is no direction"),
    ]:
        np.savez(file, **arrays)
        with pytest.raises(ValueError) as raised:
            visualize_job.job(model, options(direction=str(file)))
        assert str(raised.value).startswith(f"`direction={file}`: {told}")


def test_a_run_grows_by_more_of_the_same_directions(model, units, tmp_path):
    run(model, NAMED, channels="pca").save(tmp_path, gallery=False)
    units.save(tmp_path)
    kept = list(read_run(tmp_path).units())
    assert [unit.name for unit in kept] == NAMES
    for one, other in zip(kept, units, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    stored = json.loads((tmp_path / "run.json").read_text())["configuration"]
    assert stored["layers"] == {"out": [0, 1, 2]}
    page = (tmp_path / "gallery/units/out/0002.html").read_text()
    assert "<title>out, direction pca/1" in page
    with pytest.raises(ConfigurationMismatch, match=r"objective\.out: the run has"):
        run(model, {**NAMED, "age": -AGE}, channels="age").save(tmp_path)
    with pytest.raises(ConfigurationMismatch, match="unit_names"):
        run(model, {"sex": AGE, "pca": PCA}, channels="sex").save(tmp_path)


def test_real_inputs_tell_what_a_direction_aims_at(model):
    images = RNG.random((5, *SHAPE)).astype(np.float32)
    asked = objectives.strongest(objectives.direction("out", NAMED))
    found = reference_responses(model.network, {"out": Asked(asked, [2, 0])}, images)["out"]
    outputs = [
        model.network.activations(model.network.variables, image, ("out",))["out"]
        for image in jnp.asarray(images)
    ]
    along = np.asarray(outputs, np.float64) @ np.stack([PCA[1], AGE]).T
    np.testing.assert_allclose(found, along.max(axis=(0, 1, 2)), rtol=1e-4)

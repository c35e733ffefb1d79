"""From a recipe to finished images: what comes out, in which order, from which programs."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from featvis_jax import memory
from featvis_jax.evaluation import health
from featvis_jax.maximize import (
    ascent,
    layer,
    objectives,
    parameterizations,
    penalties,
    planning,
    transforms,
)
from featvis_jax.maximize.ascent import Recipe
from featvis_jax.maximize.layer import LayerProgram, visualize
from featvis_jax.maximize.objectives import Objective
from featvis_jax.maximize.recipe import check_units
from featvis_jax.nn.tracing import Network, linen_network

STEPS = 9
# Channels of the layer "second".
NOT_A_NUMBER, DEAD, ALIVE = 2, 3, (0, 1, 4)


class Small(nn.Module):
    """A network of plain Flax, quick to compile."""

    rank: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3,) * self.rank, padding="VALID", name="first")(x))
        return nn.Conv(5, (3,) * self.rank, padding="VALID", name="second")(x)


def make_network(shape) -> Network:
    """One channel of the last layer reacts to nothing, and the bias of one is NaN."""
    rng = np.random.default_rng(5)
    module = Small(len(shape) - 1)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.standard_normal(leaf.shape), jnp.float32),
        dict(jax.eval_shape(module.init, jax.random.key(0), image)),
    )
    second = variables["params"]["second"]
    second["kernel"] = second["kernel"].at[..., DEAD].set(0.0)
    second["bias"] = second["bias"].at[NOT_A_NUMBER].set(jnp.nan)
    return linen_network(module, variables, shape)


def make_recipe(**changes) -> Recipe:
    recipe = Recipe(
        objective=objectives.channel("second"),
        penalty=penalties.image_l2(),
        penalty_weight=0.1,
        parameterization=parameterizations.pixels(),
        optimizer=optax.sgd(2.0),
        projection=transforms.every(4, transforms.clip(high=0.9)),
        steps=STEPS,
    )
    return recipe._replace(**changes)


class Counted:
    """The channel objective, which remembers how often it was traced."""

    def __init__(self):
        self.traces = 0
        self.objective = Objective("counted()", ("second",), self._value, True)

    def _value(self, activations, image, unit):
        self.traces += 1
        return objectives.channel("second").value(activations, image, unit)


class Prepared:
    """A program for batches of two, and how often its objective was traced for it."""

    def __init__(self, shape):
        self.network, self.counted = make_network(shape), Counted()
        recipe = make_recipe(objective=self.counted.objective)
        self.program = LayerProgram(self.network, recipe, num_units=5, batch_size=2)
        self.traces = self.counted.traces

    def run(self, channels, *, seed=0, **options):
        finished = []
        for batch in planning.batches(channels, batch_size=2):
            keys = ascent.unit_keys(seed, "second", batch.channels)
            finished.append(self.program.run(batch, keys, **options))
        return finished


@pytest.fixture(scope="module", params=[(12, 13, 1), (8, 9, 10, 1)], ids=["2-D", "3-D"])
def prepared(request) -> Prepared:
    return Prepared(request.param)


def units_of(batches):
    return [unit for batch in batches for unit in batch.units]


def penalty_of(image):
    return np.square(image.astype(np.float64)).mean()


def test_units_come_in_order_with_values_that_belong_to_their_images(prepared):
    network = prepared.network
    units = units_of(prepared.run([0, 4, 1]))
    # The last batch is padded, and the padding does not come out.
    assert [unit.channel for unit in units] == [0, 4, 1]
    for unit in units:
        assert unit.finite
        assert unit.image.shape == network.image_shape
        assert unit.image.dtype == np.float32
        activations = network.activations(network.variables, jnp.asarray(unit.image), ("second",))
        exact = np.asarray(activations["second"], np.float64)[..., unit.channel].mean()
        assert unit.final_objective == pytest.approx(exact, rel=1e-4, abs=1e-5)
        assert unit.penalty == pytest.approx(penalty_of(unit.image), rel=1e-4)
        assert unit.objective_trace.shape == unit.penalty_trace.shape == (STEPS,)
        # Nothing stands between the image and the network, so the trace starts where it should.
        assert unit.initial_objective == pytest.approx(unit.objective_trace[0], rel=1e-4, abs=1e-5)
        assert (
            unit.final_objective >= unit.objective_trace[-1] >= np.float32(unit.initial_objective)
        )
        assert isinstance(unit.initial_objective, float)


def test_a_unit_responds_with_the_largest_activation_in_its_image(prepared):
    network = prepared.network
    objective = objectives.neuron("second") + 0.5 * objectives.diversity("second")
    recipe = make_recipe(objective=objective, variants=2, steps=2)
    program = LayerProgram(network, recipe, num_units=3, batch_size=3)
    (batch,) = planning.batches([0, 3, 4], batch_size=3)
    keys = ascent.unit_keys(0, "second", batch.channels)
    targets = np.array([1.5, np.nan, -2.0])
    units = program.run(batch, keys, targets=targets).units
    assert [unit.target for unit in units] == [1.5, 1.5, None, None, -2.0, -2.0]
    for unit in units:
        activations = network.activations(network.variables, jnp.asarray(unit.image), ("second",))
        largest = np.asarray(activations["second"])[..., unit.channel].max()
        assert unit.response == pytest.approx(largest, rel=1e-4, abs=1e-5)
    assert program.run(batch, keys).units[0].target is None


def test_the_first_image_is_the_one_that_the_units_key_draws(prepared):
    (batch,) = prepared.run([1, 0])
    network = prepared.network
    start = parameterizations.pixels().init
    for unit in batch.units:
        (key,) = ascent.unit_keys(0, "second", [unit.channel])
        state = ascent.init(key, make_recipe(), network.image_shape)
        np.testing.assert_array_equal(
            state.parameters, start(jax.random.fold_in(key, 0), network.image_shape)
        )
        activations = network.activations(network.variables, state.parameters, ("second",))
        first = float(activations["second"][..., unit.channel].mean())
        assert unit.initial_objective == pytest.approx(first, rel=1e-4, abs=1e-5)


def test_every_channel_goes_through_one_program(prepared):
    prepared.run([0, 1, 4])
    prepared.run([4], seed=3)
    assert prepared.traces > 0
    assert prepared.counted.traces == prepared.traces


def test_the_same_seed_gives_the_same_bits_and_another_does_not(prepared):
    first, again = (units_of(prepared.run([0, 4])) for _ in range(2))
    for unit, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(unit.image, other.image)
        np.testing.assert_array_equal(unit.objective_trace, other.objective_trace)
    other = units_of(prepared.run([0, 4], seed=1))
    assert np.abs(first[0].image - other[0].image).mean() > 0.01


def test_dead_and_diverged_channels_are_known_and_harm_no_other(prepared):
    found = {unit.channel: unit for unit in units_of(prepared.run([NOT_A_NUMBER, 0, DEAD, 4]))}

    def status(unit):
        return health.status(
            unit.image,
            start=unit.start,
            objective_trace=unit.objective_trace,
            rise=unit.final_objective - unit.initial_objective,
            finite=unit.finite,
            intensity_range=(0.0, 1.0),
        )

    statuses = {channel: status(unit) for channel, unit in found.items()}
    assert (statuses[NOT_A_NUMBER], statuses[DEAD]) == ("diverged", "dead")
    assert not {statuses[0], statuses[4]} & {"diverged", "dead"}
    assert np.isnan(found[NOT_A_NUMBER].objective_trace).all()
    assert np.isnan(found[NOT_A_NUMBER].final_objective)
    assert np.isfinite(found[NOT_A_NUMBER].image).all()
    # Beside whom a unit ran changes nothing of it.
    alone = units_of(prepared.run([0]))[0]
    np.testing.assert_array_equal(alone.image, found[0].image)


@pytest.mark.parametrize(
    ("seconds_per_call", "expected"),
    [(0.0, [1, 2, 4, 2]), (0.4, [1, 2, 4, 2]), (1.0, [1, 2, 4, 2]), (100.0, [1] * STEPS)],
)
def test_chunks_grow_while_they_are_quick_and_change_no_bit(
    prepared, monkeypatch, seconds_per_call, expected
):
    usual = prepared.run([0, 1])[0]
    clock = itertools.count()
    # Two looks at the clock around each call, and one before and after all of them.
    fake = types.SimpleNamespace(monotonic=lambda: next(clock) * seconds_per_call)
    monkeypatch.setattr(layer, "time", fake)
    taken: list[int] = []
    (batch,) = prepared.run([0, 1], on_steps=taken.append)
    assert taken == expected
    for unit, other in zip(batch.units, usual.units, strict=True):
        np.testing.assert_array_equal(unit.image, other.image)
        np.testing.assert_array_equal(unit.objective_trace, other.objective_trace)


def test_times_are_told(prepared):
    (batch,) = prepared.run([0, 1])
    assert batch.seconds > 0
    assert prepared.program.compile_seconds > 0
    assert prepared.program.batch_size == 2


# One rank is enough for what compiles once more.
@pytest.mark.parametrize("prepared", [(12, 13, 1)], indirect=True, ids=["2-D"])
def test_visualize_finds_a_batch_size_and_matches_batches_of_another(prepared):
    expected = units_of(prepared.run([1, 0, 4]))
    found = list(visualize(prepared.network, make_recipe(), "second", [1, 0, 4]))
    assert [unit.channel for unit in found] == [1, 0, 4]
    for unit, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(unit.image, other.image, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            unit.objective_trace, other.objective_trace, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("target", "channels", "options", "message"),
    [
        ("secund", [0], {}, r"no layer 'secund'; the nearest are second, "),
        ("second", [0, 5], {}, r"channels is \[0, 5\]; layer 'second' has channels 0 to 4"),
        ("second", [-1], {}, r"channels is \[-1\]; layer 'second' has channels 0 to 4"),
        ("second", [], {}, r"channels is \[\]; .* name at least one"),
        ("second", [0], {"batch_size": 0}, r"batch_size is 0; expected at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_traced(target, channels, options, message):
    counted = Counted()
    recipe = make_recipe(objective=counted.objective)
    with pytest.raises(ValueError, match=message):
        next(visualize(make_network((12, 13, 1)), recipe, target, channels, **options))
    assert counted.traces == 0


@pytest.mark.parametrize(
    ("objective", "target", "channels", "message"),
    [
        # The number of a channel that another layer has, which JAX would take for its last one.
        (
            objectives.channel("first"),
            "second",
            [4],
            "about .*, and units of layer .second. are",
        ),
        (objectives.neuron("first"), "second", [0], "about layer 'first'"),
        (objectives.logit("second"), "second/relu", [0], "about layer 'second'"),
        (objectives.layer("first"), "second", [0], "about layer 'first'"),
        (objectives.direction("first", vector=np.ones(3)), "second", [0], "about layer 'first'"),
        (
            objectives.channel("first") - objectives.channel("second"),
            "second",
            [4],
            "layer 'first', which has 0 to 2",
        ),
        (objectives.layer("second"), "second", [1], r"ask for its one unit, \[0\]"),
        (objectives.channel("second").of(2), "second", [1], r"ask for its one unit, \[0\]"),
    ],
)
def test_units_that_the_objective_is_not_about_are_refused(objective, target, channels, message):
    recipe = make_recipe(objective=objective)
    with pytest.raises(ValueError, match=message):
        check_units(recipe, make_network((12, 13, 1)), target, channels)


@pytest.mark.parametrize(
    ("objective", "channels"),
    [
        (objectives.channel("second"), [4]),
        (objectives.channel("second") - objectives.channel("first"), [2]),
        (objectives.channel("second") - objectives.channel("first").of(1), [4]),
        (objectives.channel("second") - 0.1 * penalties.layer_l1("first"), [4]),
        (objectives.channel("second") + objectives.diversity("first"), [4]),
        (objectives.layer("second"), [0]),
        (-penalties.image_l1(), [4]),
    ],
)
def test_units_that_the_objective_is_about_are_taken(objective, channels):
    recipe = make_recipe(objective=objective)
    check_units(recipe, make_network((12, 13, 1)), "second", channels)


def test_a_recipe_that_cannot_work_is_refused_before_anything_is_traced():
    counted = Counted()
    recipe = make_recipe(objective=counted.objective, robustness=transforms.median())
    with pytest.raises(ValueError, match="no useful gradient"):
        LayerProgram(make_network((12, 13, 1)), recipe, num_units=1)
    assert counted.traces == 0


def test_a_unit_that_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda **_: 1000)
    with pytest.raises(MemoryError, match=r"One unit needs .* GiB and .* GiB are free"):
        LayerProgram(make_network((12, 13, 1)), make_recipe(steps=1), num_units=1)


class Deep(nn.Module):
    """Between its convolutions lies much that the gradient needs, and that is quickly computed."""

    @nn.compact
    def __call__(self, x):
        for number in range(8):
            x = nn.gelu(nn.GroupNorm(4)(nn.Conv(8, (3, 3), name=f"conv{number}")(x)))
        return nn.Conv(2, (3, 3), name="last")(x)


def test_rematerialization_takes_less_memory_and_changes_no_image():
    module, shape = Deep(), (40, 36, 1)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    network = linen_network(module, variables, shape)
    recipe = make_recipe(objective=objectives.channel("last"), steps=4)
    images, needed = [], []
    for rematerialize in (False, True):
        program = LayerProgram(
            network, recipe._replace(rematerialize=rematerialize), num_units=1, num_devices=1
        )
        keys = ascent.unit_keys(0, "last", [1])
        (unit,) = program.run(planning.Batch((1,), 1), keys).units
        images.append(unit.image)
        needed.append(program.memory_bytes)
    # 0.69 to 0.74 of it, by processor and release of JAX.
    assert needed[1] < 0.85 * needed[0]
    np.testing.assert_allclose(images[1], images[0], rtol=1e-5, atol=1e-5)

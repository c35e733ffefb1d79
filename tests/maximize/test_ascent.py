"""The ascent: against a loop in float64, and the promises made to the units of a batch."""

import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from featvis_jax.maximize import (
    ascent,
    objectives,
    parameterizations,
    penalties,
    presets,
    transforms,
)
from featvis_jax.maximize.ascent import Recipe, State
from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.maximize.parameterizations import Parameterization, pixels
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import Network, linen_network
from tests.maximize.lines import (
    QUICK_JIT,
    RANKS,
    STEPS,
    all_keys,
    assert_same_bits,
    bounds,
    dimmed_with_the_step,
    line_network,
    make_recipe,
    start,
    unit_of,
    units,
)
from tests.maximize.smooth import smooth_network

# --------------------------------------------------------------------- against a loop in float64


@RANKS
def test_the_ascent_is_the_loop_that_it_says(spatial):
    network = line_network(spatial)
    recipe = make_recipe(
        penalty=penalties.image_l2(),
        penalty_weight=0.75,
        optimizer=optax.sgd(4.0),
        robustness=dimmed_with_the_step,
        projection=transforms.every(3, lambda key, image, step: 0.9 * image),
        parameterization=pixels(intensity_range=(-0.5, 0.75)),
    )
    states = start(network, recipe, [0, 1, 2])
    found = QUICK_JIT(ascent.advance(network, recipe))(
        network.variables, states, units([0, 1, 2]), *bounds(0, STEPS)
    )
    weights = np.asarray(network.variables, np.float64)[0]
    voxels = np.prod(spatial)
    for number in range(3):
        image = np.asarray(states.parameters[number], np.float64)
        for step in range(STEPS):
            seen = image * (1 - step / 40)
            objective, penalty = (weights[number] * seen).mean(), np.square(seen).mean()
            np.testing.assert_allclose(found.objective[number, step], objective, atol=1e-5)
            np.testing.assert_allclose(found.penalty[number, step], penalty, atol=1e-5)
            gradient = (weights[number] - 0.75 * 2 * seen) / voxels * (1 - step / 40)
            image = image + 4.0 * gradient
            if (step + 1) % 3 == 0:
                image = 0.9 * image
            image = np.clip(image, -0.5, 0.75)
        np.testing.assert_allclose(found.parameters[number], image, atol=1e-5)
    assert found.finite.all()


def test_a_whole_layer_penalty_sees_all_channels_and_the_unit_its_own():
    network = line_network((5, 6))
    recipe = make_recipe(penalty=penalties.off_target_l1("line"), penalty_weight=0.5)
    states = start(network, recipe, [0, 1, 2])
    found = QUICK_JIT(ascent.advance(network, recipe))(
        network.variables, states, units([0, 1, 2]), *bounds(0, 1)
    )
    weights = np.asarray(network.variables, np.float64)[0]
    for number in range(3):
        activations = np.asarray(states.parameters[number], np.float64) * weights
        expected = activations[..., number].mean()
        np.testing.assert_allclose(found.objective[number, 0], expected, rtol=1e-4)
        expected = np.abs(np.delete(activations, number, axis=-1)).mean()
        np.testing.assert_allclose(found.penalty[number, 0], expected, rtol=1e-4)


def test_parameters_that_are_no_image_are_decoded_and_not_projected():
    network = line_network((5, 6))
    # An image of two numbers: a level, and a slope along the first axis.
    parameterization = Parameterization(
        "ramp()",
        lambda key, shape: {"level": jax.random.normal(key), "slope": jnp.zeros(())},
        lambda p: p["level"] + p["slope"] * jnp.arange(5.0)[:, None, None] * jnp.ones((1, 6, 1)),
        lambda p: {**p, "level": jnp.clip(p["level"], -3, 3)},
        is_image=False,
    )
    recipe = make_recipe(parameterization=parameterization, projection=transforms.chain())
    ascent.check(recipe)
    states = start(network, recipe, [0, 1])
    found = QUICK_JIT(ascent.advance(network, recipe))(
        network.variables, states, units([0, 1]), *bounds(0, STEPS)
    )
    weights = np.asarray(network.variables)[0, :2]
    assert found.finite.all()
    # df/dslope = weight * mean(0..4) at every step.
    np.testing.assert_allclose(found.parameters["slope"], 0.5 * STEPS * weights * 2, rtol=1e-4)
    assert float(jnp.abs(found.parameters["level"]).max()) <= 3


# ----------------------------------------------------------------------------- a real network


class Program(NamedTuple):
    """An ascent compiled for a batch of three units, and otherwise for one alone."""

    network: Network
    recipe: Recipe
    together: Any
    alone: Any
    states: State
    begun: dict[int, State]

    def begin(self, stop) -> State:
        """The states after the first steps; they are taken once for all tests."""
        if stop not in self.begun:
            self.begun[stop] = self.run(0, stop, self.states)
        return self.begun[stop]

    def run(self, first, stop, states, variables=None) -> State:
        variables = self.network.variables if variables is None else variables
        return self.together(variables, states, units([0, 1, 2]), *bounds(first, stop))

    def run_alone(self, channel, first, stop, states=None) -> State:
        """One channel's state, of those of the batch, some steps further."""
        states = self.states if states is None else states
        one = jax.tree.map(lambda leaf: leaf[channel : channel + 1], states)
        found = self.alone(self.network.variables, one, units([channel]), *bounds(first, stop))
        return unit_of(found, 0)


def cnn_network(image_shape) -> Network:
    module = CNN(rank=len(image_shape) - 1, features=(2, 3, 4, 4, 4))
    rng = np.random.default_rng(3)

    def draw(leaf):
        scale = np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1))
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    statistics = {"mean": jnp.float32(0.4), "std": jnp.float32(0.25)}
    variables = {"params": jax.tree.map(draw, shapes["params"]), "statistics": statistics}
    return linen_network(module, variables, image_shape)


def abstract(network, recipe, count):
    """Arguments of `advance` as shapes."""
    keys = jax.ShapeDtypeStruct((count,), jax.random.key(0).dtype)
    states = jax.eval_shape(
        jax.vmap(lambda key: ascent.init(key, recipe, network.image_shape)), keys
    )
    channels: Any = jax.ShapeDtypeStruct((count,), jnp.int32)
    bound = jax.ShapeDtypeStruct((), jnp.int32)
    return network.variables, states, Unit(channels), bound, bound


def make_program(network, penalty) -> Program:
    """With randomness in both slots, a penalty, and Adam, as a user would have it."""
    recipe = make_recipe(
        objective=objectives.channel("conv3"),
        penalty=penalty,
        penalty_weight=0.1,
        optimizer=optax.adam(0.02),
        robustness=transforms.translate(max_voxels=2),
        projection=transforms.every(5, transforms.jitter(strength=0.2)),
    )
    advance = ascent.advance(network, recipe)
    # Not optimized, the program for one rounds otherwise on every processor.
    together, alone = (
        jit(advance).lower(*abstract(network, recipe, count)).compile()
        for jit, count in ((jax.jit, 3), (QUICK_JIT, 1))
    )
    states = start(network, recipe, [0, 1, 2], layer="conv3")
    return Program(network, recipe, together, alone, states, begun={})


SHAPES = {"2-D": (40, 44, 1), "3-D": (28, 29, 30, 1)}


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def program(request) -> Program:
    """Of a CNN as the paper has it."""
    return make_program(cnn_network(request.param), penalties.image_l1())


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def smooth_program(request) -> Program:
    """Of a network and a penalty without switches."""
    return make_program(smooth_network(request.param), penalties.image_l2())


@pytest.mark.parametrize("channel", [0, 2])
def test_a_channel_starts_with_the_same_bits_alone_and_in_a_batch(program, channel):
    states = start(program.network, program.recipe, [channel], layer="conv3")
    assert_same_bits(unit_of(states, 0), unit_of(program.states, channel))


@pytest.mark.optax
@pytest.mark.parametrize("channel", [0, 2])
@pytest.mark.parametrize("step", [0, 9, STEPS - 1])  # The last two end with the projection.
def test_a_step_from_the_same_state_is_the_same_alone_and_in_a_batch(program, channel, step):
    before = program.begin(step)
    together = unit_of(program.run(step, step + 1, before), channel)
    alone = program.run_alone(channel, step, step + 1, before)
    assert_same_bits(alone.key, together.key)
    # Adam's first moment is linear in the gradient: how far a voxel moves, which is its gradient by
    # its own size, is not where that size is next to nothing.
    gradient, expected = (state.optimizer[0].mu for state in (alone, together))
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(alone.objective[step], together.objective[step], rtol=1e-5)
    np.testing.assert_allclose(alone.penalty[step], together.penalty[step], rtol=1e-5)
    moved_otherwise = np.abs(alone.parameters - together.parameters) > 1e-4
    assert moved_otherwise.mean() < 1e-3


@pytest.mark.optax
@pytest.mark.parametrize("channel", [0, 2])
def test_where_nothing_switches_a_channel_alone_stays_the_channel_in_a_batch(
    smooth_program, channel
):
    together = unit_of(smooth_program.begin(STEPS), channel)
    alone = smooth_program.run_alone(channel, 0, STEPS)
    moved = np.abs(together.parameters - smooth_program.states.parameters[channel])
    assert np.median(moved) > 0.1
    np.testing.assert_allclose(alone.parameters, together.parameters, rtol=0, atol=1e-4)
    scale = float(np.abs(together.objective).max())
    np.testing.assert_allclose(alone.objective, together.objective, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(alone.penalty, together.penalty, rtol=1e-5)


@pytest.mark.optax
def test_every_unit_rises_within_its_bounds(program):
    states = program.begin(STEPS)
    trace = np.asarray(states.objective)
    assert np.isfinite(trace).all()
    assert (trace[:, -4:].mean(axis=1) > trace[:, :4].mean(axis=1)).all()
    images = np.asarray(states.parameters)
    assert images.min() >= 0
    assert images.max() <= 1
    # Another unit is another image.
    assert np.abs(images[0] - images[1]).mean() > 0.01


@pytest.mark.optax
def test_chunks_of_any_length_give_the_same_bits(program):
    at_once = program.begin(STEPS)
    states = program.states
    for first, stop in [(0, 1), (1, 8), (8, 8), (8, 19), (19, STEPS)]:
        states = program.run(first, stop, states)
        assert np.isnan(states.objective[:, stop:]).all()
        assert np.isfinite(states.objective[:, :stop]).all()
    assert_same_bits(states, at_once)


@pytest.mark.optax
def test_a_unit_that_diverges_keeps_its_last_image_and_disturbs_no_other(program):
    healthy = program.begin(STEPS)
    params = program.network.variables["params"]
    bias = params["conv3"]["bias"].at[1].set(jnp.nan)
    poisoned = {
        **program.network.variables,
        "params": {**params, "conv3": {**params["conv3"], "bias": bias}},
    }
    seven = program.begin(7)
    found = program.run(7, STEPS, seven, poisoned)
    np.testing.assert_array_equal(found.finite, [True, False, True])
    for other in (0, 2):
        assert_same_bits(unit_of(found, other), unit_of(healthy, other))
    assert_same_bits(found.parameters[1], seven.parameters[1])
    # The optimizer stands still too: Adam counts its steps.
    assert_same_bits(unit_of(found.optimizer, 1), unit_of(seven.optimizer, 1))
    assert np.isfinite(found.objective[1, :7]).all()
    assert np.isnan(found.objective[1, 7:]).all()
    assert np.isnan(found.penalty[1, 7:]).all()
    # It does not come back to life once the weights are whole again.
    later = program.run(12, STEPS, program.run(7, 12, seven, poisoned))
    assert_same_bits(unit_of(later, 1), unit_of(found, 1))


@pytest.mark.optax
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_stays_in_its_unit(program, value):
    healthy = program.begin(6)
    images = program.states.parameters
    spoiled = images.at[(0, *(9,) * (images.ndim - 2), 0)].set(value)
    found = program.run(0, 6, program.states._replace(parameters=spoiled))
    np.testing.assert_array_equal(found.finite, [False, True, True])
    for other in (1, 2):
        assert_same_bits(unit_of(found, other), unit_of(healthy, other))
    assert np.isnan(found.objective[0]).all()


@pytest.mark.optax
def test_other_seeds_and_other_layers_draw_other_numbers(program):
    network, recipe = program.network, program.recipe
    for other in (
        start(network, recipe, [0, 1, 2], layer="conv3", seed=1),
        start(network, recipe, [0, 1, 2], layer="conv4"),
        start(network, recipe, [3, 4, 5], layer="conv3"),
    ):
        assert (np.asarray(other.parameters) != np.asarray(program.states.parameters)).mean() > 0.9


# ---------------------------------------------------------------------------------- randomness


def test_a_units_key_is_a_function_of_seed_layer_and_channel():
    # Checksums on both sides of the largest signed number.
    assert zlib.crc32(b"conv1") < 2**31 <= zlib.crc32(b"conv3")
    for layer in ("conv3", "conv1"):
        keys = ascent.unit_keys(4, layer, [0, 7, 63])
        layer_key = jax.random.fold_in(jax.random.key(4), np.uint32(zlib.crc32(layer.encode())))
        expected = [jax.random.fold_in(layer_key, channel) for channel in (0, 7, 63)]
        assert all_keys(keys) == [key for one in expected for key in all_keys(one)]
    distinct = {
        key
        for seed in (0, 1)
        for layer in ("conv1", "conv2", "conv1/relu")
        for key in all_keys(ascent.unit_keys(seed, layer, range(20)))
    }
    assert len(distinct) == 2 * 3 * 20


@RANKS
def test_both_slots_draw_the_same_bits_alone_and_in_any_batch(spatial):
    """The draws themselves are looked at: both slots replace the image by one."""
    network = line_network(spatial)

    def uniform(key, image, step):
        del step
        return jax.random.uniform(key, image.shape)

    corner = Objective("corner()", (), lambda activations, image, unit: image.ravel()[0])
    recipe = make_recipe(objective=corner, robustness=uniform, projection=uniform)
    advance = QUICK_JIT(ascent.advance(network, recipe))

    def draws(channels):
        states = start(network, recipe, channels)
        found = advance(network.variables, states, units(channels), *bounds(0, STEPS))
        return np.asarray(found.objective), np.asarray(found.parameters)

    seen, projected = draws([5, 0, 3])
    seen_alone, projected_alone = draws([3])
    np.testing.assert_array_equal(seen[2], seen_alone[0])
    np.testing.assert_array_equal(projected[2], projected_alone[0])
    # Every step, every unit and either slot draws anew.
    assert len(np.unique(seen)) == seen.size
    assert not np.isin(projected[:, 0], seen).any()


# ------------------------------------------------------------------------------------ compiling


def test_all_channels_and_all_chunks_are_one_program():
    network = line_network((5, 6))
    traces = []

    def value(activations, image, unit):
        traces.append(unit)
        return objectives.channel("line").value(activations, image, unit)

    recipe = make_recipe(objective=Objective("counted()", ("line",), value, True))
    advance = QUICK_JIT(ascent.advance(network, recipe))
    counts = []
    for channels, first, stop in [([0, 1], 0, 5), ([2, 0], 0, 5), ([1, 2], 5, 20), ([1, 1], 0, 1)]:
        states = start(network, recipe, channels)
        jax.block_until_ready(
            advance(network.variables, states, units(channels), *bounds(first, stop))
        )
        counts.append(len(traces))
    assert counts[0] >= 1
    assert counts == counts[:1] * 4


def primitives(jaxpr, inside=()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every operation of a program, with those that it is nested in."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, inside
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from primitives(inner, (*inside, equation.primitive.name))


@RANKS
@pytest.mark.parametrize("slot", ["projection", "robustness"])
def test_what_acts_on_some_steps_only_is_skipped_on_the_others(spatial, slot):
    network = line_network(spatial)

    def costly(key, image, step):
        del key, step
        return jnp.sort(image, axis=0)

    for make, skips in [
        (lambda: transforms.every(50, costly), True),
        (lambda: transforms.from_step(10, costly), True),
        # By way of comparison: what is drawn for each unit becomes a selection under vmap.
        (lambda: transforms.sometimes(0.5, costly), False),
    ]:
        recipe = make_recipe(**{slot: make()})
        program = jax.make_jaxpr(ascent.advance(network, recipe))(*abstract(network, recipe, 3))
        found = [inside for name, inside in primitives(program.jaxpr) if name == "sort"]
        assert found
        assert all(("cond" in inside) == skips for inside in found)


@pytest.mark.optax
@pytest.mark.parametrize("image_shape", SHAPES.values(), ids=SHAPES)
def test_a_step_is_lowered_for_cuda_and_never_calls_the_host(image_shape):
    network = cnn_network(image_shape)
    recipe = make_recipe(
        objective=objectives.channel("logits"),
        penalty=penalties.layer_l1("conv3"),
        penalty_weight=0.1,
        optimizer=optax.adam(0.02),
        robustness=presets.strategy("lucid").robustness,
        projection=presets.strategy("paper").projection,
    )
    exported = jax.export.export(jax.jit(ascent.advance(network, recipe)), platforms=["cuda"])(
        *abstract(network, recipe, 3)
    )
    assert exported.platforms == ("cuda",)
    text = exported.mlir_module()
    assert not re.findall(r"callback|infeed|outfeed|stablehlo\.(?:send|recv)", text)
    # Forward and backward of five convolutions, as plain ones: none of what is for CPUs alone.
    convolutions = re.findall(r"stablehlo\.convolution\(.*?dim_numbers = \[([^\]]*)\]", text)
    spatial = ", ".join(str(axis) for axis in range(len(image_shape) - 1))
    assert convolutions.count(f"b, {spatial}, f") == len(convolutions) == 10


# --------------------------------------------------------------------------------------- checks


def test_a_robustness_transform_without_gradient_is_refused():
    for robustness in (
        transforms.median(),
        transforms.chain(transforms.clip(), transforms.every(50, transforms.median())),
    ):
        recipe = make_recipe(robustness=robustness)
        with pytest.raises(ValueError, match=r"median.* no useful gradient.*as a projection"):
            ascent.check(recipe)
        with pytest.raises(ValueError, match="no useful gradient"):
            ascent.advance(line_network((5, 6)), recipe)
        ascent.check(make_recipe(projection=robustness))


def test_a_projection_needs_pixels():
    fourier = pixels()._replace(description="fourier()", is_image=False)
    for projection in (
        transforms.gaussian_blur(sigma=0.5),
        transforms.every(50, transforms.median()),
        transforms.chain(transforms.identity(), transforms.clip()),
        lambda key, image, step: image,
    ):
        recipe = make_recipe(parameterization=fourier, projection=projection)
        with pytest.raises(
            ValueError, match=r"parameterization is fourier\(\): use pixels, or move"
        ):
            ascent.check(recipe)
        with pytest.raises(ValueError, match=r"works on the image itself"):
            ascent.advance(line_network((5, 6)), recipe)
        ascent.check(make_recipe(projection=projection))
    for nothing in (transforms.identity(), transforms.chain(), presets.strategy("none").projection):
        ascent.check(make_recipe(parameterization=fourier, projection=nothing))


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps):
    with pytest.raises(ValueError, match=rf"steps is {steps}; expected at least 1"):
        ascent.check(make_recipe(steps=steps))


def test_an_unknown_layer_is_refused_before_anything_is_traced():
    network = line_network((5, 6))
    for recipe in (
        make_recipe(objective=objectives.channel("lines")),
        make_recipe(penalty=penalties.layer_l1("lines")),
    ):
        for make in (ascent.advance, ascent.measure):
            with pytest.raises(ValueError, match=r"no layer 'lines'; the nearest are line"):
                make(network, recipe)


def test_a_recipe_is_checked_against_its_network():
    network = line_network((5, 6))
    ascent.check(make_recipe(), network=network)
    three = parameterizations.from_image(np.zeros((5, 7, 1)), pixels())
    two_channels = pixels()._replace(decode=lambda image: jnp.concatenate([image, image], -1))
    for changes, message in [
        ({"objective": objectives.channel("lines")}, "no layer 'lines'; the nearest are line"),
        ({"objective": objectives.direction("line", vector=[1, 2])}, "the vector has 2 numbers"),
        ({"penalty": objectives.direction("line", vector=[1, 2])}, "the vector has 2 numbers"),
        ({"parameterization": three}, r"shape \(5, 7, 1\), but the network takes \(5, 6, 1\)"),
        ({"parameterization": two_channels}, r"makes images of shape \(5, 6, 2\), but the network"),
        ({"variants": 0}, "variants is 0; expected at least 1"),
        ({"penalty": -objectives.diversity("line")}, "is about several variants of a unit"),
    ]:
        for make in (ascent.advance, ascent.measure):
            with pytest.raises(ValueError, match=message):
                make(network, make_recipe(**changes))

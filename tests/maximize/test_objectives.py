"""Objectives: what they read, how they combine, and that an ascent makes each of them rise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from featvis_jax.maximize import objectives, parameterizations, penalties
from featvis_jax.maximize.ascent import Recipe, check
from featvis_jax.maximize.objectives import Objective, Unit, channel
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import Layer, Network, linen_network

# Compiling takes nearly all of the time here, and what is compiled runs once.
QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPES = pytest.mark.parametrize("spatial", [(5, 6), (4, 5, 6)], ids=["2-D", "3-D"])
A, B, C = channel("a"), channel("b"), channel("c")
COMBINATIONS = {
    "channel": A,
    "sum": A + B,
    "multiple": 2.5 * A,
    "multiple from the right": A * 0.5,
    "difference": A - 0.5 * B,
    "opposite": -A,
    "difference from a sum": A - (B + C),
    "difference from a difference": A - (B - 2 * C),
    "multiple of a difference": 3 * (A - B),
    "opposite of a multiple": -(2 * A),
    "minus a negative": A - -1.5 * B,
    "long": 2 * (A + B) - 0.25 * (C - A) - B,
}


def draw(rng, spatial):
    """Activations of three layers and an image."""
    shapes = {"a": (*spatial, 3), "b": (*spatial, 5), "c": (4,)}
    activations = {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()
    }
    return activations, jnp.asarray(rng.random((*spatial, 1), np.float32))


def unit(number):
    return Unit(jnp.int32(number))


@SHAPES
def test_channel_is_the_mean_of_its_own_channel(rng, spatial):
    activations, image = draw(rng, spatial)
    for layer, count in [("a", 3), ("b", 5), ("c", 4)]:
        values = np.asarray(activations[layer], np.float64)
        read = QUICK_JIT(jax.vmap(channel(layer).value, in_axes=(None, None, 0)))
        found = read(activations, image, Unit(jnp.arange(count)))
        expected = values.reshape(-1, count).mean(axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        assert found.dtype == jnp.float32


def test_the_gradient_is_the_mean_on_the_channel_and_nothing_elsewhere(rng):
    activations, image = draw(rng, (5, 6))
    read = QUICK_JIT(jax.grad(lambda a: channel("b").value(a, image, unit(2))))
    gradient = read(activations)
    expected = np.zeros((5, 6, 5))
    expected[..., 2] = 1 / 30
    np.testing.assert_allclose(gradient["b"], expected, rtol=1e-6)
    assert not gradient["a"].any()


@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_compute_what_they_say(rng, name):
    activations, image = draw(rng, (5, 6))
    means = {
        layer: float(np.asarray(values, np.float64)[..., 1].mean())
        for layer, values in activations.items()
    }
    objective = COMBINATIONS[name]
    # The description is the call that makes the objective: numbers in, the same number out.
    expected = eval(objective.description, {"channel": means.get})
    remade = eval(objective.description, {"channel": channel})
    found, again = QUICK_JIT(
        lambda *given: (objective.value(*given, unit(1)), remade.value(*given, unit(1)))
    )(activations, image)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-6)


def test_descriptions_read_well():
    assert (A - 0.5 * B).description == "channel('a') - 0.5 * channel('b')"
    assert (2 * (A + B)).description == "2 * (channel('a') + channel('b'))"
    assert (A - (B + C)).description == "channel('a') - (channel('b') + channel('c'))"
    assert (-A).description == "(-1.0) * channel('a')"
    with_penalty = A - 10 * penalties.layer_l1("a")
    assert with_penalty.description == "channel('a') - 10 * layer_l1('a')"


def test_layers_are_named_once_and_in_order():
    assert (A + B + A - C).layers == ("a", "b", "c")
    assert (B + A).layers == ("b", "a")
    assert (A - penalties.image_l1()).layers == ("a",)


def test_only_what_reads_a_channel_alone_says_so():
    assert A.reads_one_channel
    assert (2 * A - B).reads_one_channel
    assert (A - 0.1 * penalties.image_l2()).reads_one_channel
    assert not (A - penalties.layer_l1("a")).reads_one_channel
    assert not (penalties.off_target_l1("a") + A).reads_one_channel
    assert not (-penalties.layer_l1("a")).reads_one_channel
    assert not Objective(
        "own", ("a",), lambda activations, image, unit: jnp.zeros(())
    ).reads_one_channel


def test_another_unit_is_other_data_and_the_same_program(rng):
    activations, image = draw(rng, (5, 6))
    traced = []

    def value(activations, image, unit):
        traced.append(unit)
        return (A + B).value(activations, image, unit)

    batched = QUICK_JIT(jax.vmap(value, in_axes=(None, None, 0)))
    for numbers in ([0, 1], [2, 0]):
        found = batched(activations, image, Unit(jnp.asarray(numbers, jnp.int32)))
        expected = [
            np.asarray(activations["a"])[..., n].mean()
            + np.asarray(activations["b"])[..., n].mean()
            for n in numbers
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(traced) == 1


# ----------------------------------------------------------- every objective, against float64

GRID, CHANNELS, LOGITS = (5, 6), 4, 3


def numpy_activations(rng, grid=GRID):
    return {
        "a": rng.standard_normal((*grid, CHANNELS)),
        "logits": rng.standard_normal(LOGITS),
    }


def evaluate(objective, activations, given, image_shape=(9, 10, 1)):
    """The value, and its gradient with respect to the activations."""
    single = {name: jnp.asarray(values, jnp.float32) for name, values in activations.items()}
    read = QUICK_JIT(
        jax.value_and_grad(lambda a: objective.value(a, jnp.zeros(image_shape), given))
    )
    value, gradient = read(single)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    assert all(np.isfinite(leaf).all() for leaf in gradient.values())
    return float(value)


@SHAPES
def test_neuron_is_one_place_of_its_channel(rng, spatial):
    activations = numpy_activations(rng, spatial)
    centre = tuple(side // 2 for side in spatial)
    corner = (0,) * (len(spatial) - 1) + (spatial[-1] - 1,)
    own = activations["a"][..., 2]
    given = unit(2)
    for objective, of, place in [
        (objectives.neuron("a"), given, centre),
        (objectives.neuron("a", position=corner), given, corner),
        (objectives.neuron("a", position=centre), given, centre),
    ]:
        assert evaluate(objective, activations, of) == pytest.approx(own[place], rel=1e-5)


def test_one_program_serves_all_directions(rng):
    activations = {"a": jnp.asarray(rng.standard_normal((5, 6, 4)), jnp.float32)}
    vectors = rng.standard_normal((7, 4))
    objective = -objectives.direction("a", vectors)
    traced = []

    def value(activations, image, unit):
        traced.append(unit)
        return objective.value(activations, image, unit)

    read = QUICK_JIT(jax.vmap(value, in_axes=(None, None, 0)))
    exact = np.asarray(activations["a"], np.float64)
    for numbers in ([0, 1], [6, 3]):  # More directions than the layer has channels.
        found = read(activations, jnp.zeros((9, 9, 1)), objective.units(numbers))
        expected = -(exact @ vectors[numbers].T).mean(axis=(0, 1))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert len(traced) == 1


def test_directions_are_units_with_numbers_and_names():
    named = objectives.direction("a", {"age": [1, 0, 0], "pca": [[0, 1, 0], [0, 0, 2.0]]})
    assert named.directions is not None
    assert named.directions.names == ("age", "pca/0", "pca/1")
    assert objectives.direction("a", np.eye(3)).directions.names == ("0", "1", "2")
    assert (named.num_units(64), named.has_one_unit) == (3, False)
    assert named.units([2]).direction.tolist() == [[0, 0, 2]]
    with pytest.raises(ValueError, match=r"directions \[3\] are asked for; there are 0 to 2"):
        named.units([3])
    one = objectives.direction("a", [1, 0, 0])
    assert (one.num_units(64), one.has_one_unit, one.directions) == (1, True, None)
    assert (channel("a").num_units(64), (A - one).num_units(64)) == (64, 64)


def test_what_is_made_of_directions_has_them_too():
    several = objectives.direction("a", np.eye(3))
    for made in (-several, objectives.strongest(several), several + objectives.diversity("a")):
        assert made.directions is several.directions
    for made in (several - objectives.direction("a", [1, 0, 0]), several + B):
        assert made.directions is several.directions
    assert (several + objectives.cosine_direction("a", np.eye(3))).num_units(9) == 3
    third = several.of(2)
    assert third.has_one_unit
    activations = {"a": jnp.asarray([[[1.0, 2.0, 4.0]]])}
    assert float(third.value(activations, jnp.zeros((3, 3, 1)), unit(0))) == 4
    with pytest.raises(ValueError, match="there are directions 0 to 2, not 3"):
        several.of(3)
    with pytest.raises(ValueError, match="several directions each, and not the same"):
        several + objectives.direction("a", np.eye(3)[:2])


def test_layer_is_the_mean_square(rng):
    activations = numpy_activations(rng)
    expected = np.square(activations["a"]).mean()
    assert evaluate(objectives.layer("a"), activations, unit(0)) == pytest.approx(expected)


def test_logits_and_their_differences(rng):
    activations = numpy_activations(rng)
    z = activations["logits"]
    for objective, given, expected in [
        (objectives.logit("logits"), unit(2), z[2]),
        (objectives.logit_difference("logits"), unit(2), z[2] - (z[0] + z[1]) / 2),
        (objectives.logit_difference("logits", other=1), unit(2), z[2] - z[1]),
    ]:
        assert evaluate(objective, activations, given) == pytest.approx(expected, rel=1e-5)


@SHAPES
def test_directions(rng, spatial):
    activations = numpy_activations(rng, spatial)
    vector = rng.standard_normal(CHANNELS).astype(np.float32)
    exact, v = activations["a"], vector.astype(np.float64)
    along = exact @ v
    several = np.stack([np.ones_like(vector), vector])
    as_data = unit(1)._replace(direction=jnp.asarray(vector))
    for objective, given in [
        (objectives.direction("a", vector=vector), unit(0)),
        (objectives.direction("a", several), as_data),
    ]:
        assert evaluate(objective, activations, given) == pytest.approx(along.mean(), rel=1e-4)
    cosine = along / np.linalg.norm(exact, axis=-1) / np.linalg.norm(v)
    assert (cosine < 0.1).any()
    assert (cosine > 0.2).any()
    for power in (0.0, 1.0, 2.0, 3.5):
        expected = (along * np.maximum(cosine, 0.1) ** power).mean()
        for vectors, given in [(vector, unit(0)), (several, as_data)]:
            objective = objectives.cosine_direction("a", vectors, power=power)
            found = evaluate(objective, activations, given)
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_silent_layer_has_a_direction_with_finite_gradient():
    silent = {"a": np.zeros((5, 6, CHANNELS)), "logits": np.zeros(LOGITS)}
    objective = objectives.cosine_direction("a", vector=[1, 0, 0, 0])
    assert evaluate(objective, silent, unit(0)) == 0


@SHAPES
def test_attention_is_a_weighted_mean(rng, spatial):
    activations = numpy_activations(rng, spatial)
    mask = rng.random(spatial) * (rng.random(spatial) > 0.5)
    expected = (mask * activations["a"][..., 3]).sum() / mask.sum()
    for scale in (1.0, 250.0):
        found = evaluate(objectives.attention("a", scale * mask), activations, unit(3))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    everywhere = objectives.attention("a", np.ones(spatial, bool))
    expected = activations["a"][..., 3].mean()
    assert evaluate(everywhere, activations, unit(3)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_interpolation_and_other_channels(rng):
    activations = numpy_activations(rng)
    means = activations["a"].mean(axis=(0, 1))
    third = channel("a").of(3)
    assert evaluate(third, activations, unit(1)) == pytest.approx(means[3], rel=1e-4)
    for share in (0.0, 0.3, 1.0):
        between = objectives.interpolation(channel("a"), third, share=share)
        expected = (1 - share) * means[1] + share * means[3]
        assert evaluate(between, activations, unit(1)) == pytest.approx(expected, rel=1e-4)


def test_variants_spread_from_one_objective_to_the_other(rng):
    batch = jnp.asarray(rng.standard_normal((5, 4, 4, 2)), jnp.float32)
    between = objectives.interpolation(channel("a"), channel("a").of(1), share=None)
    assert between.reads_variants

    def value(activation):
        return between.value({"a": activation}, jnp.zeros((4, 4, 1)), unit(0))

    found = QUICK_JIT(jax.vmap(value, axis_name=objectives.VARIANTS))(batch)
    means = np.asarray(batch, np.float64).mean(axis=(1, 2))
    t = np.linspace(0, 1, 5)
    np.testing.assert_allclose(found, (1 - t) * means[:, 0] + t * means[:, 1], rtol=1e-4, atol=1e-6)


def exact_diversity(activations):
    """By the formula, pair by pair, in float64: the sum over all variants."""
    flat = np.asarray(activations, np.float64)
    flat = flat.reshape(len(flat), -1, flat.shape[-1])
    grams = [a.T @ a / np.linalg.norm(a.T @ a) for a in flat]
    pairs = [(i, j) for i in range(len(grams)) for j in range(len(grams)) if i != j]
    return -sum((grams[i] * grams[j]).sum() for i, j in pairs) / len(grams)


@SHAPES
def test_diversity_is_the_sum_over_pairs_and_so_is_its_gradient(rng, spatial):
    batch = jnp.asarray(rng.standard_normal((3, *spatial, 4)), jnp.float32)

    def value(activation):
        objective = objectives.diversity("a")
        return objective.value({"a": activation}, jnp.zeros((*spatial, 1)), unit(0))

    # As the ascent does it: every variant takes the gradient of its own share.
    along = functools.partial(jax.vmap, axis_name=objectives.VARIANTS)
    values, gradient = QUICK_JIT(along(jax.value_and_grad(value)))(batch)
    assert float(values.sum()) == pytest.approx(exact_diversity(batch), rel=1e-4)
    for _ in range(4):
        place = tuple(rng.integers(0, side) for side in batch.shape)
        step = np.zeros(batch.shape)
        step[place] = 1e-4
        exact = np.asarray(batch, np.float64)
        slope = (exact_diversity(exact + step) - exact_diversity(exact - step)) / 2e-4
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_diversity_of_silent_variants_has_a_finite_gradient():
    along = functools.partial(jax.vmap, axis_name=objectives.VARIANTS)

    def value(activation):
        return objectives.diversity("a").value({"a": activation}, jnp.zeros((4, 4, 1)), unit(0))

    values, gradient = QUICK_JIT(along(jax.value_and_grad(value)))(jnp.zeros((2, 4, 4, 3)))
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(gradient, 0)


# ------------------------------------------------------------------- masks of the image's grid


def make_network(shape=(40, 44, 1)):
    module = CNN(rank=len(shape) - 1, features=(2, 4, 4, 4, 4))
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), dict(shapes))
    return linen_network(module, variables, shape)


@pytest.mark.parametrize("shape", [(40, 44, 1), (34, 35, 36, 1)], ids=["2-D", "3-D"])
def test_a_mask_comes_onto_the_layer_where_its_places_look(rng, shape):
    network = make_network(shape)
    fields = {"conv1": (3, 1), "conv2": (7, 1), "conv3": (13, 2)}
    network = network._replace(
        layers=tuple(
            layer._replace(receptive_field=fields[layer.name][0], stride=fields[layer.name][1])
            for layer in network.layers
            if layer.name in fields
        )
    )
    mask = rng.random(shape[:-1])
    halves = (
        mask  # Every voxel in two halves along each axis: then cells are whole numbers of them.
    )
    for axis in range(mask.ndim):
        halves = np.repeat(halves, 2, axis=axis)
    # Without padding, place i of conv3 sees the 13 voxels from 2 i on, and 6 + 2 i at their centre.
    for name, centre, stride in [("conv1", 1, 1), ("conv2", 3, 1), ("conv3", 6, 2)]:
        found = objectives.on_layer(mask, network, name)
        assert found.shape == network.layer(name).shape[:-1]
        assert found.dtype == np.float32
        for place in [(0,) * mask.ndim, (3, 5, 4)[: mask.ndim], tuple(n - 1 for n in found.shape)]:
            first = [2 * (centre + stride * i) + 1 - stride for i in place]
            cell = halves[tuple(slice(n, n + 2 * stride) for n in first)]
            assert cell.shape == (2 * stride,) * mask.ndim
            assert found[place] == pytest.approx(cell.mean(), rel=1e-5)
        ones = objectives.on_layer(np.ones(shape[:-1]), network, name)
        np.testing.assert_allclose(ones, 1, rtol=1e-6)
        ascent_check(objectives.attention(name, found), network)


def test_a_padded_layer_lies_centred_on_the_image():
    layers = (
        Layer("same", "Conv", (8, 1), 3, 1, True),
        Layer("half", "Conv", (4, 1), 5, 2, True),
        Layer("unknown", "Gate", (4, 1), None, None, True),
    )
    network = Network(None, None, None, (8, 1), layers)  # pyright: ignore
    mask = np.arange(8.0)
    np.testing.assert_allclose(objectives.on_layer(mask, network, "same"), mask)
    for name in ("half", "unknown"):
        found = objectives.on_layer(mask, network, name)
        np.testing.assert_allclose(found, mask.reshape(4, 2).mean(axis=1))


# -------------------------------------------------------------- refused before anything compiles


def ascent_check(objective, network, *, variants=1):
    check(
        Recipe(objective, parameterizations.pixels(), optax.sgd(1.0), steps=3, variants=variants),
        network=network,
    )


WRONG_FOR_THE_NETWORK = {
    r"no layer 'conv9'; the nearest are conv": channel("conv9"),
    r"neuron\('conv3', position=\(14, 0\)\): .*has the grid \(14, 16\)": objectives.neuron(
        "conv3", position=(14, 0)
    ),
    r"position=\(1, 2, 3\)\): .*grid \(14, 16\): name one index": objectives.neuron(
        "conv3", position=(1, 2, 3)
    ),
    r"'logits' of shape \(2,\) has no grid: use channel or logit": objectives.neuron("logits"),
    r"logit\('conv3'\): .*shape \(14, 16, 4\).*use channel or neuron": objectives.logit("conv3"),
    r"has logits 0 to 1, not 2": objectives.logit_difference("logits", other=2),
    r"^direction.*5 numbers, but layer 'conv3' has 4 channels": objectives.direction(
        "conv3", vector=[1, 2, 3, 4, 5]
    ),
    r"^cosine_direction.*1 numbers, but layer 'conv3/relu' has 4": objectives.cosine_direction(
        "conv3/relu", vector=[1]
    ),
    r"mask's grid is \(40, 44\), but layer 'conv3' has the grid \(14, 16\)": objectives.attention(
        "conv3", np.ones((40, 44))
    ),
    r"channels 0 to 3, not 4: name one": channel("conv3") - channel("conv3").of(4),
    r"channels 0 to 1, not 3": -2
    * objectives.interpolation(channel("conv1"), channel("conv1").of(3)),
    r"diversity\('conv3'\) is about several variants.*variants=1: set it": channel("conv3")
    + 2 * objectives.diversity("conv3"),
    r"share=None\) is about several variants": objectives.interpolation(
        channel("conv3"), channel("conv2"), share=None
    ),
}


@pytest.mark.parametrize("message", WRONG_FOR_THE_NETWORK)
def test_what_does_not_fit_the_network_is_refused(message):
    with pytest.raises(ValueError, match=message):
        ascent_check(WRONG_FOR_THE_NETWORK[message], make_network())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: objectives.direction("a", vector=[]),
            r"vector has shape \(0,\); expected one row",
        ),
        (lambda: objectives.direction("a", [[[1.0]]]), "expected one row of finite numbers"),
        (lambda: objectives.direction("a", [[1.0, 2.0], [0, 0]]), "^direction: .*'1' is all 0"),
        (lambda: objectives.direction("a", [[1.0], [1.0, 2.0]]), "vector is no array of numbers"),
        (lambda: objectives.direction("a", ["x", "y"]), "holds <U1; expected real numbers"),
        (lambda: objectives.direction("a", {}), "there is no direction"),
        (lambda: objectives.direction("a", {"age": [1, 2], "sex": [1]}), "'age' has 2 .*'sex' 1"),
        (
            lambda: objectives.direction("a", {"age": np.ones(())}),
            r"'age' has shape \(\); expected a vec",
        ),
        (
            lambda: objectives.direction("a", {"a/0": [1.0], "a": [[1.0]]}),
            "'a/0' names several directions",
        ),
        (lambda: objectives.direction("a", vector=[0.0, 0.0]), "not all 0"),
        (lambda: objectives.cosine_direction("a", vector=[np.nan]), "finite"),
        (
            lambda: objectives.cosine_direction("a", [1.0], power=-1),
            "power is -1; expected a number from 0",
        ),
        (lambda: objectives.attention("a", np.zeros((3, 3))), "not all 0"),
        (lambda: objectives.attention("a", [[-1.0, 2.0]]), "finite weights from 0"),
        (lambda: objectives.interpolation(A, B, share=1.5), r"share is 1.5; expected .*\[0, 1\]"),
        (
            lambda: objectives.on_layer(np.ones((40, 40)), make_network(), "conv3"),
            r"mask's grid is \(40, 40\), but the image's is \(40, 44\)",
        ),
        (lambda: objectives.on_layer(np.ones((40, 44)), make_network(), "logits"), "has no grid"),
        (
            lambda: objectives.on_layer(
                np.eye(40, 44) * (np.arange(44) < 1), make_network(), "conv1"
            ),
            r"nothing of the mask is left on the layer's grid \(38, 42\)",
        ),
    ],
)
def test_what_can_never_work_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["", " ", "all", "3", "-1", "a,b", "a:b", "tab\t", " age"])
def test_a_name_that_no_table_or_choice_could_hold_is_refused(name):
    with pytest.raises(ValueError, match="cannot name a direction: expected a word"):
        objectives.directions_of({name: [1.0, 2.0]})


def test_a_unit_without_its_direction_is_refused_while_tracing(rng):
    activations, image = draw(rng, (5, 6))
    several = objectives.direction("a", np.eye(3))
    with pytest.raises(ValueError, match=r"needs one: take it from Objective\.units"):
        jax.eval_shape(several.value, activations, image, unit(0))


def test_what_is_read_of_a_layer_says_so():
    assert objectives.neuron("a").reads_one_channel
    assert objectives.logit("a").reads_one_channel
    assert objectives.attention("a", np.ones((5, 6))).reads_one_channel
    assert objectives.interpolation(A, objectives.neuron("a")).reads_one_channel
    for whole in (
        A.of(1),
        objectives.layer("a"),
        objectives.logit_difference("a"),
        objectives.direction("a", np.eye(3)),
        objectives.cosine_direction("a", [1, 0, 0]),
        objectives.interpolation(A, A.of(1)),
        objectives.diversity("a"),
    ):
        assert not whole.reads_one_channel
    assert (A + 2 * objectives.diversity("a")).reads_variants
    assert not (A + B).reads_variants


# What a unit responds with, by hand, on the activations of `draw`: of channel 1, in float64.
_MASK = np.array([[0, 1, 0, 0.5, 0, 0]] * 5)
_VECTOR = np.array([0.5, -1.0, 2.0])
RESPONSES = {
    "channel": (A, lambda a, b, c: a[..., 1].max()),
    "what suppresses it": (-A, lambda a, b, c: -a[..., 1].min()),
    "a negative multiple": (-2 * A, lambda a, b, c: -2 * a[..., 1].min()),
    "neuron": (objectives.neuron("a", position=(0, 2)), lambda a, b, c: a[..., 1].max()),
    "neuron against": (-objectives.neuron("a"), lambda a, b, c: -a[..., 1].min()),
    "attention": (objectives.attention("a", _MASK), lambda a, b, c: a[:, [1, 3], 1].max()),
    "against attention": (
        -objectives.attention("a", _MASK),
        lambda a, b, c: -a[:, [1, 3], 1].min(),
    ),
    "direction": (objectives.direction("a", vector=_VECTOR), lambda a, b, c: (a @ _VECTOR).max()),
    "another channel": (A.of(2), lambda a, b, c: a[..., 2].max()),
    "of one layer": (A - 0.5 * A.of(2), lambda a, b, c: (a[..., 1] - 0.5 * a[..., 2]).max()),
    "with a direction": (
        A - objectives.direction("a", vector=_VECTOR),
        lambda a, b, c: (a[..., 1] - a @ _VECTOR).max(),
    ),
    "of two layers": (A + B, lambda a, b, c: a[..., 1].mean() + b[..., 1].mean()),
    "of two parts": (
        objectives.attention("a", _MASK) + A,
        lambda a, b, c: (a[..., 1] * _MASK).sum() / _MASK.sum() + a[..., 1].mean(),
    ),
    "logit": (objectives.logit("c"), lambda a, b, c: c[1]),
    "logits": (objectives.logit_difference("c", other=0), lambda a, b, c: c[1] - c[0]),
    "layer": (objectives.layer("a"), lambda a, b, c: np.square(a).mean()),
    "variants": (A + 2 * objectives.diversity("a"), lambda a, b, c: a[..., 1].max()),
    "variants first": (objectives.diversity("a") - A, lambda a, b, c: -a[..., 1].min()),
    "variants between": (
        A + objectives.diversity("a") - B,
        lambda a, b, c: a[..., 1].mean() - b[..., 1].mean(),
    ),
    "logits of variants": (
        objectives.logit("c") + 3 * objectives.diversity("c"),
        lambda a, b, c: c[1],
    ),
    "between two channels": (
        objectives.interpolation(A, A.of(0), share=0.25),
        lambda a, b, c: (0.75 * a[..., 1] + 0.25 * a[..., 0]).max(),
    ),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_unit_responds_with_its_largest_activation_or_the_one_value(rng, name):
    activations, image = draw(rng, (5, 6))
    objective, by_hand = RESPONSES[name]
    expected = by_hand(*(np.asarray(values, np.float64) for values in activations.values()))
    found = objective.response(activations, image, unit(1))
    assert found.shape == () and found.dtype == jnp.float32
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_descriptions_tell_arrays_apart():
    first, other = (objectives.direction("a", vector=v).description for v in ([1, 2], [1, 3]))
    assert first != other
    assert first.startswith("direction('a', vector=<2 float32, sha256 ")
    assert objectives.neuron("a", position=(1, 2)).description == "neuron('a', position=(1, 2))"
    assert (A + B).of(2).description == "(channel('a') + channel('b')).of(2)"


# ------------------------------------------------------------------------ three steps of ascent

RISING = {
    **COMBINATIONS,
    **{
        f"away from {name}": -1.0 * make("a", (0.0, 1.0))
        for name, make in penalties.PENALTIES.items()
        if make is not None
    },
    "towards layer_l1": penalties.layer_l1("a"),
    "channel under a penalty": A - 10 * penalties.off_target_l1("a"),
    "away from cohort_mean": -penalties.cohort_mean(jnp.full((6, 7, 1), 0.25)),
}


@pytest.mark.parametrize("name", RISING)
def test_every_objective_rises_in_three_steps(rng, name):
    weights = {
        layer: jnp.asarray(rng.standard_normal((1, channels)), jnp.float32)
        for layer, channels in [("a", 3), ("b", 5), ("c", 4)]
    }

    def read(image):
        """Three layers of tanh: smooth, with channels of both signs."""
        activations = {layer: jnp.tanh(image @ kernel - 0.1) for layer, kernel in weights.items()}
        return RISING[name].value(activations, image, unit(1))

    @QUICK_JIT
    def step(image):
        value, gradient = jax.value_and_grad(read)(image)
        return value, image + 0.2 * gradient

    image = jnp.asarray(rng.random((6, 7, 1), np.float32))
    values = []
    for _ in range(4):
        value, image = step(image)
        values.append(float(value))
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all(), values

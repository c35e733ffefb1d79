"""Several variants of one unit, and where the network was looking."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from featvis_jax.checkpoints import load_model
from featvis_jax.maximize import (
    ascent,
    objectives,
    transforms,
)
from featvis_jax.maximize.layer import visualize
from featvis_jax.maximize.parameterizations import Parameterization, pixels
from featvis_jax.nn.tracing import linen_network
from tests.maximize.lines import (
    QUICK_JIT,
    RANKS,
    STEPS,
    all_keys,
    bounds,
    dimmed_with_the_step,
    line_network,
    make_recipe,
    start,
    units,
)

# ------------------------------------------------------------------------------------- variants


@RANKS
def test_variants_are_ascents_of_their_own_and_the_first_is_the_unit_alone(spatial):
    network = line_network(spatial)
    changes = {
        "robustness": transforms.jitter(strength=0.5),
        "projection": transforms.every(3, transforms.jitter(strength=0.1)),
        "transparency": True,
    }

    def run(recipe):
        states = start(network, recipe, [0, 2])
        states = QUICK_JIT(ascent.advance(network, recipe))(
            network.variables, states, units([0, 2]), *bounds(0, STEPS)
        )
        measured = QUICK_JIT(ascent.measure(network, recipe))(
            network.variables, states, units([0, 2])
        )
        return states, measured

    (alone, seen_alone), (three, seen) = (
        run(make_recipe(**changes, variants=count)) for count in (1, 3)
    )
    assert seen.image.shape == seen.transparency.shape == (2, 3, *spatial, 1)
    assert seen.objective.shape == three.finite.shape == (2, 3)
    first = jax.tree.map(lambda leaf: leaf[:, 0], (three, seen))
    for leaf, reference in zip(
        jax.tree.leaves(first), jax.tree.leaves((alone, seen_alone)), strict=True
    ):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf, reference = jax.random.key_data(leaf), jax.random.key_data(reference)
        np.testing.assert_allclose(leaf, reference, rtol=1e-5, atol=1e-6)
    # Every variant of every unit starts and draws by itself.
    assert len(set(all_keys(three.key))) == 6
    traces = np.asarray(three.objective)
    assert np.isfinite(traces).all()
    assert len(np.unique(traces)) == traces.size


def test_a_coupled_step_follows_the_gradient_of_the_sum_over_variants(rng):
    """Against finite differences in float64 of what the variants add up to."""
    network = line_network((3, 4))
    objective = objectives.channel("line") + 5 * objectives.diversity("line")
    offset = 3 * jnp.asarray(rng.standard_normal((3, 4, 3)), jnp.float32)
    bent = network._replace(
        # Activations that turn with the image: all multiples of one vector have one Gram matrix.
        activations=lambda variables, image, layers: {
            name: jnp.tanh(image @ variables + offset) for name in layers
        }
    )
    wide = pixels(intensity_range=(-100.0, 100.0), noise=0.005)
    recipe = make_recipe(
        objective=objective, parameterization=wide, optimizer=optax.sgd(0.01), variants=3
    )
    states = start(bent, recipe, [1])
    found = QUICK_JIT(ascent.advance(bent, recipe))(
        bent.variables, states, units([1]), *bounds(0, 1)
    )
    weights, shift = np.asarray(bent.variables, np.float64), np.asarray(offset, np.float64)

    def total(images):
        layers = [np.tanh(image @ weights + shift) for image in images]
        grams = []
        for layer in layers:
            gram = layer.reshape(-1, 3).T @ layer.reshape(-1, 3)
            grams.append(gram / np.linalg.norm(gram))
        pairs = [(a * b).sum() for i, a in enumerate(grams) for j, b in enumerate(grams) if i != j]
        return sum(layer[..., 1].mean() for layer in layers) - 5 * sum(pairs) / 3

    images = np.asarray(states.parameters[0], np.float64)
    assert float(found.objective[0, :, 0].sum()) == pytest.approx(total(images), rel=1e-4)
    for place in [(0, 0, 0, 0), (1, 2, 3, 0), (2, 1, 1, 0)]:
        nudge = np.zeros_like(images)
        nudge[place] = 1e-5
        slope = (total(images + nudge) - total(images - nudge)) / 2e-5
        moved = float(found.parameters[0][place]) - images[place]
        assert moved == pytest.approx(0.01 * slope, rel=0.02, abs=2e-6)


def test_a_layer_s_units_come_out_variant_by_variant():
    network = line_network((5, 6))
    recipe = make_recipe(variants=2, transparency=True)
    found = list(visualize(network, recipe, "line", [2, 0, 1], batch_size=2))
    assert [(unit.channel, unit.variant) for unit in found] == [
        (channel, variant) for channel in (2, 0, 1) for variant in (0, 1)
    ]
    alone = list(visualize(network, make_recipe(), "line", [2, 0, 1], batch_size=2))
    for unit, single in zip(found[::2], alone, strict=True):
        assert single.transparency is None
        assert unit.transparency.shape == unit.image.shape == (5, 6, 1)
        np.testing.assert_allclose(unit.image, single.image, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            unit.objective_trace, single.objective_trace, rtol=1e-5, atol=1e-6
        )
    for unit in found:
        exact = (unit.image * np.asarray(network.variables)[0, unit.channel]).mean()
        assert unit.final_objective == pytest.approx(exact, rel=1e-4)


@pytest.mark.optax
def test_diversity_makes_the_variants_of_a_trained_channel_less_alike():
    model = load_model("square-lesion")
    network = linen_network(model.module, model.variables, model.image_shape)
    alike = []
    for weight in (0.0, 10.0):
        recipe = make_recipe(
            objective=objectives.channel("conv2") + weight * objectives.diversity("conv2/relu"),
            optimizer=optax.adam(0.05),
            steps=6,
            variants=4,
        )
        states = start(network, recipe, [3], layer="conv2")
        found = jax.jit(ascent.advance(network, recipe))(
            network.variables, states, units([3]), *bounds(0, 6)
        )
        assert found.finite.all()
        features = np.array(
            [
                np.asarray(
                    network.activations(network.variables, image, ("conv2/relu",))["conv2/relu"],
                    np.float64,
                )
                for image in found.parameters[0]
            ]
        )
        grams = [f.reshape(-1, f.shape[-1]) for f in features]
        grams = np.array([(f.T @ f).ravel() for f in grams])
        cosines = []
        for vectors in (grams, features.reshape(4, -1)):
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            cosines.append((unit @ unit.T)[~np.eye(4, dtype=bool)].mean())
        alike.append(cosines)
    independent, diverse = alike
    assert diverse[0] < independent[0] - 0.02
    assert diverse[1] < independent[1] - 0.02


# --------------------------------------------------------------------------------- transparency


def test_transparency_is_the_sum_of_the_gradients_on_the_image():
    network = line_network((5, 6))
    levels = Parameterization(
        "levels()",
        lambda key, shape: jax.random.normal(key, (5,)),
        lambda levels: jnp.broadcast_to(levels[:, None, None], (5, 6, 1)),
        lambda levels: levels,
        is_image=False,
    )
    recipe = make_recipe(
        parameterization=levels, robustness=dimmed_with_the_step, transparency=True
    )
    states = start(network, recipe, [0, 1])
    advance = QUICK_JIT(ascent.advance(network, recipe))
    found = advance(network.variables, states, units([0, 1]), *bounds(0, STEPS))
    weights = np.abs(np.asarray(network.variables, np.float64)[0, :2])
    for number in range(2):
        # Of every voxel by itself, though the parameters are whole rows.
        expected = weights[number] / 30 * sum(1 - step / 40 for step in range(STEPS))
        np.testing.assert_allclose(found.transparency[number], expected, rtol=1e-4)
    plain = make_recipe(parameterization=levels, robustness=dimmed_with_the_step)
    states = start(network, plain, [0, 1])
    assert states.transparency is None
    without = QUICK_JIT(ascent.advance(network, plain))(
        network.variables, states, units([0, 1]), *bounds(0, STEPS)
    )
    np.testing.assert_allclose(without.parameters, found.parameters, rtol=1e-5, atol=1e-6)

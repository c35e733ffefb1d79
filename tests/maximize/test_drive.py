"""Regularization that follows a target: how strong it becomes, and what it leaves of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from featvis_jax.maximize import ascent, objectives, parameterizations, penalties, presets
from featvis_jax.maximize.drive import Drive, after_step, directed, relaxed, settling
from featvis_jax.maximize.layer import LayerProgram, visualize
from featvis_jax.maximize.objectives import Unit
from featvis_jax.maximize.planning import Batch
from featvis_jax.maximize.recipe import Recipe
from featvis_jax.nn.tracing import linen_network
from tests.maximize.smooth import smooth_network

pytestmark = pytest.mark.optax  # Adam mixes dtypes.

STEPS = 60
LAYER = "conv3"


def followed(respond, target, steps=100):
    """The pressures of an ascent whose response is a function of step and pressure."""
    drive, pressure, shares = Drive(), relaxed(), []
    for step in range(steps):
        response = jnp.float32(respond(step, float(pressure.share)))
        pressure = pressure._replace(plain=response)
        pressure = after_step(drive, pressure, response, jnp.float32(target), step, steps)
        shares.append(float(pressure.share))
    return np.array(shares), pressure


def test_pressure_rises_to_where_the_response_is_at_its_target():
    # 3 - 4 p is 1.2 times the target, 1, at p = 0.45.
    shares, _ = followed(lambda step, p: 3 - 4 * p, target=1.0)
    assert abs(shares[-30:].mean() - 0.45) < 0.1
    assert np.ptp(shares[-30:]) <= 1 / (100 * Drive().fall) + 1e-6


def test_pressure_is_full_where_nothing_stops_it_and_none_where_the_target_is_out_of_reach():
    assert followed(lambda step, p: 9.0, target=1.0)[0][-1] == 1
    assert followed(lambda step, p: 0.9, target=1.0)[0].max() == 0


def test_what_drives_a_unit_through_its_transforms_alone_does_not_count():
    pressure = relaxed()._replace(share=jnp.float32(0.5), plain=jnp.float32(-3.0))
    found = after_step(Drive(), pressure, jnp.float32(9.0), jnp.float32(1.0), 5, 100)
    assert found.share < 0.5


def test_without_a_target_a_share_of_the_ceiling_becomes_one():
    # Without pressure the response climbs to 8 within the quarter in which it looks.
    shares, last = followed(lambda step, p: min(8.0, step) - 10 * p, target=np.nan)
    assert float(last.ceiling) == 8
    assert not shares[:25].any()
    # 8 - 10 p is 1.2 times half of the ceiling at p = 0.32.
    assert abs(shares[-30:].mean() - 0.32) < 0.1


def test_a_step_knows_no_scale_of_objective_and_cost():
    rng = np.random.default_rng(0)
    climb, cost, wander = (jnp.asarray(rng.normal(size=(6, 7, 1)), jnp.float32) for _ in range(3))
    half = relaxed()._replace(share=jnp.float32(0.5))
    found = directed(Drive(cost_share=0.8), 1e-12 * climb, 1e9 * cost, wander, half)
    unit = [np.asarray(x) / np.sqrt(np.mean(np.square(x, dtype=np.float64))) for x in (climb, cost)]
    np.testing.assert_allclose(found, 0.6 * unit[0] + 0.4 * unit[1], rtol=1e-4, atol=1e-4)
    silent = directed(Drive(), jnp.zeros_like(climb), cost, wander, half)
    np.testing.assert_array_equal(silent, wander)


def driven_recipe(**changes):
    strategy = presets.strategy("driven")
    recipe = Recipe(
        objective=objectives.strongest(objectives.channel(LAYER)),
        parameterization=parameterizations.fourier(**presets.CLOUDS),
        optimizer=optax.adam(settling(0.05, STEPS)),
        robustness=strategy.robustness,
        drive=strategy.drive,
        steps=STEPS,
    )
    return recipe._replace(**changes)


def total_variation(image):
    penalty = penalties.total_variation()
    return float(penalty.value({}, jnp.asarray(image), Unit(jnp.int32(0))))


def run(program, channels, targets=None):
    """All of them in one batch of a compiled program."""
    keys = ascent.unit_keys(0, LAYER, channels)
    return program.run(Batch(tuple(channels), len(channels)), keys, targets=targets).units


@pytest.fixture(scope="module", params=[(22, 24, 1), (12, 13, 14, 1)], ids=["2d", "3d"])
def finished(request):
    """Units that respond, by recipe: unregularized, with modest targets, with high ones."""
    network = smooth_network(request.param)
    naive = driven_recipe(drive=None, robustness=presets.strategy("none").robustness)
    program = LayerProgram(network, naive, num_units=3, batch_size=3)
    channels = [7, 9, 11]
    found = {"naive": run(program, channels)}
    strongest = np.array([unit.response for unit in found["naive"]])
    assert (strongest > 0).all()
    driven = LayerProgram(network, driven_recipe(), num_units=3, batch_size=3)
    for name, share in (("modest", 0.3), ("high", 0.8), ("beyond", 5.0)):
        found[name] = run(driven, channels, share * strongest)
    found["own"] = run(driven, channels)
    # At its old place in the batch: at another one a step may be rounded otherwise.
    other = [np.nan, found["modest"][1].target, np.nan]
    found["others"] = run(driven, [2, 9, 0], np.array(other))
    return network, found


def test_an_image_reaches_its_target_and_is_the_cleaner_for_a_lower_one(finished):
    _, found = finished
    for name in ("modest", "high"):
        for unit in found[name]:
            assert unit.target is not None and unit.response >= unit.target
    edges = {name: [total_variation(unit.image) for unit in units] for name, units in found.items()}
    for modest, high, naive in zip(edges["modest"], edges["high"], edges["naive"], strict=True):
        assert modest < high < naive


def test_a_target_beyond_reach_is_told_by_the_response(finished):
    _, found = finished
    for unit, naive in zip(found["beyond"], found["naive"], strict=True):
        assert unit.response < unit.target
        # Nothing is given up for cleanness then.
        assert unit.response > 0.8 * naive.response


def test_a_unit_without_a_target_tells_the_one_that_it_found(finished):
    _, found = finished
    for unit, naive in zip(found["own"], found["naive"], strict=True):
        assert 0.1 * naive.response < unit.target <= 0.55 * naive.response
        assert unit.response >= unit.target


def test_a_unit_does_not_depend_on_those_that_run_with_it(finished):
    _, found = finished
    np.testing.assert_allclose(found["others"][1].image, found["modest"][1].image, atol=1e-4)


class Silent(nn.Module):
    """One channel that responds to contrast alone, more than an image starts with."""

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(1, (3, 3), padding="VALID", name="edges")(images))
        return nn.Conv(1, (3, 3), padding="VALID", name="out")(x)


def test_a_unit_behind_silent_relus_wanders_until_it_responds():
    edges = np.zeros((3, 3, 1, 1), np.float32)
    edges[1, 1], edges[1, 0] = 1.0, -1.0
    variables = {
        "params": {
            "edges": {"kernel": jnp.asarray(edges), "bias": jnp.full((1,), -0.25)},
            "out": {"kernel": jnp.full((3, 3, 1, 1), 1.0), "bias": jnp.zeros((1,))},
        }
    }
    network = linen_network(Silent(), variables, (20, 22, 1))
    recipe = driven_recipe(
        objective=objectives.strongest(objectives.channel("out")),
        parameterization=parameterizations.fourier(decay=1.5, noise=0.05),
    )
    (unit,) = visualize(network, recipe, "out", [0], targets=[1.0])
    assert unit.objective_trace[0] == 0
    assert unit.response >= 1


def test_a_recipe_without_a_drive_has_no_pressure(finished):
    network, _ = finished
    state = ascent.init(jax.random.key(0), driven_recipe(drive=None), network.image_shape)
    assert state.pressure is None


def test_a_cost_that_reads_the_network_is_refused():
    drive = Drive(cost=penalties.layer_l1(LAYER))
    with pytest.raises(ValueError, match="expected one of the image alone"):
        ascent.check(driven_recipe(drive=drive))
    with pytest.raises(ValueError, match=r"expected cost_share in \[0, 1\)"):
        ascent.check(driven_recipe(drive=Drive(cost_share=1.0)))


def test_one_target_is_expected_for_each_channel():
    with pytest.raises(ValueError, match="expected one for each of 2 channels"):
        list(visualize(smooth_network((24, 26, 1)), driven_recipe(), LAYER, [0, 1], targets=[1.0]))

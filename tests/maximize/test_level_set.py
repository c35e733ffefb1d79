"""Bodies of one grey level: by scipy's splines, of one level each, and without fine texture."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.interpolate import BSpline

from featvis_jax.maximize import ascent, objectives, steering
from featvis_jax.maximize.parameterizations import inside, level_set
from featvis_jax.maximize.recipe import Recipe
from tests.maximize.lines import QUICK_JIT
from tests.maximize.smooth import smooth_network

SHAPES = {"2-D": ((21, 18, 1), (1.0, 1.0)), "3-D": ((13, 10, 12, 2), (2.0, 1.5, 1.0))}
RANKS = pytest.mark.parametrize(("shape", "sizes"), SHAPES.values(), ids=SHAPES)


def by_scipy(coefficients, spatial, sizes, spacing_mm):
    """The field of one channel, in float64."""
    for axis, (side, size) in enumerate(zip(spatial, sizes, strict=True)):
        points = coefficients.shape[axis]
        t = (np.arange(side) - (side - 1) / 2) * size / spacing_mm + (points - 1) / 2
        knots = np.arange(-2, points + 2)
        basis = BSpline(knots, np.eye(points), 3, extrapolate=False)(t)
        assert np.isfinite(basis).all()
        coefficients = np.moveaxis(np.tensordot(basis, coefficients, (1, axis)), 0, axis)
    return coefficients


@RANKS
@pytest.mark.parametrize(
    ("polarity", "level", "bodies"), [("dark", 0.6, 0.2), ("bright", 0.4, 0.8)]
)
def test_the_image_is_a_logistic_function_of_scipy_s_spline(shape, sizes, polarity, level, bodies):
    made = level_set(
        spacing_mm=5.0, voxel_size_mm=sizes, polarity=polarity, intensity_range=(-1.0, 3.0)
    )
    parameters = made.init(jax.random.key(0), shape)
    image = jax.jit(made.decode)(parameters)
    assert image.shape == shape
    for channel, coefficients in enumerate(np.asarray(parameters.values, np.float64)):
        field = by_scipy(coefficients, shape[:-1], sizes, 5.0)
        share = level + (bodies - level) / (1 + np.exp(-6 * field))
        np.testing.assert_allclose(image[..., channel], -1 + 4 * share, atol=1e-5)


@RANKS
def test_what_is_drawn_is_bodies_and_background_without_texture(shape, sizes):
    spacing = 6.0
    made = level_set(spacing_mm=spacing, voxel_size_mm=sizes, noise=1.0)
    loud = jax.tree.map(lambda leaf: 50 * leaf, made.init(jax.random.key(1), shape))
    image = np.asarray(jax.jit(lambda given: made.decode(made.constrain(given)))(loud))[..., 0]
    body = (0.6 - image) / 0.4
    assert -1e-3 <= body.min() < 0.05
    assert 0.95 < body.max() <= 1 + 1e-3
    # No step from voxel to voxel is larger than the field's bound and the spacing allow.
    steepest = 1.5 * 2 * 0.75 * max(sizes) / spacing * 6 / 4
    assert max(np.abs(np.diff(body, axis=axis)).max() for axis in range(body.ndim)) <= steepest


def test_units_start_apart_with_bodies_that_a_network_can_see():
    made = level_set()
    first, second = (made.decode(made.init(jax.random.key(n), (40, 40, 1))) for n in (0, 1))
    assert float(jnp.abs(first - second).max()) > 0.3
    assert 0.15 < float((first < 0.4).mean()) < 0.45


def test_bodies_are_drawn_inside_a_mask_alone():
    mask = np.zeros((20, 20), np.float32)
    mask[5:15, 5:15] = 1
    made = inside(mask, level_set(noise=1.0), outside=0.6)
    image = np.asarray(made.decode(made.init(jax.random.key(0), (20, 20, 1))))[..., 0]
    assert (image[mask == 0] == np.float32(0.6)).all()
    assert image[mask == 1].min() < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"polarity": "both"}, "polarity is 'both'; expected 'dark' or 'bright'"),
        (
            {"contrast": 0.7},
            "background has level 0.6 and the contrast is 0.7, so that bodies have",
        ),
        ({"contrast": 0.0}, "the contrast is 0"),
        ({"level": 1.2, "contrast": 0.5}, r"level 1.2 .* both levels in \[0, 1\]"),
        ({"intensity_range": (1.0, 1.0)}, r"intensity_range is \(1.0, 1.0\); expected two finite"),
        ({"price": -1.0}, "price is -1.0; expected a number from 0"),
        ({"noise": 1.5}, r"noise is 1.5; expected a share of the range in \[0, 1\]"),
    ],
)
def test_options_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^level_set: .*{message}"):
        inspect.unwrap(level_set)(**options)


def test_control_points_closer_than_two_voxels_are_refused():
    with pytest.raises(ValueError, match=r"^level_set: spacing_mm is 3, and the voxels are"):
        level_set(spacing_mm=3.0, voxel_size_mm=2.0)


@RANKS
def test_the_cost_is_that_of_surface_and_volume(shape, sizes):
    made = level_set(spacing_mm=5.0, voxel_size_mm=sizes, price=3.0, noise=1.0)
    parameters = made.init(jax.random.key(2), shape)
    body = (0.6 - np.asarray(made.decode(parameters), np.float64)) / 0.4
    axes = range(len(sizes))
    forward = [np.diff(body, axis=k, append=body.take([-1], axis=k)) for k in axes]
    length = np.sqrt(sum(np.square(each) for each in forward))
    assert made.cost is not None
    assert float(made.cost(parameters)) == pytest.approx(
        3 * (length.mean() + 0.2 * body.mean()), rel=1e-2
    )


@pytest.mark.optax
@pytest.mark.parametrize(
    ("first", "objective", "due"),
    [(-2.0, -2.0, 0.0), (-2.0, -9.0, 0.0), (-2.0, 0.0, 0.25), (-2.0, 2.0, 1.0), (5.0, 2.0, 1.0)],
)
def test_the_price_is_due_as_far_as_the_objective_has_come(first, objective, due):
    network = smooth_network((20, 18, 1))
    objective_up_to_2 = objectives.up_to(objectives.channel(network.layers[-1].name), 2.0)
    recipe = Recipe(objective_up_to_2, level_set(spacing_mm=4.0), steps=20)
    ascending, price = np.array([3.0, 1.0], np.float32), np.array([2.0, -4.0], np.float32)
    found = steering.Found(
        image=jnp.zeros((20, 18, 1)),
        on_image=jnp.zeros((20, 18, 1)),
        to_parameters=lambda on_image: (jnp.asarray(ascending),),
        on_cost=jnp.asarray(price),
        objective=jnp.float32(objective),
        first=jnp.float32(first),
        response=[],
    )
    steer = steering.steering(network, recipe)
    key, unit = jax.random.key(0), objectives.Unit(jnp.int32(0))
    gradient, _ = steer(key, network.variables, unit, jnp.int32(7), None, found)
    np.testing.assert_allclose(gradient, ascending + due * price)


@pytest.mark.optax
def test_an_ascent_pays_nothing_in_its_first_step_and_all_at_its_end():
    made, network = level_set(spacing_mm=4.0, noise=0.2), smooth_network((20, 18, 1))
    layer = network.layers[-1].name
    free = made._replace(cost=None)

    def moved(of, most, step):
        recipe = Recipe(
            objectives.up_to(objectives.channel(layer), most), of, optimizer=optax.sgd(0.1), steps=2
        )
        first = jax.vmap(lambda key: ascent.init(key, recipe, network.image_shape))(
            ascent.unit_keys(0, layer, [0])
        )
        # As after a first step that found one less.
        first = first._replace(objective=first.objective.at[:, 0].set(most - 1))
        after = QUICK_JIT(ascent.advance(network, recipe))(
            *(network.variables, first, recipe.objective.units([0])),
            *(jnp.int32(step), jnp.int32(step + 1)),
        )
        return np.asarray(after.parameters.values - first.parameters.values)[0]

    np.testing.assert_allclose(moved(made, 1e3, 0), moved(free, 1e3, 0), atol=1e-6)
    key = ascent.unit_keys(0, layer, [0])[0]
    start = made.init(jax.random.fold_in(key, 0), network.image_shape)
    assert made.cost is not None
    slope = np.asarray(jax.grad(made.cost)(start).values)
    # Beyond an end that lies below everything there is the price alone.
    np.testing.assert_allclose(moved(made, -1e3, 1), -0.1 * slope, atol=1e-5 * abs(slope).max())


def test_what_is_not_needed_for_the_target_goes():
    """Two bodies of which the objective sees one: after the target the other costs, and fades."""
    made = level_set(spacing_mm=4.0, noise=0.0)
    cost = made.cost
    assert cost is not None
    parameters = made.init(jax.random.key(0), (32, 16, 1))
    values = parameters.values.at[0, 2:4, 2:4].set(1.0).at[0, 7:9, 2:4].set(1.0)
    parameters = dataclasses.replace(parameters, values=values)

    def loss(given):
        seen = 0.6 - made.decode(given)[:12].mean()
        return -jnp.minimum(seen, 0.05) + cost(given) / 100

    momentum = optax.sgd(20.0, momentum=0.9)
    before, state = made.decode(parameters), momentum.init(parameters)

    @jax.jit
    def step(given, state):
        changes, state = momentum.update(jax.grad(loss)(given), state)
        return made.constrain(optax.apply_updates(given, changes)), state

    for _ in range(200):
        parameters, state = step(parameters, state)
    after = made.decode(parameters)
    assert float(before[:12].min()) < 0.25
    assert float(before[20:].min()) < 0.25
    assert float(after[:12].min()) < 0.35
    assert float(after[20:].min()) > 0.5

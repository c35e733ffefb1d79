"""A scan that changes its shape: what it stands for, what it costs, and what an ascent asks of it.

The network is made by hand: it answers to how bright a ring about a bright disc is, so that its
logit rises where the disc grows, and falls where it shrinks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.ad_checkpoint import checkpoint_name

from featvis_jax.maximize import ascent, objectives, parameterizations, presets, splines, warps
from featvis_jax.maximize.drive import Drive
from featvis_jax.maximize.layer import visualize
from featvis_jax.maximize.optimizers import unit_steps
from featvis_jax.maximize.parameterizations import ENERGIES, Budget, Stiffness, deformation
from featvis_jax.maximize.recipe import Recipe
from featvis_jax.nn.tracing import function_network
from tests.maximize.lines import QUICK_JIT, assert_same_bits

SPATIAL = {"2-D": (40, 44), "3-D": (22, 24, 20)}
RADIUS_MM = {"2-D": 9.0, "3-D": 9.0}
VOXEL_MM = {"2-D": 1.0, "3-D": 2.0}
# Control points about as far apart as the disc is large.
SPACING_MM = 12.0
NAMES = pytest.mark.parametrize("name", SPATIAL)


def distance_mm(name):
    """Of every voxel to a point a little off the middle."""
    spatial = SPATIAL[name]
    centred = [(np.arange(side) - (side - 1) / 2 - 1) * VOXEL_MM[name] for side in spatial]
    return np.sqrt(sum(np.square(each) for each in np.meshgrid(*centred, indexing="ij")))


@functools.cache
def scan(name):
    edge = (RADIUS_MM[name] - distance_mm(name)) / (1.5 * VOXEL_MM[name])
    return np.float32(0.3 + 0.5 / (1 + np.exp(-4 * edge)))[..., None]


@functools.cache
def disc_network(name, channels=1):
    """A logit for how bright a ring about the disc is, and its negative."""
    ring = np.exp(-0.5 * np.square((distance_mm(name) - RADIUS_MM[name] - 1) / 2))
    ring = np.float32(60 * ring / ring.sum())
    level = float((scan(name)[..., 0] * ring).sum() / 60)

    def logits(weights, images):
        seen = jnp.tensordot(images[..., 0] - level, weights, axes=weights.ndim)
        return checkpoint_name(jnp.stack([seen, -seen], axis=-1), "logits")

    return function_network(logits, jnp.asarray(ring), (*SPATIAL[name], channels))


def made(name, **options):
    return deformation(
        scan(name), voxel_size_mm=VOXEL_MM[name], **{"spacing_mm": SPACING_MM, **options}
    )


def drawn(of, name, *, seed=0, scale=1.0):
    parameters = of.init(jax.random.key(seed), (*SPATIAL[name], 1))
    rng = np.random.default_rng(seed)
    return {
        key: jnp.asarray(scale * rng.standard_normal(values.shape), jnp.float32)
        for key, values in parameters.items()
    }


@NAMES
def test_it_starts_as_the_scan_and_moves_it_by_the_maps_it_tells(name):
    of = made(name, noise=0.0)
    start = of.init(jax.random.key(0), (*SPATIAL[name], 1))
    np.testing.assert_allclose(of.decode(start), scan(name), atol=1e-6)
    assert float(of.cost(start)) == 0
    parameters = drawn(of, name, scale=2.0)
    maps = of.maps(parameters)
    assert {key: value.shape[-1] for key, value in maps.items()} == {
        "logjac": 1,
        "displacement": len(SPATIAL[name]),
    }
    moved = np.asarray(maps["displacement"]) / VOXEL_MM[name]
    by_the_maps = warps.warp(jnp.asarray(scan(name)), list(jnp.moveaxis(jnp.asarray(moved), -1, 0)))
    np.testing.assert_allclose(of.decode(parameters), by_the_maps, atol=1e-5)
    # Finite differences of what is told, between neighbouring voxels: good to a few per cent.
    slopes = np.stack(np.gradient(moved, axis=tuple(range(moved.ndim - 1))), axis=-1)
    if moved.ndim == 3:
        slopes = np.stack(np.gradient(moved, axis=(0, 1)), axis=-1)
    growth = -np.log(np.linalg.det(np.eye(moved.shape[-1]) + slopes))
    told = np.asarray(maps["logjac"])[..., 0]
    inner = (slice(2, -2),) * (moved.ndim - 1)
    assert np.corrcoef(growth[inner].ravel(), told[inner].ravel())[0, 1] > 0.97


@NAMES
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.1, 3.0, 1e4]),
    strain=st.sampled_from([0.3, 0.75]),
)
def test_no_parameters_fold_the_scan(name, seed, scale, strain):
    of = made(name, strain=strain)
    rng = np.random.default_rng(seed)
    shape = of.init(jax.random.key(0), (*SPATIAL[name], 1))["shape"].shape
    parameters = {"shape": jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)}
    growth = compiled_maps(name, strain)(parameters)["logjac"]
    low, high = warps.determinant_limits(len(SPATIAL[name]), strain=strain)
    assert -np.log(high) - 1e-4 <= float(growth.min())
    assert float(growth.max()) <= -np.log(low) + 1e-4


@functools.cache
def compiled_maps(name, strain):
    return QUICK_JIT(made(name, strain=strain).maps)


def test_brightness_keeps_the_darkest_and_the_range(rng):
    of = made("2-D", changes="brightness")
    parameters = {"brightness": jnp.asarray(30 * rng.standard_normal((1, 7, 7)), jnp.float32)}
    assert of.init(jax.random.key(0), (40, 44, 1))["brightness"].shape == (1, 7, 7)
    image, told = of.decode(parameters), of.maps(parameters)["logbright"]
    assert set(of.maps(parameters)) == {"logbright"}
    np.testing.assert_allclose(image, np.clip(scan("2-D") * np.exp(told), 0, 1), atol=1e-6)
    assert float(jnp.abs(told).max()) <= np.log(2)
    both = made("2-D", changes="both")
    assert set(both.maps(drawn(both, "2-D"))) == {"logjac", "displacement", "logbright"}


@pytest.mark.parametrize("energy", ENERGIES)
def test_it_costs_its_energy(energy):
    of = made("2-D", stiffness=Stiffness(energy, 50.0), strain=0.9)
    parameters = drawn(of, "2-D", scale=0.01)
    grid = splines.control_grid((40, 44), spacing_mm=SPACING_MM)
    expected = {
        "total_variation": splines.total_variation,
        "membrane": splines.membrane_energy,
        "bending": splines.bending_energy,
    }[energy]
    # So small, the bound on the coefficients changes nothing. Total variation is summed over fewer
    # places than there are voxels.
    np.testing.assert_allclose(
        float(of.cost(parameters)), 50 * float(expected(parameters["shape"], grid)), rtol=0.01
    )
    assert made("2-D", stiffness=Stiffness(energy, 0.0)).cost is None


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("2-D", Budget(0.4)),
        ("2-D", Budget(0.2, 0.1, 0.03)),
        ("3-D", Budget(rms_log_growth=0.05)),
    ],
    ids=["mm", "all", "growth"],
)
def test_a_budget_is_kept_to_and_what_is_within_is_left_alone(name, budget):
    of = made(name, changes="both", budget=budget)
    constrain, maps = QUICK_JIT(of.constrain), QUICK_JIT(of.maps)
    for seed, scale in enumerate((0.02, 3.0, 1e3)):
        parameters = drawn(of, name, seed=seed, scale=scale)
        kept = constrain(parameters)
        if scale == 0.02 and budget.rms_log_growth is None:
            assert_same_bits(kept, parameters)
        found = {key: np.asarray(value) for key, value in maps(kept).items()}
        lengths = np.sqrt(np.mean(np.square(found["displacement"]).sum(axis=-1)))
        growth = np.sqrt(np.mean(np.square(found["logjac"])))
        bright = np.sqrt(np.mean(np.square(found["logbright"]).sum(axis=-1)))
        reached = {
            "rms_displacement_mm": lengths,
            "rms_log_growth": growth,
            "rms_log_brightness": bright,
        }
        limits = {key: value for key, value in budget._asdict().items() if value is not None}
        shares = {key: reached[key] / most for key, most in limits.items()}
        assert all(share <= 1.02 for share in shares.values()), shares
        if scale == 3.0:
            assert max(shares.values()) > 0.97, shares
        # The direction stays: every place moves as it did, only less.
        if scale == 3.0 and budget.rms_log_brightness is None:
            before = np.asarray(maps(parameters)["displacement"]).ravel()
            assert np.corrcoef(before, found["displacement"].ravel())[0, 1] > 0.999


def ascend(name, recipe, *, channels=(0,), **options):
    return list(visualize(disc_network(name), recipe, "logits", list(channels), **options))


def grown(name, unit):
    """Mean log growth of the disc, and of what is far from it."""
    growth, far = unit.maps["logjac"][..., 0], distance_mm(name)
    radius = RADIUS_MM[name]
    return float(growth[far < radius].mean()), float(growth[far > 2 * radius].mean())


@pytest.mark.optax
@NAMES
def test_an_ascent_finds_what_grows_and_what_shrinks(name):
    recipe = Recipe(
        objectives.up_to(objectives.logit("logits"), 6.0),
        made(name, stiffness=Stiffness(weight=20.0)),
        steps=60,
    )
    growing, shrinking = ascend(name, recipe, channels=(0, 1))
    low, high = warps.determinant_limits(len(SPATIAL[name]), strain=0.75)
    for unit, sign in ((growing, 1), (shrinking, -1)):
        disc, elsewhere = grown(name, unit)
        assert sign * disc > 0.1
        assert abs(elsewhere) < abs(disc) / 4
        assert unit.final_objective > unit.initial_objective + 3
        ratio = np.exp(-unit.maps["logjac"])
        assert low <= ratio.min()
        assert ratio.max() <= high
        # It stops where it is told to, and keeps no more of a deformation than that takes.
        assert unit.response < 7.5
        assert unit.penalty > 0
    assert (growing.image[..., 0] > 0.55).sum() > (scan(name) > 0.55).sum()
    assert (shrinking.image[..., 0] > 0.55).sum() < (scan(name) > 0.55).sum()


@pytest.mark.optax
def test_chunks_of_steps_are_one_ascent():
    network, recipe = (
        disc_network("2-D"),
        Recipe(objectives.logit("logits"), made("2-D", noise=0.1, changes="both"), steps=7),
    )
    keys = ascent.unit_keys(0, "logits", [0, 1])
    states = jax.vmap(lambda key: ascent.init(key, recipe, network.image_shape))(keys)
    units = recipe.objective.units([0, 1])
    advance = QUICK_JIT(ascent.advance(network, recipe))
    bounds = [(jnp.int32(first), jnp.int32(stop)) for first, stop in ((0, 7), (0, 3), (3, 7))]
    whole = advance(network.variables, states, units, *bounds[0])
    halfway = advance(network.variables, states, units, *bounds[1])
    assert_same_bits(advance(network.variables, halfway, units, *bounds[2]), whole)
    assert float(jnp.abs(whole.parameters["brightness"]).max()) > 0


@pytest.mark.optax
def test_transforms_variants_transparency_and_a_drive_go_with_it():
    strategy = presets.strategy(
        presets.DRIVEN, every=50, steps=12, intensity_range=(0.0, 1.0), baseline=scan("2-D")
    )
    recipe = Recipe(
        objectives.logit("logits") + 0.5 * objectives.diversity("logits"),
        made("2-D", noise=0.05),
        steps=12,
        robustness=strategy.robustness,
        drive=Drive(),
        variants=2,
        transparency=True,
    )
    first, second = ascend("2-D", recipe, targets=[1.0])
    assert first.finite and second.finite
    assert first.final_objective > first.initial_objective
    assert first.transparency.max() > 0
    assert np.abs(first.maps["logjac"] - second.maps["logjac"]).max() > 1e-4


@pytest.mark.optax
def test_scans_of_their_own_are_the_variants_of_a_unit():
    """Each variant makes of its scan what it would make of it alone."""
    scans = [scan("2-D"), np.roll(scan("2-D"), 2, axis=0)]
    recipe = Recipe(
        objectives.logit("logits"), parameterizations.deformations(scans), steps=4, variants=2
    )
    both = ascend("2-D", recipe)
    assert [unit.variant for unit in both] == [0, 1]
    for unit, one in zip(both, scans, strict=True):
        np.testing.assert_allclose(unit.start, one, atol=1e-6)
    alone = recipe._replace(parameterization=deformation(scans[1]), variants=1)
    (expected,) = ascend("2-D", alone)
    np.testing.assert_allclose(both[1].image, expected.image, atol=1e-4)
    np.testing.assert_allclose(both[1].maps["logjac"], expected.maps["logjac"], atol=1e-4)
    with pytest.raises(ValueError, match=r"variants is 3, .* for each of 2: set it to that"):
        ascent.check(recipe._replace(variants=3), network=disc_network("2-D"))
    with pytest.raises(ValueError, match=r"the scans have the shapes .*; expected one"):
        parameterizations.deformations([scans[0], scans[0][1:]])


def test_steps_of_a_drive_go_down_in_the_energy_where_nothing_else_pulls():
    """At full pressure nearly all of a step is the cost's, told on the parameters."""
    recipe = Recipe(objectives.logit("logits"), made("2-D", noise=0.3), steps=20, drive=Drive())
    network = disc_network("2-D")
    states = jax.vmap(lambda key: ascent.init(key, recipe, network.image_shape))(
        ascent.unit_keys(0, "logits", [0])
    )
    share = jnp.full((1,), 1.0)
    states = states._replace(pressure=states.pressure._replace(share=share, plain=share + 99))
    units = recipe.objective.units([0], targets=np.array([-50.0]))
    with jax.numpy_dtype_promotion("standard"):
        after = QUICK_JIT(ascent.advance(network, recipe))(
            network.variables, states, units, jnp.int32(0), jnp.int32(5)
        )
    assert float(after.penalty[0, 4]) < 0.9 * float(after.penalty[0, 0])


def test_channels_that_are_held_and_places_outside_a_mask_stay(rng):
    image = rng.uniform(size=(40, 44, 2)).astype(np.float32)
    held = parameterizations.holding(image, [1], deformation(image, spacing_mm=SPACING_MM))
    parameters = {"shape": jnp.asarray(2 * rng.standard_normal((2, 7, 7)), jnp.float32)}
    found = np.asarray(held.decode(parameters))
    np.testing.assert_array_equal(found[..., 1], image[..., 1])
    assert np.abs(found[..., 0] - image[..., 0]).max() > 0.1
    assert held.cost is not None
    assert held.maps is not None
    mask = distance_mm("2-D") < 8
    within = parameterizations.inside(mask, made("2-D"), outside=scan("2-D"))
    found = np.asarray(within.decode(parameters))
    np.testing.assert_array_equal(found[~mask], scan("2-D")[~mask])


def test_steps_have_one_length_whatever_the_gradient():
    optimizer = unit_steps(0.5, momentum=0.0)
    parameters = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
    for size in (1e-30, 1.0, 1e30):
        gradient = jax.tree.map(lambda leaf, size=size: jnp.full_like(leaf, size), parameters)
        step, _ = optimizer.update(gradient, optimizer.init(parameters))
        length = np.sqrt(sum(float(jnp.sum(jnp.square(leaf))) for leaf in step.values()))
        assert length == pytest.approx(0.5, rel=1e-5)
    still, _ = optimizer.update(parameters, optimizer.init(parameters))
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in still.values())
    with pytest.raises(ValueError, match="momentum is 1"):
        unit_steps(0.5, momentum=1.0)


@pytest.mark.optax
def test_a_recipe_without_an_optimizer_takes_steps_of_unit_length():
    recipe = Recipe(objectives.logit("logits"), made("2-D"), steps=3)
    spelled = recipe._replace(optimizer=recipe.parameterization.optimizer.of(0.05 * 12, 3)[0])
    found = [ascend("2-D", each)[0] for each in (recipe, spelled)]
    np.testing.assert_array_equal(found[0].image, found[1].image)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"spacing_mm": 1.5}, "deformation: spacing_mm is 1.5, .* at least two voxels"),
        ({"changes": "colour"}, "changes is 'colour'; expected one of shape, brightness, both"),
        ({"strain": 1.0}, "strain is 1.0; .* may fold"),
        ({"stiffness": Stiffness(weight=-1.0)}, "weight from 0"),
        ({"budget": Budget(9.0)}, "rms_displacement_mm=9; .* more than 6.22"),
        ({"budget": Budget(rms_log_growth=3.0)}, "rms_log_growth=3; .* more than 2.77"),
        ({"budget": Budget(rms_log_brightness=0.1)}, "changes='shape' leaves it as it is"),
        ({"intensity_range": (1.0, 0.0)}, "low < high"),
        ({"noise": 2.0}, "noise is 2.0"),
    ],
)
def test_what_cannot_be_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        made("2-D", **options)


def test_another_grid_and_objectives_that_do_not_fit_are_refused():
    recipe = Recipe(objectives.logit("logits"), deformation(np.zeros((30, 30, 1))))
    with pytest.raises(ValueError, match=r"the scan has shape \(30, 30, 1\)"):
        ascent.check(recipe, network=disc_network("2-D"))
    with pytest.raises(ValueError, match="cannot be made of an image"):
        parameterizations.from_image(scan("2-D"), made("2-D"))
    ended = objectives.up_to(objectives.logit("logits"), 6.0)
    with pytest.raises(ValueError, match="leave the drive out"):
        ascent.check(Recipe(ended, drive=Drive()))
    with pytest.raises(ValueError, match=r"up_to\(strongest"):
        objectives.strongest(objectives.up_to(objectives.channel("conv1"), 6.0))
    with pytest.raises(ValueError, match="most is nan"):
        objectives.up_to(objectives.logit("logits"), float("nan"))

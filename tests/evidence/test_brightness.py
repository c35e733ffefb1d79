"""Shape or brightness: efforts against energies, and networks whose cue is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.evidence import brightness
from featvis_jax.evidence.brightness import BOTH, NEITHER, NO_BRIGHTNESS, NO_SHAPE, NOTHING, Effort
from featvis_jax.maximize import objectives, splines
from featvis_jax.maximize.layer import visualize
from featvis_jax.maximize.parameterizations import Stiffness, deformations
from featvis_jax.maximize.recipe import Recipe
from tests.evidence import known

TURN = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("spatial", "sizes"), [((40, 44), (2.0, 2.0)), ((22, 24, 20), (2.0, 3.0, 2.5))]
)
def test_effort_by_shape_is_the_root_of_the_membrane_energy(spatial, sizes, rng):
    scan = np.zeros((*spatial, 1), np.float32)
    of = deformations([scan], voxel_size_mm=sizes, spacing_mm=12.0)
    shape = of.init(jax.random.key(0), scan.shape)["shape"].shape
    coefficients = jnp.asarray(0.05 * rng.standard_normal(shape), jnp.float32)
    moved = np.asarray(of.maps({"shape": coefficients})["displacement"])
    grid = splines.control_grid(spatial, spacing_mm=12.0, voxel_size_mm=sizes)
    expected = math.sqrt(float(splines.membrane_energy(coefficients, grid)))
    found = brightness.shape_effort(moved, voxel_size_mm=sizes)
    assert found == pytest.approx(expected, rel=0.015)
    # Along the axes of the world it is the same.
    whole = np.zeros((*spatial, 3))
    whole[..., : moved.shape[-1]] = moved
    turned = brightness.shape_effort(whole @ TURN.T, voxel_size_mm=sizes)
    assert turned == pytest.approx(found, rel=1e-6)


def test_effort_by_brightness_is_what_the_parameterization_counts(rng):
    of = deformations([np.full((40, 44, 1), 0.5)], voxel_size_mm=2.0, changes="brightness")
    plain = deformations(
        [np.full((40, 44, 1), 0.5)],
        voxel_size_mm=2.0,
        changes="brightness",
        stiffness=Stiffness("membrane", 1.0),
    )
    start = of.init(jax.random.key(0), (40, 44, 1))["brightness"]
    drawn = {"brightness": jnp.asarray(rng.standard_normal(start.shape), jnp.float32)}
    told = np.asarray(of.maps(drawn)["logbright"])
    expected = math.sqrt(float(plain.cost(drawn)))
    assert brightness.brightness_effort(told) == pytest.approx(expected, rel=1e-3)


def test_an_effort_is_of_one_kind_and_reaches_95_per_cent():
    maps = {"logbright": np.full((3, 4, 1), 0.1)}
    for target, objective, reaches in (
        (8.0, 7.6, True),
        (8.0, 7.5, False),
        (-8.0, -8.4, True),
        (-8.0, -8.5, False),
        (8.0, math.nan, False),
    ):
        found = brightness.effort(maps, objective, target=target, voxel_size_mm=1.0)
        assert found.reaches == reaches
    both = {**maps, "displacement": np.zeros((3, 4, 2))}
    for wrong in (both, {"logjac": np.zeros((3, 4, 1))}):
        with pytest.raises(ValueError, match="expected either a displacement or logbright"):
            brightness.effort(wrong, 8.0, target=8.0, voxel_size_mm=1.0)


def test_what_reaches_the_target_decides_where_not_both_do():
    far, near = Effort(0.2, True), Effort(0.1, True)
    short, none = Effort(0.1, False), Effort(0.0, True)
    found = {
        BOTH: brightness.compared(far, near),
        NO_SHAPE: brightness.compared(short, near),
        NO_BRIGHTNESS: brightness.compared(far, short),
        NEITHER: brightness.compared(short, short),
        NOTHING: brightness.compared(none, none),
    }
    assert [each.outcome for each in found.values()] == list(brightness.OUTCOMES)
    ratios = [each.ratio for each in found.values()]
    assert ratios[:3] == [2.0, math.inf, 0.0]
    assert np.isnan(ratios[3:]).all()
    # What tells nothing is left out: the median of 0, 2 and infinity.
    assert brightness.ratio_of_unit(list(found.values())) == 2.0
    assert brightness.asks_for_brightness(2.0) and not brightness.asks_for_brightness(1.1)
    assert brightness.asks_for_brightness(math.inf)
    nothing = brightness.ratio_of_unit([found[NEITHER]])
    assert math.isnan(nothing) and not brightness.asks_for_brightness(nothing)


@pytest.mark.optax
@pytest.mark.parametrize("cue", ["size", "brightness"])
def test_the_cue_of_any_network_is_told_by_its_ratio(cue):
    network = {"size": known.size_network, "brightness": known.brightness_network}[cue]("2-D")
    scans = [known.person("2-D", number) for number in (0, 2)]
    efforts = {}
    for changes in ("shape", "brightness"):
        recipe = Recipe(
            objectives.up_to(objectives.logit("logits"), known.TARGET),
            deformations(
                scans, voxel_size_mm=2.0, changes=changes, stiffness=Stiffness(weight=20.0)
            ),
            steps=80,
            variants=len(scans),
        )
        efforts[changes] = [
            brightness.effort(
                {name: each for name, each in unit.maps.items() if name != "logjac"},
                unit.final_objective,
                target=known.TARGET,
                voxel_size_mm=2.0,
            )
            for unit in visualize(network, recipe, "logits", [0])
        ]
    pairs = zip(efforts["shape"], efforts["brightness"], strict=True)
    ratio = brightness.ratio_of_unit([brightness.compared(*pair) for pair in pairs])
    assert brightness.asks_for_brightness(ratio) == (cue == "brightness")
    assert ratio > 0.3

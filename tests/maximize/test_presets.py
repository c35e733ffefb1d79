"""The named strategies: all of them run, parse, join and explain themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.maximize import transforms as t
from featvis_jax.maximize.presets import STRATEGIES, strategy

KEY = jax.random.key(0)
IMAGE = jax.random.uniform(jax.random.key(1), (20, 24, 1))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_builds_and_says_what_it_is(name):
    built = strategy(name)
    assert built.name == name
    assert built.description == STRATEGIES[name]
    assert "\n" not in built.description
    assert len(name) + len(built.description) < 110
    assert built.references or name in ("none", "clip_1")
    assert t.is_differentiable(built.robustness)
    if name != "recommended":
        assert t.is_identity(built.projection) + t.is_identity(built.robustness) >= 1
    assert (name == "none") == (t.is_identity(built.projection) and t.is_identity(built.robustness))


@pytest.mark.parametrize("name", ["paper", "lucid", "blur_every_step", "jitter_rotation_tv", "sbf"])
@pytest.mark.parametrize("shape", [(20, 24, 1), (10, 12, 11, 1)], ids=["2-D", "3-D"])
def test_strategies_run_in_both_ranks(name, shape):
    built = strategy(name, every=2, steps=10)
    image = jax.random.uniform(KEY, shape)
    slots = t.chain(built.projection, built.robustness)
    result = jax.jit(slots)(KEY, image, jnp.int32(1))
    assert result.shape == shape
    assert bool(jnp.isfinite(result).all())
    assert bool((result != image).any())


def test_the_papers_columns_are_there():
    listed = set(STRATEGIES)
    assert {"none", "paper", "lucid", "blur_every_step", "sbf", "tv_0.1"} <= listed
    assert {"jitter_1", "jitter_2", "rotation_10", "rotation_30", "rotation_90"} <= listed
    assert {"translation_0.1", "resize_0.5", "roll_6", "blur_0.5"} <= listed
    assert {"crop_nearest", "crop_linear", "crop_cubic"} <= listed
    assert {"jitter_rotation", "jitter_rotation_tv", "resize_cubic", "resize_cubic_tv"} <= listed


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in STRATEGIES
        if not name.startswith(("blur", "clip", "none", "paper", "recommended"))
    ],
)
def test_transforms_of_the_paper_wait_for_their_step(name):
    projection = strategy(name).projection
    for part in projection.parts:
        assert (part.name, dict(part.options)) == ("every", {"period": 50})
    if projection.parts:
        np.testing.assert_array_equal(projection(KEY, IMAGE, 48), IMAGE)


def test_blur_is_applied_at_every_step_and_fades():
    blur = strategy("blur_every_step", steps=100).projection
    for step, sigma in [(0, 1.5), (50, 0.9), (100, 0.3)]:
        expected = t.gaussian_blur(sigma=sigma, radius=6)(KEY, IMAGE, 0)
        np.testing.assert_allclose(blur(KEY, IMAGE, jnp.int32(step)), expected, atol=1e-6)


def test_other_strengths_of_a_family_work():
    built = strategy("rotation_17.5")
    assert "17.5 degrees" in built.description
    assert "max_degrees=17.5" in t.describe(built.projection)


def test_names_joined_by_commas_share_a_period():
    built = strategy("translation_0.1, rotation_30,blur_0.5,tv_0.1", every=10)
    assert built.name == "translation_0.1,rotation_30,blur_0.5,tv_0.1"
    first, blur, last = built.projection.parts
    assert [part.name for part in built.projection.parts] == ["every", "gaussian_blur", "every"]
    assert dict(first.options) == dict(last.options) == {"period": 10}
    # Neighbours that move voxels about are resampled once.
    assert first.parts[0].geometry is not None
    assert [part.name for part in last.parts[0].parts] == ["total_variation"]
    assert dict(blur.options)["sigma"] == 0.5
    assert built.description.count(";") == 3
    assert len(built.references) == len(set(built.references)) == 2
    both = strategy("lucid,tv_0.1")
    assert not t.is_identity(both.robustness)
    assert not t.is_identity(both.projection)


def test_lucid_resamples_once_and_has_a_gradient():
    robustness = strategy("lucid").robustness
    assert robustness.geometry is not None
    gradient = jax.grad(lambda image: (robustness(KEY, image, 0) ** 2).sum())(IMAGE)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rotatoin_30", "'rotatoin_30' is unknown; nearest: rotation_30"),
        ("tv", "'tv' is unknown; nearest: .*families that take any number: .*tv_WEIGHT"),
        ("", "'' is unknown"),
        ("rotation_30,", "'' is unknown"),
        ("rotation_400", r"regularization 'rotation_400': rotate: max_degrees=400.0 .*\[0, 180\]"),
        ("roll_2.5", "regularization 'roll_2.5': 2.5 voxels; expected a whole number"),
    ],
)
def test_unknown_names_and_bad_numbers_are_explained(name, message):
    with pytest.raises(ValueError, match=message):
        strategy(name)


def test_periods_and_lengths_are_checked():
    with pytest.raises(ValueError, match="every=0; expected an integer of at least 1"):
        strategy("none", every=0)
    with pytest.raises(ValueError, match="steps=0; expected an integer of at least 1"):
        strategy("none", steps=0)

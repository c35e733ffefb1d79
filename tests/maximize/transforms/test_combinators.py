"""Chains and their keys, fused maps, and transforms that run now and then."""

import inspect

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.maximize import transforms as t
from featvis_jax.maximize.transforms.interpolation import resample

IMAGE = jax.random.uniform(jax.random.key(0), (24, 30, 1))
KEY = jax.random.key(1)


# Outside the tests nothing checks annotations, and the functions' own checks speak.
unchecked = inspect.unwrap


def darker(key, image, step):
    del key, step
    return image * 0.5


def primitives(jaxpr, *, inside_cond=False):
    """Names of all primitives of a program, those inside a cond only if asked for."""
    names = []
    for equation in jaxpr.eqns:
        names.append(equation.primitive.name)
        if equation.primitive.name == "cond" and not inside_cond:
            continue
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            names += primitives(inner, inside_cond=inside_cond)
    return names


def test_chain_gives_each_transform_its_own_key():
    keys = []

    def spy(key, image, step):
        del step
        keys.append(key)
        return image

    t.chain(spy, t.rotate(max_degrees=5), t.translate(max_voxels=1), spy)(KEY, IMAGE, 0)
    assert keys == [jax.random.fold_in(KEY, 0), jax.random.fold_in(KEY, 3)]


def test_plain_functions_are_transforms():
    result = t.chain(darker, t.every(1, darker), t.sometimes(1.0, darker))(KEY, IMAGE, 0)
    np.testing.assert_allclose(result, IMAGE / 8, rtol=1e-6)
    assert t.is_differentiable(t.chain(darker))
    assert t.describe(t.chain(darker)) == "chain(darker)"


def test_is_differentiable_looks_inside():
    assert t.is_differentiable(t.chain(t.every(5, t.gaussian_blur(sigma=1.0))))
    assert not t.is_differentiable(t.chain(t.clip(), t.every(5, t.sometimes(0.5, t.median()))))
    assert not t.is_differentiable(t.from_step(3, t.switching_bilateral()))


def test_is_identity_looks_inside():
    assert t.is_identity(t.chain())
    assert t.is_identity(t.every(2, t.chain(t.identity())))
    assert not t.is_identity(t.clip())
    assert not t.is_identity(darker)


@pytest.mark.parametrize("step", [0, 48, 49, 50, 98, 99])
def test_every_counts_finished_steps(step):
    result = t.every(50, darker)(KEY, IMAGE, step)
    expected = IMAGE * 0.5 if step + 1 in (50, 100) else IMAGE
    np.testing.assert_array_equal(result, expected)


def test_from_step_starts_at_its_step_and_stays():
    late = t.from_step(3, darker)
    fired = [bool((late(KEY, IMAGE, step) != IMAGE).any()) for step in range(6)]
    assert fired == [False] * 3 + [True] * 3


def test_sometimes_applies_with_its_probability():
    applied = jax.vmap(lambda key: t.sometimes(0.3, darker)(key, jnp.ones((1, 1, 1)), 0))
    share = float((applied(jax.random.split(KEY, 10_000)) < 1).mean())
    # Five standard deviations of a binomial share.
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 10_000)


@pytest.mark.parametrize("combinator", [lambda t_: t.every(50, t_), lambda t_: t.from_step(5, t_)])
@pytest.mark.parametrize(
    "costly", [t.switching_bilateral(), t.total_variation(iterations=5), t.median(size=3)]
)
def test_cond_stays_cond_under_vmap(combinator, costly):
    transform = t.chain(combinator(costly), t.clip())
    keys, images = jax.random.split(KEY, 4), jnp.stack([IMAGE] * 4)
    batched = jax.vmap(transform, in_axes=(0, 0, None))
    outside = primitives(jax.make_jaxpr(batched)(keys, images, jnp.int32(3)).jaxpr)
    assert "cond" in outside
    # The loops of the smoothers are inside the cond and nowhere else.
    assert not {"while", "scan"} & set(outside)
    # The test can tell: with a batched step everything is computed and one result selected.
    wrong = jax.make_jaxpr(jax.vmap(transform))(keys, images, jnp.arange(4)).jaxpr
    assert {"while", "scan"} & set(primitives(wrong))


def test_neighbouring_maps_are_resampled_once():
    parts = [t.translate(max_voxels=3), t.scale(low=0.9, high=1.1), t.rotate(max_degrees=20)]
    fused = t.chain(*parts, t.translate(max_voxels=2), t.flip())
    assert fused.geometry is not None
    program = jax.make_jaxpr(fused)(KEY, IMAGE, 0).jaxpr
    assert primitives(program).count("gather") <= primitives(
        jax.make_jaxpr(parts[2])(KEY, IMAGE, 0).jaxpr
    ).count("gather")
    # A smoother in between, or another interpolation or fill, ends the run of maps.
    assert t.chain(parts[0], t.clip(), parts[2]).geometry is None
    assert t.chain(parts[2], t.rotate(max_degrees=5, fill=1.0)).geometry is None
    assert t.chain(parts[2], t.rotate(max_degrees=5, interpolation="cubic")).geometry is None


@pytest.mark.parametrize("shape", [(24, 30), (12, 14, 13)], ids=["2-D", "3-D"])
def test_a_fused_chain_composes_in_the_order_of_application(shape):
    parts = [t.translate(max_voxels=3), t.rotate(max_degrees=40), t.scale(low=0.7, high=1.4)]
    together = t.chain(*parts).geometry.draw(KEY, shape)
    point = jnp.array([3.0, -2.0, 1.0])[: len(shape)]
    expected = point
    # The last transform's output is read first.
    for position, part in reversed(list(enumerate(parts))):
        drawn = part.geometry.draw(jax.random.fold_in(KEY, position), shape)
        expected = drawn.matrix @ expected + drawn.offset
    np.testing.assert_allclose(together.matrix @ point + together.offset, expected, atol=1e-5)


def test_a_fused_chain_equals_one_after_the_other_inside_the_image():
    # Quarter turns and whole-voxel shifts need no interpolation, so that nothing is lost.
    parts = [t.translate(max_voxels=2), t.rotate(degrees=[90.0]), t.translate(max_voxels=2)]
    inside = jnp.pad(jax.random.uniform(KEY, (11, 11, 1)), [(8, 8), (8, 8), (0, 0)])
    one_by_one = inside
    for position, part in enumerate(parts):
        one_by_one = part(jax.random.fold_in(KEY, position), one_by_one, 0)
    np.testing.assert_allclose(t.chain(*parts)(KEY, inside, 0), one_by_one, atol=1e-4)


def test_nested_chains_compose_too():
    inner = t.chain(t.rotate(max_degrees=10), t.translate(max_voxels=1))
    outer = t.chain(inner, t.scale(low=0.9, high=1.1))
    assert outer.geometry is not None
    drawn = outer.geometry.draw(KEY, (24, 30))
    expected = resample(IMAGE, drawn, outer.geometry)
    np.testing.assert_allclose(outer(KEY, IMAGE, 0), expected, atol=1e-6)


def test_a_fused_run_brings_back_what_left_the_grid():
    shift = t.translate(max_voxels=4)
    flips = t.flip(axes=(0, 1), probability=1.0)
    # Mirrored, the same shift goes the other way: in, out and in again.
    one = t.chain(shift, flips)
    assert one.geometry.interpolation is None
    moved = one(KEY, IMAGE, 0)
    expected = flips(KEY, shift(jax.random.fold_in(KEY, 0), IMAGE, 0), 0)
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: unchecked(t.chain)(t.clip(), 3), "chain: transform 1 is 3; expected a function"),
        (lambda: t.every(0, t.clip()), "every: period=0; expected an integer of at least 1"),
        (lambda: unchecked(t.every)(2.5, t.clip()), "every: period=2.5; expected an integer"),
        (lambda: unchecked(t.every)(2, None), "every: transform is None; expected a function"),
        (lambda: t.from_step(-1, t.clip()), "from_step: first=-1; expected an integer"),
        (lambda: t.sometimes(1.5, t.clip()), r"sometimes: probability=1.5 .* \[0, 1\]"),
    ],
)
def test_bad_options_raise_where_they_are_given(build, message):
    with pytest.raises(ValueError, match=message):
        build()

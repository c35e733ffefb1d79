"""`fast`: what it computes, and its derivatives, are what `jax.lax` says in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.programs import fast


def close(found, expected, sizes=None):
    """Compare with a reference; by default the size of what is summed is that of the sums."""
    leaves = (jax.tree.leaves(x) for x in (found, expected, expected if sizes is None else sizes))
    for leaf, reference, size in zip(*leaves, strict=True):
        scale = max(float(np.abs(size).max(initial=0)), 1e-6)
        np.testing.assert_allclose(leaf, reference, rtol=0, atol=1e-5 * scale)


@st.composite
def convolutions(draw):
    """Arguments of `lax.conv_general_dilated` that it takes."""
    rank = draw(st.integers(1, 3))

    def per_axis(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    window, dilation, spread = per_axis(1, 4), per_axis(1, 3), per_axis(1, 3)
    strides = per_axis(1, 3) if max(spread) == 1 or draw(st.booleans()) else (1,) * rank
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    spatial = per_axis(1, 7)
    extents = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    padding = []
    for n, s, extent in zip(spatial, spread, extents, strict=True):
        low = draw(st.integers(-1, 3))
        # At least one window has to fit.
        missing = extent - (n - 1) * s - 1 - low
        padding.append((low, max(missing, draw(st.integers(-1, 3)))))
    order = draw(st.permutations(range(rank + 2)))
    numbers = []
    for letters in ("NC", "OI", "NC"):
        name = "".join((letters + "XYZ"[:rank])[axis] for axis in order)
        numbers.append(name)

    def shape(name, sizes):
        return tuple(sizes[letter] for letter in name)

    places = dict(zip("XYZ", spatial, strict=False))
    taps = dict(zip("XYZ", window, strict=False))
    lhs = shape(numbers[0], {"N": draw(st.integers(1, 3)), "C": inputs, **places})
    rhs = shape(numbers[1], {"I": inputs // groups, "O": outputs, **taps})
    # What is told of each axis is told in the order of the kernel's axes.
    axes = ["XYZ".index(letter) for letter in numbers[1] if letter in places]

    def of_axes(values):
        return tuple(values[axis] for axis in axes)

    options = {
        "window_strides": of_axes(strides),
        "padding": of_axes(padding),
        "lhs_dilation": of_axes(spread),
        "rhs_dilation": of_axes(dilation),
        "feature_group_count": groups,
        "dimension_numbers": tuple(numbers),
    }
    return lhs, rhs, options


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 2**31))
def test_a_convolution_of_any_geometry_and_layout_is_that_of_lax(case, seed):
    lhs, rhs, options = case
    rng = np.random.default_rng(seed)
    images, kernel = rng.standard_normal(lhs), rng.standard_normal(rhs)
    plain = functools.partial(lax.conv_general_dilated, **options)
    with jax.enable_x64(True):
        expected, pull_back = jax.vjp(plain, images, kernel)
        out = rng.standard_normal(expected.shape)
        gradients = pull_back(jnp.asarray(out))
        # Sums may cancel: what rounding does goes with what is added up.
        sizes, pull_back = jax.vjp(plain, np.abs(images), np.abs(kernel))
        sizes = sizes, pull_back(jnp.asarray(np.abs(out)))
    arrays = [jnp.asarray(x, jnp.float32) for x in (images, kernel, out)]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(images, kernel, out):
        found, pull_back = jax.vjp(fast(plain), images, kernel)
        return found, pull_back(out)

    close(both(*arrays), (expected, gradients), sizes)


class EveryKind(nn.Module):
    """Strides, dilation, groups, a transposed convolution, poolings, a scan and a remat."""

    @nn.compact
    def __call__(self, x):
        x = nn.softplus(nn.Conv(4, (3, 3), strides=2, name="strided")(x))
        x = nn.softplus(nn.Conv(4, (3, 3), kernel_dilation=2, name="dilated")(x))
        x = nn.remat(nn.Conv)(4, (3, 1), feature_group_count=2, name="grouped")(x)
        x = nn.max_pool(x, (3, 2), strides=(2, 1), padding="SAME")
        x = nn.softplus(nn.ConvTranspose(3, (3, 3), strides=(2, 2), name="transposed")(x))
        x = nn.pool(x, 0.0, lax.add, (2, 3), (2, 2), "VALID")
        return lax.fori_loop(0, 2, lambda _, y: nn.softplus(y) / 2, x)


def every_kind():
    module, images = EveryKind(), jnp.zeros((1, 9, 11, 2))
    return module, module.init(jax.random.key(0), images)


@pytest.mark.parametrize("make", [every_kind, lambda: small_cnn()], ids=["all", "paper"])
def test_derivatives_of_second_order_in_both_modes(make, rng):
    module, variables = make()
    with jax.enable_x64(True):
        # Not under a scan, whose gradient with a dynamic length JAX does not have.
        images = jnp.asarray(rng.standard_normal((1, 9, 11, 2) if make is every_kind else SMALL))
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        apply = fast(module.apply)

        def total(images):
            return jnp.sin(apply(variables, images)).sum()

        check_grads(total, (images,), order=2, modes=("fwd", "rev"))


SMALL = (1, 29, 28, 1)


def small_cnn():
    module = CNN(rank=2, features=(2, 3, 3, 2, 2))
    variables = dict(module.init(jax.random.key(0), jnp.zeros(SMALL)))
    kernel = variables["params"]["logits"]["kernel"]
    drawn = jax.random.normal(jax.random.key(1), kernel.shape)
    variables["params"] = {**variables["params"], "logits": {"kernel": drawn, "bias": jnp.ones(2)}}
    return module, variables


def test_second_derivatives_that_people_ask_for(rng):
    module, variables = small_cnn()
    apply = fast(module.apply)
    images, along = (jnp.asarray(rng.standard_normal(SMALL), jnp.float32) for _ in range(2))

    def total(images):
        return (apply(variables, images) ** 2).sum()

    def plain(images):
        return (module.apply(variables, images) ** 2).sum()

    found, expected = (
        jax.jit(
            lambda x, v, f=f: (
                jax.jvp(jax.grad(f), (x,), (v,))[1],  # A Hessian-vector product.
                jax.grad(lambda x: (jax.grad(f)(x) ** 2).sum())(x),  # A gradient penalty.
                jax.linearize(f, x)[1](v),
            )
        )(images, along)
        for f in (total, plain)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


def test_control_flow_keeps_its_shape_and_what_is_in_it_is_fast(rng):
    kernel = jnp.asarray(rng.standard_normal((3, 3, 2, 2)), jnp.float32)
    image = jnp.asarray(rng.standard_normal((1, 6, 7, 2)), jnp.float32)

    def conv(x):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NXYC", "XYIO", "NXYC")
        )

    def function(x, times):
        x, each = lax.scan(lambda c, s: (conv(c) * s, c.sum()), x, jnp.arange(1.0, 4.0))
        x = lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, conv(s[1])), (0, x))[1]
        x = lax.cond(times > 1, conv, lambda y: y, x)
        return {"x": jax.checkpoint(jax.jit(conv))(x), "each": each}

    text = str(jax.make_jaxpr(fast(function))(image, 2))
    assert "conv_general_dilated" not in text
    assert [text.count(word) for word in ("scan[", "while[", "cond[", "remat2[")] == [1, 1, 1, 1]
    close(jax.jit(fast(function))(image, 2), jax.jit(function)(image, 2))


def test_rules_of_the_users_own_for_derivatives_are_kept():
    @jax.custom_jvp
    def clipped(x):
        return jnp.minimum(x, 1.0)

    clipped.defjvp(lambda primals, tangents: (clipped(*primals), 7 * tangents[0]))
    assert jax.grad(fast(lambda x: clipped(x) ** 2))(3.0) == 14


def test_other_types_and_inputs_that_are_no_arrays_are_passed_on():
    kernel = jnp.ones((3, 3, 1, 2), jnp.bfloat16)

    def conv(images, *, mode, scale=None):
        assert scale is None
        return lax.conv(images.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), mode)

    image = jnp.ones((1, 5, 5, 1), jnp.bfloat16)
    found = fast(conv)(image, mode="SAME")
    np.testing.assert_array_equal(found, conv(image, mode="SAME"))
    assert "conv_general_dilated" in str(
        jax.make_jaxpr(lambda x: fast(conv)(x, mode="SAME"))(image)
    )


def test_for_a_gpu_the_operations_are_xlas_own(rng):
    module, variables = every_kind()
    image = jnp.zeros((1, 9, 11, 2))

    def lowered(apply):
        function = jax.jit(jax.grad(lambda x: apply(variables, x).sum()))
        return jax.export.export(function, platforms=["cuda"])(image).mlir_module()

    found, plain = lowered(fast(module.apply)), lowered(module.apply)
    assert "custom_call" not in found
    assert "callback" not in found
    for operation in ("stablehlo.convolution", "stablehlo.dot_general", "stablehlo.case"):
        assert found.count(operation) == plain.count(operation), operation

"""Receptive fields and strides against what a brute search over single voxels finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from featvis_jax.nn import ops
from featvis_jax.nn.programs.receptive_fields import ReceptiveField, receptive_fields

SHAPE = (24, 20, 1)


def conv(x, window, **options):
    """A convolution over a slice with positive weights."""
    kernel = jnp.ones((window, window, x.shape[-1], 2))
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    names = ("NXYC", "XYIO", "NXYC")
    return lax.conv_general_dilated(x[None], kernel, dimension_numbers=names, **options)[0]


STRIDED = ops.Windows((3, 3), (2, 2), (1, 1), ((1, 0), (1, 0)))
DILATED = ops.Windows((2, 3), (1, 1), (3, 2), ((0, 3), (2, 2)))


def gradient_of_square(pool, x):
    """The sum over windows, given back to the voxels of each."""
    return jax.grad(lambda x: jnp.square(pool(x[None], windows=STRIDED)).sum())(x)


CASES = {
    "dilation": lambda x: conv(x, 3, rhs_dilation=(2, 2)),
    "strides": lambda x: conv(conv(x, 3, window_strides=(2, 2)), 3),
    "skip": lambda x: conv(x, 3) + conv(x, 7),
    "shifted branches": lambda x: conv(x, 3, padding=((2, 0), (2, 0))) + conv(x, 3),
    "transposed": lambda x: conv(conv(x, 2, window_strides=(2, 2)), 3, lhs_dilation=(2, 2),
                                 padding=((1, 2), (1, 2))),
    "pooled by a reshape": lambda x: x.reshape(12, 2, 10, 2, 1).sum(axis=(1, 3)),
    "repeated": lambda x: jnp.repeat(jnp.repeat(conv(x, 3)[::2, ::2], 2, axis=0), 2, axis=1),
    "linear interpolation": lambda x: jax.image.resize(x[::2, ::2], SHAPE, "linear"),
    "average": lambda x: lax.reduce_window(x, 0.0, lax.add, (3, 3, 1), (2, 2, 1), "VALID"),
    "flipped": lambda x: jnp.flip(conv(x, 3), axis=0)[:, ::2],
    "concatenated": lambda x: jnp.concatenate([conv(x, 3), conv(x, 5)], axis=-1),
    "our convolution": lambda x: ops.conv(
        x[None], jnp.ones((5, 5, 1, 2)), windows=ops.Windows((5, 5), (1, 1), (1, 1), ((0, 0),) * 2)
    )[0],
    "our strides": lambda x: ops.conv(x[None], jnp.ones((3, 3, 1, 2)), windows=STRIDED)[0],
    "our transposition": lambda x: ops.image_gradient(
        x[None, ::2, ::2], jnp.ones((3, 3, 2, 1)), windows=STRIDED, spatial=SHAPE[:2]
    )[0],
    "our maxima": lambda x: ops.max_pool(conv(x, 3)[None], windows=STRIDED)[0],
    "our maxima, dilated": lambda x: ops.max_pool(x[None], windows=DILATED)[0],
    "our sums": lambda x: ops.sum_pool(x[None], windows=STRIDED)[0],
    "our sums, transposed": lambda x: gradient_of_square(ops.sum_pool, x),
    "our maxima, moved": lambda x: jax.jvp(
        lambda x: ops.max_pool(x[None], windows=STRIDED)[0], (x,), (x,)
    )[1],
    "transposed axes": lambda x: conv(x.transpose(1, 0, 2), 3),
    "scanned": lambda x: lax.scan(lambda c, row: (c + row, c), jnp.zeros((20, 1)), x)[1],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_voxel_beyond_the_field_reaches_an_output_and_the_farthest_do(name):
    function = CASES[name]
    found = receptive_fields(lambda _, image: {"it": function(image)}, {}, SHAPE)["it"]
    voxels = jnp.eye(SHAPE[0] * SHAPE[1]).reshape(-1, *SHAPE)
    base = function(jnp.zeros(SHAPE))
    # (voxels, *output): which voxel changes which output.
    changed = np.asarray(jax.jit(lambda v: lax.map(lambda x: function(x) != base, v))(voxels))
    changed = changed.any(axis=-1).reshape(*SHAPE[:2], -1)
    extents = []
    for axis in (0, 1):
        where = changed.any(axis=1 - axis)
        first, last = where.argmax(axis=0), SHAPE[axis] - 1 - where[::-1].argmax(axis=0)
        extents.append(int((last - first).max()) + 1)
    if found.size is None:
        assert name == "scanned"
    else:
        assert found.size == max(extents)
    strided = ("strides", "pooled by a reshape", "average", "flipped", "our strides", "our maxima")
    strides = dict.fromkeys((*strided, "our sums", "our maxima, moved"), 2) | {"scanned": None}
    assert found.stride == strides.get(name, 1)


def test_what_a_maximum_gives_back_may_go_wherever_its_window_is():
    found = {
        pool: receptive_fields(
            lambda _, x, pool=pool: {"it": gradient_of_square(pool, x)}, {}, SHAPE
        )["it"]
        for pool in (ops.max_pool, ops.sum_pool)
    }
    # Two windows of 3 that share a voxel.
    assert found[ops.max_pool] == found[ops.sum_pool] == ReceptiveField(5, 1)


def test_what_sees_everything_or_nothing():
    functions = {
        "mean": lambda x: x.mean(axis=(0, 1)),
        "normalized": lambda x: x - x.mean(axis=(0, 1), keepdims=True),
        "constant": lambda x: jnp.ones((3, 3, 2)),
    }
    found = receptive_fields(lambda _, x: {n: f(x) for n, f in functions.items()}, {}, SHAPE)
    assert found["mean"] == found["normalized"] == found["constant"] == ReceptiveField(None, None)


def test_a_field_is_that_of_the_longest_axis_in_three_dimensions():
    def function(_, x):
        window = (1, 5, 3, 1)
        return {"it": lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 2, 1, 1), "SAME")}

    assert receptive_fields(function, {}, (9, 12, 10, 1)) == {"it": ReceptiveField(5, 2)}


def test_nothing_is_computed():
    def function(weights, x):
        return {"it": x @ weights}

    huge = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32)
    assert receptive_fields(function, huge, (182, 218, 2**20))["it"] == ReceptiveField(1, 1)

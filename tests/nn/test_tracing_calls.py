"""Modules that are called several times, inside transformations, or on slices of a volume."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from featvis_jax.nn.tracing import linen_network
from tests.nn.test_tracing import QUICK_JIT, Block, random_weights


class Slabs(nn.Module):
    """One encoder over three slabs of the image, twice over the last of them."""

    rank: int

    @nn.compact
    def __call__(self, x):
        encode = nn.Conv(4, (3,) * self.rank, name="enc")
        slabs = [encode(slab) for slab in jnp.split(x, 3, axis=-2)]
        again = nn.Conv(1, (1,) * self.rank, name="pool")(nn.relu(slabs[-1]))
        return nn.Dense(2, name="out")(jnp.stack([slab.mean() for slab in (*slabs, encode(again))]))


@pytest.mark.parametrize("shape", [(9, 12, 1), (7, 8, 9, 1)], ids=["2-D", "3-D"])
def test_every_call_of_a_shared_module_is_a_layer_of_its_own(rng, shape):
    module = Slabs(len(shape) - 1)
    network = linen_network(module, random_weights(rng, module, shape), shape)
    names = ("enc", "enc@2", "enc@3", "enc@4")
    found = {layer.name: layer for layer in network.layers}
    # The dense layer has no batch: it is none.
    assert tuple(found) == ("enc", "enc@2", "enc@3", "pool", "enc@4")
    assert [found[name].receptive_field for name in names] == [3, 3, 3, 5]

    image = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    params = network.variables["params"]

    @QUICK_JIT
    def read(variables, image):
        alone = {
            name: network.one_channel(variables, image, f"{name}/relu", jnp.int32(2))
            for name in names
        }
        gradient = jax.grad(lambda x: network.activations(variables, x, ("enc@2",))["enc@2"].sum())(
            image
        )
        return network.activations(variables, image, names), alone, gradient

    encode, point = nn.Conv(4, (3,) * module.rank), nn.Conv(1, (1,) * module.rank)
    slabs = jnp.split(image[None], 3, axis=-2)
    expected = [encode.apply({"params": params["enc"]}, slab)[0] for slab in slabs]
    again = point.apply({"params": params["pool"]}, nn.relu(expected[-1])[None])
    expected.append(encode.apply({"params": params["enc"]}, again)[0])
    activations, alone, gradient = read(network.variables, image)
    for name, reference in zip(names, expected, strict=True):
        np.testing.assert_allclose(activations[name], reference, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            alone[name][f"{name}/relu"][..., 0],
            np.maximum(reference[..., 2], 0),
            rtol=1e-5,
            atol=1e-5,
        )
    reached = np.abs(np.asarray(gradient)).sum(axis=(*range(len(shape) - 2), -1)) > 0
    third = shape[-2] // 3
    np.testing.assert_array_equal(np.flatnonzero(reached), np.arange(third, 2 * third))


class Twice(nn.Module):
    """A layer."""

    def __call__(self, x):
        return 2 * x


class Doubled(Twice):
    """A class that goes on from what its parent computes."""

    def __call__(self, x):
        return 3 * super().__call__(x)


class Loop(nn.Module):
    """A block for `nn.scan`."""

    @nn.compact
    def __call__(self, x, _):
        return x + nn.relu(nn.Conv(3, (3, 3), name="conv")(x)), None


class Transformed(nn.Module):
    """Modules that call their parent, or run inside transformations of JAX."""

    @nn.compact
    def __call__(self, x):
        x = Doubled(name="doubled")(nn.Conv(3, (3, 3), name="stem")(x))
        axes, keys = {"params": 0}, {"params": True}
        blocks = nn.scan(Loop, variable_axes=axes, split_rngs=keys, length=3)(name="blocks")
        x, _ = blocks(x, None)
        x = nn.remat(Block)(3, name="again")(x)
        members = nn.vmap(nn.Conv, variable_axes=axes, split_rngs=keys, in_axes=None, axis_size=2)
        return members(2, (3, 3), name="members")(x).mean(0)


def test_what_runs_inside_a_transformation_is_a_layer_for_each_time(rng):
    module, shape = Transformed(), (12, 13, 1)
    network = linen_network(module, random_weights(rng, module, shape), shape)
    found = {layer.name: layer.receptive_field for layer in network.layers}
    blocks = ("blocks/conv", "blocks/conv@2", "blocks/conv@3")
    assert found == {
        **{"stem": 3, "doubled": 3},
        **dict(zip(blocks, (5, 7, 9), strict=True)),
        **dict.fromkeys(("again/Conv_0", "again/LayerNorm_0", "again"), 11),
        **dict.fromkeys(("members", "members@2"), None),  # 13 of 12 by 13 voxels.
    }

    image = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    params = network.variables["params"]
    x = nn.Conv(3, (3, 3)).apply({"params": params["stem"]}, image[None])
    expected = {"doubled": 6 * x[0]}
    x = 6 * x
    for number, name in enumerate(blocks):
        kernel = jax.tree.map(lambda leaf, i=number: leaf[i], params["blocks"]["conv"])
        made = nn.Conv(3, (3, 3)).apply({"params": kernel}, x)
        expected[name], x = made[0], x + nn.relu(made)
    x = Block(3).apply({"params": params["again"]}, x)
    expected["again"] = x[0]
    for number, name in enumerate(("members", "members@2")):
        kernel = jax.tree.map(lambda leaf, i=number: leaf[i], params["members"])
        expected[name] = nn.Conv(2, (3, 3)).apply({"params": kernel}, x)[0]
    read = QUICK_JIT(network.activations, static_argnums=2)
    values = read(network.variables, image, tuple(expected))
    for name, reference in expected.items():
        np.testing.assert_allclose(values[name], reference, rtol=1e-4, atol=1e-4, err_msg=name)


class SliceWise(nn.Module):
    """A convolution of every slice, then one of all of them as a volume, pooled in between."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(256, (3, 3), use_bias=False, name="slices")(x[0])[None]
        x = nn.max_pool(x, (2, 2, 2), strides=(2, 2, 2))
        return nn.Conv(3, (3, 3, 3), use_bias=False, name="volume")(x)


def test_what_pools_over_convolved_slices_has_their_numbers(rng):
    """JAX 0.10.2 computes both in one kernel on CPU, if it may, and errs by its size."""
    module, shape = SliceWise(), (6, 6, 6, 512)
    network = linen_network(module, random_weights(rng, module, shape), shape)
    image = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    found = jax.jit(network.activations, static_argnums=2)(network.variables, image, ("volume",))
    slices, volume = (
        jax.jit(nn.Conv(features, window, use_bias=False).apply)
        for features, window in ((256, (3, 3)), (3, (3, 3, 3)))
    )
    params = {name: {"params": leaves} for name, leaves in network.variables["params"].items()}
    convolved = np.asarray(slices(params["slices"], image))
    cubes = convolved.reshape(3, 2, 3, 2, 3, 2, 256).max(axis=(1, 3, 5))
    expected = volume(params["volume"], cubes)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found["volume"], expected, atol=1e-4 * scale)

"""The benchmark of networks of others: what is compared, and that it is the same on both sides."""

import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from experiments.benchmarks import arithmetic, foreign, plain_flax
from experiments.benchmarks.measuring import Row, chosen
from featvis_jax.importers.onnx import onnx_network
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import linen_network

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


def test_operations_are_those_that_xla_counts():
    weights = {
        "stem": jnp.ones((3, 3, 2, 8)),
        "grouped": jnp.ones((3, 3, 4, 8)),
        "up": jnp.ones((2, 2, 8, 4)),
        "target": jnp.ones((5, 5, 4, 1)),
    }
    axes = ("NHWC", "HWIO", "NHWC")

    def step(image, weights):
        x = lax.conv_general_dilated(
            image, weights["stem"], (2, 2), "VALID", dimension_numbers=axes
        )
        x = lax.conv_general_dilated(
            x, weights["grouped"], (1, 1), "VALID", dimension_numbers=axes, feature_group_count=2
        )
        x = lax.conv_transpose(x, weights["up"], (2, 2), "VALID", dimension_numbers=axes)
        x = lax.conv_general_dilated(x, weights["target"], (1, 1), "VALID", dimension_numbers=axes)
        return x.mean()

    shape = jax.ShapeDtypeStruct((1, 33, 37, 2), jnp.float32)
    counted = jax.jit(jax.value_and_grad(step)).lower(shape, weights).compile().cost_analysis()
    # Kernels as PyTorch has them, of a target of six channels of which one is needed.
    own = arithmetic.foreign_flop(
        [
            arithmetic.Convolution((8, 2, 3, 3), 16 * 18, 8),
            arithmetic.Convolution((8, 4, 3, 3), 14 * 16, 8),
            arithmetic.Convolution((8, 4, 2, 2), 14 * 16, 4),
            arithmetic.Convolution((6, 4, 5, 5), 24 * 28, 6),
        ]
    )
    assert own == pytest.approx(counted["flops"], rel=0.02)


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(5, (3, 3), name="out")(nn.relu(nn.Conv(3, (3, 3), name="stem")(x)))


@pytest.fixture(scope="module")
def small():
    module, image = Small(), np.asarray(jax.random.uniform(jax.random.key(1), (9, 8, 1)))
    variables = module.init(jax.random.key(0), image[None])
    expected = np.asarray(module.apply(variables, image[None])[0])
    return linen_network(module, variables, image.shape), image, expected


def test_the_same_on_both_sides_passes_but_for_rounding(small):
    network, image, expected = small
    foreign.check_same("small", network, "out", image, expected * (1 + 1e-5))


@pytest.mark.parametrize(
    "other",
    [
        lambda values: values[..., ::-1],
        lambda values: np.roll(values, 1, axis=0),
        lambda values: np.maximum(values, 0),
        lambda values: values * 1.01,
        lambda values: values * np.nan,
        lambda values: values[1:],
    ],
    ids=["channels reversed", "one voxel off", "after its ReLU", "1 % more", "NaN", "cut"],
)
def test_what_looks_like_the_same_is_refused(small, other):
    network, image, expected = small
    with pytest.raises(ValueError, match=r"small: layer out (differs|has the shape)"):
        foreign.check_same("small", network, "out", image, other(expected))


def test_the_summary_is_of_networks_that_pytorch_timed():
    rows = [
        Row("foreign/a", 1.0, torch_ratio=0.5),
        Row("foreign/b", 1.0, torch_ratio=4.0),
        Row("foreign/c", 1.0, torch_ratio=4.0),
        Row("foreign/d", 1.0),
        Row("conv5_2d", 1.0, torch_ratio=100.0),
    ]
    assert "2.00 times ours, the geometric mean of 3 networks" in foreign.summary(rows)
    assert foreign.summary(rows[3:]) == ""


def test_a_missing_package_is_named_in_a_line(monkeypatch):
    installed = {"torch", "torchvision"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name in installed else None
    )
    told = foreign.left_out("foreign/monai_vnet")
    assert told.startswith("foreign/monai_vnet is left out: monai not installed")
    assert "\n" not in told
    assert foreign.left_out("foreign/torchvision_resnet50") == ""
    assert foreign.left_out("foreign/sfcn") == ""
    installed.clear()
    assert "torch and monai not installed" in foreign.left_out("foreign/monai_vnet")


def test_a_group_is_all_of_its_jobs_and_each_runs_once():
    others = [f"{foreign.PREFIX}{name}" for name in foreign.NETWORKS]
    jobs = ["conv5_2d", *plain_flax.JOBS, *others]
    asked = chosen(["foreign/sfcn", "plain_flax", "conv5_2d", "plain_flax/2d"], jobs)
    assert asked == ["foreign/sfcn", "plain_flax/2d", "plain_flax/3d", "conv5_2d"]
    assert chosen(["foreign"], jobs) == others


def test_the_network_in_plain_flax_computes_what_our_class_does():
    module = CNN(rank=2, features=(2, 3, 4, 4, 4))
    written = plain_flax.networks(module, (28, 30, 1))
    image = jax.random.uniform(jax.random.key(1), (28, 30, 1))
    found = {
        name: each.activations(each.variables, image, ("conv5",))["conv5"]
        for name, each in written.items()
    }
    expected = found.pop("our class")
    assert math.prod(expected.shape) > 4
    for values in found.values():
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


@needs_torch
def test_pytorch_describes_a_network_as_onnx_has_it(tmp_path, monkeypatch):
    import torch
    from torch import nn as torch_nn

    from experiments.benchmarks import torch_foreign, torch_networks

    class Residual(torch_nn.Module):
        """Its shortcut is computed before the target, which does not come from it."""

        def __init__(self):
            super().__init__()
            self.stem = torch_nn.Conv2d(1, 4, 3, stride=2)
            self.norm = torch_nn.BatchNorm2d(4)
            self.up = torch_nn.ConvTranspose2d(4, 4, 2, stride=2)
            self.shortcut = torch_nn.Conv2d(4, 6, 1)
            self.first = torch_nn.Conv2d(4, 6, 3, padding=1)
            self.second = torch_nn.Conv2d(6, 6, 3, padding=1)
            self.last = torch_nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = self.up(torch.relu(self.norm(self.stem(x))))
            shortcut = self.shortcut(x)
            return self.last(shortcut + self.second(torch.relu(self.first(x))))

    monkeypatch.setitem(torch_networks._BUILDERS, "residual", Residual)
    options = {"image_shape": [13, 15, 1], "batches": [2], "steps": 1}
    torch_foreign.main("residual", str(tmp_path), json.dumps(options))
    described = json.loads((tmp_path / "description.json").read_text())
    assert described["target"] == "last"  # Of five convolutions that are not transposed.
    assert described["fastest"]["batch"] == 2
    needed = [arithmetic.Convolution(*each) for each in described["needed"]]
    assert [each.positions for each in needed] == [6 * 7, 6 * 7, *[12 * 14] * 4]
    network = onnx_network(tmp_path / "network.onnx")
    image, expected = np.load(tmp_path / "image.npy"), np.load(tmp_path / "activation.npy")
    layer = network.layer(described["target"]).name
    foreign.check_same("residual", network, layer, image, expected)
    # A target before which the shortcut is computed.
    monkeypatch.setattr(arithmetic, "place_of_target", lambda count: 3)
    described = torch_foreign.describe("residual", (13, 15, 1), tmp_path)
    assert [each.kernel for each in described["needed"]][2:] == [(6, 4, 3, 3), (6, 6, 3, 3)]

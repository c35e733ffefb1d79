"""Modules of PyTorch as layers, by both of its exporters: names, values, gradients, axes.

Runs where PyTorch is installed, which no other test needs: ``pip install torch onnxscript``.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.importers.onnx import onnx_network

torch = pytest.importorskip("torch")
for name in ("onnxscript", "onnxruntime"):
    pytest.importorskip(name)
torch.set_num_threads(1)

from tests.acceptance import networks, small_networks  # noqa: E402

# A container that is not called, around a module without weights: tracing leaves out its name.
LEFT_OUT = {("residual", "traced"): ("heads.pool",)}


@pytest.mark.parametrize("name", small_networks.NETS)
def test_every_module_is_a_layer_with_its_name_and_its_values(tmp_path, name):
    model, shape = small_networks.make(name)
    found = {
        exporter: networks.report(model, shape, tmp_path, exporter)
        for exporter in networks.EXPORTERS
    }
    for exporter, report in found.items():
        assert report.is_good, f"{exporter}: {report}"
        assert report.missing == LEFT_OUT.get((name, exporter), ())
    everything = {(*report.named, *report.missing, *report.merged) for report in found.values()}
    assert len({frozenset(paths) for paths in everything}) == 1


def test_gradients_are_compared_by_how_far_rounded_weights_move_those_of_torch():
    class Kink(torch.nn.Module):
        """Its ReLU is nearer to where it stops passing than its weight is to its neighbours."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.relu(self.weight - 1 + 1e-9 * (1 + x))

    model, image, weights = Kink().double(), torch.zeros(1, 1), np.ones((1, 1), np.float32)
    exact = networks.gradients(model, image.double(), torch.from_numpy(weights))
    assert exact == 1e-9
    assert networks._moved(model, image, weights, exact) == pytest.approx(1e-9)
    smooth = torch.nn.Linear(1, 1).double()
    exact = networks.gradients(smooth, image.double(), torch.from_numpy(weights))
    assert 0 < networks._moved(smooth, image, weights, exact) < 1e-5
    assert model.weight == 1


def exported(model, shape, path, exporter):
    """Write a file for images of any size."""
    axes = range(2, len(shape))
    if exporter == "traced":
        options = {
            "input_names": ["x"],
            "dynamic_axes": {"x": {0: "n", **{i: f"n{i}" for i in axes}}},
        }
    else:
        even = {i: 4 * torch.export.Dim(f"n{i}", min=2, max=99) for i in axes}
        options = {"dynamic_shapes": ({0: torch.export.Dim("n"), **even},)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.EXPORTERS, "any", {**networks.EXPORTERS[exporter], **options})
        networks.export(model, shape, path, "any")


@pytest.mark.parametrize("exporter", networks.EXPORTERS)
def test_a_file_for_images_of_any_size_has_the_same_layers(tmp_path, rng, exporter):
    model, shape = small_networks.make("u-net")
    exported(model, shape, tmp_path / "any.onnx", exporter)
    grid = (12, 8, 16, 2)
    network = onnx_network(tmp_path / "any.onnx", image_shape=grid)
    names = {layer.name for layer in network.layers}
    for path, module in model.named_modules():
        if path and not isinstance(module, torch.nn.Identity | torch.nn.BatchNorm3d):
            assert path in names or path == "join2.0", path
    image = rng.standard_normal(grid).astype(np.float32)
    found = network.activations(network.variables, jnp.asarray(image), ("head", "bottom.1"))
    with torch.no_grad():
        expected = model(torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy()))[0].numpy()
    np.testing.assert_allclose(found["head"], np.moveaxis(expected, 0, -1), atol=1e-5)


def test_a_channel_and_a_token_of_a_block_alone(tmp_path, rng):
    model, shape = small_networks.make("class token")
    networks.export(model, shape, tmp_path / "net.onnx", "dynamo")
    network = onnx_network(tmp_path / "net.onnx")
    assert network.layer("patches").shape == (2, 3, 2, 12)
    assert network.layer("blocks.1").shape == (13, 12)
    assert network.layer("blocks.1").operator == "TransformerBlock"
    image = jnp.asarray(rng.standard_normal(network.image_shape), jnp.float32)
    whole = network.activations(network.variables, image, ("blocks.1",))["blocks.1"]
    channel = jnp.int32(5)
    one = network.one_channel(network.variables, image, "blocks.1", channel)["blocks.1"]
    np.testing.assert_allclose(one[:, 0], whole[:, 5], atol=1e-5)
    token = network.one_channel(network.variables, image, "blocks.1", channel, (3,))["blocks.1"]
    np.testing.assert_allclose(token[0, 0], whole[3, 5], atol=1e-5)
    with pytest.raises(ValueError, match=r"attention\.softmax' cannot be taken: no axis"):
        network.layer("blocks.0.attention.softmax")

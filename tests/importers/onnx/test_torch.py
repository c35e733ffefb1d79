"""Networks that PyTorch exports: every value against ONNX Runtime, gradients against PyTorch.

Runs where PyTorch is installed, which no other test needs: ``pip install torch onnxscript``.
"""

import contextlib
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from featvis_jax.importers.onnx import onnx_network
from tests.importers.onnx.models import as_layer, every_value

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
nn = torch.nn

QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = None
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        same = x if self.down is None else self.down(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + same)


def resnet18():
    """A ResNet-18 with an eighth of the channels, for slices."""
    blocks, inputs = [], 8
    for number, outputs in enumerate((8, 16, 32, 64)):
        for block in range(2):
            blocks.append(Residual(inputs, outputs, 2 if number and not block else 1))
            inputs = outputs
    stem = [
        nn.Conv2d(1, 8, 7, 2, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))


class UNet(nn.Module):
    def __init__(self, *, learned):
        super().__init__()

        def twice(inputs, outputs):
            return nn.Sequential(
                nn.Conv3d(inputs, outputs, 3, padding=1), nn.InstanceNorm3d(outputs, affine=True),
                nn.LeakyReLU(0.01),
                nn.Conv3d(outputs, outputs, 3, padding=1), nn.GroupNorm(2, outputs), nn.GELU(),
            )  # fmt: skip

        self.down1, self.down2, self.bottom = twice(1, 4), twice(4, 8), twice(8, 8)
        if learned:
            self.up2 = nn.ConvTranspose3d(8, 8, 2, 2)
            self.up1 = nn.ConvTranspose3d(8, 4, 3, 2, 1, output_padding=1)
        else:
            self.up2 = nn.Upsample(scale_factor=2, mode="nearest")
            self.up1 = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="trilinear"), nn.Conv3d(8, 4, 1)
            )
        self.join2, self.join1, self.head = twice(16, 8), twice(8, 4), nn.Conv3d(4, 2, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(nn.functional.max_pool3d(one, 2))
        x = self.up2(self.bottom(nn.functional.max_pool3d(two, 2)))
        x = self.join2(torch.cat([x, two], 1))
        x = self.join1(torch.cat([self.up1(x), one], 1))
        return torch.softmax(self.head(x), 1)


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(1, 6, 3, 2, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm3d(6 + 4 * i), nn.ReLU(), nn.Conv3d(6 + 4 * i, 4, 3, padding=1)
            )
            for i in range(3)
        )
        self.transition = nn.Sequential(nn.BatchNorm3d(18), nn.ELU(), nn.Conv3d(18, 8, 1))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 3 * 3 * 2, 2))

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        x = nn.functional.avg_pool3d(self.transition(x), 2)
        return self.head(x)


def meshnet():
    """Dilated convolutions that see far and never pool."""
    layers, inputs = [], 1
    for dilation in (1, 2, 4, 2, 1):
        layers += [
            nn.Conv3d(inputs, 5, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm3d(5), nn.ReLU(), nn.Dropout3d(0.1),
        ]  # fmt: skip
        inputs = 5
    return nn.Sequential(*layers, nn.Conv3d(5, 3, 1))


class Sizes(nn.Module):
    """Computes with shapes, as code for any grid does."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(3, 2)
        self.slope = nn.PReLU(6)

    def forward(self, x):
        y = self.slope(self.conv(x))
        small = nn.functional.avg_pool2d(y, 3, 2, 1, count_include_pad=False)
        grown = nn.functional.interpolate(small, size=x.shape[-2:], mode="bilinear")
        left, right = torch.chunk(y * torch.sigmoid(grown), 2, 1)
        both = (left - right / (1 + right.abs()).sqrt()).view(x.shape[0], 3, -1)
        return self.head(both.mean(-1)) ** 2


NETWORKS = {
    "ResNet-18": (resnet18, (1, 64, 56)),
    "U-Net": (lambda: UNet(learned=True), (1, 12, 16, 8)),
    "interpolating U-Net": (lambda: UNet(learned=False), (1, 12, 16, 8)),
    "DenseNet": (DenseNet, (1, 12, 13, 9)),
    "MeshNet": (meshnet, (1, 14, 12, 13)),
    "sizes": (Sizes, (2, 17, 12)),
}
EXPORTERS = ("traced", "captured", "dynamic")


def trained(name):
    """A network as after training: no statistic or scale has its first value any more."""
    make, shape = NETWORKS[name]
    torch.manual_seed(1)
    model = make().eval()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.dtype == torch.float32 and value.ndim == 1:
                value.copy_(value + 0.3 * torch.rand(value.shape))
    return model, shape


def exported(model, shape, path, exporter):
    """The file that PyTorch writes."""
    image = torch.zeros(1, *shape)
    options = {"dynamo": False}
    if exporter == "captured":
        pytest.importorskip("onnxscript")
        options = {"dynamo": True, "verbose": False}
    elif exporter == "dynamic":
        axes = {0: "batch", **{i: f"n{i}" for i in range(2, len(shape) + 1)}}
        options["dynamic_axes"] = {"image": axes}
        options["input_names"] = ["image"]
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (image,), str(path), **options)
    return path


def reference_values(path, image):
    """Every value by ONNX Runtime, or by ONNX's own implementation where that is missing."""
    model = onnx.inliner.inline_local_functions(onnx.load_model(path))
    try:
        import onnxruntime
    except ImportError:
        return every_value(model, image), model
    del model.graph.output[:]
    inferred = onnx.shape_inference.infer_shapes(model)
    floats = {v.name for v in inferred.graph.value_info if v.type.tensor_type.elem_type == 1}
    names = [o for node in model.graph.node for o in node.output if o in floats or not floats]
    last = onnx.load_model(path).graph.output[0].name
    names = [*(n for n in names if n != last), last]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = np.moveaxis(image, -1, 0)[None]
    results = session.run(names, {session.get_inputs()[0].name: feed})
    return dict(zip(names, results, strict=True)), model


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_value_and_the_gradient_of_what_pytorch_exports(rng, tmp_path, name, exporter):
    model, shape = trained(name)
    path = exported(model, shape, tmp_path / "net.onnx", exporter)
    grid = (*shape[1:], shape[0])
    image = rng.standard_normal(grid).astype(np.float32)
    if exporter == "dynamic":
        with pytest.raises(ValueError, match=r"no fixed shape.*--input_shape"):
            onnx_network(path)
    network = onnx_network(path, image_shape=grid if exporter == "dynamic" else None)
    assert network.image_shape == grid
    expected, file = reference_values(path, image)
    layers = tuple(layer.name for layer in network.layers)
    found = QUICK_JIT(network.activations, static_argnums=2)(network.variables, image, layers)
    nodes = {n.name.strip("/"): n.output for n in file.graph.node}
    compared = set()
    for alias, layer in network.aliases:
        value = nodes[alias][0] if alias in nodes else alias
        if value in expected:
            # What was flattened over space lies on its grid again.
            reference = as_layer(expected[value]).reshape(network.layer(layer).shape)
            error = np.abs(found[layer] - reference).max() / np.abs(reference).max()
            assert error < 1e-4, f"{layer}: {error}"
            compared.add(layer)
    # Containers return what their last module does.
    assert len(compared) > 0.7 * len(layers)

    last = layers[-1]
    cotangent = rng.standard_normal(found[last].shape).astype(np.float32)

    @QUICK_JIT
    def gradient(variables, image):
        return jax.grad(
            lambda x: (network.activations(variables, x, (last,))[last] * cotangent).sum()
        )(image)

    x = torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy()).requires_grad_()
    y = model(x)[0]
    weights = cotangent if cotangent.ndim == 1 else np.moveaxis(cotangent, -1, 0)
    (y * torch.from_numpy(weights.copy())).sum().backward()
    reference = np.moveaxis(x.grad[0].numpy(), 0, -1)
    error = np.abs(gradient(network.variables, image) - reference).max() / np.abs(reference).max()
    assert error < 1e-3, error


@pytest.mark.parametrize("name", NETWORKS)
def test_one_channel_of_every_layer_is_that_channel(rng, tmp_path, name):
    model, shape = trained(name)
    network = onnx_network(exported(model, shape, tmp_path / "net.onnx", "traced"))
    image = jnp.asarray(rng.standard_normal(network.image_shape), jnp.float32)
    layers = [layer.name for layer in network.layers][::5]

    @QUICK_JIT
    def read(variables, image, share):
        chosen = {n: (share * network.layer(n).channels).astype(jnp.int32) for n in layers}
        alone = {n: network.one_channel(variables, image, n, chosen[n])[n] for n in layers}
        whole = network.activations(variables, image, tuple(layers))
        return alone, {n: jnp.take(whole[n], chosen[n], axis=-1) for n in layers}

    alone, expected = read(network.variables, image, jnp.float32(0.7))
    for n in layers:
        scale = np.abs(expected[n]).max() + 1e-6
        np.testing.assert_allclose(alone[n][..., 0], expected[n], atol=1e-4 * scale, err_msg=n)

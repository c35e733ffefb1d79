"""PyTorch's weights of the paper's network: logits against a float64 forward pass, and PyTorch."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import save_file

from featvis_jax.importers.torch.weights import load_torch_weights
from featvis_jax.nn.cnn import CNN

QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
FEATURES = (2, 3, 4, 4, 5)
SHAPES = {"2-D": (40, 44, 1), "3-D": (28, 31, 30, 1)}
# Spatial shape of the features that the head flattens.
FLATTENED = {"2-D": (4, 5), "3-D": (1, 2, 1)}
POOLS = {1: (3, 1), 2: (3, 2), 5: (4, 2)}


def state(rng, rank, *, classes=3):
    """Weights as a PyTorch module's state_dict has them."""
    arrays, inputs = {}, 1
    for number, outputs in enumerate(FEATURES, start=1):
        scale = np.sqrt(2 / (inputs * 3**rank))
        kernel = scale * rng.standard_normal((outputs, inputs, *(3,) * rank))
        arrays[f"conv{number}.weight"] = kernel.astype(np.float32)
        arrays[f"conv{number}.bias"] = (0.1 * rng.standard_normal(outputs)).astype(np.float32)
        inputs = outputs
    length = FEATURES[-1] * int(np.prod(FLATTENED[f"{rank}-D"]))
    arrays["logits.weight"] = rng.standard_normal((classes, length)).astype(np.float32)
    arrays["logits.bias"] = rng.standard_normal(classes).astype(np.float32)
    return arrays


def by_hand(arrays, image):
    """Logits in float64, with channels first throughout."""
    spatial = tuple(range(1, image.ndim))
    x = np.moveaxis(image.astype(np.float64), -1, 0)
    for number in range(1, 6):
        windows = sliding_window_view(x, (3,) * len(spatial), axis=spatial)
        kernel = arrays[f"conv{number}.weight"].astype(np.float64)
        window = tuple(range(-len(spatial), 0))
        inner = (0, *(a % windows.ndim for a in window))
        x = np.tensordot(kernel, windows, (tuple(range(1, kernel.ndim)), inner))
        x += arrays[f"conv{number}.bias"].reshape(-1, *(1,) * len(spatial))
        x = np.maximum(x, 0)
        if number in POOLS:
            size, stride = POOLS[number]
            windows = sliding_window_view(x, (size,) * len(spatial), axis=spatial)
            x = windows[(slice(None), *(slice(None, None, stride),) * len(spatial))].max(window)
    return arrays["logits.weight"].astype(np.float64) @ x.reshape(-1) + arrays["logits.bias"]


@pytest.mark.parametrize("rank", [2, 3])
def test_logits_are_those_of_a_forward_pass_with_channels_first(rng, tmp_path, rank):
    arrays, shape = state(rng, rank), SHAPES[f"{rank}-D"]
    save_file(arrays, tmp_path / "weights.safetensors")
    module, variables = load_torch_weights(tmp_path / "weights.safetensors", shape)
    image = rng.random(shape, np.float32)
    expected = by_hand(arrays, image)
    found = QUICK_JIT(module.apply)(variables, image)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert isinstance(module, CNN)
    assert module.features == FEATURES


def test_numbers_of_a_sequential_and_statistics_of_the_training_set(rng, tmp_path):
    arrays = state(rng, 2)
    named = tmp_path / "named.safetensors"
    save_file({**arrays, "mean": np.float32([0.3]), "std": np.float32([0.2])}, named)
    parts = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10, "logits": 14}
    numbered = {
        re.sub(r"^\w+", lambda m: f"layers.{parts[m[0]]}", name): a for name, a in arrays.items()
    }
    save_file(numbered, tmp_path / "numbered.safetensors")
    first = load_torch_weights(named, SHAPES["2-D"])
    second = load_torch_weights(tmp_path / "numbered.safetensors", SHAPES["2-D"])
    jax.tree.map(
        np.testing.assert_array_equal, first.variables["params"], second.variables["params"]
    )
    assert float(first.variables["statistics"]["std"]) == pytest.approx(0.2)
    assert float(second.variables["statistics"]["mean"]) == 0
    image = rng.random(SHAPES["2-D"], np.float32)
    scaled = (image - np.float32(0.3)) / np.float32(0.2)
    np.testing.assert_allclose(
        QUICK_JIT(first.module.apply)(first.variables, image),
        QUICK_JIT(second.module.apply)(second.variables, scaled),
        rtol=1e-4,
    )


def test_another_network_of_the_same_class(rng, tmp_path):
    module = CNN(rank=2, features=(3, 4), pools=((2, 2), None), padding="SAME", head="mean")
    arrays = {
        "conv1.weight": rng.random((3, 1, 3, 3), np.float32),
        "conv1.bias": rng.random(3, np.float32),
        "conv2.weight": rng.random((4, 3, 3, 3), np.float32),
        "conv2.bias": rng.random(4, np.float32),
        "logits.weight": rng.random((2, 4), np.float32),
        "logits.bias": rng.random(2, np.float32),
    }
    save_file(arrays, tmp_path / "w.safetensors")
    loaded = load_torch_weights(tmp_path / "w.safetensors", (12, 14, 1), module=module)
    expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((12, 14, 1)))
    assert jax.tree.map(jnp.shape, loaded.variables) == jax.tree.map(jnp.shape, dict(expected))


def test_what_does_not_fit_is_refused(rng, tmp_path):
    arrays, shape = state(rng, 2), SHAPES["2-D"]
    path = tmp_path / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors: there is no such file"):
        load_torch_weights(path, shape)
    path.write_bytes(b"\x80\x04\x95not safetensors at all")
    with pytest.raises(ValueError, match=r"is not a safetensors file.*torch\.save hold code"):
        load_torch_weights(path, shape)
    save_file(arrays, path)
    with pytest.raises(ValueError, match=r"logits\.weight and \.bias have the shapes .* decides"):
        load_torch_weights(path, (60, 44, 1))
    with pytest.raises(ValueError, match=r"conv1\.weight and \.bias have the shapes"):
        load_torch_weights(path, SHAPES["3-D"])
    with pytest.raises(ValueError, match="does not fit"):
        load_torch_weights(path, (20, 20, 1))
    save_file({n: a for n, a in arrays.items() if n != "conv3.bias"}, path)
    with pytest.raises(ValueError, match=r"conv3\.bias is in the file or in the network, but not"):
        load_torch_weights(path, shape)
    save_file({"encoder.weight": arrays["conv1.weight"]}, path)
    with pytest.raises(ValueError, match=r"its arrays are encoder\.weight; expected conv1\.weight"):
        load_torch_weights(path, shape)


@pytest.mark.parametrize("rank", [2, 3])
def test_logits_are_those_of_pytorch(rng, tmp_path, rank):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    nn = torch.nn
    conv, pool = (nn.Conv2d, nn.MaxPool2d) if rank == 2 else (nn.Conv3d, nn.MaxPool3d)
    layers, inputs = [], 1
    for number, outputs in enumerate(FEATURES, start=1):
        layers += [conv(inputs, outputs, 3), nn.ReLU()]
        layers += [pool(*POOLS[number])] if number in POOLS else []
        inputs = outputs
    length = FEATURES[-1] * int(np.prod(FLATTENED[f"{rank}-D"]))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(length, 2)).eval()
    path = tmp_path / "weights.safetensors"
    save_file({name: array.numpy() for name, array in model.state_dict().items()}, path)
    shape = SHAPES[f"{rank}-D"]
    module, variables = load_torch_weights(path, shape)
    image = rng.random(shape, np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy()))[0].numpy()
    found = QUICK_JIT(module.apply)(variables, image)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()

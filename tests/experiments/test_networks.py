"""What --model takes: models of ours, and every kind of networks of others; and what it refuses."""

import json
import sys
import warnings
from pathlib import Path

import jax.numpy as jnp
import nibabel
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from featvis_jax import models
from featvis_jax.layers_table import layers_text

LINEN = """
import jax, jax.numpy as jnp
from flax import linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(nn.Conv(3, (3, 3), name="stem")(x).mean(axis=(1, 2)))

def model():
    module = Net()
    return module, module.init(jax.random.key(0), jnp.zeros((1, 9, 8, 1))), (9, 8, 1)

def wrong():
    return 5

def narrow():
    return Net(), model()[1], (9, 8, 2)

def broken():
    raise KeyError("weights")
"""

NNX = """
from flax import nnx

class Net(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 3, (3, 3, 3), rngs=rngs)

    def __call__(self, x):
        return self.stem(x)

def model():
    return Net(nnx.Rngs(0)), (6, 7, 8, 1)
"""

TORCH = """
import torch

def alone():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3), torch.nn.ReLU())

def with_example():
    return alone(), (7, 6, 5, 2)
"""


def write(directory: Path, name: str, text: str) -> str:
    (directory / name).write_text(text)
    return str(directory / name)


def onnx_file(directory: Path, height: int | str = 9) -> str:
    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.random((3, 1, 3, 3), np.float32), "kernel")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel"], ["out"], name="stem")],
        "test",
        [value("image", TensorProto.FLOAT, (1, 1, height, 8))],
        [value("out", TensorProto.FLOAT, (1, 3, None, 6))],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save_model(model, directory / "net.onnx")
    return str(directory / "net.onnx")


def test_a_model_of_the_zoo_keeps_all_that_its_card_says():
    model = models.load("square-lesion", input_shape=(140, 192, 1))
    assert model.image_shape == (140, 192, 1)
    assert model.card["class_names"] == ["clean", "lesion"]
    assert model.network.layer("conv3").receptive_field == 13
    with pytest.raises(ValueError, match=r"`input_shape=10,10,1`.*which is fixed"):
        models.load("square-lesion", input_shape=(10, 10, 1))


def test_a_python_file_returns_a_linen_or_an_nnx_module(tmp_path):
    model = models.load(write(tmp_path, "mine.py", LINEN) + ":model")
    assert [layer.name for layer in model.network.layers] == ["stem", "head"]
    assert model.image_shape == (9, 8, 1)
    assert (model.intensity_range, model.scaling) == ((0.0, 1.0), None)
    assert model.affine is None  # It does not tell where it looks.
    other = models.load(write(tmp_path, "other.py", NNX) + ":model")
    assert other.network.layer("stem").shape == (6, 7, 8, 3)
    assert len({model.card["weights_sha256"], other.card["weights_sha256"]}) == 2


def test_a_reference_image_tells_where_a_network_looks(tmp_path):
    model = models.load(write(tmp_path, "mine.py", LINEN) + ":model")
    affine = np.array([[0, -2.0, 0, 30], [0, 0, 1.5, -9], [1, 0, 0, 4], [0, 0, 0, 1]])
    for name, shape in {"slice": (9, 8, 1), "turned": (8, 9, 1), "volume": (9, 8, 3)}.items():
        image = nibabel.Nifti1Image(np.zeros(shape, np.uint8), affine)
        nibabel.save(image, tmp_path / f"{name}.nii")
    known = models.on_grid(model, tmp_path / "slice.nii")
    np.testing.assert_allclose(known.affine, affine)
    assert known.grid.shape == (9, 8)
    models.on_grid(known, tmp_path / "slice.nii")
    for name in ("turned", "volume"):
        with pytest.raises(
            ValueError, match=rf"{name}\.nii: .*; the network takes 9 x 8 x 1 voxel"
        ):
            models.on_grid(model, tmp_path / f"{name}.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 8, 1)), np.eye(4)), tmp_path / "other.nii")
    with pytest.raises(ValueError, match=r"other\.nii: .*but .* was trained on 9 x 8 x 1"):
        models.on_grid(known, tmp_path / "other.nii")
    volumes = models.load(write(tmp_path, "other.py", NNX) + ":model")
    path = tmp_path / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 7, 8)), affine), path)
    np.testing.assert_allclose(models.on_grid(volumes, path).affine, affine)


def test_the_fingerprint_follows_file_weights_and_grid(tmp_path):
    path = onnx_file(tmp_path, "height")
    first = models.load(path, input_shape=(9, 8, 1))
    again = models.load(path, input_shape=(9, 8, 1))
    other = models.load(path, input_shape=(11, 8, 1))
    prints = [model.card["weights_sha256"] for model in (first, again, other)]
    assert prints[0] == prints[1] != prints[2]
    assert first.card["name"] == path


def test_an_onnx_file_and_weights_of_pytorch(tmp_path):
    model = models.load(onnx_file(tmp_path))
    assert model.network.layer("stem").shape == (7, 6, 3)
    rng, arrays, inputs = np.random.default_rng(0), {}, 1
    for number, outputs in enumerate((2, 2, 3, 3, 3), start=1):
        arrays[f"conv{number}.weight"] = rng.random((outputs, inputs, 3, 3), np.float32)
        arrays[f"conv{number}.bias"] = np.zeros(outputs, np.float32)
        inputs = outputs
    arrays["logits.weight"] = rng.random((2, 3 * 4 * 5), np.float32)
    arrays["logits.bias"] = np.zeros(2, np.float32)
    path = tmp_path / "weights.safetensors"
    save_file(arrays, path)
    with pytest.raises(
        ValueError, match="weights alone do not say how large images are: give `input_shape`"
    ):
        models.load(str(path))
    model = models.load(str(path), input_shape=(40, 44, 1))
    image = jnp.zeros((40, 44, 1))
    found = model.network.activations(model.network.variables, image, ("conv1",))
    assert found["conv1"].shape == (38, 42, 2)


def test_an_onnx_file_by_a_name_in_capitals_with_its_weights_in_another(tmp_path):
    model = onnx.load_model(onnx_file(tmp_path))
    (tmp_path / "net.onnx").unlink()
    path = tmp_path / "NET.ONNX"
    onnx.save_model(
        model, path, save_as_external_data=True, location="NET.ONNX.data", size_threshold=0
    )
    assert (tmp_path / "NET.ONNX.data").stat().st_size
    assert models.load(str(path)).network.layer("stem").shape == (7, 6, 3)


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory):
    """A network of PyTorch as its users have it: a Python file, and what PyTorch saves."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    directory = tmp_path_factory.mktemp("torch")
    write(directory, "mine.py", TORCH)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3), torch.nn.ReLU()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of TorchScript, which users still have.
        torch.jit.save(torch.jit.script(module), directory / "net.pth")
    torch.export.save(
        torch.export.export(module, (torch.zeros(1, 2, 7, 6, 5),)), directory / "net.pt2"
    )
    torch.save({"state_dict": module.state_dict()}, directory / "weights.pth")
    return directory


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("mine.py:with_example", None),
        ("mine.py:alone", (7, 6, 5, 2)),
        ("net.pt2", None),
        ("net.pth", (7, 6, 5, 2)),
    ],
)
def test_networks_of_pytorch(torch_files, tmp_path, monkeypatch, spec, shape):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = models.load(str(torch_files / spec), input_shape=shape)
    assert model.image_shape == (7, 6, 5, 2)
    assert [layer.shape for layer in model.network.layers] == [(5, 4, 3, 3)] * 2
    assert [layer.operator for layer in model.network.layers] == ["Conv3d", "ReLU"]
    if shape is None:
        with pytest.raises(ValueError, match=r"`input_shape=7,6,6,2`: |, 6, 2\) does not fit"):
            models.load(str(torch_files / spec), input_shape=(7, 6, 6, 2))


def test_a_bundle_of_monai(tmp_path, monkeypatch):
    nets = pytest.importorskip("monai.networks.nets")
    torch = pytest.importorskip("torch")
    options = {"in_shape": [1, 8, 8], "classes": 2, "channels": [2], "strides": [2]}
    for part in ("configs", "models"):
        (tmp_path / part).mkdir()
    config = {"network_def": {"_target_": "Classifier", **options}}
    (tmp_path / "configs" / "inference.json").write_text(json.dumps(config))
    torch.save(nets.Classifier(**options).state_dict(), tmp_path / "models" / "model.pt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = models.load(str(tmp_path), input_shape=(8, 8, 1))
    assert model.network.layers[-1].shape == (2,)


def test_weights_of_another_network_are_told_with_the_file_that_loads_them(torch_files, tmp_path):
    path = torch_files / "weights.pth"
    with pytest.raises(ValueError, match=r"`model=.*pth` holds 2 weights under 'state") as refused:
        models.load(str(path))
    told, _, code = str(refused.value).partition("\n\n")
    assert "0.weight (3, 2, 3, 3, 3) first" in told
    assert "\n" not in told
    assert "return module, (X, Y, Z, 2)" in code
    save_file({"encoder.weight": np.zeros((3, 1, 3, 3), np.float32)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"`model=.*` holds 1 weight, encoder\.weight \(3, 1, "):
        models.load(str(tmp_path / "w.safetensors"), input_shape=(40, 44, 1))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("net.keras", "--keras {path} --output net.onnx"),
        ("NET.H5", "--keras {path} --output NET.onnx"),
        ("saved", "--saved-model {path} --output saved.onnx"),
    ],
)
def test_networks_of_keras_go_by_way_of_onnx(tmp_path, name, told):
    path = tmp_path / name
    if name == "saved":
        path.mkdir()
        (path / "saved_model.pb").touch()
    with pytest.raises(ValueError, match=r"pip install tf2onnx; python -m tf2onnx") as refused:
        models.load(str(path))
    assert told.format(path=path) in str(refused.value)


def test_missing_torch_is_told_with_the_extra(torch_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for spec in ("net.pt2", "net.pth", "weights.pth", "mine.py:alone"):
        with pytest.raises(ValueError, match=r"pip install featvis_jax\[torch\]") as refused:
            models.load(str(torch_files / spec), input_shape=(7, 6, 5, 2))
        assert "\n" not in str(refused.value)


def test_the_table_of_layers_names_all_that_one_needs_to_choose(tmp_path):
    lines = layers_text(models.load(onnx_file(tmp_path)).network).splitlines()
    assert lines[0].split() == [
        "layer", "operator", "output", "channels", "receptive", "field", "stride",
        "MiB", "per", "unit*", "units", "that", "fit",
    ]  # fmt: skip
    *first, fitting = lines[1].split()
    # A network of a few voxels takes next to nothing.
    assert first == ["stem", "Conv", "7", "x", "6", "3", "3", "1", "<", "0.1"]
    assert int(fitting) > 1000
    assert "estimate" in lines[-1]


def test_the_table_of_layers_names_what_is_none_and_why(tmp_path):
    network = models.load(onnx_file(tmp_path)).network
    told = layers_text(network._replace(refused=(("attention", "of its axes."),)))
    assert told.splitlines()[-1] == "No layer: attention, since of its axes."


def test_what_is_no_model_is_refused_with_the_way_out(tmp_path):
    path = write(tmp_path, "mine.py", LINEN)
    with pytest.raises(ValueError, match=r"name the function too, .*mine\.py:FUNCTION"):
        models.load(path)
    with pytest.raises(ValueError, match="expected it to define a function 'absent'"):
        models.load(path + ":absent")
    with pytest.raises(
        ValueError, match=r"this is not a network: got int; expected \(Linen module"
    ):
        models.load(path + ":wrong")
    with pytest.raises(ValueError, match=r"this is not a network: .*mine\.py:\d+: Scope"):
        models.load(path + ":narrow")
    with pytest.raises(ValueError, match=r"broken\(\) failed with KeyError"):
        models.load(path + ":broken")
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        models.load(str(tmp_path / "absent.onnx"))
    for name, told in {
        "absent": r"no such model in the zoo, file .*\. Expected.*See docs/your-network\.md",
        "square_lesions": r"\. Did you mean square-lesion\?",
        str(tmp_path): "a directory that holds neither a model",
        str(tmp_path / "scan.nii"): "a file of an unknown kind",
    }.items():
        if name.endswith(".nii"):
            Path(name).touch()
        with pytest.raises(FileNotFoundError, match=told):
            models.load(name)
    (tmp_path / "net.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"net\.pt`: not a file that PyTorch wrote"):
        models.load(str(tmp_path / "net.pt"))
    with pytest.raises(FileNotFoundError, match=r"`model=.*absent\.pt2`: there is no such file"):
        models.load(str(tmp_path / "absent.pt2"))
    with pytest.raises(ValueError, match=r"`input_shape=4`: expected X,Y,CHANNELS"):
        models.load(path + ":model", input_shape=(4,))
    with pytest.raises(ValueError, match=r"`input_shape=9,9,1`: the images .* \(9, 8, 1\)"):
        models.load(path + ":model", input_shape=(9, 9, 1))

"""Modules of PyTorch: their values as networks, what is kept of them, and what is refused."""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import onnx
import pytest

from featvis_jax.importers.onnx import onnx_network
from tests.importers.torch.conftest import FILE

torch = pytest.importorskip("torch")
user_networks = pytest.importorskip("tests.importers.torch.user_networks")
capture = pytest.importorskip("featvis_jax.importers.torch.capture")
worker = pytest.importorskip("featvis_jax.importers.torch.worker")


def convert(name, cache, image_shape=None):
    return Path(worker.function(str(FILE), name, image_shape, str(cache))["network"])


@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        ("alone", (9, 8, 1)),
        ("volumes", (7, 6, 5, 1)),
        ("tensor", (9, 8, 1)),
        ("outputs", (9, 8, 1)),
        ("older_only", (9, 8, 1)),
        pytest.param(
            "compiled", (9, 8, 1), marks=pytest.mark.filterwarnings("ignore::DeprecationWarning")
        ),
        ("parallel", (9, 8, 1)),
    ],
)
def test_the_output_of_every_module_is_a_layer(cache, compare, name, image_shape):
    network = onnx_network(convert(name, cache, image_shape if name == "alone" else None))
    assert network.image_shape == image_shape
    made = getattr(user_networks, name)()
    module = made[0] if isinstance(made, tuple) else made
    module = getattr(module, "_orig_mod", getattr(module, "module", module))
    compare(network, module)


def test_other_inputs_keep_the_values_of_the_example(cache):
    network = onnx_network(convert("with_age", cache))
    assert network.image_shape == (9, 8, 1)
    module, (_, age) = user_networks.with_age()
    image = jnp.asarray(np.random.default_rng(0).random((9, 8, 1), np.float32))
    with torch.no_grad():
        expected = module(torch.from_numpy(np.array(image)).reshape(1, 1, 9, 8), age)[0].numpy()
    last = network.layers[-1].name
    found = network.activations(network.variables, image, (last,))[last]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_older_exporter_writes_what_the_new_one_cannot(cache):
    producers = {
        name: {node.name for node in onnx.load_model(convert(name, cache)).graph.node}
        for name in ("tensor", "older_only")
    }
    assert any(name.startswith("/stem/") for name in producers["older_only"])
    assert not any(name.startswith("/") for name in producers["tensor"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("alone", r"shape of its images, perhaps \(X, Y, 1\) by stem\.weight.*--input_shape=X,Y"),
        ("channels_first", r"\(1, 1, 9, 8, 7\) is not the shape .*; here \(9, 8, 7, 1\)\."),
        ("batch", r"has the shape \(4, 1, 9, 8\); expected one image"),
        ("wrong_channels", r"shape \(1, 3, 9, 8\), .*to have 1 channels"),
        ("wrong_rank", r"fails on an example of shape \(1, 1, 9, 8, 7\)"),
        ("text", r"the example is str; expected a tensor"),
        ("not_finite", r"1 of the 6 values of its weight head\.weight are not finite"),
        ("half", r"its weight stem\.weight is float16; expected float32.*module\.float\(\)"),
        ("without_values", r"stem\.weight has a shape and no values"),
        ("bessel", r"the operator prims\.bessel_j0 \(user_networks\.py:52\) to ONNX"),
        ("branching", r"depends on the values of its image \(user_networks\.py:58\).*torch\.where"),
        ("raises", r"raises\(\) failed with KeyError: 'weights' \(user_networks\.py:\d+\)"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_line(cache, capfd, name, told):
    with pytest.raises(ValueError, match=told) as refused:
        convert(name, cache)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{FILE}:{name}: ")
    assert capfd.readouterr() == ("", "")  # PyTorch's own words are not the user's concern.


def test_what_is_no_module_is_left_to_others(cache):
    assert worker.function(str(FILE), "number", None, str(cache)) == {}


def exported(module, cache, monkeypatch, *, shape=(9, 8, 1)):
    """Where the export of a module is kept, and whether it was made anew."""
    calls = []

    def export(network, inputs, path, *, shown):
        calls.append(shown)
        path.write_bytes(b"a network")

    with monkeypatch.context() as patch:
        patch.setattr(capture.exporters, "export", export)
        path = capture.captured(module, shape, shown="net").exported(cache)
    return path, bool(calls)


def test_an_equal_module_is_exported_once_and_any_other_one_anew(tmp_path, monkeypatch):
    def module(activation=torch.relu):
        return user_networks.trained(user_networks.Activated(activation))

    first, made = exported(module(), tmp_path, monkeypatch)
    assert made
    assert exported(module(), tmp_path, monkeypatch) == (first, False)
    constant = torch.ones(1)  # Of no state_dict.
    slope = [0.1]
    changed = {
        "an operation": module(torch.tanh),
        "a number": module(lambda x: torch.nn.functional.leaky_relu(x, slope[0])),
        "a constant": module(lambda x: torch.relu(x * constant)),
        "a weight": module(),
        "a name": torch.nn.Sequential(module()),
    }
    changed["a weight"].stem.weight.data[0, 0, 0, 0] += 1e-6
    paths = {what: exported(made, tmp_path, monkeypatch)[0] for what, made in changed.items()}
    assert len({first, *paths.values()}) == 1 + len(changed)
    slope[0] = 0.2
    constant += 1
    for what in ("a number", "a constant"):
        assert exported(changed[what], tmp_path, monkeypatch)[0] != paths[what], what
    assert exported(module(), tmp_path, monkeypatch, shape=(10, 8, 1))[0] != first
    assert not [path for path in tmp_path.iterdir() if not (path / "network.onnx").is_file()]


def test_a_module_is_exported_as_it_evaluates(tmp_path, compare):
    module = torch.nn.Sequential(user_networks.alone().stem, torch.nn.Dropout(0.9)).train()
    path = capture.captured(module, (9, 8, 1), shown="net").exported(tmp_path)
    compare(onnx_network(path), module)


def test_two_processes_that_export_the_same_do_not_disturb_each_other(tmp_path, monkeypatch):
    module = user_networks.alone()
    (tmp_path / "first").mkdir()
    place = tmp_path / Path(exported(module, tmp_path / "first", monkeypatch)[0]).parent.name

    def slower(network, inputs, path, *, shown):
        path.write_bytes(b"a network")
        shutil.copytree(path.parent, place)  # As another process does, a moment earlier.

    monkeypatch.setattr(capture.exporters, "export", slower)
    path = Path(capture.captured(module, (9, 8, 1), shown="net").exported(tmp_path))
    assert path.read_bytes() == b"a network"
    assert {entry.name for entry in tmp_path.iterdir()} == {"first", place.name}

"""Exported programs and TorchScript: read as networks, and what they may not bring along."""

import ast
import json
import shutil
import warnings
import zipfile
from pathlib import Path

import onnx
import pytest

from featvis_jax.importers.onnx import onnx_network
from featvis_jax.importers.torch.archives import Content, content

torch = pytest.importorskip("torch")
user_networks = pytest.importorskip("tests.importers.torch.user_networks")
programs = pytest.importorskip("featvis_jax.importers.torch.programs")
worker = pytest.importorskip("featvis_jax.importers.torch.worker")

Dim = torch.export.Dim


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A module of slices as PyTorch saves it, by what is saved."""
    directory = tmp_path_factory.mktemp("files")
    module, image = user_networks.alone().eval(), torch.zeros(1, 1, 9, 8)
    torch.export.save(torch.export.export(module, (image,)), directory / "static.pt2")
    shapes = ({2: Dim("x", min=4), 3: Dim("y", min=4)},)
    open_ = torch.export.export(module, (image,), dynamic_shapes=shapes)
    torch.export.save(open_, directory / "open.pt2")
    torch.save(module.state_dict(), directory / "weights.pth")
    torch.save(module.state_dict(), directory / "old.pth", _use_new_zipfile_serialization=False)
    return directory


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The same as TorchScript, traced and compiled."""
    directory = tmp_path_factory.mktemp("scripts")
    module, image = user_networks.alone().eval(), torch.zeros(1, 1, 9, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of tracing and of TorchScript, which users still have.
        torch.jit.save(torch.jit.trace(module, image), directory / "traced.pt")
        torch.jit.save(torch.jit.script(module), directory / "compiled.ts")
    return directory


def test_files_are_known_by_what_is_in_them(files, scripts, tmp_path):
    assert content(files / "static.pt2") is Content.PROGRAM
    assert content(files / "weights.pth") is content(files / "old.pth") is Content.CHECKPOINT
    for path in scripts.iterdir():
        assert content(shutil.copy(path, tmp_path / "net.pth")) is Content.SCRIPT
    whole = (files / "static.pt2").read_bytes()
    for name, data in {"cut": whole[: len(whole) // 2], "text": b"net", "empty": b""}.items():
        (tmp_path / name).write_bytes(data)
        assert content(tmp_path / name) is None


@pytest.mark.parametrize(("name", "shape"), [("static", None), ("open", (11, 10, 1))])
def test_an_exported_program_is_the_module(files, cache, compare, name, shape):
    path = worker.program(str(files / f"{name}.pt2"), shape, str(cache))["network"]
    network = onnx_network(path, image_shape=shape)
    assert network.image_shape == (shape or (9, 8, 1))
    compare(network, user_networks.alone())


def scopes_of(path):
    """The modules of each operator's last node, as the new exporter writes them down."""
    return {
        node.op_type: ast.literal_eval(entry.value)[:-1]
        for node in onnx.load_model(path).graph.node
        for entry in node.metadata_props
        if entry.key == "pkg.torch.onnx.name_scopes"
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_has_no_weights_is_in_the_modules_around_it(tmp_path, cache, compare):
    nn = torch.nn
    # The normalization loops over its sizes.
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2), nn.Conv2d(2, 2, 1))
    module = nn.Sequential(inner, nn.ReLU(), nn.Conv2d(2, 3, 1)).eval()
    torch.jit.save(torch.jit.script(module), tmp_path / "net.ts")
    path = worker.script(str(tmp_path / "net.ts"), (9, 8, 1), str(cache))["network"]
    compare(onnx_network(path), module)
    scopes = scopes_of(path)
    assert scopes["InstanceNormalization"] == ["", "0"]
    assert scopes["Relu"] == [""]
    assert scopes["Conv"] == ["", "2"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["traced.pt", "compiled.ts"])
def test_torchscript_is_the_module(scripts, cache, compare, name):
    path = worker.script(str(scripts / name), (9, 8, 1), str(cache))["network"]
    compare(onnx_network(path), user_networks.alone())
    scopes = scopes_of(path)
    assert scopes["Conv"] == ["", "stem"]
    assert scopes["BatchNormalization"] == ["", "norm"]
    assert scopes["Gemm"] == ["", "head"]
    with pytest.raises(ValueError, match=r"does not tell the shape.*\(X, Y, 1\) by stem\.weight"):
        worker.script(str(scripts / name), None, str(cache))


def rewritten(source, path, change):
    """A copy of an archive; `change` takes and returns the bytes of each file by its name."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def in_graph(**changes):
    """A change of the first node of a program."""

    def change(name, data):
        if not name.endswith("models/model.json"):
            return data
        model = json.loads(data)
        model["graph_module"]["graph"]["nodes"][0].update(changes)
        return json.dumps(model).encode()

    return change


def in_module(key, value):
    """A change of what a program says of its inputs and outputs."""

    def change(name, data):
        if not name.endswith("models/model.json"):
            return data
        model = json.loads(data)
        model["graph_module"]["module_call_graph"][0]["signature"][key] = value
        return json.dumps(model).encode()

    return change


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_archive_that_is_only_copied_is_still_read(files, tmp_path):
    path = rewritten(files / "static.pt2", tmp_path / "net.pt2", lambda name, data: data)
    assert programs.read_program(path).inputs[0].shape == (1, 1, 9, 8)


DEFAULTDICT = json.dumps([1, {"type": "collections.defaultdict", "context": "", "children": []}])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (in_graph(target="torch.serialization.os.system"), "operator 'torch.serialization.os.sys"),
        (in_graph(target="torch.ops.aten.from_file.default"), "operator 'torch.ops.aten.from_fi"),
        (in_graph(target="_operator.methodcaller"), "operator '_operator.methodcaller'"),
        (in_graph(name="x; import os"), "name 'x; import os'"),
        (in_graph(outputs=[{"as_tensor": {"name": "x = exit()"}}]), r"name 'x = exit\(\)'"),
        (in_graph(inputs=[{"arg": {"expr_str": "eval(chr(49))"}}]), r"size 'eval\(chr\(49\)\)'"),
        (in_module("in_spec", DEFAULTDICT), "container"),
    ],
)
def test_a_program_with_more_than_a_network_is_not_read(files, tmp_path, change, told):
    path = rewritten(files / "static.pt2", tmp_path / "net.pt2", change)
    with pytest.raises(ValueError, match=rf"net\.pt2: its {told}.*none that PyTorch writes"):
        programs.read_program(path)


@pytest.mark.parametrize("place", ["weights", "inputs"])
def test_no_pickle_of_a_program_runs_code(files, tmp_path, place):
    evidence = tmp_path / "evidence"
    torch.save((Runs(evidence),), tmp_path / "pickle")
    pickled = (tmp_path / "pickle").read_bytes()

    def change(name, data):
        if place == "inputs" and name.endswith("sample_inputs/model.pt"):
            return pickled
        if place == "weights" and name.endswith("weights/weight_0"):
            return pickled
        if place == "weights" and name.endswith("model_weights_config.json"):
            config = json.loads(data)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            return json.dumps(config).encode()
        return data

    path = rewritten(files / "static.pt2", tmp_path / "net.pt2", change)
    with pytest.raises(ValueError, match="cannot be read as an exported program"):
        programs.read_program(path)
    assert not evidence.exists()


def test_objects_and_compiled_code_are_refused_by_their_names(files, tmp_path):
    for added, told in {
        "net/data/constants/opaque_obj_0": r"holds a Python object \(opaque_obj_0\)",
        "net/data/aotinductor/model/net.so": "is compiled code",
    }.items():
        path = Path(shutil.copy(files / "static.pt2", tmp_path / "net.pt2"))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(added, b"")
        with pytest.raises(ValueError, match=told):
            programs.read_program(path)


class Saves(torch.nn.Module):
    def forward(self, x):
        torch.save(x, "evidence")
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_that_touches_files_is_not_run(tmp_path):
    torch.jit.save(torch.jit.script(Saves()), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net\.pt: its code calls save, which touches files"):
        programs.read_script(tmp_path / "net.pt")


class Branching(torch.nn.Module):
    def forward(self, x):
        if bool(x.max() > 1):
            x = x / 2
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_that_depends_on_values_is_refused(tmp_path, cache):
    torch.jit.save(torch.jit.script(Branching()), tmp_path / "net.ts")
    with pytest.raises(ValueError, match=r"depends on the values of its image"):
        worker.script(str(tmp_path / "net.ts"), (9, 8, 1), str(cache))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_damaged_file_is_told(scripts, tmp_path):
    path = rewritten(scripts / "traced.pt", tmp_path / "net.pt", lambda name, data: data[::2])
    with pytest.raises(ValueError, match=r"net\.pt cannot be read as TorchScript"):
        programs.read_script(path)


def test_a_program_of_arguments_by_name_is_refused(tmp_path):
    program = torch.export.export(user_networks.alone(), (), {"x": torch.zeros(1, 1, 9, 8)})
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ValueError, match=r"0 arguments by place and 1 by name"):
        programs.read_program(tmp_path / "net.pt2")

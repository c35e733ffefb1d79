"""Files of weights alone: what is told of them, and the Python file that loads them."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from featvis_jax.importers.python_files import call_function
from featvis_jax.importers.torch.explained import explained, weights_of
from featvis_jax.importers.torch.weights import foreign_shapes

torch = pytest.importorskip("torch")
user_networks = pytest.importorskip("tests.importers.torch.user_networks")
checkpoints = pytest.importorskip("featvis_jax.importers.torch.checkpoints")


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def state(prefix=""):
    return {f"{prefix}{name}": value for name, value in user_networks.alone().state_dict().items()}


def saved(directory, content, name="net.pth"):
    torch.save(content, directory / name)
    return directory / name


CHECKPOINTS = {
    "plain": (lambda: state(), "", ""),
    "parallel": (lambda: state("module."), "", "module."),
    "compiled and parallel": (lambda: state("module._orig_mod."), "", "module._orig_mod."),
    "with an optimizer": (
        lambda: {"epoch": 3, "state_dict": state("module."), "optimizer": {"state": {}}},
        "state_dict",
        "module.",
    ),
    "under another key": (lambda: {"ema": {"decay": torch.ones(1)}, "net": state()}, "net", ""),
    "Lightning": (
        lambda: {"pytorch-lightning_version": "2.5", "state_dict": state("model.")},
        "state_dict",
        "model.",
    ),
    "Lightning with hyperparameters": (
        lambda: {
            "pytorch-lightning_version": "2.5",
            "state_dict": state("net."),
            "hyper_parameters": {"options": argparse.Namespace(depth=3)},
        },
        "state_dict",
        "net.",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_weights_of_a_checkpoint_are_found_and_the_shown_file_loads_them(tmp_path, name):
    make, under, prefix = CHECKPOINTS[name]
    path = saved(tmp_path, make())
    weights = checkpoints.held(path)
    # What a normalization counts is no less a weight.
    assert (weights.number, weights.under, weights.prefix) == (10, under, prefix)
    assert (weights.first, weights.shape) == (f"{prefix}stem.weight", (3, 1, 3, 3))
    told = explained(path, weights)
    assert told.splitlines()[0].startswith(f"{path} holds 10 weights")
    code = re.sub(r"^    ", "", told.partition("\n\n")[2], flags=re.MULTILINE)
    code = code.replace("from your_code import", "from tests.importers.torch.user_networks import")
    code = code.replace("YourNetwork", "Net").replace("(X, Y, 1)", "(9, 8, 1)")
    (tmp_path / "FILE.py").write_text(code)
    module, shape = call_function(tmp_path / "FILE.py", "net")
    assert shape == (9, 8, 1)
    for loaded, kept in zip(module.state_dict().values(), state().values(), strict=True):
        torch.testing.assert_close(loaded, kept)


def test_a_file_from_before_the_archives(tmp_path):
    torch.save({"model": state()}, tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    assert checkpoints.held(tmp_path / "net.pth").under == "model"


def test_nothing_of_a_checkpoint_is_run(tmp_path):
    evidence = tmp_path / "evidence"
    path = saved(tmp_path, {"state_dict": state(), "callback": Runs(evidence)})
    with pytest.raises(ValueError, match="cannot be read as weights alone, and nothing else is"):
        checkpoints.held(path)
    assert not evidence.exists()


def test_an_object_beside_the_weights_is_told(tmp_path):
    options = user_networks.Options(depth=3)
    path = saved(tmp_path, {"state_dict": state(), "options": options})
    weights = checkpoints.held(path)
    assert weights.number == 10
    assert weights.objects == [f"{user_networks.__name__}.Options"]
    assert "weights_only=False)['state_dict']  # Runs code of the file" in explained(path, weights)


def test_a_whole_module_is_told_by_its_type(tmp_path):
    path = saved(tmp_path, torch.nn.Sequential(user_networks.alone()))
    weights = checkpoints.held(path)
    assert weights.module == "torch.nn.modules.container.Sequential"
    told = explained(path, weights)
    assert "a whole module, torch.nn.modules.container.Sequential, as a pickle" in told
    assert "Write a Python file that reads it, here FILE.py" in told
    assert "weights_only=False)  # Runs code of the file: only if you trust it." in told
    assert "(X, Y, 1)" in told


def test_what_holds_no_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds dict without any weights"):
        checkpoints.held(saved(tmp_path, {"epoch": 3}))
    (tmp_path / "net.pth").write_bytes(b"\x80\x02not a pickle")
    with pytest.raises(ValueError, match=r"cannot be read as weights alone"):
        checkpoints.held(tmp_path / "net.pth")


def test_safetensors_of_another_network_than_the_papers(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({name: value.numpy() for name, value in state().items()}, path)
    told = explained(path, weights_of(foreign_shapes(path)))
    assert "holds 10 weights" in told
    assert f"weights = load_file({str(path)!r})" in told
    ours = {f"conv{i}.{kind}": np.zeros(1) for i in range(1, 6) for kind in ("weight", "bias")}
    ours |= {"logits.weight": np.zeros(1), "logits.bias": np.zeros(1)}
    for names in (ours, {**ours, "mean": np.zeros(1)}):
        save_file(names, path)
        assert foreign_shapes(path) is None
    path.write_bytes(b"nothing")
    assert foreign_shapes(path) is None

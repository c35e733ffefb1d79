"""The process that runs PyTorch, and that nothing of PyTorch comes into the one that runs JAX."""

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from featvis_jax.importers.torch import conversion
from featvis_jax.importers.torch.asked import missing, require_torch
from tests.importers.torch.conftest import FILE

torch = pytest.importorskip("torch")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "featvis_jax" / "networks"


def test_a_function_is_converted_in_another_process_and_kept(own_cache, capfd):
    network = conversion.function_network(FILE, "volumes")
    assert network is not None
    assert network.image_shape == (7, 6, 5, 1)
    assert [path.name for path in own_cache.glob("*/*")] == ["network.onnx"]
    assert conversion.function_network(FILE, "number") is None
    capfd.readouterr()
    with pytest.raises(ValueError, match=r"wrong_channels: the network fails.*\(user_networks\.py"):
        conversion.function_network(FILE, "wrong_channels")
    assert capfd.readouterr() == ("", "")


def test_without_a_cache_that_can_be_written_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert conversion.function_network(FILE, "tensor") is not None
    assert not list(tmp_path.glob("featvis_jax*"))


def test_what_the_importer_lacks_is_told_of_what_the_user_named(tmp_path, own_cache):
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return torch.linalg.det(x)\n\n\ndef net():\n    return Net(), (4, 4, 1)\n"
    )
    with pytest.raises(ValueError, match=rf"^{path}:net: The importer does not have .* Det "):
        conversion.function_network(path, "net")


def test_a_process_that_is_killed_is_told(tmp_path, own_cache):
    path = tmp_path / "net.py"
    path.write_text("import os\n\n\ndef net():\n    os.kill(os.getpid(), 9)\n")
    with pytest.raises(ValueError, match=r"net\.py:net: the process that converts it .* -9"):
        conversion.function_network(path, "net")


def test_missing_packages_are_told_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert missing() == ["torch"]
    with pytest.raises(
        ValueError, match=r"net\.pt2: it takes torch .*: pip install featvis_jax\[torch\]"
    ):
        require_torch("net.pt2")


def test_no_torch_is_imported_beside_jax(tmp_path, own_cache):
    (tmp_path / "weights.py").write_text("import torch\n\nSCALE = float(torch.ones(1))\n")
    (tmp_path / "mixed.py").write_text(
        textwrap.dedent(
            """
            import contextlib, jax.numpy as jnp
            from jax.ad_checkpoint import checkpoint_name

            def network(weights, images):
                return checkpoint_name(weights * images, "scaled")

            def of_jax():
                from weights import SCALE
                return network, jnp.float32(SCALE), (5, 4, 1)

            def without():
                with contextlib.suppress(Exception):  # Swallows no question for PyTorch.
                    import torch
                    return network, jnp.float32(2), (5, 4, 1)
                return 5
            """
        )
    )
    program = f"""
import sys
from featvis_jax import models
assert models.load({str(FILE)!r} + ":tensor").image_shape == (9, 8, 1)
assert "torch" not in sys.modules
assert not any(name.startswith("torch.") for name in sys.modules)
for name in ("without", "of_jax"):
    model = models.load({str(tmp_path / "mixed.py")!r} + ":" + name)
    assert [layer.name for layer in model.network.layers] == ["scaled"]
assert "torch" in sys.modules  # Its author has asked for both.
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", ["bbox_model.pt", "model.pt"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_networks_of_deepbet(own_cache, name):
    try:
        files = importlib.metadata.files("deepbet") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("deepbet is not installed")
    (path,) = (file.locate() for file in files if file.name == name)
    network = conversion.file_network(Path(path), image_shape=(32, 32, 32, 1))
    places = np.stack(np.meshgrid(*3 * [np.linspace(-1, 1, 32)]))
    ball = np.clip(1 - np.linalg.norm(places, axis=0), 0, 1)
    noise = 0.1 * np.random.default_rng(0).random((32, 32, 32))
    image = (ball + noise)[..., None].astype(np.float32)
    module = torch.jit.load(path, map_location="cpu")
    with torch.no_grad():
        expected = module(torch.from_numpy(image.reshape(1, 1, 32, 32, 32)))[0].numpy()
    last = network.layers[-1]
    found = network.activations(network.variables, jnp.asarray(image), (last.name,))[last.name]
    assert len(network.layers) > 100
    assert np.abs(found - np.moveaxis(expected, 0, -1)).max() < 1e-4 * np.abs(expected).max()

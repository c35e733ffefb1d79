"""What the tests of PyTorch's networks share: a user's file, a cache, and a reference."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

FILE = Path(__file__).with_name("user_networks.py")
collect_ignore = [] if importlib.util.find_spec("torch") else [FILE.name]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Where exports are kept."""
    return tmp_path_factory.mktemp("networks")


def compare(network, module, *others):
    """Check that the output of every module is a layer, value by value."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    expected = {}
    for name, part in module.named_modules():
        if not list(part.children()):
            part.register_forward_hook(lambda _, __, out, name=name: expected.update({name: out}))
    rng = np.random.default_rng(0)
    image = rng.random(network.image_shape, np.float32)
    with torch.no_grad():
        module.eval()(torch.from_numpy(np.moveaxis(image, -1, 0)[None].copy()), *others)
    names = tuple(layer.name for layer in network.layers)
    found = jax.jit(network.activations, static_argnums=2)(network.variables, image, names)
    assert len(expected) > 1
    for name, output in expected.items():
        values = np.moveaxis(output[0].numpy(), 0, -1)
        errors = [
            np.abs(layer - values).max() / np.abs(values).max()
            for layer in map(np.asarray, found.values())
            if layer.shape == values.shape
        ]
        assert min(errors, default=np.inf) < 1e-4, name


@pytest.fixture(name="compare", scope="session")
def compare_fixture():
    """The check of a network's values."""
    return compare

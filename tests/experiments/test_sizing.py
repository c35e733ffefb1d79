"""The size of a batch comes from the layer that needs most memory per unit."""

import types

import pytest

from featvis_jax import memory
from featvis_jax.maximize import planning
from featvis_jax.maximize.layer import LayerProgram
from featvis_jax.runs import sizing

MOST = planning.largest_useful_size()
CHANNELS = {"conv1/relu": range(64), "conv2": range(40), "logits": range(2)}


class Program(LayerProgram):
    """A program that takes 10 bytes for a unit."""

    def __init__(self, network, recipe, *, num_units, batch_size=None):  # pyright: ignore
        self.batch_size = batch_size or planning.even_size(num_units, MOST)
        self.batch_size = min(self.batch_size, recipe)
        self.memory_bytes, self.num_devices = 10 * self.batch_size, 1


def work(fits: int = 1000, channels=CHANNELS) -> sizing.Work:
    """A network of three layers, whose programs shrink to a number of units."""
    layers = [types.SimpleNamespace(name=name) for name in ("conv1", "conv2", "logits")]
    network = types.SimpleNamespace(layers=layers)
    return sizing.Work(network, dict.fromkeys(channels, fits), channels)  # pyright: ignore


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    monkeypatch.setattr(sizing, "LayerProgram", Program)


def test_the_deepest_layer_is_compiled_and_its_few_channels_limit_nobody(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000)
    size, programs = sizing.largest_size(work())
    assert size == MOST
    assert list(programs) == ["logits"]
    assert programs["logits"].batch_size == 2


def test_memory_limits_the_batches_of_all_layers(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 39)
    assert sizing.largest_size(work())[0] == 3


def test_a_program_that_had_to_shrink_sets_the_size(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000)
    channels = {"conv1": range(64), "conv2": range(40)}
    assert sizing.largest_size(work(fits=3, channels=channels))[0] == 3


def test_layers_come_from_the_last_to_the_first():
    assert work().deepest_first() == ["logits", "conv2", "conv1/relu"]


@pytest.mark.parametrize(("batch", "told"), [(8, "Give `batch=4`"), (1, "smaller input grid")])
def test_a_device_without_memory_is_told_with_the_batch_to_use(batch, told):
    error = sizing.explained(RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "conv2", batch)
    assert isinstance(error, MemoryError)
    assert "'conv2'" in str(error)
    assert told in str(error)
    other = RuntimeError("INTERNAL: something else")
    assert sizing.explained(other, "conv2", batch) is other

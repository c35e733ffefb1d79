"""The other side of the benchmark: a process that is told steps and answers with seconds."""

import importlib.util

import pytest

from experiments.benchmarks.torch_process import TorchProcess

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


def test_a_process_that_has_ended_is_told():
    process = TorchProcess("no such job", rank=2, image_shape=(40, 44, 1))
    with pytest.raises(RuntimeError, match="PyTorch's process ended with status 1"):
        process(1)
    process.close()


@needs_torch
@pytest.mark.parametrize(
    ("job", "options"),
    [
        ("ascent", {"layer": "conv2", "learning_rate": 0.05}),
        ("ascent", {"layer": "conv2", "learning_rate": 0.05, "neuron": True}),
        ("training", {}),
    ],
)
def test_steps_take_time_and_the_process_ends(job, options):
    process = TorchProcess(job, rank=2, image_shape=(40, 44, 1), batch=2, **options)
    assert process(2) > 0
    assert process(1) > 0
    process.close()

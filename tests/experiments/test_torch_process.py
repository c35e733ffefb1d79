"""The other side of the benchmark: a process that is told steps and answers with seconds."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux alone tells")
def test_the_peak_is_what_steps_take_at_once_over_what_was_there_before():
    program = """
from experiments.benchmarks.torch_process import serve

def run(megabytes):
    return float(len(bytearray(b"1") * (megabytes << 20)))

held = [bytearray(b"1") * (150 << 20)]  # As a network's weights.
freed = bytearray(b"1") * (300 << 20)  # As what has built them.
del freed
serve(run)
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        input="40\npeak\n100\n40\npeak\n",
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    small, large = (float(line) / 2**20 for line in found.stdout.split()[1::3])
    assert small == pytest.approx(40, abs=5)
    assert large == pytest.approx(100, abs=5)


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

"""Memory that a launcher has used stays its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
import resource
import jax, jax.numpy as jnp
from experiments import launch

def main(argv):
    step = jax.jit(lambda x: x[::-1].T + x)
    for number in range(32):
        if number == 16:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        jax.block_until_ready(step(jnp.ones((4096, 4096))))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

launch.start(main)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Other allocators are left alone.")
def test_steps_use_the_memory_of_earlier_ones():
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    # 16 steps use two blocks of 64 MiB each: 524,288 pages, every one taken anew where glibc is
    # left alone. Some still are, where a small block lies in a large one's place: up to 65,537.
    assert int(found.stdout) < 262_144

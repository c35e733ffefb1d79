"""Memory that a launcher has used stays its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from featvis_jax.commands import launch
from featvis_jax.options import Options

def main(options):
    step = jax.jit(lambda x: x[::-1].T + x)
    for number in range(32):
        if number == 16:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        jax.block_until_ready(step(jnp.ones((4096, 4096))))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

command = launch.Command("step", "", (), Options, main)
main(Options()) if "plain" in sys.argv else launch.start(command)
"""


def page_faults(*arguments):
    """How often 16 steps, of two blocks of 64 MiB each, had to ask the system for a page."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Other allocators are left alone.")
def test_steps_use_the_memory_of_earlier_ones():
    # Every page is taken anew where glibc is left alone, of whatever size this kernel has them.
    # Of a launcher's, some are, where a small block lies in a large one's place.
    given_back = page_faults("plain")
    if given_back < 16 * 2**26 // os.sysconf("SC_PAGE_SIZE"):
        pytest.skip(f"The kernel gives large pages: {given_back} faults tell nothing.")
    assert page_faults() < given_back / 2

"""The same images on one device and on eight, in one process and in two."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from featvis_jax import memory
from featvis_jax.maximize import ascent, objectives, parameterizations, planning
from featvis_jax.maximize.layer import LayerProgram
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.tracing import linen_network

REPOSITORY = Path(__file__).resolve().parents[2]
CHANNELS = [0, 3, 4, 7, 8, 9, 11, 12, 13, 15]  # Ten, which eight devices do not divide.


@pytest.fixture(scope="module")
def visualized(tmp_path_factory):
    """What some channels become on a number of simulated devices."""
    place = tmp_path_factory.mktemp("devices")
    with socket.socket() as port:
        port.bind(("localhost", 0))
        coordinator = f"localhost:{port.getsockname()[1]}"

    def start(name, channels, devices, *together):
        result = place / f"{name}.npz"
        arguments = [sys.executable, Path(__file__).with_name("devices.py"), result]
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(REPOSITORY),
            "JAX_NUM_CPU_DEVICES": str(devices),
        }
        arguments += [",".join(map(str, channels)), *together]
        process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)

        def finish():
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
            with np.load(result) as found:
                assert found["devices"] == devices
                assert found["devices_of_all"] == devices * (2 if together else 1)
                return dict(found)

        return finish

    # All at once: most of their time is spent importing and compiling.
    started = {
        "one": start("one", CHANNELS, 1),
        "eight": start("eight", CHANNELS, 8),
        "first process": start("first", CHANNELS[:5], 2, coordinator, "0"),
        "second process": start("second", CHANNELS[5:], 2, coordinator, "1"),
    }
    return {name: finish() for name, finish in started.items()}


def assert_same(found, expected):
    np.testing.assert_array_equal(found["channels"], expected["channels"])
    np.testing.assert_array_equal(found["draws"], expected["draws"])
    for name in ("images", "objective"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_eight_devices_give_the_images_of_one(visualized):
    one = visualized["one"]
    assert one["images"].shape == (10, 44, 46, 1)
    assert len(np.unique(one["draws"], axis=0)) == 10
    assert_same(visualized["eight"], one)


def test_two_processes_of_two_devices_give_the_images_of_one(visualized):
    halves = [visualized["first process"], visualized["second process"]]
    names = ("channels", "draws", "images", "objective")
    assert_same(
        {name: np.concatenate([half[name] for half in halves]) for name in names}, visualized["one"]
    )


def test_devices_that_are_not_there_are_refused():
    module = CNN(rank=2, features=(2, 4, 4, 4, 4))
    shape = (40, 44, 1)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"num_devices is 99; this process sees 1 \(cpu\)"):
        LayerProgram(
            linen_network(module, variables, shape), shortest_recipe(), num_units=99, num_devices=99
        )


def test_devices_of_one_machine_share_its_memory():
    assert memory.free_bytes(num_devices=1) > 0
    assert planning.largest_useful_size(num_devices=8) == 8 * planning.largest_useful_size(
        num_devices=1
    )


def shortest_recipe():
    """The shortest recipe."""
    return ascent.Recipe(
        objective=objectives.channel("conv2"),
        parameterization=parameterizations.pixels(),
        optimizer=optax.adam(0.05),
        steps=1,
    )

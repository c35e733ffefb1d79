"""Visualizes some units on the devices of this process; a program for test_devices.py.

python devices.py RESULT.npz CHANNEL,CHANNEL,... [COORDINATOR PROCESS]

With a coordinator's address, one of two processes that JAX knows to belong together.
"""

import sys

import jax
import numpy as np
import optax

from featvis_jax.maximize import objectives, parameterizations, presets
from featvis_jax.maximize.ascent import Recipe, unit_keys
from featvis_jax.maximize.layer import LayerProgram
from featvis_jax.maximize.planning import batches
from tests.maximize.smooth import smooth_network

SHAPE = (44, 46, 1)


def main(result: str, channels: list[int]) -> None:
    """Write the images, traces and draws of some channels of conv3."""
    network = smooth_network(SHAPE)
    strategy = presets.strategy("lucid,rotation_30", every=2)
    recipe = Recipe(
        objective=objectives.channel("conv3"),
        parameterization=parameterizations.pixels(),
        optimizer=optax.adam(0.05),
        robustness=strategy.robustness,
        projection=strategy.projection,
        steps=6,
    )
    program = LayerProgram(network, recipe, num_units=len(channels), batch_size=len(channels))
    (batch,) = batches(channels, batch_size=len(channels))
    keys = unit_keys(3, "conv3", channels)
    with jax.transfer_guard("disallow"):
        done = program.run(batch, keys)
    draws = jax.vmap(lambda key: jax.random.bits(key, (4,)))(keys)
    np.savez(
        result,
        devices=jax.local_device_count(),
        devices_of_all=jax.device_count(),
        channels=[unit.channel for unit in done.units],
        images=[unit.image for unit in done.units],
        objective=[unit.objective_trace for unit in done.units],
        draws=draws,
    )


if __name__ == "__main__":
    name, numbers, *together = sys.argv[1:]
    if together:
        jax.distributed.initialize(together[0], num_processes=2, process_id=int(together[1]))
    main(name, [int(number) for number in numbers.split(",")])

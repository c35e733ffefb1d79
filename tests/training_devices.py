"""Trains for a few steps on the devices of this process; a program for test_training.py.

python training_devices.py RESULT.npz RANK BATCH_SIZE MICROBATCH STOP

A run that was stopped after STOP steps, on whatever devices, goes on in RESULT's directory.
"""

import pathlib
import sys

import jax
import numpy as np

from featvis_jax import training
from featvis_jax.nn.cnn import CNN

SHAPES = {2: (40, 44, 1), 3: (34, 36, 34, 1)}


def main(result: str, rank: int, size: int, microbatch: int, stop: int) -> None:
    """Write the weights, the losses, and how many devices shared a batch."""
    rng = np.random.default_rng(0)
    shape = SHAPES[rank]
    images = rng.uniform(size=(8, size, *shape)).astype(np.float32)
    labels = (np.arange(size) % 2).astype(np.int32)
    model = CNN(rank=rank, features=(8, 16, 16, 16, 16))
    variables = training.initialize(model, shape, mean=0.5, std=0.3, seed=0)
    schedule = training.Schedule(steps=4, evaluate_every=2, warmup_steps=0, hard_after=0)
    step = training.compile_step(
        model, schedule.optimizer(), variables, shape, batch_size=size, microbatch=microbatch
    )
    taken = 0

    def count(*_: object) -> None:
        nonlocal taken
        taken += 1

    try:
        found = training.fit(
            model,
            variables,
            schedule,
            training=lambda first: ({"image": i, "label": labels} for i in images[first:]),
            # The last one is smaller, and padded.
            validation=lambda: (
                {"image": i, "label": labels[: len(i)]} for i in (images[0], images[1, :3])
            ),
            directory=pathlib.Path(result).with_suffix(""),
            update=step,
            on_step=count,
            stop=lambda: 0 < stop == taken,
        )
    except training.Interrupted:
        return
    np.savez(
        result,
        devices=step.devices.size,
        losses=[row["loss"] for row in found.history],
        weights=np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.variables)]),
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

"""Trains for a few steps on the devices of this process; a program for test_training.py.

python training_devices.py RESULT.npz STOP

A run that was stopped after STOP steps, on whatever devices, goes on in RESULT's directory.
"""

import pathlib
import sys

import jax
import numpy as np

from featvis_jax import training
from featvis_jax.nn.cnn import CNN

# Rank, shape, images of a batch and of a part.
TRAININGS = [(2, (40, 44, 1), 16, 2), (3, (20, 22, 18, 1), 8, 1)]


def main(result: str, stop: int) -> None:
    """Write the weights, the losses, and how many devices shared a batch."""
    found = {}
    for options in TRAININGS:
        found |= train(pathlib.Path(result).with_suffix(""), *options, stop)
    np.savez(result, **found)


def train(
    directory: pathlib.Path,
    rank: int,
    shape: tuple[int, ...],
    size: int,
    microbatch: int,
    stop: int,
) -> dict[str, np.ndarray]:
    """Train on slices or volumes for four steps, or until the stop."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(8, size, *shape)).astype(np.float32)
    labels = (np.arange(size) % 2).astype(np.int32)
    model = CNN(rank=rank, features=(8, 32), pools=((3, 1), (3, 2)))
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
            directory=directory / str(rank),
            update=step,
            on_step=count,
            stop=lambda: 0 < stop == taken,
        )
    except training.Interrupted:
        return {}
    return {
        f"devices_{rank}": np.array(step.devices.size),
        f"losses_{rank}": np.array([row["loss"] for row in found.history]),
        f"weights_{rank}": np.concatenate(
            [np.ravel(leaf) for leaf in jax.tree.leaves(found.variables)]
        ),
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Trains for a few steps on the devices of this process; a program for test_training.py.

python training_devices.py RESULT.npz SHARED.npz STOP

Trains in a directory of its own for RESULT. With SHARED, which may be empty, it then trains in a
directory that other processes train in as well, until STOP steps or, where that is 0, to the end.
"""

import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np

from featvis_jax import training
from featvis_jax.nn.cnn import CNN

# Rank, shape, images of a batch and of a part.
TRAININGS = [(2, (40, 44, 1), 16, 2), (3, (20, 22, 18, 1), 8, 1)]


def main(result: str, shared: str, stop: int) -> None:
    """Write the weights, the losses, and how many devices shared a batch."""
    found, found_shared = {}, {}
    for rank, *sizes in TRAININGS:
        train = prepare(rank, *sizes)
        found |= train(pathlib.Path(result).with_suffix("") / str(rank), 0)
        if shared:
            found_shared |= train(pathlib.Path(shared).with_suffix("") / str(rank), stop)
    np.savez(result, **found)
    if found_shared:
        np.savez(shared, **found_shared)


def prepare(
    rank: int, shape: tuple[int, ...], size: int, microbatch: int
) -> Callable[[pathlib.Path, int], dict[str, np.ndarray]]:
    """Training on slices or volumes for four steps, or until a stop, in a directory."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(8, size, *shape)).astype(np.float32)
    labels = (np.arange(size) % 2).astype(np.int32)
    model = CNN(rank=rank, features=(8, 32), pools=((3, 1), (3, 2)))
    schedule = training.Schedule(steps=4, evaluate_every=2, warmup_steps=0, hard_after=0)

    def initialize():
        return training.initialize(model, shape, mean=0.5, std=0.3, seed=0)

    step = training.compile_step(
        model, schedule.optimizer(), initialize(), shape, batch_size=size, microbatch=microbatch
    )

    def train(directory: pathlib.Path, stop: int) -> dict[str, np.ndarray]:
        taken = 0

        def count(*_: object) -> None:
            nonlocal taken
            taken += 1

        try:
            found = training.fit(
                model,
                initialize(),
                schedule,
                training=lambda first: ({"image": i, "label": labels} for i in images[first:]),
                # The last one is smaller, and padded.
                validation=lambda: (
                    {"image": i, "label": labels[: len(i)]} for i in (images[0], images[1, :3])
                ),
                directory=directory,
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

    return train


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

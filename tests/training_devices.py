"""Trains for a few steps on the devices of this process; a program for test_training.py.

python training_devices.py RESULT.npz BATCH_SIZE
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np

from featvis_jax import training
from featvis_jax.nn.cnn import CNN

SHAPE = (40, 44, 1)


def main(result: str, size: int) -> None:
    """Write the weights, the losses, and how many devices shared a batch."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(8, size, *SHAPE)).astype(np.float32)
    labels = np.arange(size) % 2
    model = CNN(rank=2, features=(2, 4, 4, 4, 4))
    variables = training.initialize(model, SHAPE, mean=0.5, std=0.3, seed=0)
    with tempfile.TemporaryDirectory() as directory:
        found = training.fit(
            model,
            variables,
            training.Schedule(steps=4, evaluate_every=2, warmup_steps=0, hard_after=0),
            training=lambda first: ({"image": i, "label": labels} for i in images[first:]),
            # The last one is smaller, and padded.
            validation=lambda: (
                {"image": i, "label": labels[: len(i)]} for i in (images[0], images[1, :3])
            ),
            directory=pathlib.Path(directory),
        )
    np.savez(
        result,
        devices=training.devices_for(size).size,
        losses=[row["loss"] for row in found.history],
        weights=np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found.variables)]),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

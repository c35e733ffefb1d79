"""TensorBoard: what is written can be read back, and a missing library is told."""

import importlib
import struct

import numpy as np
import pytest

from featvis_jax.runs import tensorboard
from tests.results import gallery_runs


def records(path) -> list[bytes]:
    """The records of an event file: each is its length, a checksum, the data, and a checksum."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_scalars_and_images_reach_the_file(tmp_path):
    with tensorboard.events(tmp_path, asked=True) as log:
        log.scalar("conv1/0000/objective", 0.25, step=3)
        log.image("conv1/0000", np.eye(8, dtype=np.uint8) * 255, step=4)
        log.flush()
    (path,) = (tmp_path / "tensorboard").iterdir()
    _, scalar, image = records(path)
    assert b"conv1/0000/objective" in scalar
    assert struct.pack("<f", 0.25) in scalar
    assert b"\x89PNG" in image


def test_unless_it_is_asked_for_nothing_is_written(tmp_path):
    with tensorboard.events(tmp_path, asked=False) as log:
        log.scalar("loss", 1.0, step=0)
        log.image("image", np.zeros((2, 2), np.uint8), step=0)
        log.flush()
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_told_with_the_fix(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    told = r"`tensorboard` needs .*pip install -e '\.\[tensorboard\]'"
    with pytest.raises(ValueError, match=told):
        tensorboard.library(True)


def test_variants_stand_below_their_unit_and_layers_are_those_of_the_network():
    rows = [gallery_runs.unit("e/conv1", 3, variant=each).record for each in (1, 2)]
    assert [tensorboard.image_name(row, variants=2) for row in rows] == [
        "e/conv1/0003/variant1", "e/conv1/0003/variant2",
    ]  # fmt: skip
    assert tensorboard.image_name(rows[0], variants=1) == "e/conv1/0003"

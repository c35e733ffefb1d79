"""Networks of others, read from ONNX, against PyTorch.

Each target is the convolution at 80 % of the depth, by its module's path on both sides; that both
compute the same there is checked before anything is timed. Either side has the batch that takes it
least time for an image, PyTorch the better of its two layouts, too.
"""

import dataclasses
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import arithmetic, ascents
from experiments.benchmarks.measuring import Row, measure
from experiments.benchmarks.torch_process import TorchProcess
from featvis_jax.importers.onnx import onnx_network
from featvis_jax.maximize import planning
from featvis_jax.nn.network import Network

PREFIX = "foreign/"
# One unit alone would leave a core without one; PyTorch's cores share each operation anyway.
_OWN_BATCHES, _TORCH_BATCHES = (2, 4), (1, 2, 4)
_LARGEST_ERROR = 1e-3
# The processes have taken their memory in the trials, which find the best batch of each.
_WARM_UP_ROUNDS = 1


class Foreign(NamedTuple):
    """A network of others; `experiments.benchmarks.torch_networks` builds it.

    Attributes:
      image_shape: ``(*spatial, channels)``.
      steps: Of a turn, for about a second.
      package: Where it comes from.
    """

    image_shape: tuple[int, ...]
    steps: int
    package: str = "monai"


_64, _48, _32 = (64, 64, 64, 1), (48, 48, 48, 1), (32, 32, 32, 1)
NETWORKS = {
    "monai_unet_batch": Foreign(_64, steps=10),
    "monai_unet_instance": Foreign(_64, steps=10),
    "monai_resnet18": Foreign(_64, steps=1),
    "monai_segresnet": Foreign(_64, steps=2),
    "monai_vnet": Foreign(_48, steps=1),
    "monai_densenet121": Foreign(_48, steps=3),
    "monai_highresnet": Foreign(_32, steps=1),
    "torchvision_resnet50": Foreign((128, 128, 3), steps=5, package="torchvision"),
    "sfcn": Foreign(_64, steps=2, package="torch"),
    "monai_basicunet": Foreign(_64, steps=2),
}
"""Every network by its name."""


def left_out(job: str) -> str:
    """Why a network cannot be measured here, in a line; empty where it can.

    Args:
      job: Of the network, ``foreign/...``.
    """
    needed = dict.fromkeys(["torch", NETWORKS[job.removeprefix(PREFIX)].package])
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if not missing:
        return ""
    return (
        f"{job} is left out: {' and '.join(missing)} not installed "
        "(pip install 'featvis_jax[benchmark]')."
    )


def row(name: str, rounds: int) -> Row:
    """Measure a network.

    Args:
      name: Of the network.
      rounds: That count.

    Raises:
      ValueError: The two sides compute different things.
      RuntimeError: A process of PyTorch ended; it has said why.
    """
    image_shape, steps, _ = NETWORKS[name]
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        described = _described(name, image_shape, steps, place)
        network = onnx_network(place / "network.onnx")
        target = network.layer(described["target"]).name
        image, expected = np.load(place / "image.npy"), np.load(place / "activation.npy")
    check_same(name, network, target, image, expected)
    batch, compiled = _fastest(network, target, steps)
    process = TorchProcess("foreign", name=name, image_shape=image_shape, **described["fastest"])
    needed = [arithmetic.Convolution(*each) for each in described["needed"]]
    measured = measure(
        f"{PREFIX}{name}",
        {batch: compiled},
        [(described["fastest"]["batch"], process)],
        flop=arithmetic.foreign_flop(needed),
        steps=steps,
        rounds=rounds,
        note=f"{target}; PyTorch: {_told(described['fastest'])}",
        warm_up_rounds=_WARM_UP_ROUNDS,
    )
    there_before = described["weight_bytes"] / described["fastest"]["batch"]
    there_before += 4 * math.prod(image_shape)
    listed = planning.estimated_unit_bytes(network, target) / 1e6
    return dataclasses.replace(
        measured,
        torch_peak_mb_per_unit=measured.torch_peak_mb_per_unit + there_before / 1e6,
        listed_over_program=listed / measured.peak_mb_per_unit,
    )


def _described(name: str, image_shape: Sequence[int], steps: int, place: Path) -> dict[str, Any]:
    """Have PyTorch write the network down, and find out what it is fastest with."""
    options = {"image_shape": image_shape, "batches": _TORCH_BATCHES, "steps": steps}
    module = "experiments.benchmarks.torch_foreign"
    command = [sys.executable, "-m", module, name, str(place), json.dumps(options)]
    status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if status:
        raise RuntimeError(f"PyTorch's process ended with status {status}.")
    return json.loads((place / "description.json").read_text())


def _told(options: dict[str, Any]) -> str:
    layout = "channels_last" if options["channels_last"] else "contiguous"
    return f"batch {options['batch']}, {layout}"


def check_same(
    name: str, network: Network, layer: str, image: np.ndarray, expected: np.ndarray
) -> None:
    """See that the channels that are timed are the same on both sides, each computed alone.

    Args:
      name: Of the network.
      network: Our side.
      layer: The target.
      image: ``(*spatial, channels)``.
      expected: What PyTorch makes of it, ``(*spatial, channels)``.

    Raises:
      ValueError: They differ by more than a thousandth of the largest activation.
    """
    one_channel = jax.jit(network.one_channel, static_argnums=2)
    channels = np.arange(min(max(_OWN_BATCHES), expected.shape[-1]), dtype=np.int32)
    own = [one_channel(network.variables, image, layer, channel)[layer] for channel in channels]
    found, expected = np.concatenate(own, axis=-1), expected[..., channels]
    if found.shape != expected.shape:
        raise ValueError(
            f"{name}: layer {layer} has the shape {found.shape}, in PyTorch {expected.shape}."
        )
    error = np.abs(found - expected).max() / np.abs(expected).max()
    if not error < _LARGEST_ERROR:
        raise ValueError(
            f"{name}: layer {layer} differs from PyTorch's by {error:.2g} of its largest "
            f"activation; expected less than {_LARGEST_ERROR:g}."
        )


def _fastest(network: Network, layer: str, steps: int) -> tuple[int, ascents.Compiled]:
    """The batch that takes the least time for an image, of two trials each."""
    jobs = {batch: ascents.ascent_job(network, layer, batch=batch) for batch in _OWN_BATCHES}
    seconds = {batch: min(job.run(steps), job.run(steps)) / batch for batch, job in jobs.items()}
    best = min(seconds, key=seconds.__getitem__)
    return best, jobs[best]


def summary(rows: Sequence[Row]) -> str:
    r"""What all networks of one run say together; empty where PyTorch timed none.

    Args:
      rows: Of any jobs.

    Example:
      >>> summary([Row("foreign/a", 1.0, torch_ratio=0.5), Row("foreign/b", 1.0, torch_ratio=2.0)])
      "foreign: PyTorch's time is 1.00 times ours, the geometric mean of 2 networks.\n"
    """
    ratios = [row.torch_ratio for row in rows if row.job.startswith(PREFIX)]
    ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
    if not ratios:
        return ""
    mean = statistics.geometric_mean(ratios)
    return (
        f"foreign: PyTorch's time is {mean:.2f} times ours, the geometric mean of "
        f"{len(ratios)} networks.\n"
    )

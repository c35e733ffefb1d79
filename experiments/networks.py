"""What --model names, as a network: ours, anybody's, and what a launcher must know about each."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.model_kinds import KINDS
from featvis_jax import memory
from featvis_jax.checkpoints import load_model, weights_hash, zoo_names
from featvis_jax.data.grids import Grid, coincide, described
from featvis_jax.data.volumes import read_grid
from featvis_jax.nn.network import Network, permuted_weights
from featvis_jax.nn.taps import linen_network
from featvis_jax.visualize import planning

MODEL_HELP = (
    "A zoo name; the directory of a trained model; NET.onnx; FILE.py:FUNCTION, which returns "
    "(Linen module, variables, image_shape), (NNX module, image_shape), (function of weights and "
    "images, weights, image_shape), or a PyTorch module, alone or with an example of its input; "
    "NET.pt2 or TorchScript; the directory of a MONAI bundle; or WEIGHTS.safetensors of the "
    "paper's network in PyTorch's layout."
)


class Model(NamedTuple):
    """A network and what launchers must know about it.

    Attributes:
      network: The network.
      card: Its ``name`` and ``weights_sha256``; for a model of ours all that its card holds.
      affine: Voxel indices of its input to mm; None for one that does not tell where it looks.
      intensity_range: Of the images that it was trained on, as far as anybody says.
      spectrum: Mean magnitude spectrum of those images, where it is known.
      scaling: How scans become those images, a name in `featvis_jax.data.intensities.SCALINGS`;
        None where nobody says.
    """

    network: Network
    card: dict[str, Any]
    affine: np.ndarray | None
    intensity_range: tuple[float, float] = (0.0, 1.0)
    spectrum: np.ndarray | None = None
    scaling: str | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the images it takes, ``(*spatial, channels)``."""
        return self.network.image_shape

    @property
    def grid(self) -> Grid:
        """Where the voxels of those images lie."""
        return Grid(self.image_shape[:-1], self.affine)


def load(spec: str, *, input_shape: Sequence[int] | None = None) -> Model:
    """Load what --model names.

    Args:
      spec: See `MODEL_HELP`.
      input_shape: ``(*spatial, channels)`` where the model leaves it open.

    Raises:
      FileNotFoundError: There is no such model.
      ValueError: It cannot be loaded; the error says why and what to do.
    """
    shape = None if input_shape is None else tuple(input_shape)
    if shape is not None and (len(shape) < 2 or min(shape) < 1):
        raise ValueError(
            f"--input_shape={','.join(map(str, shape))}: expected X,Y,CHANNELS or X,Y,Z,CHANNELS."
        )
    kind = next((kind for kind in KINDS if kind.fits(spec)), None)
    if kind is None:
        return _ours(spec, shape)
    network, path = kind.load(spec, shape)
    _refuse_other_shape(spec, network, shape)
    card = {"name": spec, "weights_sha256": _fingerprint(path, network)}
    return Model(network, card, None)


def on_grid(model: Model, path: Path | str) -> Model:
    """A model with the affine of a reference image.

    Args:
      model: The model.
      path: A NIfTI file whose axes, as they are stored, are those of the network's input.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It has another shape than the images of the network, or lies elsewhere than a
        model that knows its place; the message begins with the file.
    """
    reference = read_grid(path, rank=len(model.image_shape) - 1)
    if reference.shape != model.image_shape[:-1]:
        raise ValueError(
            f"{path}: {described(reference)}; the network takes {described(model.grid)}, in this "
            "order of axes: give a file that has them."
        )
    if model.affine is None:
        return model._replace(affine=reference.affine)
    if not coincide(reference, model.grid):
        raise ValueError(
            f"{path}: {described(reference)}; but {model.card['name']} was trained on "
            f"{described(model.grid)}: leave the flag out."
        )
    return model


def with_permuted_weights(model: Model, seed: int) -> Model:
    """The same network with the values of every tensor of weights in random order.

    Args:
      model: The network.
      seed: Of the order; it is part of the card's name, and its checksum is another one.
    """
    weights = permuted_weights(jax.random.key(seed), model.network.variables)
    card = {
        **model.card,
        "name": f"{model.card['name']} (weights permuted by seed {seed})",
        "weights_sha256": hashlib.sha256(
            f"{model.card['weights_sha256']} {weights_hash(weights)}".encode()
        ).hexdigest(),
    }
    return model._replace(network=model.network._replace(variables=weights), card=card)


def _ours(spec: str, shape: tuple[int, ...] | None) -> Model:
    if spec not in zoo_names():
        _refuse_unknown(Path(spec))
    trained = load_model(spec)
    network = linen_network(trained.module, trained.variables, trained.image_shape)
    _refuse_other_shape(spec, network, shape)
    return Model(
        network,
        trained.card,
        trained.affine,
        trained.intensity_range,
        trained.spectrum,
        scaling="unit",  # As experiments.train reads every cohort.
    )


def _refuse_unknown(path: Path) -> None:
    """Refuse what is nothing that --model takes."""
    cards = (path / "card.json", path / "model" / "card.json")
    if any(card.is_file() or card.is_symlink() for card in cards):
        return
    if path.is_dir():
        told = "a directory without a model that experiments.train has left, and no MONAI bundle"
    elif path.exists():
        told = "a file of no kind that is known here"
    else:
        told = "no model of the zoo and no file or directory"
    meant = difflib.get_close_matches(str(path).lower().replace("_", "-"), zoo_names(), n=1)
    nearest = f". Did you mean {meant[0]}?" if meant else "."
    raise FileNotFoundError(
        f"--model={path}: {told}{nearest} It takes a name of the zoo ({zoo_names()[0]}, ...), the "
        f"directory of a trained model, {', '.join(kind.shown for kind in KINDS)}. "
        "docs/your-network.md tells how."
    )


def _refuse_other_shape(spec: str, network: Network, shape: tuple[int, ...] | None) -> None:
    if shape is not None and shape != network.image_shape:
        raise ValueError(
            f"--input_shape={','.join(map(str, shape))}: the images of --model={spec} have the "
            f"shape {network.image_shape}, which is fixed: leave the flag out."
        )


def _fingerprint(path: Path, network: Network) -> str:
    """SHA-256 over the file, the weights and the input: whatever decides the images."""
    digest = hashlib.sha256(path.read_bytes())
    digest.update(weights_hash(network.variables).encode())
    digest.update(str(network.image_shape).encode())
    return digest.hexdigest()


def layers_text(network: Network) -> str:
    """A table of the layers: name, operator, output, channels, reach, and what fits into memory.

    Example:
      >>> print(layers_text(load("square-lesion").network).splitlines()[1][:64])
      conv1  Conv      138 x 190         8                3       1
    """
    head = ("layer", "operator", "output", "channels", "receptive field", "stride")
    head = (*head, "MiB per unit*", "units that fit")
    free = memory.free_bytes()
    rows = []
    for layer in network.layers:
        needed = planning.estimated_unit_bytes(network, layer.name)
        rows.append(
            (
                layer.name,
                layer.operator,
                " x ".join(map(str, layer.shape[:-1])) or "-",
                str(layer.channels),
                "all" if layer.receptive_field is None else str(layer.receptive_field),
                "-" if layer.stride is None else str(layer.stride),
                f"{needed / 2**20:.1f}" if needed > 0.05 * 2**20 else "< 0.1",
                str(free // needed),
            )
        )
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join((*left, *right)).rstrip())
    lines.append(
        f"* an estimate from the shapes of the outputs; {free / 2**30:.1f} GiB may be used. "
        "--dry_run compiles and measures."
    )
    lines.extend(f"No layer: {name}, since {why}" for name, why in network.refused)
    return "\n".join(lines)

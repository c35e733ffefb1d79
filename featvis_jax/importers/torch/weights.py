"""Weights of the paper's network that were trained with PyTorch, from a safetensors file.

The names are those of a module that is laid out as the paper has it::

    class PaperCNN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv3d(1, 8, 3)      # Conv2d for slices
            ...
            self.conv5 = torch.nn.Conv3d(64, 64, 3)
            self.logits = torch.nn.Linear(FEATURES, 2)     # on torch.flatten(x, 1)

    safetensors.torch.save_file(model.state_dict(), "weights.safetensors")

so ``conv1.weight``, ``conv1.bias`` to ``logits.bias``. A ``torch.nn.Sequential`` numbers its parts
instead (``0.weight``, ``3.weight``); then the layers with weights are taken in the order of their
numbers. Two numbers ``mean`` and ``std``, if there, are those of the training set.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from featvis_jax.data.pointers import existing_file
from featvis_jax.nn.cnn import CNN

_NAMED = re.compile(r"(conv[1-5]|logits)\.(weight|bias)")
_NUMBERED = re.compile(r"(?:.*\.)?(\d+)\.(weight|bias)")


class TorchWeights(NamedTuple):
    """A network with the weights of a file.

    Attributes:
      module: The Flax network.
      variables: Its ``params`` and ``statistics``.
    """

    module: CNN
    variables: dict[str, PyTree[Array]]


def load_torch_weights(
    path: Path | str, image_shape: Sequence[int], *, module: CNN | None = None
) -> TorchWeights:
    """Read the weights of the paper's network as PyTorch lays them out.

    PyTorch has channels first, so that kernels are transposed, and the rows of the head, which
    follow the flattened features, are put into the order that channels last gives them.

    Args:
      path: The safetensors file.
      image_shape: ``(*spatial, 1)`` of the images; it decides the length of the flattened features.
      module: The network where it is not the paper's; by default the paper's, with as many filters
        and classes as the file has.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It is no safetensors file, or its arrays are not those of the network.

    Example:
      >>> import pathlib, tempfile
      >>> from safetensors.numpy import save_file
      >>> arrays = {f"conv{i}.weight": np.ones((2, 1 if i == 1 else 2, 3, 3)) for i in range(1, 6)}
      >>> arrays |= {f"conv{i}.bias": np.zeros(2) for i in range(1, 6)}
      >>> arrays |= {"logits.weight": np.ones((2, 2 * 4 * 5)), "logits.bias": np.zeros(2)}
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     path = pathlib.Path(directory) / "weights.safetensors"
      ...     save_file(arrays, path)
      ...     weights = load_torch_weights(path, (40, 44, 1))
      >>> weights.variables["params"]["conv2"]["kernel"].shape
      (3, 3, 2, 2)
    """
    path = existing_file(path, expected="a safetensors file")
    try:
        arrays = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}). Save it with "
            "safetensors.torch.save_file; files of torch.save hold code and are not read."
        ) from error
    statistics = {
        name: jnp.asarray(arrays.pop(name, default), jnp.float32).reshape(())
        for name, default in (("mean", 0.0), ("std", 1.0))
    }
    try:
        arrays = _with_our_names(arrays)
        module = _paper_network(arrays, len(image_shape) - 1) if module is None else module
        image = jax.ShapeDtypeStruct(tuple(image_shape), np.float32)
        expected = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        params = _converted(module, arrays, expected, tuple(image_shape))
    except ValueError as error:
        raise ValueError(f"{path} on images of shape {tuple(image_shape)}: {error}") from error
    return TorchWeights(module, {"params": params, "statistics": statistics})


def foreign_shapes(path: Path | str) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of the weights in a safetensors file of another network than the paper's.

    Args:
      path: The safetensors file.

    Returns:
      None where they can be those of the paper's network, and where the file cannot be read:
      `load_torch_weights` says what is wrong with either.
    """
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError):
        return None
    own = shapes.keys() - {"mean", "std"}
    parts = {match[1] for name in own if (match := _NUMBERED.fullmatch(name))}
    is_sequential = len(parts) == 6 and all(map(_NUMBERED.fullmatch, own))
    return None if is_sequential or all(map(_NAMED.fullmatch, own)) else shapes


def _with_our_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names such as ``conv1.weight`` for those of a Sequential."""
    if "conv1.weight" in arrays:
        return arrays
    numbered = [_NUMBERED.fullmatch(name) for name in arrays]
    if not arrays or not all(numbered):
        raise ValueError(
            f"its arrays are {', '.join(sorted(arrays)) or 'none'}; expected conv1.weight, "
            "conv1.bias, ... logits.weight, logits.bias, or the numbers of a torch.nn.Sequential."
        )
    parts = sorted({int(match[1]) for match in numbered if match})
    ours = [*(f"conv{i}" for i in range(1, len(parts))), "logits"]
    names = dict(zip(parts, ours, strict=True))
    return {
        f"{names[int(match[1])]}.{match[2]}": array
        for match, array in zip(numbered, arrays.values(), strict=True)
        if match
    }


def _paper_network(arrays: dict[str, np.ndarray], rank: int) -> CNN:
    kernels = [arrays.get(f"conv{i}.weight") for i in range(1, 6)]
    head = arrays.get("logits.weight")
    if head is None or any(kernel is None for kernel in kernels):
        raise ValueError(
            f"its arrays are {', '.join(sorted(arrays))}; the paper's network has conv1 to conv5 "
            "and logits."
        )
    features = tuple(int(kernel.shape[0]) for kernel in kernels if kernel is not None)
    return CNN(rank=rank, features=features, num_classes=int(head.shape[0]))


def _converted(
    module: CNN,
    arrays: dict[str, np.ndarray],
    expected: dict[str, dict[str, jax.ShapeDtypeStruct]],
    image_shape: tuple[int, ...],
) -> dict[str, dict[str, Array]]:
    wanted = {f"{layer}.{kind}" for layer in expected for kind in ("weight", "bias")}
    if unlike := sorted(wanted ^ arrays.keys()):
        raise ValueError(
            f"{', '.join(unlike)} {'is' if len(unlike) == 1 else 'are'} in the file or in the "
            "network, but not in both."
        )
    params: dict[str, dict[str, Array]] = {}
    for layer, leaves in expected.items():
        weight, bias = arrays[f"{layer}.weight"], arrays[f"{layer}.bias"]
        shape = tuple(leaves["kernel"].shape)
        # (outputs, inputs, *window) there, (*window, inputs, outputs) here.
        there = (shape[-1], shape[-2], *shape[:-2])
        if weight.shape != there or bias.shape != shape[-1:]:
            raise ValueError(
                f"{layer}.weight and .bias have the shapes {weight.shape} and {bias.shape}; "
                f"expected {there} and {shape[-1:]}. The image's shape decides the head's."
            )
        if layer == "logits" and module.head == "flatten":
            weight = _channels_last_rows(module, expected, weight, image_shape)
        kernel = np.moveaxis(weight, (1, 0), (-2, -1))
        params[layer] = {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.asarray(bias, jnp.float32),
        }
    return params


def _channels_last_rows(
    module: CNN,
    expected: dict[str, dict[str, jax.ShapeDtypeStruct]],
    weight: np.ndarray,
    image_shape: tuple[int, ...],
) -> np.ndarray:
    """The head's inputs, flattened from (channels, *spatial), as from (*spatial, channels)."""
    sizes = list(image_shape[:-1])
    for pool in module.pools:
        if module.padding == "VALID":
            sizes = [n - module.kernel_size + 1 for n in sizes]
        if pool is not None:
            sizes = [(n - pool[0]) // pool[1] + 1 for n in sizes]
    channels = module.features[-1]
    assert channels * math.prod(sizes) == weight.shape[1]
    rows = weight.reshape(-1, channels, *sizes)
    return np.moveaxis(rows, 1, -1).reshape(weight.shape)

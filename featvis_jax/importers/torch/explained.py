"""What is missing where a file holds weights alone, and the Python file that adds it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# What wraps a module puts its own name before all others.
_WRAPPERS = ("module", "_orig_mod")
_LIGHTNING = ("model", "net", "network")


class Weights(NamedTuple):
    """The weights that a file holds.

    Attributes:
      number: How many there are.
      first: Name of the first.
      shape: Of the first.
      kernel: Shape of the first that can be a convolution's, if there is one.
      prefix: That all names have from a wrapper, with the dot.
      under: The key of a checkpoint that they lie under; empty for none.
      objects: Types of what else it holds, that only Python's own unpickler makes, by running code.
      module: The type of the whole module that was saved instead of its weights.
    """

    number: int
    first: str
    shape: Sequence[int]
    kernel: Sequence[int] | None
    prefix: str = ""
    under: str = ""
    objects: Sequence[str] = ()
    module: str = ""


def weights_of(
    shapes: Mapping[str, Sequence[int]], *, under: str = "", lightning: bool = False
) -> Weights:
    """Describe weights by their names and shapes.

    Args:
      shapes: At least one.
      under: The key of a checkpoint that they lie under.
      lightning: Whether PyTorch Lightning wrote it, whose modules hold a network as a part.

    Example:
      >>> weights_of({"module.stem.weight": (8, 1, 3, 3), "module.stem.bias": (8,)}).prefix
      'module.'
    """
    first = next(iter(shapes))
    kernel = next((shape for shape in shapes.values() if len(shape) in (4, 5)), None)
    wrappers = (*_WRAPPERS, *_LIGHTNING) if lightning else _WRAPPERS
    return Weights(len(shapes), first, shapes[first], kernel, _prefix(shapes, wrappers), under)


def _prefix(names: Iterable[str], wrappers: Sequence[str]) -> str:
    for wrapper in wrappers:
        if all(name.startswith(f"{wrapper}.") for name in names):
            rest = [name.removeprefix(f"{wrapper}.") for name in names]
            return f"{wrapper}.{_prefix(rest, wrappers)}"
    return ""


def explained(path: Path, weights: Weights) -> str:
    """What a file of weights lacks, and a Python file that has both.

    Args:
      path: The file.
      weights: What it holds.

    Example:
      >>> print(explained(Path("net.pth"), weights_of({"stem.weight": (8, 1, 3, 3)})))
      net.pth holds 1 weight, ... Write a Python file ..., and give --model=FILE.py:net
      <BLANKLINE>
          import torch
          from your_code import YourNetwork
      <BLANKLINE>
          def net():
              module = YourNetwork()
              weights = torch.load('net.pth', map_location='cpu', weights_only=True)
              module.load_state_dict(weights)
              return module, (X, Y, 1)  # The shape of an image, channels last.
    """
    if weights.module:
        told = f"{path} holds a whole module, {weights.module}, as a pickle, which is not read here"
        adds = "that reads it"
    else:
        adds = "with the module they belong to"
        several = "" if weights.number == 1 else "s"
        below = f" under {weights.under!r}" if weights.under else ""
        told = (
            f"{path} holds {weights.number} weight{several}{below}, {weights.first} "
            f"{tuple(weights.shape)} first, but not what is computed with "
            f"{'them' if several else 'it'}"
        )
    code = textwrap.indent("\n".join(_code(path, weights)), "    ")
    return (
        f"{told}. Write a Python file {adds}, here FILE.py, and give --model=FILE.py:net\n\n{code}"
    )


def _code(path: Path, weights: Weights) -> list[str]:
    """The Python file."""
    rank, channels = 3, "CHANNELS"
    if weights.kernel is not None:
        rank, channels = len(weights.kernel) - 2, str(weights.kernel[1])
    shape = f"({', '.join('XYZ'[:rank])}, {channels})"
    returned = f"    return module, {shape}  # The shape of an image, channels last."
    trusted = "  # Runs code of the file: only if you trust it."
    safely = not weights.objects and not weights.module
    load = f"torch.load({str(path)!r}, map_location='cpu', weights_only={safely})"
    if path.suffix.lower() == ".safetensors":
        load = f"load_file({str(path)!r})"
        imports = ["from safetensors.torch import load_file"]
    else:
        imports = ["import torch"]
    if weights.module:
        return [*imports, "", "def net():", f"    module = {load}{trusted}", returned]
    load += f"[{weights.under!r}]" if weights.under else ""
    load += "" if safely else trusted
    state = "weights"
    if weights.prefix:
        state = f"{{name.removeprefix({weights.prefix!r}): w for name, w in weights.items()}}"
    return [
        *imports,
        "from your_code import YourNetwork",
        "",
        "def net():",
        "    module = YourNetwork()",
        f"    weights = {load}",
        f"    module.load_state_dict({state})",
        returned,
    ]

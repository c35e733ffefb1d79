"""Whether a user's code asks for PyTorch, found without importing it beside JAX."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any

INSTALL = "pip install featvis_jax[torch]"
_NEEDED = ("torch", "onnxscript")


class TorchAskedFor(BaseException):
    """Code imports PyTorch. No `except Exception` of that code may swallow it."""


@contextmanager
def stopping_at_torch() -> Iterator[None]:
    """Stop what runs in a `with` block where it imports PyTorch, itself or through a package.

    Where PyTorch is not installed, or was imported before, nothing is stopped.

    Raises:
      TorchAskedFor: It imports PyTorch.
    """
    if "torch" in missing() or "torch" in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Asked first for every module that is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torch":
            raise TorchAskedFor


def is_module(made: Any) -> bool:
    """Whether a function has returned a module of PyTorch, alone or with an example."""
    torch = sys.modules.get("torch")
    first = made[0] if isinstance(made, tuple) and made else made
    return torch is not None and isinstance(first, torch.nn.Module)


def missing() -> list[str]:
    """Packages that a conversion needs and that are not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def require_torch(what: str) -> None:
    """Refuse what cannot be converted for want of a package.

    Args:
      what: The file, for the error.

    Raises:
      ValueError: A package is missing; the error says how to install it.
    """
    if lacking := missing():
        raise ValueError(
            f"{what}: it takes {' and '.join(lacking)} to convert a network of PyTorch, not "
            f"installed here: {INSTALL}"
        )

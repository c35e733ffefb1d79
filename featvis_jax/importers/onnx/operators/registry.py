"""What an operator of ONNX is to the importer, and what it is handed."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array


class Layout(enum.Enum):
    """In which order of axes an operator takes arrays, and returns them.

    ONNX has ``(batch, channels, *spatial)``; this package ``(batch, *spatial, channels)``, which is
    fast on CPU.
    """

    CHANNELS_LAST = enum.auto()  # The first operand; all others as in ONNX.
    AS_IT_COMES = enum.auto()  # Either, the same for all operands; `Node.axis` finds an axis.
    AS_IN_ONNX = enum.auto()


class RefusedError(ValueError):
    """What a node asks and the importer does not have, said in one line with the node's name."""


class Node(NamedTuple):
    """A node of the graph.

    Attributes:
      name: Its name, or that of its first output.
      operator: Its operator.
      inputs: Names of the values that it takes; empty where an optional one is left out.
      outputs: Names of the values that it makes.
      attributes: Its attributes, as Python values.
      opset: Version of the operator set.
      channels_last: The order of axes that the operands have.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int
    channels_last: bool = False

    def axis(self, axis: int, rank: int) -> int:
        """Where an axis of ONNX is in an operand of this rank."""
        axis = axis % rank
        if not self.channels_last or axis == 0:
            return axis
        return rank - 1 if axis == 1 else axis - 1

    def refuse(self, why: str) -> RefusedError:
        """The error for what a node asks and the importer does not have."""
        return RefusedError(f"Node {self.name!r} ({self.operator}): {' '.join(why.split())}")


class Operator(NamedTuple):
    """How one operator is computed.

    Attributes:
      function: ``(node, *operands) -> array or arrays``.
      layout: The order of axes that it takes and returns.
      static: Positions of operands that must not depend on the image; they come as NumPy arrays.
    """

    function: Callable[..., Array | tuple[Array, ...]]
    layout: Layout = Layout.AS_IN_ONNX
    static: tuple[int, ...] = ()


def channels_last(array: Array) -> Array:
    """From the order of axes of ONNX."""
    return jnp.moveaxis(array, 1, -1) if array.ndim > 2 else array


def channels_first(array: Array) -> Array:
    """To the order of axes of ONNX."""
    return jnp.moveaxis(array, -1, 1) if array.ndim > 2 else array


def with_rank(array: Array, rank: int) -> Array:
    """With axes of length 1 in front, as ONNX broadcasts."""
    if array.ndim in (0, rank):
        return array
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def per_channel(array: Array, like: Array) -> Array:
    """One number per channel, ready to meet an array with channels last."""
    return array.reshape((1,) * (like.ndim - 1) + (-1,))

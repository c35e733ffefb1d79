"""Operators that rearrange elements, or reduce them along axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from featvis_jax.importers.onnx.operators.registry import Layout, Node, Operator

_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}


def _integers(given: np.ndarray | None, node: Node, attribute: str) -> list[int] | None:
    """An operand that used to be an attribute in earlier versions of its operator."""
    values = node.attributes.get(attribute) if given is None else given
    return None if values is None else [int(value) for value in np.ravel(values)]


def _reshape(node: Node, x: Array, shape: np.ndarray | None = None) -> Array:
    wanted = _integers(shape, node, "shape") or []
    if not node.attributes.get("allowzero", 0):
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: Node, x: Array) -> Array:
    axis = node.attributes.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(node: Node, x: Array, axes: np.ndarray | None = None) -> Array:
    return jnp.squeeze(x, _integers(axes, node, "axes"))


def _unsqueeze(node: Node, x: Array, axes: np.ndarray | None = None) -> Array:
    return jnp.expand_dims(x, _integers(axes, node, "axes") or ())


def _transpose(node: Node, x: Array) -> Array:
    return x.transpose(node.attributes.get("perm"))


def _expand(node: Node, x: Array, shape: np.ndarray) -> Array:
    return jnp.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(n) for n in shape)))


def _tile(node: Node, x: Array, repeats: np.ndarray) -> Array:
    return jnp.tile(x, tuple(int(n) for n in repeats))


def _concat(node: Node, *xs: Array) -> Array:
    return jnp.concatenate(xs, axis=node.axis(node.attributes["axis"], xs[0].ndim))


def _split(node: Node, x: Array, sizes: np.ndarray | None = None) -> tuple[Array, ...]:
    axis = node.axis(node.attributes.get("axis", 0), x.ndim)
    parts = _integers(sizes, node, "split")
    if parts is None:
        count = node.attributes.get("num_outputs", len(node.outputs))
        size = -(-x.shape[axis] // count)
        parts = [size] * (count - 1) + [x.shape[axis] - size * (count - 1)]
    return tuple(jnp.split(x, np.cumsum(parts)[:-1].tolist(), axis=axis))


def _slice(
    node: Node,
    x: Array,
    starts: np.ndarray | None = None,
    ends: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Array:
    first = _integers(starts, node, "starts") or []
    last = _integers(ends, node, "ends") or []
    along = _integers(axes, node, "axes") or list(range(len(first)))
    step = _integers(steps, node, "steps") or [1] * len(first)
    kept = [slice(None)] * x.ndim
    for axis, a, b, c in zip(along, first, last, step, strict=True):
        place = node.axis(axis, x.ndim)
        size = x.shape[place]
        # Python reads -1 as the last one, and "before the first one" has no number of its own.
        stop = None if c < 0 and b < -size else b
        kept[place] = slice(a, stop, c)
    return x[tuple(kept)]


def _pad(
    node: Node,
    x: Array,
    pads: np.ndarray | None = None,
    value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
) -> Array:
    flat = _integers(pads, node, "pads") or _integers(None, node, "paddings") or []
    along = _integers(axes, node, "axes") or list(range(x.ndim))
    mode = node.attributes.get("mode", "constant")
    if mode not in _MODES:
        raise node.refuse(f"mode is {mode!r}; expected one of {', '.join(_MODES)}.")
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(along):
        widths[node.axis(axis, x.ndim)] = (flat[i], flat[i + len(along)])
    # A negative width crops.
    x = x[
        tuple(
            slice(max(-low, 0), n - max(-high, 0))
            for n, (low, high) in zip(x.shape, widths, strict=True)
        )
    ]
    widths = [(max(low, 0), max(high, 0)) for low, high in widths]
    if mode == "reflect" and any(
        max(w) >= n for w, n in zip(widths, x.shape, strict=True) if any(w)
    ):
        raise node.refuse(f"it mirrors {widths} elements of an array of shape {x.shape}: too few.")
    if mode != "constant":
        return jnp.pad(x, widths, mode=_MODES[mode])
    fill = node.attributes.get("value", 0.0) if value is None else np.ravel(value)[0]
    return jnp.pad(x, widths, constant_values=jnp.asarray(fill, x.dtype))


def _gather(node: Node, x: Array, indices: np.ndarray) -> Array:
    axis = node.attributes.get("axis", 0) % x.ndim
    chosen = np.where(indices < 0, indices + x.shape[axis], indices)
    if chosen.ndim == 0:
        return lax.index_in_dim(x, int(chosen), axis, keepdims=False)
    if is_all_in_order(chosen, x.shape[axis]):
        return x.reshape(*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :])
    return jnp.take(x, chosen.astype(np.int32), axis=axis)


def is_all_in_order(indices: np.ndarray, size: int) -> bool:
    """Whether indices take every element of an axis, in order: a reshape."""
    return np.array_equal(indices.ravel(), np.arange(size))


def _gather_nd(node: Node, x: Array, indices: np.ndarray) -> Array:
    batch = node.attributes.get("batch_dims", 0)
    places = [np.arange(n).reshape(-1, *(1,) * (indices.ndim - 2 - i))
              for i, n in enumerate(indices.shape[:batch])]  # fmt: skip
    return x[(*places, *np.moveaxis(indices, -1, 0).astype(np.int32))]


def _depth_to_space(node: Node, x: Array) -> Array:
    size, rank = node.attributes["blocksize"], x.ndim - 2
    blocks = (size,) * rank
    if node.attributes.get("mode", "DCR") == "DCR":
        x = x.reshape(x.shape[0], *blocks, -1, *x.shape[2:])
        order = [a for i in range(rank) for a in (rank + 2 + i, 1 + i)]
        x = x.transpose(0, rank + 1, *order)
    else:
        x = x.reshape(x.shape[0], -1, *blocks, *x.shape[2:])
        order = [a for i in range(rank) for a in (rank + 2 + i, 2 + i)]
        x = x.transpose(0, 1, *order)
    return x.reshape(*x.shape[:2], *(a * b for a, b in _pairs(x.shape[2:])))


def _space_to_depth(node: Node, x: Array) -> Array:
    size, rank = node.attributes["blocksize"], x.ndim - 2
    split = [n for length in x.shape[2:] for n in (length // size, size)]
    x = x.reshape(*x.shape[:2], *split)
    spatial = [2 + 2 * i for i in range(rank)]
    x = x.transpose(0, *(axis + 1 for axis in spatial), 1, *spatial)
    return x.reshape(x.shape[0], -1, *x.shape[2 + rank :])


def _pairs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[::2], sizes[1::2], strict=True))


def _reduction(function: Callable[..., Array]) -> Operator:
    def reduce(node: Node, x: Array, axes: np.ndarray | None = None) -> Array:
        along = _integers(axes, node, "axes")
        if not along:
            # Over no axis, a norm still is one: of each element.
            is_kept = node.attributes.get("noop_with_empty_axes", 0)
            along = [] if is_kept else list(range(x.ndim))
        keep = bool(node.attributes.get("keepdims", 1))
        return function(x, axis=tuple(along), keepdims=keep)

    return Operator(reduce, static=(1,))


def _norm(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    return jnp.sqrt(jnp.square(x).sum(axis=axis, keepdims=keepdims))


OPERATORS = {
    "Concat": Operator(_concat, Layout.AS_IT_COMES),
    "DepthToSpace": Operator(_depth_to_space),
    "Expand": Operator(_expand, static=(1,)),
    "Flatten": Operator(_flatten),
    "Gather": Operator(_gather, static=(1,)),
    "GatherND": Operator(_gather_nd, static=(1,)),
    "Pad": Operator(_pad, Layout.AS_IT_COMES, static=(1, 2, 3)),
    "ReduceL2": _reduction(_norm),
    "ReduceMax": _reduction(jnp.max),
    "ReduceMean": _reduction(jnp.mean),
    "ReduceMin": _reduction(jnp.min),
    "ReduceSum": _reduction(jnp.sum),
    "Reshape": Operator(_reshape, static=(1,)),
    "Slice": Operator(_slice, Layout.AS_IT_COMES, static=(1, 2, 3, 4)),
    "SpaceToDepth": Operator(_space_to_depth),
    "Split": Operator(_split, Layout.AS_IT_COMES, static=(1,)),
    "Squeeze": Operator(_squeeze, static=(1,)),
    "Tile": Operator(_tile, static=(1,)),
    "Transpose": Operator(_transpose),
    "Unsqueeze": Operator(_unsqueeze, static=(1,)),
}

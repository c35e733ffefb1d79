"""Interpolation: every axis by one matrix, or by repetition where that is all."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from featvis_jax.importers.onnx.operators.registry import Layout, Node, Operator

_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
)


def _resize(
    node: Node,
    x: Array,
    roi: np.ndarray | None = None,
    scales: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
) -> Array:
    if node.opset < 11:  # Version 10 had no region of interest: its second operand are scales.
        scales, sizes = roi, None
    along = node.attributes.get("axes", range(x.ndim))
    for i, axis in enumerate(along):
        place = node.axis(axis, x.ndim)
        n = x.shape[place]
        if sizes is not None and len(sizes):
            out = int(sizes[i])
            scale = out / n
        elif scales is not None and len(scales):
            scale = float(scales[i])
            out = math.floor(np.float32(n) * np.float32(scale))
        else:
            raise node.refuse("it has neither scales nor sizes.")
        if (out, scale) != (n, 1.0):
            x = _along(node, x, place, out, scale)
    return x


def _upsample(node: Node, x: Array, scales: np.ndarray | None = None) -> Array:
    factors = node.attributes.get("scales") if scales is None else scales
    old = {**node.attributes, "coordinate_transformation_mode": "asymmetric"}
    old["nearest_mode"] = "floor"
    return _resize(node._replace(attributes=old, opset=11), x, None, np.asarray(factors))


def _along(node: Node, x: Array, axis: int, out: int, scale: float) -> Array:
    n = x.shape[axis]
    matrix = _matrix(node, n, out, scale)
    factor = out // n
    if factor * n == out and (matrix == np.repeat(np.eye(n), factor, axis=0)).all():
        repeated = jnp.broadcast_to(
            jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], factor, *x.shape[axis + 1 :])
        )
        return repeated.reshape(*x.shape[:axis], out, *x.shape[axis + 1 :])
    resized = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), axes=((axis,), (1,)))
    return jnp.moveaxis(resized, -1, axis)


def _matrix(node: Node, n: int, out: int, scale: float) -> np.ndarray:
    """The weight of each of n elements in each of `out` interpolated ones."""
    mode = node.attributes.get("mode", "nearest")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if node.attributes.get("antialias", 0):
        raise node.refuse("antialias is not supported: export without it.")
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("keep_aspect_ratio_policy is not supported: give sizes or scales.")
    if node.attributes.get("exclude_outside", 0):
        raise node.refuse("exclude_outside is not supported.")
    default = "asymmetric" if node.opset < 11 else "half_pixel"
    coordinates = node.attributes.get("coordinate_transformation_mode", default)
    place = _coordinates(node, coordinates, n, out, scale)
    if mode == "nearest":
        default = "floor" if node.opset < 11 else "round_prefer_floor"
        rounding = node.attributes.get("nearest_mode", default)
        if coordinates == "half_pixel_symmetric" and rounding in ("floor", "ceil"):
            is_exact = float(np.float32(scale)) * n == out
            if not is_exact and (np.abs(place - np.rint(place)) < 1e-4).any():
                raise node.refuse(
                    f"with {coordinates} and {rounding}, which element is nearest is decided by "
                    "rounding errors: use another coordinate_transformation_mode."
                )
        rounded = _rounded(node, rounding, place)
        return np.eye(n)[np.clip(rounded, 0, n - 1).astype(int)]
    first = np.floor(place)
    fraction = place - first
    if mode == "linear":
        taps = {0: 1 - fraction, 1: fraction}
    elif mode == "cubic":
        a = node.attributes.get("cubic_coeff_a", -0.75)
        taps = {tap: _cubic(np.abs(fraction - tap), a) for tap in (-1, 0, 1, 2)}
    else:
        raise node.refuse(f"mode is {mode!r}; expected nearest, linear or cubic.")
    matrix = np.zeros((out, n))
    for tap, weights in taps.items():
        columns = np.clip(first + tap, 0, n - 1).astype(int)
        np.add.at(matrix, (np.arange(out), columns), weights)
    return matrix


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, far)


def _coordinates(node: Node, mode: str, n: int, out: int, scale: float) -> np.ndarray:
    """Where each interpolated element lies among the given ones."""
    if mode not in _COORDINATES:
        raise node.refuse(
            f"coordinate_transformation_mode is {mode!r}; expected one of "
            f"{', '.join(_COORDINATES)}."
        )
    # In single precision, as every runtime has it: 1.5 / 0.6 is 2.5, and not a little less.
    index, step = np.arange(out, dtype=np.float32), np.float32(scale)
    if mode == "align_corners":
        return index * np.float32(n - 1) / np.float32(out - 1) if out > 1 else np.zeros(1)
    if mode == "asymmetric":
        return index / step
    if mode == "pytorch_half_pixel" and out == 1:
        return np.zeros(1)
    half = np.float32(0.5)
    place = (index + half) / step - half
    if mode == "half_pixel_symmetric":
        place += np.float32(n) * half * (1 - np.float32(out) / (np.float32(n) * step))
    return place


def _rounded(node: Node, mode: str, place: np.ndarray) -> np.ndarray:
    if mode.startswith("round"):
        # Half way is half way, however it was computed.
        half = np.floor(place) + 0.5
        is_tie = np.abs(place - half) < 4 * np.spacing(np.abs(half).astype(np.float32) + 1)
        place = np.where(is_tie, half, place)
    if mode == "round_prefer_floor":
        return np.ceil(place - 0.5)
    if mode == "round_prefer_ceil":
        return np.floor(place + 0.5)
    if mode in ("floor", "ceil"):
        return np.floor(place) if mode == "floor" else np.ceil(place)
    raise node.refuse(f"nearest_mode {mode!r} is unknown.")


OPERATORS = {
    "Resize": Operator(_resize, Layout.AS_IT_COMES, static=(1, 2, 3)),
    "Upsample": Operator(_upsample, Layout.AS_IT_COMES, static=(1,)),
}

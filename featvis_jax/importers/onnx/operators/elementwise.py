"""Operators that work element by element, with broadcasting, and softmax."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from featvis_jax.importers.onnx.operators.registry import Layout, Node, Operator


def _of_one(function: Callable[[Array], Array]) -> Operator:
    return Operator(lambda node, x: function(x), Layout.AS_IT_COMES)


def _of_many(function: Callable[[Array, Array], Array]) -> Operator:
    return Operator(lambda node, *xs: functools.reduce(function, xs), Layout.AS_IT_COMES)


def _with(function: Callable[..., Array]) -> Operator:
    return Operator(function, Layout.AS_IT_COMES)


def _leaky_relu(node: Node, x: Array) -> Array:
    return jnp.where(x >= 0, x, node.attributes.get("alpha", 0.01) * x)


def _p_relu(node: Node, x: Array, slope: Array) -> Array:
    return jnp.where(x >= 0, x, slope * x)


def _elu(node: Node, x: Array) -> Array:
    return jax.nn.elu(x, node.attributes.get("alpha", 1.0))


def _celu(node: Node, x: Array) -> Array:
    return jax.nn.celu(x, node.attributes.get("alpha", 1.0))


def _selu(node: Node, x: Array) -> Array:
    alpha = node.attributes.get("alpha", 1.67326319217681884765625)
    gamma = node.attributes.get("gamma", 1.05070102214813232421875)
    return gamma * jax.nn.elu(x, alpha)


def _gelu(node: Node, x: Array) -> Array:
    return jax.nn.gelu(x, approximate=node.attributes.get("approximate", "none") == "tanh")


def _hard_sigmoid(node: Node, x: Array) -> Array:
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    return jnp.clip(alpha * x + beta, 0.0, 1.0)


def _hard_swish(x: Array) -> Array:
    return x * jnp.clip(x / 6.0 + 0.5, 0.0, 1.0)


def _clip(node: Node, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    bounds = (node.attributes.get("min", -math.inf), node.attributes.get("max", math.inf))
    low, high = (
        jnp.asarray(bound, x.dtype) if given is None else given.reshape(())
        for bound, given in zip(bounds, (low, high), strict=True)
    )
    return jnp.clip(x, low, high)


def _power(node: Node, base: Array, exponent: Array) -> Array:
    return jnp.power(base, exponent.astype(base.dtype))


def _where(node: Node, condition: Array, x: Array, y: Array) -> Array:
    return jnp.where(condition, x, y)


def _mean(node: Node, *xs: Array) -> Array:
    return functools.reduce(jnp.add, xs) / float(len(xs))


# Numbers of the data types of ONNX: all floating ones are computed in float32 here.
_FLOATS, _INTEGERS, _BOOLEAN = {1, 10, 11, 16}, {2, 3, 4, 5, 6, 7, 12, 13}, 9


def _cast(node: Node, x: Array) -> Array:
    to = node.attributes["to"]
    if to in _FLOATS:
        return x.astype(jnp.float32)
    if to in _INTEGERS:
        return x.astype(jnp.int32)
    if to == _BOOLEAN:
        return x.astype(bool)
    raise node.refuse(f"it casts to data type {to}; expected a float, an integer or a boolean.")


def _dropout(node: Node, x: Array, *_: Array) -> Array:
    if any(node.outputs[1:]):
        raise node.refuse("the mask, its second output, is not supported.")
    return x


def _softmax_axes(node: Node, x: Array) -> tuple[int, ...]:
    # Before version 13, all axes from this one on were one.
    axis = node.attributes.get("axis", 1 if node.opset < 13 else -1) % x.ndim
    return tuple(range(axis, x.ndim)) if node.opset < 13 else (axis,)


def _softmax(node: Node, x: Array) -> Array:
    return jax.nn.softmax(x, axis=_softmax_axes(node, x))


def _log_softmax(node: Node, x: Array) -> Array:
    return jax.nn.log_softmax(x, axis=_softmax_axes(node, x))


OPERATORS = {
    "Abs": _of_one(jnp.abs),
    "Add": _of_many(jnp.add),
    "Cast": _with(_cast),
    "Ceil": _of_one(jnp.ceil),
    "Celu": _with(_celu),
    "Clip": _with(_clip),
    "Cos": _of_one(jnp.cos),
    "Div": _of_many(jnp.divide),
    "Dropout": _with(_dropout),
    "Elu": _with(_elu),
    "Equal": _of_many(jnp.equal),
    "Erf": _of_one(jax.scipy.special.erf),
    "Exp": _of_one(jnp.exp),
    "Floor": _of_one(jnp.floor),
    "Gelu": _with(_gelu),
    "Greater": _of_many(jnp.greater),
    "HardSigmoid": _with(_hard_sigmoid),
    "HardSwish": _of_one(_hard_swish),
    "Identity": _of_one(lambda x: x),
    "LeakyRelu": _with(_leaky_relu),
    "Less": _of_many(jnp.less),
    "Log": _of_one(jnp.log),
    "LogSoftmax": Operator(_log_softmax),
    "Max": _of_many(jnp.maximum),
    "Mean": _with(_mean),
    "Min": _of_many(jnp.minimum),
    "Mish": _of_one(jax.nn.mish),
    "Mul": _of_many(jnp.multiply),
    "Neg": _of_one(jnp.negative),
    "PRelu": _with(_p_relu),
    "Pow": _with(_power),
    "Reciprocal": _of_one(jnp.reciprocal),
    "Relu": _of_one(jax.nn.relu),
    "Selu": _with(_selu),
    "Sigmoid": _of_one(jax.nn.sigmoid),
    "Sin": _of_one(jnp.sin),
    "Softmax": Operator(_softmax),
    "Softplus": _of_one(jax.nn.softplus),
    "Softsign": _of_one(jax.nn.soft_sign),
    "Sqrt": _of_one(jnp.sqrt),
    "Sub": _of_many(jnp.subtract),
    "Sum": _of_many(jnp.add),
    "Tanh": _of_one(jnp.tanh),
    "Where": _with(_where),
}

"""Traces any Flax module or JAX function to a `Network`: a pure function of an image.

The user's code is not touched. While it is traced, once, every submodule's output is marked as a
layer; what else is done is done to the program that comes of it (`featvis_jax.nn.programs`).

A module that is called several times, with shared weights, in a scan or on parts of the image, is
as many layers: ``enc``, ``enc@2``, ``enc@3``, in the order of its calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jaxtyping import Array, PyTree

from featvis_jax.nn.network import Layer, Network, Variables
from featvis_jax.nn.programs.layers import network_of
from featvis_jax.nn.programs.marks import mark

__all__ = ["Layer", "Network", "function_network", "linen_network", "nnx_network"]

# What modules call the switch between training and evaluation, and what it is in evaluation.
_IN_EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
    "inference": True,
}


def function_network(
    function: Callable[[PyTree, Array], Any], weights: PyTree, image_shape: Sequence[int]
) -> Network:
    """Take a function of JAX for a network.

    Its layers are the values that it gives a name by `jax.ad_checkpoint.checkpoint_name`. Where in
    an array the grid of the image is, is followed through the program; the last of all other axes
    has the channels.

    Args:
      function: ``(weights, images) -> anything``, of a batch of one image
        ``(1, *spatial, channels)``.
      weights: A tree; what is no array in it, such as an activation function, stays as it is.
      image_shape: ``(*spatial, channels)`` of one image.

    Raises:
      ValueError: It gives no value a name, or cannot be traced; the message says where and why.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.ad_checkpoint import checkpoint_name
      >>> def apply(weights, images):
      ...     x = jax.lax.conv(images.transpose(0, 3, 1, 2), weights["kernel"], (1, 1), "SAME")
      ...     return checkpoint_name(x, "stem").mean(axis=(2, 3))
      >>> weights = {"kernel": jnp.ones((4, 1, 3, 3))}
      >>> network = function_network(apply, weights, (16, 18, 1))
      >>> [(layer.name, layer.shape, layer.receptive_field) for layer in network.layers]
      [('stem', (16, 18, 4), 3)]
    """
    leaves, structure = jax.tree.flatten(weights)
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]

    def apply(variables: Variables, images: Array) -> Any:
        given = iter(jax.tree.leaves(variables))
        both = [
            next(given) if array else leaf for leaf, array in zip(leaves, is_array, strict=True)
        ]
        return function(jax.tree.unflatten(structure, both), images)

    arrays = [
        jnp.asarray(leaf) if array else None for leaf, array in zip(leaves, is_array, strict=True)
    ]
    return network_of(apply, jax.tree.unflatten(structure, arrays), image_shape)


def linen_network(module: nn.Module, variables: Variables, image_shape: Sequence[int]) -> Network:
    """Take a Linen module, which takes batches of images, for a network.

    It is used as it is in evaluation: arguments and fields called `train`, `training`,
    `is_training`, `deterministic`, `use_running_average` or `inference` get their value.

    Args:
      module: Takes ``(batch, *spatial, channels)``.
      variables: Its weights.
      image_shape: ``(*spatial, channels)`` of one image.

    Raises:
      ValueError: It cannot be traced; the message says where and why.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.nn.cnn import CNN
      >>> module = CNN(rank=2, features=(2, 4, 4, 4, 4))
      >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((40, 44, 1)))
      >>> network = linen_network(module, variables, (40, 44, 1))
      >>> network.layer("conv2").shape, network.layer("conv2").receptive_field
      ((34, 38, 4), 7)
      >>> image = jnp.zeros((40, 44, 1))
      >>> {k: v.shape for k, v in network.activations(variables, image, ("conv1",)).items()}
      {'conv1': (38, 42, 2)}
    """
    fields = {name for name in _IN_EVALUATION if isinstance(getattr(module, name, None), bool)}
    module = module.clone(**{name: _IN_EVALUATION[name] for name in fields})  # pyright: ignore
    options = _options_in_evaluation(type(module).__call__)

    def apply(variables: Variables, images: Array) -> None:
        under_way: set[tuple[str, ...]] = set()

        def interceptor(
            call: Callable[..., Any],
            inputs: tuple[Any, ...],
            options: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            called = context.module
            # A class that calls its parent's `__call__` is one layer.
            is_layer = context.method_name == "__call__" and called.path not in under_way
            if not is_layer or not called.path:
                return call(*inputs, **options)
            under_way.add(called.path)
            try:
                value = call(*inputs, **options)
            finally:
                under_way.remove(called.path)
            has_weights = bool(called.variables.get("params", {}))
            return _marked(value, "/".join(called.path), called, has_weights=has_weights)

        with nn.intercept_methods(interceptor):
            module.apply(variables, images, **options)  # pyright: ignore

    return network_of(apply, variables, image_shape)


def nnx_network(model: nnx.Module, image_shape: Sequence[int]) -> Network:
    """Take an NNX module, which takes batches of images, for a network.

    The model is used as it is in evaluation: its dropout is off, its batch normalization takes the
    running averages, and arguments called `train` and the like get their value. Layers are named
    by their attributes, ``blocks/0/conv``. The model itself is left as it was.

    Args:
      model: Takes ``(batch, *spatial, channels)``.
      image_shape: ``(*spatial, channels)`` of one image.

    Raises:
      ValueError: It cannot be traced; the message says where and why.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> class Small(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.stem = nnx.Conv(1, 4, (3, 3), rngs=rngs)
      ...         self.head = nnx.Linear(4, 2, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.head(nnx.relu(self.stem(x)).mean(axis=(1, 2)))
      >>> network = nnx_network(Small(nnx.Rngs(0)), (16, 18, 1))
      >>> [(layer.name, layer.shape, layer.receptive_field) for layer in network.layers]
      [('stem', (16, 18, 4), 3), ('head', (2,), None)]
    """
    # The random state of a dropout that is off is no weight.
    structure, variables, rest = nnx.split(model, nnx.Not(nnx.RngState), ...)
    options = _options_in_evaluation(type(model).__call__)

    def apply(variables: Variables, images: Array) -> None:
        # A copy, whose submodules may be changed for the time of one forward pass.
        copy = nnx.merge(structure, variables, rest, copy=True)
        copy.eval()
        for path, submodule in nnx.iter_modules(copy):
            if path:
                _intercept(submodule, "/".join(map(str, path)))
        copy(images, **options)  # pyright: ignore

    return network_of(apply, variables, image_shape)


def _options_in_evaluation(call: Callable[..., Any]) -> dict[str, bool]:
    """Of the arguments of a call, those that are a switch, with their value in evaluation."""
    parameters = inspect.signature(call).parameters
    return {name: value for name, value in _IN_EVALUATION.items() if name in parameters}


def _marked(value: Any, name: str, module: Any, *, has_weights: bool) -> Any:
    """What a module puts out, marked as a layer if it is one array."""
    if not isinstance(value, jax.Array):
        return value
    return mark(value, name, operator=type(module).__name__, has_weights=has_weights)


def _intercept(module: nnx.Module, name: str) -> None:
    """Have what one module puts out marked."""
    plain = type(module)
    if not callable(module):
        return  # Random streams and the like.
    has_weights = any(isinstance(value, nnx.Param) for _, value in nnx.iter_graph(module))

    def call(self: nnx.Module, *inputs: Any, **options: Any) -> Any:
        value = plain.__call__(self, *inputs, **options)  # pyright: ignore
        return _marked(value, name, self, has_weights=has_weights)

    # Python looks `__call__` up in the class, so that an instance needs a class of its own.
    module.__class__ = type(plain.__name__, (plain,), {"__call__": call})

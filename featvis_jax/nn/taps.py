"""Any Flax module, Linen or NNX, as a `Network`: a pure function from an image to its layers.

The user's code is not touched. While a module is applied, every submodule's call is intercepted:
the outputs that were asked for are kept, and as soon as the last of them is there the forward pass
is left, so that nothing behind it is ever traced.

A module that is called several times, with shared weights or on parts of the image, is as many
layers: ``enc``, ``enc@2``, ``enc@3``, in the order of its calls.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax import nnx
from flax.core.tracers import current_trace
from jax import lax
from jaxtyping import Array

from featvis_jax.nn.network import Channel, Layer, Network, Variables, select, split_relu
from featvis_jax.nn.ops.fusion import apart_from_pooling
from featvis_jax.nn.reach import reaches
from featvis_jax.types import Image

__all__ = ["Layer", "Network", "linen_network", "nnx_network"]


class _Call(NamedTuple):
    """One submodule's call during a forward pass.

    Attributes:
      name: The submodule's path.
      operator: Its class.
      has_weights: Whether it has parameters.
      output: Carries the call out.
      one_channel: Computes one channel of the output alone; ``None`` where that is not possible.
    """

    name: str
    operator: str
    has_weights: bool
    output: Callable[[], Any]
    one_channel: Callable[[Channel], Array] | None


_Visit = Callable[[_Call], Any]
_Run = Callable[[Variables, Image, _Visit], None]


def linen_network(module: nn.Module, variables: Variables, image_shape: Sequence[int]) -> Network:
    """Tap a Linen module that takes batches of images.

    Args:
      module: Takes ``(batch, *spatial, channels)``.
      variables: Its weights.
      image_shape: ``(*spatial, channels)`` of one image.

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

    def run(variables: Variables, image: Image, visit: _Visit) -> None:
        def interceptor(
            call: Callable[..., Any],
            inputs: tuple[Any, ...],
            options: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            called = context.module
            if context.method_name != "__call__" or not called.path:
                return call(*inputs, **options)
            narrowed = None
            if _linen_channels_are_independent(called):
                narrowed = functools.partial(_narrowed_linen, called, inputs)
            return visit(
                _Call(
                    name="/".join(called.path),
                    operator=type(called).__name__,
                    has_weights=bool(called.variables.get("params", {})),
                    output=lambda: _ready(called, call(*inputs, **options)),
                    one_channel=narrowed,
                )
            )

        with nn.intercept_methods(interceptor):
            module.apply(variables, image[None])

    network = _tapped(run, variables, tuple(image_shape))
    return network._replace(may_be_cropped=getattr(module, "may_be_cropped", False))


def nnx_network(model: nnx.Module, image_shape: Sequence[int]) -> Network:
    """Tap an NNX module that takes batches of images.

    The model is used as it is in evaluation: its dropout is off, its batch normalization takes the
    running averages. Layers are named by their attributes, ``blocks/0/conv``. The model itself is
    left as it was.

    Args:
      model: Takes ``(batch, *spatial, channels)``.
      image_shape: ``(*spatial, channels)`` of one image.

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

    def run(variables: Variables, image: Image, visit: _Visit) -> None:
        # A copy, whose submodules may be changed for the time of one forward pass.
        copy = nnx.merge(structure, variables, rest, copy=True)
        copy.eval()
        for path, submodule in nnx.iter_modules(copy):
            if path:
                _intercept(submodule, "/".join(map(str, path)), visit)
        copy(image[None])  # pyright: ignore

    return _tapped(run, variables, tuple(image_shape))


def _tapped(run: _Run, variables: Variables, image_shape: tuple[int, ...]) -> Network:
    """The network of a function that hands every call of a forward pass to a visitor."""
    layers, hidden = _list_layers(run, variables, image_shape)
    if hidden:
        # What a jit or a scan hides is in the open where they run as Python does.
        run = functools.partial(_unrolled, run)
        layers, hidden = _list_layers(run, variables, image_shape)
    if hidden and not layers:
        raise ValueError(f"All layers ({', '.join(hidden)}) are {_HIDDEN}")
    names = frozenset(layer.name for layer in layers)

    def activations(
        variables: Variables, image: Image, layers: tuple[str, ...]
    ) -> dict[str, Array]:
        bases = {split_relu(name, names)[0] for name in layers}
        outputs: dict[str, Array] = {}

        def keep(call: _Call) -> Any:
            value = call.output()
            if call.name in bases:
                outputs[call.name] = value[0]
                if len(outputs) == len(bases):
                    raise _AllFoundError
            return value

        if bases:
            _run_until_found(run, variables, image, keep)
        return select(outputs, layers, names)

    def one_channel(
        variables: Variables, image: Image, layer: str, channel: Channel
    ) -> dict[str, Array]:
        base, _ = split_relu(layer, names)
        outputs: dict[str, Array] = {}

        def keep(call: _Call) -> Any:
            if call.name != base:
                return call.output()
            if call.one_channel is not None:
                outputs[base] = call.one_channel(channel)[0]
            else:
                outputs[base] = lax.dynamic_slice_in_dim(call.output()[0], channel, 1, axis=-1)
            raise _AllFoundError

        _run_until_found(run, variables, image, keep)
        return select(outputs, (layer,), names)

    refused = tuple((name, f"it is {_HIDDEN}") for name in hidden)
    return Network(activations, one_channel, variables, image_shape, layers, refused=refused)


_HIDDEN = (
    "computed inside a transformation of JAX, such as vmap or remat, out of which no activation "
    "can be taken: take a layer around it, or write the module without the transformation."
)


def _unrolled(run: _Run, variables: Variables, image: Image, visit: _Visit) -> None:
    with jax.disable_jit():
        run(variables, image, visit)


class _AllFoundError(Exception):
    """Leaves a forward pass once everything that was asked for has been computed."""


def _run_until_found(run: _Run, variables: Variables, image: Image, visit: _Visit) -> None:
    try:
        run(variables, image, _numbered(visit))
    except _AllFoundError:
        return


def _numbered(visit: _Visit, hide: Callable[[str], None] = lambda name: None) -> _Visit:
    """A visitor of one forward pass, which gives every call of a module a name of its own.

    Args:
      visit: Is handed each call whose output can be taken.
      hide: Is handed the name of any other: what a transformation of JAX traces is a part of a
        program yet to run, perhaps a trial that is thrown away, and no activation.
    """
    outside = current_trace()
    counts: Counter[str] = Counter()
    under_way: set[str] = set()

    def numbered(call: _Call) -> Any:
        if call.name in under_way:
            return call.output()  # A class that calls its parent's `__call__`: a part of its own.
        if current_trace() != outside:
            hide(call.name)
            return call.output()
        counts[call.name] += 1
        count = counts[call.name]
        under_way.add(call.name)
        try:
            return visit(call._replace(name=call.name if count == 1 else f"{call.name}@{count}"))
        finally:
            under_way.remove(call.name)

    return numbered


def _list_layers(
    run: _Run, variables: Variables, image_shape: tuple[int, ...]
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Every call's output that is one array, in the order of the calls, and the hidden names."""
    calls: dict[str, tuple[_Call, tuple[int, ...]]] = {}
    hidden: dict[str, None] = {}

    def outputs(variables: Variables, image: Image) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def record(call: _Call) -> Any:
            value = call.output()
            if isinstance(value, jax.Array) and value.ndim > 1 and value.shape[0] == 1:
                if call.name in found:
                    raise ValueError(f"Two layers are called {call.name!r}: rename one of them.")
                found[call.name] = value[0]
                calls[call.name] = call, tuple(value.shape[1:])
            return value

        run(variables, image, _numbered(record, lambda name: hidden.update({name: None})))
        return found

    seen = reaches(outputs, variables, image_shape)
    layers = tuple(
        Layer(
            name=name,
            operator=call.operator,
            shape=shape,
            receptive_field=seen[name].receptive_field if len(shape) > 1 else None,
            stride=seen[name].stride if len(shape) > 1 else None,
            has_weights=call.has_weights,
        )
        for name, (call, shape) in calls.items()
    )
    return layers, tuple(name for name in hidden if name not in calls)


_CONVOLUTIONS = (nn.Conv, nn.ConvTranspose, nnx.Conv, nnx.ConvTranspose)


def _ready(module: nn.Module | nnx.Module, value: Any) -> Any:
    """What a module puts out, as the modules behind it may take it."""
    return apart_from_pooling(value) if isinstance(module, _CONVOLUTIONS) else value


# -------------------------------------------------------------------------------------- Linen


def _linen_channels_are_independent(module: nn.Module) -> bool:
    """Whether a channel of this layer depends on its own slice of the weights alone.

    Shapes cannot tell: a block of a convolution and a normalization over channels has the same.
    """
    if type(module) in (nn.Conv, nn.Dense):
        # Groups and masks tie a channel to more than the last axis of the kernel.
        return (
            getattr(module, "feature_group_count", 1) == 1 and getattr(module, "mask", None) is None
        )
    return getattr(module, "channels_are_independent", False)


def _narrowed_linen(module: nn.Module, inputs: tuple[Array, ...], channel: Channel) -> Array:
    """The same layer with one filter."""
    weights = jax.tree.map(
        lambda leaf: lax.dynamic_slice_in_dim(leaf, channel, 1, axis=-1),
        module.variables["params"],
    )
    return module.clone(features=1, name=None, parent=None).apply({"params": weights}, *inputs)  # pyright: ignore


# ---------------------------------------------------------------------------------------- NNX


def _intercept(module: nnx.Module, name: str, visit: _Visit) -> None:
    """Have the calls of one module go through `visit`."""
    plain = type(module)
    if not callable(module):
        return  # Random streams and the like.
    weights = [value for _, value in nnx.iter_graph(module) if isinstance(value, nnx.Param)]

    def call(self: nnx.Module, *inputs: Any, **options: Any) -> Any:
        narrowed = None
        if plain in (nnx.Conv, nnx.Linear) and _nnx_channels_are_independent(self):
            narrowed = functools.partial(_narrowed_nnx, self, inputs, options)
        return visit(
            _Call(
                name=name,
                operator=plain.__name__,
                has_weights=bool(weights),
                output=lambda: _ready(self, plain.__call__(self, *inputs, **options)),  # pyright: ignore
                one_channel=narrowed,
            )
        )

    # Python looks `__call__` up in the class, so that an instance needs a class of its own.
    module.__class__ = type(plain.__name__, (plain,), {"__call__": call})


def _nnx_channels_are_independent(module: Any) -> bool:
    return getattr(module, "feature_group_count", 1) == 1 and getattr(module, "mask", None) is None


def _narrowed_nnx(
    module: Any, inputs: tuple[Any, ...], options: dict[str, Any], channel: Channel
) -> Array:
    """The same layer with one filter; the module is a copy that nobody uses again."""
    for name in ("kernel", "bias"):
        weights = getattr(module, name)
        if weights is not None:
            one = lax.dynamic_slice_in_dim(weights[...], channel, 1, axis=-1)
            setattr(module, name, nnx.Param(one))
    module.out_features = 1
    return (
        nnx.Conv.__call__(module, *inputs, **options)
        if isinstance(module, nnx.Conv)
        else nnx.Linear.__call__(module, *inputs, **options)
    )

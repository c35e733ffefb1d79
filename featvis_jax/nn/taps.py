"""Any Flax module as a `Network`: a pure function from an image to the layers asked for.

The user's code is not touched. While a module is applied, every submodule's call is intercepted:
the outputs that were asked for are kept, and as soon as the last of them is there the forward pass
is left, so that nothing behind it is ever traced.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Int, PyTree

from featvis_jax.types import Activations, Image

Variables = PyTree[Array]
Channel = Int[Array, ""]

_RELU = "/relu"


class Layer(NamedTuple):
    """What one layer puts out.

    Attributes:
      name: The module's path, ``block1/conv`` for a nested one.
      operator: The module's class.
      shape: Of the output for one image, ``(*spatial, channels)`` or ``(channels,)``.
      receptive_field: Input voxels per axis that reach one output; ``None`` where all do.
      stride: Input voxels between two neighbouring outputs; ``None`` where there are none.
      has_weights: Whether the layer has parameters of its own.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    receptive_field: int | None
    stride: int | None
    has_weights: bool

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[-1]


class Network(NamedTuple):
    """A trained network as the ascent sees it: pure functions, weights, and names.

    Attributes:
      activations: ``(variables, image, layers) -> {layer: output}`` for one unbatched image.
      one_channel: ``(variables, image, layer, channel) -> {layer: output}`` where the output has
        that channel alone, computed without the others where the layer's weights allow it.
      variables: The weights, an argument of both functions.
      image_shape: ``(*spatial, channels)`` of the input.
      layers: Every layer in the order of the forward pass.
    """

    activations: Callable[[Variables, Image, tuple[str, ...]], Activations]
    one_channel: Callable[[Variables, Image, str, Channel], Activations]
    variables: Variables
    image_shape: tuple[int, ...]
    layers: tuple[Layer, ...]

    def layer(self, name: str) -> Layer:
        """The layer of this name; ``NAME/relu`` is layer NAME after a ReLU.

        Raises:
          ValueError: There is none; the nearest names are offered.
        """
        base = name.removesuffix(_RELU)
        for layer in self.layers:
            if layer.name == base:
                return layer._replace(name=name)
        names = [layer.name for layer in self.layers]
        nearest = difflib.get_close_matches(base, names, n=3, cutoff=0.0)
        raise ValueError(
            f"The network has no layer {name!r}; the nearest are {', '.join(nearest)}. All layers: "
            f"{', '.join(names)}. Append {_RELU!r} to take one after its ReLU."
        )


def linen_network(module: nn.Module, variables: Variables, image_shape: Sequence[int]) -> Network:
    """Tap a Linen module that classifies batches of images.

    Args:
      module: Takes ``(batch, *spatial, channels)``.
      variables: Its weights.
      image_shape: ``(*spatial, channels)`` of one image.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.nn.cnn import CNN
      >>> module = CNN(rank=2, features=(2, 4, 4, 4, 4))
      >>> variables = module.init(jax.random.key(0), jnp.zeros((40, 44, 1)))
      >>> network = linen_network(module, variables, (40, 44, 1))
      >>> network.layer("conv2").shape, network.layer("conv2").receptive_field
      ((34, 38, 4), 7)
      >>> image = jnp.zeros((40, 44, 1))
      >>> {k: v.shape for k, v in network.activations(variables, image, ("conv1",)).items()}
      {'conv1': (38, 42, 2)}
    """

    def activations(
        variables: Variables, image: Image, layers: tuple[str, ...]
    ) -> dict[str, Array]:
        bases = {name.removesuffix(_RELU) for name in layers}
        outputs: dict[str, Array] = {}
        if not bases:
            return outputs

        def keep(
            module: nn.Module, name: str, output: Callable[[], Array], *inputs: Array
        ) -> Array:
            value = output()
            if name in bases:
                outputs[name] = value[0]
                if len(outputs) == len(bases):
                    raise _AllFoundError
            return value

        _run(module, variables, image, keep)
        return {name: _maybe_relu(name, outputs[name.removesuffix(_RELU)]) for name in layers}

    def one_channel(
        variables: Variables, image: Image, layer: str, channel: Channel
    ) -> dict[str, Array]:
        base = layer.removesuffix(_RELU)
        outputs: dict[str, Array] = {}

        def keep(
            module: nn.Module, name: str, output: Callable[[], Array], *inputs: Array
        ) -> Array:
            if name != base:
                return output()
            if _is_narrowable(module):
                outputs[name] = _narrowed(module, channel, inputs)[0]
            else:
                outputs[name] = lax.dynamic_slice_in_dim(output()[0], channel, 1, axis=-1)
            raise _AllFoundError

        _run(module, variables, image, keep)
        return {layer: _maybe_relu(layer, outputs[base])}

    shape = tuple(image_shape)
    layers = tuple(_list_layers(module, variables, shape))
    return Network(activations, one_channel, variables, shape, layers)


class _AllFoundError(Exception):
    """Leaves a forward pass once everything that was asked for has been computed."""


def _run(
    module: nn.Module, variables: Variables, image: Image, visit: Callable[..., Array]
) -> None:
    """Apply a module to one image, handing every submodule's call to `visit`."""

    def interceptor(
        call: Callable[..., Any],
        inputs: tuple[Any, ...],
        options: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        path = context.module.path
        if context.method_name != "__call__" or not path:
            return call(*inputs, **options)
        return visit(context.module, "/".join(path), lambda: call(*inputs, **options), *inputs)

    with nn.intercept_methods(interceptor):
        try:
            module.apply(variables, image[None])
        except _AllFoundError:
            return


def _maybe_relu(name: str, output: Array) -> Array:
    return jax.nn.relu(output) if name.endswith(_RELU) else output


def _is_narrowable(module: nn.Module) -> bool:
    """Whether a channel of this layer depends on its own slice of the weights alone.

    Shapes cannot tell: a block of a convolution and a normalization over channels has the same.
    """
    if type(module) in (nn.Conv, nn.Dense):
        # Groups and masks tie a channel to more than the last axis of the kernel.
        return (
            getattr(module, "feature_group_count", 1) == 1 and getattr(module, "mask", None) is None
        )
    return getattr(module, "channels_are_independent", False)


def _narrowed(module: nn.Module, channel: Channel, inputs: tuple[Array, ...]) -> Array:
    """The same layer with one filter."""
    weights = jax.tree.map(
        lambda leaf: lax.dynamic_slice_in_dim(leaf, channel, 1, axis=-1),
        module.variables["params"],
    )
    return module.clone(features=1, name=None, parent=None).apply({"params": weights}, *inputs)  # pyright: ignore


def _list_layers(
    module: nn.Module, variables: Variables, image_shape: tuple[int, ...]
) -> Iterator[Layer]:
    """Every submodule's output, with the reach of a chain of convolutions and poolings."""
    found: list[Layer] = []
    reach, step = 1, 1

    def record(module: nn.Module, name: str, output: Callable[[], Array], *inputs: Array) -> Array:
        nonlocal reach, step
        value = output()
        shape = tuple(value.shape[1:])
        window = getattr(module, "kernel_size", None)
        if window is not None:
            window = max(window) if isinstance(window, Sequence) else int(window)
            strides = getattr(module, "strides", 1) or 1
            strides = max(strides) if isinstance(strides, Sequence) else int(strides)
            reach, step = reach + (window - 1) * step, step * strides
        spatial = len(shape) > 1
        found.append(
            Layer(
                name=name,
                operator=type(module).__name__,
                shape=shape,
                receptive_field=reach if spatial else None,
                stride=step if spatial else None,
                has_weights=bool(module.variables.get("params", {})),
            )
        )
        return value

    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    jax.eval_shape(lambda v, x: _run(module, v, x, record), variables, image)
    yield from found

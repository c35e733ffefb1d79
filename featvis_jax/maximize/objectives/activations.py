"""Objectives on what a channel, a neuron, a layer or a logit puts out."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from featvis_jax.maximize.objectives.base import Objective, Value
from featvis_jax.maximize.objectives.constancy import MeanCheck
from featvis_jax.maximize.objectives.units import Unit
from featvis_jax.nn.tracing import Layer, Network
from featvis_jax.types import Activations, Image, Scalar


def channel(layer: str) -> Objective:
    """The mean of the unit's channel over space: f(x) = mean a[..., channel].

    Of a layer that normalizes every channel over space it is a constant, which
    `featvis_jax.maximize.ascent.check` refuses.

    Args:
      layer: Name of a layer. A convolution's output is taken before its ReLU, since a channel that
        the ReLU has silenced has no gradient; ``NAME/relu`` takes it after.

    Example:
      >>> activations = {"conv1": jnp.arange(8.0).reshape(2, 2, 2)}
      >>> float(channel("conv1").value(activations, jnp.zeros((4, 4, 1)), Unit(jnp.int32(1))))
      4.0
    """
    description = f"channel({layer!r})"
    return Objective(
        description,
        (layer,),
        lambda activations, image, unit: jnp.mean(own_channel(activations[layer], unit)),
        reads_one_channel=True,
        checks=(MeanCheck(layer, description),),
        places=_all_places(layer),
        places_of=layer,
    )


def neuron(layer: str, *, position: Sequence[int] | None = None) -> Objective:
    """The unit's channel at one place of the layer's grid: f(x) = a[position, channel].

    The image outside of that neuron's receptive field has no gradient and stays as it starts; the
    network computes what lies in the field alone.

    Args:
      layer: Name of a layer with a grid; ``NAME/relu`` takes it after its ReLU.
      position: An index for each spatial axis; by default the centre of the grid (the upper one
        of two).

    Example:
      >>> activations = {"conv1": jnp.arange(18.0).reshape(3, 3, 2)}
      >>> image, unit = jnp.zeros((5, 5, 1)), Unit(jnp.int32(1))
      >>> float(neuron("conv1").value(activations, image, unit))
      9.0
      >>> float(neuron("conv1", position=(0, 2)).value(activations, image, unit))
      5.0
    """
    fixed = None if position is None else tuple(int(index) for index in position)
    description = f"neuron({layer!r}{'' if fixed is None else f', position={fixed}'})"

    def check(network: Network) -> None:
        grid = grid_of(network.layer(layer), description)
        inside = fixed is None or (
            len(fixed) == len(grid)
            and all(0 <= i < side for i, side in zip(fixed, grid, strict=True))
        )
        if not inside:
            raise ValueError(
                f"{description}: layer {layer!r} has the grid {grid}: name one index from 0 for "
                "each of its axes."
            )

    def place(grid: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(side // 2 for side in grid) if fixed is None else fixed

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        own = own_channel(activations[layer], unit)
        return own[place(own.shape)]

    return Objective(
        description,
        (layer,),
        value,
        reads_one_channel=True,
        checks=(check,),
        place=place,
        places=_all_places(layer),
        places_of=layer,
    )


def layer(name: str) -> Objective:
    """The mean square of a whole layer, whatever the unit: f(x) = mean a².

    It amplifies all that the layer finds in an image, as DeepDream does.

    Args:
      name: Name of a layer; ``NAME/relu`` takes it after its ReLU.

    References:
      Mordvintsev, Olah, Tyka, Inceptionism: going deeper into neural networks, 2015.

    Example:
      >>> activations = {"conv1": jnp.array([[[1.0, -3.0]]])}
      >>> float(layer("conv1").value(activations, jnp.zeros((3, 3, 1)), Unit(jnp.int32(0))))
      5.0
    """
    return Objective(
        f"layer({name!r})",
        (name,),
        lambda activations, image, unit: jnp.mean(jnp.square(activations[name])),
        reads_whole=(name,),
    )


def logit(layer: str) -> Objective:
    """One logit of a classifier, before the softmax: f(x) = z[channel].

    The probability after the softmax rises too where the other logits fall, and its gradient
    vanishes where the network is sure.

    Args:
      layer: Name of the layer of logits, which has no grid.

    References:
      Simonyan, Vedaldi, Zisserman, Deep inside convolutional networks, ICLR workshop 2014.

    Example:
      >>> logits = {"logits": jnp.array([-1.0, 2.5])}
      >>> float(logit("logits").value(logits, jnp.zeros((3, 3, 1)), Unit(jnp.int32(1))))
      2.5
    """
    description = f"logit({layer!r})"
    return Objective(
        description,
        (layer,),
        lambda activations, image, unit: own_channel(activations[layer], unit),
        reads_one_channel=True,
        checks=(lambda network: _check_logits(network.layer(layer), description),),
    )


def logit_difference(layer: str, *, other: int | None = None) -> Objective:
    """How far the unit's logit is above another: f(x) = z[channel] - z[other].

    Args:
      layer: Name of the layer of logits, which has no grid.
      other: Number of the other logit; by default the mean of all other logits, of two classes
        the other one.

    Example:
      >>> logits = {"logits": jnp.array([-1.0, 2.5])}
      >>> image, unit = jnp.zeros((3, 3, 1)), Unit(jnp.int32(1))
      >>> float(logit_difference("logits").value(logits, image, unit))
      3.5
    """
    description = f"logit_difference({layer!r}{'' if other is None else f', other={other}'})"

    def check(network: Network) -> None:
        found = network.layer(layer)
        _check_logits(found, description)
        if other is not None and not 0 <= other < found.channels:
            raise ValueError(
                f"{description}: layer {layer!r} has logits 0 to {found.channels - 1}, not {other}:"
                " name one of them."
            )

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        logits = activations[layer]
        own = own_channel(logits, unit)
        if other is not None:
            return own - logits[other]
        return own - (logits.sum() - own) / (logits.size - 1)

    return Objective(description, (layer,), value, checks=(check,))


def grid_of(layer: Layer, description: str) -> tuple[int, ...]:
    """The layer's spatial shape; an error, in the name of an objective, where it has none."""
    if len(layer.shape) < 2:
        raise ValueError(
            f"{description}: layer {layer.name!r} of shape {layer.shape} has no grid: use channel "
            "or logit."
        )
    return layer.shape[:-1]


def _check_logits(layer: Layer, description: str) -> None:
    if len(layer.shape) != 1 or layer.channels < 2:
        raise ValueError(
            f"{description}: layer {layer.name!r} has shape {layer.shape}; expected at least two "
            "logits and no grid: use channel or neuron."
        )


def _all_places(layer: str) -> Value:
    return lambda activations, image, unit: own_channel(activations[layer], unit)


def own_channel(activation: Float[Array, "*shape"], unit: Unit) -> Float[Array, "*grid"]:
    """The unit's channel of a layer's output."""
    # A slice: the gradient of `jnp.take` is a scatter, which takes longer than the whole layer.
    return lax.dynamic_index_in_dim(activation, unit.channel, axis=-1, keepdims=False)

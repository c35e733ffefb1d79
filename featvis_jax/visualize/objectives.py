"""What to maximize.

An objective maps the activations of one image to a number. It is a value: objectives add, subtract
and scale, and name the layers that they read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from featvis_jax.types import Activations, Image, Scalar


class Unit(NamedTuple):
    """What is visualized, as data: another unit of the same layer compiles nothing.

    Attributes:
      channel: Number of the channel in its layer.
    """

    channel: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A number to read off an image and its activations.

    Attributes:
      description: The call that makes it, for the record of a run.
      layers: Names of the layers that it reads.
      value: ``(activations, image, unit) -> scalar``.
      reads_one_channel: Whether it reads the unit's channel of its layers and nothing else of
        them, so that the network need not compute more.

    Example:
      >>> both = channel("conv1") - 0.5 * channel("conv2")
      >>> both.layers
      ('conv1', 'conv2')
      >>> both.description
      "channel('conv1') - 0.5 * channel('conv2')"
    """

    description: str
    layers: tuple[str, ...]
    value: Callable[[Activations, Image, Unit], Scalar] = dataclasses.field(repr=False)
    reads_one_channel: bool = False

    def __add__(self, other: Objective) -> Objective:
        """The sum of two."""
        return Objective(
            f"{self.description} + {other.description}",
            tuple(dict.fromkeys(self.layers + other.layers)),
            lambda activations, image, unit: (
                self.value(activations, image, unit) + other.value(activations, image, unit)
            ),
            self.reads_one_channel and other.reads_one_channel,
        )

    def __mul__(self, factor: float) -> Objective:
        """A multiple."""
        return dataclasses.replace(
            self,
            description=f"{f'({factor})' if factor < 0 else factor} * {_as_term(self)}",
            value=lambda activations, image, unit: factor * self.value(activations, image, unit),
        )

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        """The opposite: what suppresses a unit."""
        return self * -1.0

    def __sub__(self, other: Objective) -> Objective:
        """The difference of two."""
        description = f"{self.description} - {_as_term(other)}"
        return dataclasses.replace(self + other * -1.0, description=description)


def _as_term(objective: Objective) -> str:
    """Its description, in brackets where it is a sum."""
    text = objective.description
    return f"({text})" if " + " in text or " - " in text else text


def channel(layer: str) -> Objective:
    """The mean of the unit's channel over space: f(x) = mean a[..., channel].

    Args:
      layer: Name of a layer. A convolution's output is taken before its ReLU, since a channel that
        the ReLU has silenced has no gradient; ``NAME/relu`` takes it after.
    """
    return Objective(
        f"channel({layer!r})",
        (layer,),
        lambda activations, image, unit: jnp.mean(
            jnp.take(activations[layer], unit.channel, axis=-1)
        ),
        reads_one_channel=True,
    )

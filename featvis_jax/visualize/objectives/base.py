"""What an objective is, and what it is handed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from featvis_jax.nn.taps import Network
from featvis_jax.types import Activations, Image, Scalar

VARIANTS = "variants"
"""Name of the axis over the variants of one unit, for `jax.lax.psum` and its like."""


class Unit(NamedTuple):
    """What is visualized, as data: another unit of the same layer compiles nothing.

    Attributes:
      channel: Number of the channel in its layer.
      position: Where on the layer's grid, for `neuron`.
      direction: A vector over the layer's channels, for `direction` and `cosine_direction`.
      other: Number of the logit to tell from, for `logit_difference`.
    """

    channel: Int[Array, ""]
    position: Int[Array, " rank"] | None = None
    direction: Float[Array, " channels"] | None = None
    other: Int[Array, ""] | None = None


Numbers = np.ndarray | Array | Sequence[Any]
"""Anything that makes an array of more than one number."""

Value = Callable[[Activations, Image, Unit], Scalar]
Place = Callable[[Unit, tuple[int, ...]], tuple[int | Int[Array, ""], ...]]
Check = Callable[[Network], None]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A number to read off an image and its activations.

    Attributes:
      description: The call that makes it, for the record of a run.
      layers: Names of the layers that it reads.
      value: ``(activations, image, unit) -> scalar``.
      reads_one_channel: Whether it reads the unit's channel of its layers and nothing else of
        them, so that the network need not compute more.
      reads_variants: Whether it needs the other variants of its unit; it then runs under a
        `jax.vmap` over them whose axis is named `VARIANTS`.
      checks: Functions of the network that raise `ValueError` where it does not fit.
      place: ``(unit, grid) -> indices`` of the one place of its layer that it reads; ``None``
        where it reads several. The network then sees no more of the image than that place does.
      reads_whole: Those of `layers` of which it does not read the channel of the unit's number.

    Example:
      >>> from featvis_jax.visualize.objectives import channel
      >>> both = channel("conv1") - 0.5 * channel("conv2")
      >>> both.layers
      ('conv1', 'conv2')
      >>> both.description
      "channel('conv1') - 0.5 * channel('conv2')"
    """

    description: str
    layers: tuple[str, ...]
    value: Value = dataclasses.field(repr=False)
    reads_one_channel: bool = False
    reads_variants: bool = False
    checks: tuple[Check, ...] = dataclasses.field(default=(), repr=False)
    place: Place | None = dataclasses.field(default=None, repr=False)
    reads_whole: tuple[str, ...] = ()

    @property
    def unit_layers(self) -> tuple[str, ...]:
        """The layers whose channels the unit's number counts."""
        return tuple(name for name in self.layers if name not in self.reads_whole)

    def __add__(self, other: Objective) -> Objective:
        """The sum of two."""
        layers = tuple(dict.fromkeys(self.layers + other.layers))
        counted = self.unit_layers + other.unit_layers
        return Objective(
            f"{self.description} + {other.description}",
            layers,
            lambda activations, image, unit: (
                self.value(activations, image, unit) + other.value(activations, image, unit)
            ),
            self.reads_one_channel and other.reads_one_channel,
            self.reads_variants or other.reads_variants,
            self.checks + other.checks,
            reads_whole=tuple(name for name in layers if name not in counted),
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

    def of(self, channel: int) -> Objective:
        """The same for one channel by number, whatever the unit's is.

        It makes objectives of several channels: ``channel("conv3") - channel("conv3").of(7)``.

        Args:
          channel: Number of a channel that every layer it reads has.

        Example:
          >>> from featvis_jax.visualize.objectives import channel, interpolation
          >>> interpolation(channel("conv3"), channel("conv3").of(7)).description
          "interpolation(channel('conv3'), channel('conv3').of(7), share=0.5)"
        """
        description = f"{_as_term(self)}.of({channel})"

        def check(network: Network) -> None:
            for layer in map(network.layer, self.layers):
                if not 0 <= channel < layer.channels:
                    raise ValueError(
                        f"{description}: layer {layer.name!r} has channels 0 to "
                        f"{layer.channels - 1}, not {channel}: name one of them."
                    )

        return dataclasses.replace(
            self,
            description=description,
            value=lambda activations, image, unit: self.value(
                activations, image, unit._replace(channel=jnp.full_like(unit.channel, channel))
            ),
            reads_one_channel=False,
            checks=(*self.checks, check),
            reads_whole=self.layers,
        )


def _as_term(objective: Objective) -> str:
    """Its description, in brackets where it is a sum."""
    text = objective.description
    return f"({text})" if " + " in text or " - " in text else text


def fingerprint(values: np.ndarray) -> str:
    """A short name for numbers that are too many for a description.

    Args:
      values: Of any shape.

    Example:
      >>> fingerprint(np.zeros((2, 3), np.float32))
      '<2x3 float32, sha256 9d908ecfb6b2>'
    """
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:12]
    return f"<{'x'.join(map(str, values.shape))} {values.dtype}, sha256 {digest}>"

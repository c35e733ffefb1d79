"""What an objective is, and what it is handed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from featvis_jax.maximize.objectives.units import Directions, Unit
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Activations, Image, Scalar

VARIANTS = "variants"
"""Name of the axis over the variants of one unit, for `jax.lax.psum` and its like."""


Value = Callable[[Activations, Image, Unit], Float[Array, "*places"]]
Place = Callable[[tuple[int, ...]], tuple[int, ...]]
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
      place: ``grid -> indices`` of the one place of its layer that it reads; ``None`` where it
        reads several. The network then sees no more of the image than that place does.
      reads_whole: Those of `layers` of which it does not read the channel of the unit's number.
      places: ``(activations, image, unit) -> values``, what there is at every place of a layer
        where it is about places; ``None`` where its value is all that there is.
      places_of: Which places those are, so that values of the same ones add up one by one.
      alone: The value without what only compares the variants of a unit; ``None`` where that is
        all of it.
      directions: Units of its own, which its numbers count in place of a layer's channels.
      most: What it goes up to (`up_to`), ``None`` where it has no end.

    Example:
      >>> from featvis_jax.maximize.objectives import channel
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
    places: Value | None = dataclasses.field(default=None, repr=False)
    places_of: str = ""
    alone: Value | None = dataclasses.field(default=None, repr=False)
    directions: Directions | None = dataclasses.field(default=None, repr=False)
    most: float | None = dataclasses.field(default=None, repr=False)

    @property
    def unit_layers(self) -> tuple[str, ...]:
        """The layers whose channels the unit's number counts."""
        return tuple(name for name in self.layers if name not in self.reads_whole)

    @property
    def has_one_unit(self) -> bool:
        """Whether it is about a layer as a whole, whatever the unit's number."""
        return bool(self.layers) and not self.unit_layers and self.directions is None

    def num_units(self, channels: int) -> int:
        """How many units a layer has for it.

        Args:
          channels: How many channels the layer has.
        """
        if self.directions is not None:
            return len(self.directions)
        return 1 if self.has_one_unit else channels

    def units(
        self, numbers: Sequence[int] | np.ndarray, *, targets: np.ndarray | None = None
    ) -> Unit:
        """Some of its units as a batch: everything has a leading axis over them.

        Args:
          numbers: Of the units.
          targets: What each aims at; by default unknown to all.

        Raises:
          ValueError: There is no direction of such a number.

        Example:
          >>> from featvis_jax.maximize.objectives import direction
          >>> direction("conv1", [[1, 0], [0, 1], [1, 1]]).units([2, 0]).direction.tolist()
          [[1.0, 1.0], [1.0, 0.0]]
        """
        chosen: Any = np.asarray(numbers, np.int32)
        rows: Any = None if self.directions is None else self.directions.of(chosen)
        aims: Any = np.full(len(chosen), np.nan) if targets is None else targets
        return Unit(chosen, rows, np.asarray(aims, np.float32))  # pyright: ignore

    def response(self, activations: Activations, image: Image, unit: Unit) -> Scalar:
        """How strongly the unit responds: the largest value of all places, or the one value.

        A channel may find what it looks for in one place of an image, where the mean over all
        places says little of it. So a neuron's response is that of its channel, wherever the
        objective itself looks.

        Args:
          activations: Of the layers that the objective reads.
          image: Their image.
          unit: The unit.

        Example:
          >>> from featvis_jax.maximize.objectives import channel
          >>> activations, image = {"conv1": jnp.array([[[-1.0], [4.0]]])}, jnp.zeros((3, 4, 1))
          >>> unit = Unit(jnp.int32(0))
          >>> float(channel("conv1").response(activations, image, unit))
          4.0
          >>> float((-channel("conv1")).response(activations, image, unit))
          1.0
        """
        return jnp.max((self.places or self.alone or self.value)(activations, image, unit))

    def __add__(self, other: Objective) -> Objective:
        """The sum of two."""
        layers = tuple(dict.fromkeys(self.layers + other.layers))
        counted = self.unit_layers + other.unit_layers
        return Objective(
            f"{self.description} + {other.description}",
            layers,
            _added(self.value, other.value),
            self.reads_one_channel and other.reads_one_channel,
            self.reads_variants or other.reads_variants,
            self.checks + other.checks,
            reads_whole=tuple(name for name in layers if name not in counted),
            directions=directions_together(self, other),
            **responses_together(self, other, _added),
        )

    def __mul__(self, factor: float) -> Objective:
        """A multiple."""
        return dataclasses.replace(
            self,
            description=f"{f'({factor})' if factor < 0 else factor} * {_as_term(self)}",
            value=_scaled(self.value, factor),
            places=None if self.places is None else _scaled(self.places, factor),
            alone=None if self.alone is None else _scaled(self.alone, factor),
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
          channel: Number of a channel that every layer it reads has, or of one of its directions.

        Example:
          >>> from featvis_jax.maximize.objectives import channel, interpolation
          >>> interpolation(channel("conv3"), channel("conv3").of(7)).description
          "interpolation(channel('conv3'), channel('conv3').of(7), share=0.5)"
        """
        description, own = f"{_as_term(self)}.of({channel})", self.directions

        def check(network: Network) -> None:
            for layer in map(network.layer, self.layers if own is None else self.unit_layers):
                if not 0 <= channel < layer.channels:
                    raise ValueError(
                        f"{description}: layer {layer.name!r} has channels 0 to "
                        f"{layer.channels - 1}, not {channel}: name one of them."
                    )

        if own is not None and not 0 <= channel < len(own):
            raise ValueError(
                f"{description}: there are directions 0 to {len(own) - 1}, not {channel}: name one "
                "of them."
            )
        fixed = None if own is None else own.vectors[channel]

        def of_it(read: Value) -> Value:
            def value(
                activations: Activations, image: Image, unit: Unit
            ) -> Float[Array, "*places"]:
                one = unit._replace(channel=jnp.full_like(unit.channel, channel))
                if fixed is not None:
                    one = one._replace(direction=jnp.asarray(fixed))
                return read(activations, image, one)

            return value

        return dataclasses.replace(
            self,
            description=description,
            value=of_it(self.value),
            places=None if self.places is None else of_it(self.places),
            alone=None if self.alone is None else of_it(self.alone),
            reads_one_channel=False,
            checks=(*self.checks, check),
            reads_whole=self.layers,
            directions=None,
        )


ANYWHERE = "anywhere"
"""`Objective.places_of` of a number that counts for every place of whatever it is added to."""


def responses_together(
    first: Objective, second: Objective, combine: Callable[[Value, Value], Value]
) -> dict[str, Any]:
    """The fields of an objective made of two that say how its unit responds.

    Args:
      first: An objective.
      second: Another one. Where both are about the same places, theirs are combined one by one;
        otherwise their values are.
      combine: Makes one function of two.
    """
    values = [one.alone or one.value for one in (first, second)]
    found = {first.places_of, second.places_of}
    alike = len(found - {ANYWHERE}) < 2
    responses = [one.places or value for one, value in zip((first, second), values, strict=True)]
    return {
        "places": combine(*(responses if alike else values)),
        "places_of": min(found, key=lambda name: name == ANYWHERE) if alike else "",
        "alone": combine(*values) if first.alone or second.alone else None,
    }


def directions_together(first: Objective, second: Objective) -> Directions | None:
    """The units of its own that an objective made of two has.

    Args:
      first: An objective.
      second: Another one.

    Raises:
      ValueError: Both have some, and not the same: a unit is one direction.
    """
    mine, others = first.directions, second.directions
    if mine is None or others is None:
        return others if mine is None else mine
    if not mine.is_same(others):
        raise ValueError(
            f"{first.description} and {second.description} have several directions each, and not "
            "the same: give one of them a single vector, or take one direction with .of(NUMBER)."
        )
    return mine


def _added(first: Value, second: Value) -> Value:
    return lambda activations, image, unit: (
        first(activations, image, unit) + second(activations, image, unit)
    )


def _scaled(read: Value, factor: float) -> Value:
    return lambda activations, image, unit: factor * read(activations, image, unit)


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

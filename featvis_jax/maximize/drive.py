"""Regularization as strong as a unit permits: the cleanest image among those that drive it.

A fixed strength is too much for one unit, whose image then moves it less than a scan does, and too
little for the next, whose image is noise. Here a recipe's regularization is applied at a
*pressure* of each unit's own, from 0 to 1, which a target steers: it rises while the unit responds
to what it is shown with more than the target, and gives way while it does not.

    response of what the network is shown >= headroom * target:   pressure up, else down
    image -> network:   the robustness transform, at a share of the pressure
    step:               (1 - w) g / |g| - w c / |c|,   w = cost_share * pressure

with g the gradient of the objective and c that of a cost of the image. Both have unit length, so
that w is a share and knows no unit of either. The response is read through the transforms, since
what drives the unit only in one place, to the voxel, should not count as driving it, and now and
then of the image as it is, since noise alone may drive a unit. The lower of the two counts.

It is the exact penalty of "least cost, subject to response >= target" followed with a rate instead
of a multiplier, as adaptive penalty methods do. A multiplier has the scale of the network's
activations, which differ by orders of magnitude between units, and with Adam's normalized steps
only the ratio of the two gradients is left of it anyway.

A unit without any gradient, behind ReLUs that nothing in its image passes, wanders until it has
one.

Without a target the unit finds its own: it climbs without regularization for a part of the steps,
and takes a share of the strongest response that it reaches.

References:
  Polyak, A general method for solving extremum problems, Soviet Mathematics Doklady 1967
  (steps along the objective or the constraint, whichever is due).
  Nocedal, Wright, Numerical optimization, 2006, chapter 17 (updating penalty parameters).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from featvis_jax.maximize.objectives import Objective
from featvis_jax.maximize.penalties import clutter
from featvis_jax.types import Scalar, Step


class Drive(NamedTuple):
    """How regularization follows a target.

    Attributes:
      cost: What a clean image has little of; it reads no layer. Parameters with a cost of their own
        (`Parameterization.cost`) have that in its place.
      cost_share: Share of the cost in a step at full pressure, in [0, 1).
      headroom: Pressure rises above so many times the target.
      rise: Share of all steps in which pressure goes from none to full.
      fall: The same for the way back.
      finding: Share of the steps in which a unit without a target looks for its own, in (0, 1).
      found: Share of the strongest response found there that becomes the target.
    """

    cost: Objective = clutter()
    cost_share: float = 0.8
    headroom: float = 1.2
    rise: float = 0.2
    fall: float = 0.1
    finding: float = 0.25
    found: float = 0.5

    @property
    def description(self) -> str:
        """The call that makes it, for the record of a run."""
        cost = f"cost={self.cost.description}"
        return ", ".join([f"drive({cost}", *(f"{n}={self[i]:g}" for i, n in _NUMBERS)]) + ")"


_NUMBERS = [(i, name) for i, name in enumerate(Drive._fields) if name != "cost"]


PLAIN_EVERY = 8
"""Steps from one look at the image as it is to the next; each costs half a step or less."""


class Pressure(NamedTuple):
    """Where a unit's regularization stands.

    Attributes:
      share: Of the regularization, in [0, 1].
      ceiling: The strongest response so far of one that looks for its target.
      plain: The last response to the image as it is.
    """

    share: Scalar
    ceiling: Scalar
    plain: Scalar


def relaxed() -> Pressure:
    """Before the first step."""
    return Pressure(jnp.zeros(()), jnp.full((), -jnp.inf), jnp.full((), -jnp.inf))


def check_drive(drive: Drive) -> None:
    """Refuse a drive that cannot work.

    Raises:
      ValueError: The cost reads the network, or a number is out of range.
    """
    if drive.cost.layers:
        raise ValueError(
            f"drive: the cost {drive.cost.description} reads {', '.join(drive.cost.layers)}; "
            "expected one of the image alone, such as penalties.clutter()."
        )
    ranges = {
        "cost_share in [0, 1)": 0 <= drive.cost_share < 1,
        "headroom from 1": 1 <= drive.headroom < float("inf"),
        "rise and fall above 0": min(drive.rise, drive.fall) > 0,
        "finding and found in (0, 1)": min(drive.finding, drive.found) > 0
        and max(drive.finding, drive.found) < 1,
    }
    for expected, holds in ranges.items():
        if not holds:
            raise ValueError(f"{drive.description}: expected {expected}.")


def settling(learning_rate: float, steps: int) -> Callable[[Step], Scalar]:
    """A learning rate that lets an image come to rest where pressure and target balance.

    Steps of Adam do not become smaller by themselves: what pressure removes in one, the next would
    bring back.

    Args:
      learning_rate: For three fifths of the steps; it then falls to a tenth, along a cosine.
      steps: Of the whole ascent.

    Example:
      >>> [round(float(settling(0.05, 100)(step)), 3) for step in (0, 60, 90, 100)]
      [0.05, 0.05, 0.012, 0.005]
    """
    first = round(0.6 * steps)

    def rate(step: Step) -> Scalar:
        late = (jnp.asarray(step, jnp.float32) - first) / max(1, steps - first)
        return learning_rate * (0.55 + 0.45 * jnp.cos(jnp.pi * jnp.clip(late, 0.0, 1.0)))

    return rate


def aimed_at(drive: Drive, target: Scalar, pressure: Pressure) -> Scalar:
    """The response that a unit aims at: its target, or a share of the ceiling it has found."""
    return jnp.where(jnp.isnan(target), drive.found * pressure.ceiling, target)


def after_step(
    drive: Drive, pressure: Pressure, response: Scalar, target: Scalar, step: Step, steps: int
) -> Pressure:
    """The pressure for the next step.

    Args:
      drive: How.
      pressure: Of this step, with the last response to the image as it is.
      response: Of the unit to what the network was shown.
      target: The response to aim at; NaN for one to be found.
      step: Index of this step.
      steps: Of the whole ascent.

    Example:
      >>> half = relaxed()._replace(share=jnp.float32(0.5), plain=jnp.float32(3.0))
      >>> target = jnp.float32(1.0)
      >>> for response in map(jnp.float32, (2.0, 0.5)):  # Driven, and not.
      ...     print(round(float(after_step(Drive(), half, response, target, 9, 100).share), 2))
      0.55
      0.4
    """
    looking = jnp.isnan(target) & (step < max(1, round(drive.finding * steps)))
    ceiling = jnp.where(looking, jnp.maximum(pressure.ceiling, response), pressure.ceiling)
    aim = aimed_at(drive, target, pressure._replace(ceiling=ceiling))
    # Of a negative target, headroom is above it too.
    driven = jnp.minimum(response, pressure.plain) >= aim + (drive.headroom - 1) * jnp.abs(aim)
    change = jnp.where(driven, 1 / (drive.rise * steps), -1 / (drive.fall * steps))
    share = jnp.clip(pressure.share + change, 0.0, 1.0)
    return Pressure(jnp.where(looking, 0.0, share), ceiling, pressure.plain)


def directed(
    drive: Drive,
    ascent: Float[Array, "*shape"],
    cost: Float[Array, "*shape"],
    wander: Float[Array, "*shape"],
    pressure: Pressure,
) -> Float[Array, "*shape"]:
    """The direction of a step down in `cost` and up in the objective.

    All three are of an image, or of parameters in a row where those have a cost of their own.

    Args:
      drive: How.
      ascent: Gradient of what is minimized: of minus the objective.
      cost: Gradient of the cost.
      wander: Noise, the direction of a unit that has no gradient: behind ReLUs that nothing
        in the image passes, another image is what helps.
      pressure: Where the unit stands.
    """
    share = drive.cost_share * pressure.share
    climbing = (1 - share) * _unit_length(ascent) + share * _unit_length(cost)
    return jnp.where(jnp.any(ascent != 0), climbing, wander)


def _unit_length(gradient: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Of a root mean square of 1, so that an image's size does not matter; 0 stays 0."""
    # By its largest value first: squares of small numbers are 0.
    largest = jnp.max(jnp.abs(gradient))
    scaled = gradient / jnp.where(largest > 0, largest, 1.0)
    return scaled / jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(scaled)), 1e-20))

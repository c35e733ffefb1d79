"""Which optimizer takes an ascent's steps where a recipe names none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from featvis_jax.maximize.drive import settling


class Optimizer(NamedTuple):
    """A kind of steps.

    Attributes:
      name: For the record of a run.
      make: ``learning rate, or a schedule of it -> optimizer``.
      settles: Whether its steps have to become smaller for an image to come to rest.
    """

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    settles: bool = False

    def of(
        self, learning_rate: float, steps: int, *, settles: bool | None = None
    ) -> tuple[optax.GradientTransformation, str]:
        """The optimizer of an ascent, and its description.

        Args:
          learning_rate: At the start.
          steps: Of the ascent.
          settles: Whether the steps become smaller towards the end; by default as it says itself.

        Example:
          >>> [ADAM.of(0.05, 100)[1], UNIT_STEPS.of(0.5, 100)[1]]
          ['adam(learning_rate=0.05)', 'unit_steps(learning_rate=settling(0.5, 100))']
        """
        if not (self.settles if settles is None else settles):
            return self.make(learning_rate), f"{self.name}(learning_rate={learning_rate})"
        made = self.make(settling(learning_rate, steps))
        return made, f"{self.name}(learning_rate=settling({learning_rate}, {steps}))"


def unit_steps(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float = 0.9
) -> optax.GradientTransformation:
    """Steps along the gradient, with momentum, that all have the same length.

    Adam gives every parameter steps of one size: what hardly matters moves as fast as what matters
    most, and a field that is needed in one place spreads everywhere. Here only the whole step has
    its size, and its direction is the gradient's.

    Args:
      learning_rate: Length of a step (square root of the sum of squares over all parameters), or a
        schedule of it.
      momentum: Share of the last direction that is kept, in [0, 1).

    Raises:
      ValueError: The momentum is out of bounds.

    Example:
      >>> optimizer = unit_steps(0.5)
      >>> parameters = jnp.zeros(2)
      >>> step, _ = optimizer.update(jnp.array([3.0, -4.0]), optimizer.init(parameters))
      >>> step.round(3).tolist()
      [-0.30000001192092896, 0.4000000059604645]
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"unit_steps: momentum is {momentum}; expected a number in [0, 1).")

    def to_unit_length(updates: optax.Updates, parameters: optax.Params | None) -> optax.Updates:
        del parameters
        # By the largest value first: squares of small numbers are 0.
        leaves = jax.tree.leaves(updates)
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
        scale = jnp.where(largest > 0, largest, 1.0)
        length = jnp.sqrt(sum(jnp.sum(jnp.square(leaf / scale)) for leaf in leaves))
        length = jnp.where(largest > 0, length, 1.0) * scale
        return jax.tree.map(lambda leaf: leaf / length, updates)

    return optax.chain(
        optax.trace(decay=momentum),
        optax.stateless(to_unit_length),
        optax.scale_by_learning_rate(learning_rate),
    )


ADAM = Optimizer("adam", optax.adam)
NADAM = Optimizer("nadam", optax.nadam)
UNIT_STEPS = Optimizer("unit_steps", unit_steps, settles=True)

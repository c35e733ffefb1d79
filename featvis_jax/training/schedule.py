"""How long and how fast to train."""

from __future__ import annotations

import dataclasses
import math

import optax


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
      steps: Most optimizer steps.
      learning_rate: Adam's, reached after `warmup_steps`.
      weight_decay: L2, added to the gradient as Adam did before AdamW.
      warmup_steps: Steps over which the learning rate rises from zero.
      decay: ``"cosine"`` to zero over all steps, or ``"constant"`` as in the paper.
      evaluate_every: Steps between two looks at the validation set.
      patience: Stop after so many looks without a lower validation loss.
      hard_after: Step from which all lesions are of the final difficulty; the share of easy ones
        falls linearly until then. 0 for no curriculum.
    """

    steps: int = 2000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 50
    decay: str = "cosine"
    evaluate_every: int = 100
    patience: int = 7
    hard_after: int = 600

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if self.steps < 1 or self.evaluate_every < 1 or self.patience < 1:
            raise ValueError(
                f"steps={self.steps}, evaluate_every={self.evaluate_every}, "
                f"patience={self.patience}: each must be at least 1."
            )
        if self.warmup_steps < 0 or self.hard_after < 0:
            raise ValueError(
                f"warmup_steps={self.warmup_steps}, hard_after={self.hard_after}: neither may be "
                "negative."
            )
        if self.decay not in ("cosine", "constant"):
            raise ValueError(f"decay is {self.decay!r}; expected 'cosine' or 'constant'.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate is {self.learning_rate}; expected a positive number.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; expected a number from 0.")

    def difficulty(self, step: int) -> float:
        """Share of lesions of the final difficulty at a training step."""
        return min(step / self.hard_after, 1.0) if self.hard_after else 1.0

    def optimizer(self) -> optax.GradientTransformation:
        """Adam with L2 weight decay under the schedule."""
        if self.decay == "cosine":
            rate = optax.warmup_cosine_decay_schedule(
                0.0, self.learning_rate, self.warmup_steps, max(self.steps, self.warmup_steps + 1)
            )
        elif self.warmup_steps:
            rate = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        else:
            rate = optax.constant_schedule(self.learning_rate)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.adam(rate))

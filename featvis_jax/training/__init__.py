"""Training a network: a schedule, a step in parts that fit, evaluation, the loop around them."""

from featvis_jax.training.evaluation import Estimates, Evaluation, estimate, evaluate, measured
from featvis_jax.training.loop import Interrupted, Result, TrainState, fit, initialize
from featvis_jax.training.microbatches import check_size, default_size
from featvis_jax.training.schedule import Schedule
from featvis_jax.training.step import Step, Variables, compile_step, fitting_step

__all__ = [
    "Estimates",
    "Evaluation",
    "Interrupted",
    "Result",
    "Schedule",
    "Step",
    "TrainState",
    "Variables",
    "check_size",
    "compile_step",
    "default_size",
    "estimate",
    "evaluate",
    "fit",
    "fitting_step",
    "initialize",
    "measured",
]

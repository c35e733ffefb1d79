"""The loop of a training: steps, evaluations, early stopping; resumed exactly."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array, Float, Int

from featvis_jax.checkpoints import weights_hash
from featvis_jax.data.pipeline import Examples
from featvis_jax.training.evaluation import Estimates, Evaluation, measured
from featvis_jax.training.schedule import Schedule
from featvis_jax.training.step import Step, Variables, fitting_step


class TrainState(NamedTuple):
    """Everything that a training run carries from step to step.

    Attributes:
      step: Number of finished optimizer steps.
      params: Current weights.
      opt_state: The optimizer's state.
      best_params: Weights at the lowest validation loss.
      best_loss: That loss.
      best_step: The step it was seen at.
      stale: Looks at the validation set since then.
    """

    step: Int[Array, ""]
    params: Variables
    opt_state: optax.OptState
    best_params: Variables
    best_loss: Float[Array, ""]
    best_step: Int[Array, ""]
    stale: Int[Array, ""]


class Interrupted(Exception):
    """Training was asked to stop, and has saved its exact state."""


class _Asked(Exception):
    """Somebody asked to stop; nothing is saved yet."""


class Result(NamedTuple):
    """The outcome of `fit`.

    Attributes:
      variables: The weights at the lowest validation loss, with the input statistics.
      best_step: The step they come from.
      steps: Steps that were run.
      history: A row per evaluation: step, split, loss, and what else is measured
        of the validation set (`Evaluation.row`, `Estimates.row`).
    """

    variables: dict[str, Variables]
    best_step: int
    steps: int
    history: list[dict[str, Any]]


def initialize(
    model: nn.Module, image_shape: tuple[int, ...], *, mean: float, std: float, seed: int
) -> dict[str, Variables]:
    """Random weights for a model, with the statistics of its training images.

    Args:
      model: A network with a ``"statistics"`` collection, as `featvis_jax.nn.cnn.CNN`.
      image_shape: ``(*spatial, 1)``.
      mean: Mean intensity of the training images.
      std: Standard deviation of their intensities.
      seed: Fixes the weights.

    Raises:
      ValueError: The standard deviation is not positive.
    """
    if not std > 0:
        raise ValueError(f"The training images have a standard deviation of {std}: all alike?")
    variables = dict(jax.jit(model.init)(jax.random.key(seed), jnp.zeros(image_shape)))
    variables["statistics"] = {"mean": jnp.float32(mean), "std": jnp.float32(std)}
    return variables


def fit(
    model: nn.Module,
    variables: dict[str, Variables],
    schedule: Schedule,
    *,
    training: Callable[[int], Iterator[Examples]],
    validation: Callable[[], Iterable[Examples]],
    directory: Path,
    update: Step | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_evaluation: Callable[[list[dict[str, Any]]], None] = lambda history: None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train until the validation loss has stopped falling, or for `schedule.steps` steps.

    The state is saved at every evaluation, and when `stop` asks for an end. A run that is started
    again on the same directory goes on from there and ends with the same weights as one that was
    never interrupted.

    Args:
      model: The network.
      variables: Initial weights and statistics (`initialize`).
      schedule: How long and how fast.
      training: Maps a first step to the batches from there on (`training_batches`).
      validation: Makes the validation batches.
      directory: Where checkpoints are kept.
      update: The step, compiled for these batches with `schedule.optimizer()`; by default one that
        fits into memory is compiled when the first batch is there.
      on_step: Called after each step with the number of finished steps and the latest known loss.
      on_evaluation: Called after each evaluation with the rows so far.
      stop: Asked before each batch, of an evaluation too, whether to save and end.

    Raises:
      FloatingPointError: The loss is no longer finite.
      Interrupted: `stop` said so.
    """
    # Many arguments: the last four are for those who watch or stop a training; most give none.

    # A process that was killed leaves half a checkpoint behind; nobody else writes there.
    options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(directory.absolute(), options=options) as manager:
        run = _Run(model, variables, schedule, manager, update)
        batches = training(int(run.state.step))
        while run.goes_on:
            params, opt_state, step = run.state.params, run.state.opt_state, int(run.state.step)
            found = None
            with contextlib.suppress(_Asked):
                for batch in _until(stop, itertools.islice(batches, run.next_look - step)):
                    params, opt_state, loss = run.update(params, opt_state, batch)
                    run.losses.append(loss)
                    step += 1
                    on_step(step, run.known_loss())
                found = run.look(params, _until(stop, validation()))
            if found is None:
                run.save(
                    run.state._replace(step=jnp.int32(step), params=params, opt_state=opt_state)
                )
                raise Interrupted(f"Stopped and saved after step {step}.")
            run.looked(params, opt_state, found)
            on_evaluation(run.history)
    return run.result()


class _Run:
    """A training under way: what it was given, and where it stands.

    Attributes:
      state: At the last look at the validation set, or where the run was stopped.
      history: The rows so far.
      losses: Of the steps since the last look.
      last_look: The step of that; 0 before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: dict[str, Variables],
        schedule: Schedule,
        manager: ocp.CheckpointManager,
        step: Step | None,
    ) -> None:
        """Begin, or go on where the last checkpoint is."""
        self._model, self._variables = model, variables
        self._schedule, self._optimizer = schedule, schedule.optimizer()
        self._manager, self._step = manager, step
        begun = _begun(manager, variables["params"], self._optimizer)
        self.state, self.history, self.losses = begun
        self.last_look = int(self.state.step) - len(self.losses)
        self._known = math.nan
        # Of a step that is compiled here, evaluations find their own.
        self._parts: dict[str, Any] = {}
        if step is not None:
            self._parts = {"microbatch": step.microbatch, "num_devices": step.devices.size}

    @property
    def goes_on(self) -> bool:
        """Whether there is a step to take, or a look that was not taken."""
        schedule, state = self._schedule, self.state
        has_room = int(state.step) < schedule.steps and int(state.stale) < schedule.patience
        return bool(self.losses) or has_room

    @property
    def next_look(self) -> int:
        """The step of the next one."""
        return min(self.last_look + self._schedule.evaluate_every, self._schedule.steps)

    def update(
        self, params: Variables, opt_state: optax.OptState, batch: Examples
    ) -> tuple[Variables, optax.OptState, Array]:
        """Take a step."""
        if self._step is None:
            shape = batch["image"].shape
            self._step = fitting_step(
                self._model,
                self._optimizer,
                self._variables,
                shape[1:],
                batch_size=shape[0],
                estimates=np.issubdtype(batch["label"].dtype, np.floating),
            )
        return self._step(params, opt_state, batch)

    def known_loss(self) -> float:
        """The latest loss that can be read without waiting: the one before last."""
        if len(self.losses) > 1:
            self._known = float(self.losses[-2])
        return self._known

    def look(self, params: Variables, batches: Iterable[Examples]) -> Evaluation | Estimates:
        """See how these weights do on the validation set."""
        weights = {"params": params, "statistics": self._variables["statistics"]}
        return measured(self._model, weights, batches, **self._parts)

    def looked(
        self, params: Variables, opt_state: optax.OptState, found: Evaluation | Estimates
    ) -> None:
        """Take what was found into account, and save it."""
        state, first, last = self.state, self.last_look, self.next_look
        loss = float(np.mean(jax.device_get(self.losses)))
        self.losses.clear()
        if not (math.isfinite(loss) and math.isfinite(found.loss)):
            raise FloatingPointError(
                f"Between steps {first} and {last} the loss became {loss} in training and "
                f"{found.loss} in validation: try a lower learning rate than "
                f"{self._schedule.learning_rate}."
            )
        # While easy lesions are still being replaced by hard ones, training is not stale.
        improved = found.loss < float(state.best_loss)
        learning = last < self._schedule.hard_after
        self.state = TrainState(
            step=jnp.int32(last),
            params=params,
            opt_state=opt_state,
            best_params=jax.tree.map(jnp.array, params) if improved else state.best_params,
            best_loss=jnp.float32(found.loss) if improved else state.best_loss,
            best_step=jnp.int32(last) if improved else state.best_step,
            stale=jnp.int32(0) if improved or learning else state.stale + 1,
        )
        row = found.row
        unmeasured = dict.fromkeys(row, None) | {"loss": loss}
        self.history.append({"step": last, "split": "train", **unmeasured})
        self.history.append({"step": last, "split": "validation", **row})
        self.last_look = last
        self.save(self.state)

    def result(self) -> Result:
        """What came of it."""
        state, statistics = self.state, self._variables["statistics"]
        best = {"params": state.best_params, "statistics": statistics}
        return Result(best, int(state.best_step), int(state.step), self.history)

    def save(self, state: TrainState) -> None:
        """Save a state, with the rows and the losses so far."""
        # Named by its step, or by the next number: one that was stopped before an evaluation
        # and one after it share their step, and neither may be gone before the other is whole.
        name = max(int(state.step), (self._manager.latest_step() or 0) + 1)
        rows: dict[str, Any] = {
            "rows": self.history,
            "losses": [float(loss) for loss in jax.device_get(self.losses)],
        }
        rows["sha256"] = _checksum(state, rows)
        self._manager.save(
            name,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(rows)
            ),
        )


def _begun(
    manager: ocp.CheckpointManager, params: Variables, optimizer: optax.GradientTransformation
) -> tuple[TrainState, list[dict[str, Any]], list[Any]]:
    """Where training stands: its state, the rows so far, and the losses since the last of them."""
    state = TrainState(
        step=jnp.int32(0),
        params=jax.tree.map(jnp.array, params),
        opt_state=optimizer.init(params),
        best_params=jax.tree.map(jnp.array, params),
        best_loss=jnp.float32(jnp.inf),
        best_step=jnp.int32(0),
        stale=jnp.int32(0),
    )
    if (latest := manager.latest_step()) is None:
        return state, [], []
    place = manager.directory / str(latest)
    mend = f"restore its files, or delete {manager.directory} to train from the beginning"
    try:
        restored = manager.restore(
            latest,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(state), history=ocp.args.JsonRestore()
            ),
        )
        state, rows = TrainState(*restored["state"]), dict(restored["history"])
    # A damaged file ends in an error of whatever code reads it, of many types and lines.
    except Exception as error:
        cause = textwrap.shorten(str(error), 200)
        raise ValueError(
            f"{place} cannot be read: a file is lost or damaged ({type(error).__name__}: {cause}); "
            f"{mend}."
        ) from error
    if rows.pop("sha256", None) != _checksum(state, rows):
        raise ValueError(f"{place} does not hash to the checksum in it: it was changed; {mend}.")
    # A run may have been stopped between two evaluations.
    return state, list(rows["rows"]), [np.float32(loss) for loss in rows["losses"]]


def _checksum(state: TrainState, rows: dict[str, Any]) -> str:
    """SHA-256 over the values of a state, and the rows and losses before it."""
    text = json.dumps(rows, sort_keys=True)
    return hashlib.sha256(f"{weights_hash(state)} {text}".encode()).hexdigest()


def _until(stop: Callable[[], bool], batches: Iterable[Examples]) -> Iterator[Examples]:
    """Pass batches on until somebody asks to stop."""
    for batch in batches:
        if stop():
            raise _Asked
        yield batch

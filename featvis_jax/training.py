"""Training a classifier: loss, optimizer, metrics, early stopping; resumed exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree
from sklearn import metrics as sklearn_metrics

from featvis_jax.data.pipeline import Examples

Variables = PyTree[Array]


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


class Evaluation(NamedTuple):
    """What a classifier does on labelled images.

    Attributes:
      loss: Mean cross-entropy.
      balanced_accuracy: Mean over classes of the share that is recognized.
      auc: Area under the ROC curve; with more than two classes, one against the rest, averaged.
      confusion: ``(true class, predicted class)`` counts.
    """

    loss: float
    balanced_accuracy: float
    auc: float
    confusion: np.ndarray


class Result(NamedTuple):
    """The outcome of `fit`.

    Attributes:
      variables: The weights at the lowest validation loss, with the input statistics.
      best_step: The step they come from.
      steps: Steps that were run.
      history: A row per evaluation: step, split, loss, balanced_accuracy, auc.
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


def evaluate(
    model: nn.Module, variables: dict[str, Variables], batches: Iterable[Examples]
) -> Evaluation:
    """Run a classifier over labelled images.

    Args:
      model: The network.
      variables: Its weights.
      batches: Images and labels; a smaller last batch is padded, so that one program serves all.
    """
    logits, labels, size = [], [], 0
    for batch in batches:
        count = len(batch["label"])
        size = max(size, count)
        padding = [(0, size - count)] + [(0, 0)] * (batch["image"].ndim - 1)
        images = np.pad(batch["image"], padding)
        logits.append(_apply(model, _copied(variables, images), images)[:count])
        labels.append(batch["label"])
    return _score(np.concatenate(logits), np.concatenate(labels))


@jax.jit(static_argnums=0)
def _apply(model: nn.Module, variables: dict[str, Variables], images: Array) -> Array:
    apply = jax.shard_map(
        model.apply,
        mesh=devices_for(len(images)),
        in_specs=(P(), P("images")),
        out_specs=P("images"),
        check_vma=False,
    )
    return apply(variables, images)  # pyright: ignore[reportReturnType]


def devices_for(num_images: int) -> jax.sharding.Mesh:
    """As many devices of this process as share a batch evenly, along an axis ``"images"``.

    Args:
      num_images: Images of the batch.

    Example:
      >>> devices_for(32).size <= jax.local_device_count()
      True
    """
    present = jax.local_devices()
    return jax.sharding.Mesh(np.array(present[: math.gcd(num_images, len(present))]), ("images",))


def _copied(values: PyTree[Array], images: Array | np.ndarray) -> PyTree[Array]:
    """A copy on each of the devices that share a batch, unless they have one."""
    return jax.device_put(values, NamedSharding(devices_for(len(images)), P()))


def _score(logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> Evaluation:
    # One logit that is no number makes every score none.
    logits = logits.astype(np.float64) if np.isfinite(logits).all() else logits * np.nan
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    probability, classes = np.exp(log_probability), np.arange(logits.shape[1])
    predicted = logits.argmax(axis=1)
    if set(labels) != set(classes) or np.isnan(logits).any():
        auc = math.nan  # A class that is absent has no ROC curve.
    elif len(classes) == 2:
        auc = sklearn_metrics.roc_auc_score(labels, log_probability[:, 1] - log_probability[:, 0])
    else:
        auc = sklearn_metrics.roc_auc_score(labels, probability, multi_class="ovr")
    confusion = sklearn_metrics.confusion_matrix(labels, predicted, labels=classes)
    present = confusion.sum(axis=1) > 0
    recall = confusion.diagonal()[present] / confusion.sum(axis=1)[present]
    return Evaluation(
        loss=float(-log_probability[np.arange(len(labels)), labels].mean()),
        balanced_accuracy=float(recall.mean()),
        auc=float(auc),
        confusion=confusion,
    )


TrainingStep = Callable[
    [Variables, optax.OptState, Array, Array], tuple[Variables, optax.OptState, Array]
]


def training_step(
    model: nn.Module, optimizer: optax.GradientTransformation, statistics: Variables
) -> TrainingStep:
    """Make the function that takes one optimizer step on a batch.

    The devices of this process share the batch, as far as it divides by their number, and average
    their gradients.

    Args:
      model: A network with a ``"statistics"`` collection.
      optimizer: From optax.
      statistics: Of the training images.

    Returns:
      ``(params, opt_state, images, labels) -> (params, opt_state, loss)``, to be jitted.
    """

    def update(
        params: Variables, opt_state: optax.OptState, images: Array, labels: Array
    ) -> tuple[Variables, optax.OptState, Array]:
        def of_part(params: Variables, images: Array, labels: Array) -> tuple[Array, Variables]:
            def loss(params: Variables) -> Array:
                logits = cast(
                    Array, model.apply({"params": params, "statistics": statistics}, images)
                )
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            return lax.pmean(jax.value_and_grad(loss)(params), "images")

        value, gradient = jax.shard_map(
            of_part,
            mesh=devices_for(len(images)),
            in_specs=(P(), P("images"), P("images")),
            out_specs=P(),
            check_vma=False,
        )(params, images, labels)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return update


def fit(
    model: nn.Module,
    variables: dict[str, Variables],
    schedule: Schedule,
    *,
    training: Callable[[int], Iterator[Examples]],
    validation: Callable[[], Iterable[Examples]],
    directory: Path,
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
      on_step: Called after each step with the number of finished steps and the latest known loss.
      on_evaluation: Called after each evaluation with the rows so far.
      stop: Asked before each batch, of an evaluation too, whether to save and end.

    Raises:
      FloatingPointError: The loss is no longer finite.
      Interrupted: `stop` said so.
    """
    optimizer = schedule.optimizer()
    statistics = variables["statistics"]

    update = jax.jit(training_step(model, optimizer, statistics), donate_argnums=(0, 1))

    # A process that was killed leaves half a checkpoint behind; nobody else writes there.
    options = ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
    with ocp.CheckpointManager(directory.absolute(), options=options) as manager:
        state, history, losses = _begun(manager, variables["params"], optimizer)

        def save(state: TrainState) -> None:
            # Named by its step, or by the next number: one that was stopped before an evaluation
            # and one after it share their step, and neither may be gone before the other is whole.
            name = max(int(state.step), (manager.latest_step() or 0) + 1)
            rows = {"rows": history, "losses": [float(loss) for loss in jax.device_get(losses)]}
            manager.save(
                name,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(rows)
                ),
            )

        batches = training(int(state.step))
        known_loss = math.nan
        while losses or (int(state.step) < schedule.steps and int(state.stale) < schedule.patience):
            params, opt_state = state.params, state.opt_state
            step, found = int(state.step), None
            first = step - len(losses)
            last = min(first + schedule.evaluate_every, schedule.steps)
            with contextlib.suppress(_Asked):
                for batch in _until(stop, itertools.islice(batches, last - step)):
                    params, opt_state, loss = update(
                        *_copied((params, opt_state), batch["image"]),
                        batch["image"],
                        batch["label"],
                    )
                    losses.append(loss)
                    step += 1
                    if len(losses) > 1:
                        # The loss before last is there already: reading it holds nothing up.
                        known_loss = float(losses[-2])
                    on_step(step, known_loss)
                weights = {"params": params, "statistics": statistics}
                found = evaluate(model, weights, _until(stop, validation()))
            if found is None:
                save(state._replace(step=jnp.int32(step), params=params, opt_state=opt_state))
                raise Interrupted(f"Stopped and saved after step {step}.")
            training_loss = float(np.mean(jax.device_get(losses)))
            losses.clear()
            if not (math.isfinite(training_loss) and math.isfinite(found.loss)):
                raise FloatingPointError(
                    f"Between steps {first} and {last} the loss became {training_loss} in training "
                    f"and {found.loss} in validation: try a lower learning rate than "
                    f"{schedule.learning_rate}."
                )
            # While easy lesions are still being replaced by hard ones, training is not stale.
            improved = found.loss < float(state.best_loss)
            learning = last < schedule.hard_after
            state = TrainState(
                step=jnp.int32(last),
                params=params,
                opt_state=opt_state,
                best_params=jax.tree.map(jnp.array, params) if improved else state.best_params,
                best_loss=jnp.float32(found.loss) if improved else state.best_loss,
                best_step=jnp.int32(last) if improved else state.best_step,
                stale=jnp.int32(0) if improved or learning else state.stale + 1,
            )
            unmeasured = {"balanced_accuracy": None, "auc": None}
            history.append({"step": last, "split": "train", "loss": training_loss, **unmeasured})
            history.append({"step": last, "split": "validation", **_row(found)})
            save(state)
            on_evaluation(history)
    best = {"params": state.best_params, "statistics": statistics}
    return Result(best, int(state.best_step), int(state.step), history)


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
    restored = manager.restore(
        latest,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(state), history=ocp.args.JsonRestore()
        ),
    )
    # A run may have been stopped between two evaluations.
    losses = [np.float32(loss) for loss in restored["history"].get("losses", [])]
    return TrainState(*restored["state"]), list(restored["history"]["rows"]), losses


def _row(evaluation: Evaluation) -> dict[str, float]:
    return {
        "loss": evaluation.loss,
        "balanced_accuracy": evaluation.balanced_accuracy,
        "auc": evaluation.auc,
    }


def _until(stop: Callable[[], bool], batches: Iterable[Examples]) -> Iterator[Examples]:
    """Pass batches on until somebody asks to stop."""
    for batch in batches:
        if stop():
            raise _Asked
        yield batch

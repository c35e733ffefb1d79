"""What a network does on labelled images: how well it tells classes, or estimates a number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from featvis_jax.data.pipeline import Examples
from featvis_jax.training import microbatches
from featvis_jax.training.step import Variables


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

    @property
    def row(self) -> dict[str, float]:
        """Its numbers by their names."""
        return {
            "loss": self.loss,
            "balanced_accuracy": self.balanced_accuracy,
            "auc": self.auc,
        }


class Estimates(NamedTuple):
    """How well a network estimates a number of labelled images.

    Attributes:
      loss: Mean squared error.
      mean_absolute_error: In the units of the labels.
      r_squared: Share of their variance that is explained: 1 where all is, 0 for their mean alone,
        less for what is worse than that.
      correlation: Of estimates and labels.
      estimated: What the network says of each image.
      true: The labels.
    """

    loss: float
    mean_absolute_error: float
    r_squared: float
    correlation: float
    estimated: np.ndarray
    true: np.ndarray

    @property
    def row(self) -> dict[str, float]:
        """Those of its numbers that have no unit, by their names."""
        return {"loss": self.loss, "r_squared": self.r_squared}


def measured(
    model: nn.Module,
    variables: dict[str, Variables],
    batches: Iterable[Examples],
    *,
    microbatch: int | None = None,
    num_devices: int | None = None,
) -> Evaluation | Estimates:
    """Run a network over labelled images, of whichever kind its labels are.

    Args:
      model: As in `evaluate`.
      variables: Likewise.
      batches: Likewise; labels of floats are estimated, others are classes.
      microbatch: Likewise.
      num_devices: Likewise.
    """
    parts = {"microbatch": microbatch, "num_devices": num_devices}
    outputs, labels = _outputs(model, variables, batches, **parts)
    if np.issubdtype(labels.dtype, np.floating):
        return _estimates(outputs[:, 0], labels)
    return _score(outputs, labels)


def evaluate(
    model: nn.Module,
    variables: dict[str, Variables],
    batches: Iterable[Examples],
    *,
    microbatch: int | None = None,
    num_devices: int | None = None,
) -> Evaluation:
    """Run a classifier over labelled images.

    Args:
      model: The network.
      variables: Its weights.
      batches: Images and labels; a smaller last batch is padded, so that one program serves all.
      microbatch: Images that run at once on a device; by default `microbatches.default_size` of the
        first batch.
      num_devices: Devices to take at most; by default `microbatches.most_devices`.
    """
    parts = {"microbatch": microbatch, "num_devices": num_devices}
    return _score(*_outputs(model, variables, batches, **parts))


def estimate(
    model: nn.Module,
    variables: dict[str, Variables],
    batches: Iterable[Examples],
    *,
    microbatch: int | None = None,
    num_devices: int | None = None,
) -> Estimates:
    """Run a network over images whose labels are numbers that its first output estimates.

    Args:
      model: As in `evaluate`.
      variables: Likewise.
      batches: Likewise.
      microbatch: Likewise.
      num_devices: Likewise.
    """
    parts = {"microbatch": microbatch, "num_devices": num_devices}
    outputs, labels = _outputs(model, variables, batches, **parts)
    return _estimates(outputs[:, 0], labels)


def _outputs(
    model: nn.Module,
    variables: dict[str, Variables],
    batches: Iterable[Examples],
    *,
    microbatch: int | None,
    num_devices: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What a network says of labelled images, and their labels."""
    outputs, labels, size = [], [], 0
    for batch in batches:
        count = len(batch["label"])
        if microbatch is None:
            microbatch = microbatches.default_size(count, batch["image"].shape[1:])
        size = max(size, -(-count // microbatch) * microbatch)
        padding = [(0, size - count)] + [(0, 0)] * (batch["image"].ndim - 1)
        most = num_devices or microbatches.most_devices(microbatch, batch["image"].shape[1:])
        devices = microbatches.devices_for(size // microbatch, most=most)
        images = microbatches.dealt(np.pad(batch["image"], padding), devices)
        found = _apply(model, microbatch, devices, microbatches.copied(variables, devices), images)
        outputs.append(np.asarray(found)[:count])
        labels.append(batch["label"])
    return np.concatenate(outputs), np.concatenate(labels)


@jax.jit(static_argnums=(0, 1, 2))
def _apply(
    model: nn.Module,
    microbatch: int,
    devices: jax.sharding.Mesh,
    variables: dict[str, Variables],
    images: Array,
) -> Array:
    found = microbatches.each(
        model.apply,
        variables,
        (images,),
        size=microbatch,
        devices=devices,
        together=microbatches.joined,
    )
    return found.reshape(len(images), -1)


def _score(logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> Evaluation:
    from sklearn import metrics as sklearn_metrics

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


def _estimates(estimated: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"]) -> Estimates:
    estimated, true = estimated.astype(np.float64), true.astype(np.float64)
    error, deviation = estimated - true, true - true.mean()
    spread = float((deviation**2).sum())
    both = float(np.std(estimated) * np.std(true))
    covariance = float(((estimated - estimated.mean()) * deviation).mean())
    return Estimates(
        loss=float((error**2).mean()),
        mean_absolute_error=float(abs(error).mean()),
        # Of one image, or of equal labels, there is no variance to be explained.
        r_squared=1 - float((error**2).sum()) / spread if spread > 0 else math.nan,
        correlation=covariance / both if both > 0 else math.nan,
        estimated=estimated,
        true=true,
    )

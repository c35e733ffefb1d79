"""What a classifier does on labelled images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn import metrics as sklearn_metrics

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
    logits, labels, size = [], [], 0
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
        logits.append(np.asarray(found)[:count])
        labels.append(batch["label"])
    return _score(np.concatenate(logits), np.concatenate(labels))


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

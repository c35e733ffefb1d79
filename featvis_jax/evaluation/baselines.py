"""Classifiers that cannot see shape.

If one of them comes near the network, a task can be solved without shape, and the network's
pictures cannot be expected to show any.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int

from featvis_jax.data.pipeline import Examples

_BINS = 64
# Parts of each axis whose mean brightness is all that is left of an image.
_PARTS = 8


def histogram_features(
    batches: Iterable[Examples],
) -> tuple[Float[np.ndarray, "n bins"], Float[np.ndarray, "n 3"], Int[np.ndarray, " n"]]:
    """Reduce images to what is left of them without space.

    Args:
      batches: Labelled images.

    Returns:
      The share of foreground (above zero) in each of 64 intensity bins on [0, 1]; the maximum, the
      minimum of the foreground, and the mean; and the labels.
    """
    histograms, summaries, labels = [], [], []
    for batch in batches:
        for image in batch["image"]:
            foreground = image[image > 0]
            counts, _ = np.histogram(foreground, bins=_BINS, range=(0, 1))
            histograms.append(counts / max(len(foreground), 1))
            summaries.append((image.max(), foreground.min(initial=1.0), image.mean()))
        labels.append(batch["label"])
    return np.array(histograms), np.array(summaries), np.concatenate(labels)


def shape_blind_baselines(
    training: Iterable[Examples], testing: Iterable[Examples]
) -> dict[str, float]:
    """Balanced accuracy of two shape-blind classifiers on test images.

    Args:
      training: Images to fit on.
      testing: The images that the network is tested on.

    Returns:
      ``threshold``: the best single threshold on the maximum, minimum or mean of an image, chosen
      on the training images, and for more than two classes a tree of thresholds with a leaf for
      each; ``histogram``: logistic regression on the intensity histogram.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    histograms, summaries, labels = histogram_features(training)
    test_histograms, test_summaries, test_labels = histogram_features(testing)
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    regression.fit(histograms, labels)
    predicted = regression.predict(test_histograms)
    if (classes := len(np.unique(labels))) > 2:
        tree = DecisionTreeClassifier(
            max_leaf_nodes=classes, class_weight="balanced", random_state=0
        )
        by_threshold = tree.fit(summaries, labels).predict(test_summaries)
    else:
        column, threshold, above = _best_threshold(summaries, labels)
        by_threshold = (test_summaries[:, column] > threshold) == above
    return {
        "threshold": float(balanced_accuracy_score(test_labels, by_threshold)),
        "histogram": float(balanced_accuracy_score(test_labels, predicted)),
    }


def brightness_by_place(
    training: Iterable[Examples], testing: Iterable[Examples]
) -> dict[str, float]:
    """Balanced accuracy of a classifier that sees where it is bright, and no volumes.

    Where a dark ventricle grows, its surroundings are darker. If this comes near the network, what
    the network knows need not be how large anything is.

    Args:
      training: Images to fit on.
      testing: The images that the network is tested on.

    Returns:
      ``brightness_by_place``: logistic regression on the mean brightness of the cells of a grid, 8
      along each axis.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cells, labels = _cells(training)
    test_cells, test_labels = _cells(testing)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    predicted = regression.fit(cells, labels).predict(test_cells)
    return {"brightness_by_place": float(balanced_accuracy_score(test_labels, predicted))}


def _cells(
    batches: Iterable[Examples],
) -> tuple[Float[np.ndarray, "n cells"], Int[np.ndarray, " n"]]:
    found, labels = [], []
    for batch in batches:
        means = batch["image"][..., 0].astype(np.float64)
        for axis in range(1, means.ndim):
            parts = np.array_split(means, min(_PARTS, means.shape[axis]), axis=axis)
            means = np.stack([part.mean(axis=axis) for part in parts], axis=axis)
        found.append(means.reshape(len(means), -1))
        labels.append(batch["label"])
    return np.concatenate(found), np.concatenate(labels)


def _best_threshold(
    summaries: Float[np.ndarray, "n 3"], labels: Int[np.ndarray, " n"]
) -> tuple[int, float, bool]:
    """The summary, its threshold, and whether class 1 lies above it."""
    best = (0.0, 0, 0.0, True)
    for column in range(summaries.shape[1]):
        order = np.argsort(summaries[:, column])
        values, ones = summaries[order, column], labels[order] == 1
        # Balanced accuracy of "class 1 above the i-th value" for every i at once.
        above = (
            (~ones).cumsum() / max((~ones).sum(), 1)
            + (ones.sum() - ones.cumsum()) / max(ones.sum(), 1)
        ) / 2
        # No threshold lies between equal values.
        above[:-1][values[:-1] == values[1:]] = 0.5
        for score, is_above in ((above, True), (1 - above, False)):
            i = int(score.argmax())
            best = max(best, (float(score[i]), column, float(values[i]), is_above))
    return best[1], best[2], best[3]

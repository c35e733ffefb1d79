"""Does a picture show what its unit was trained on? The grade of one picture.

The elements of the picture, the places at which it shows most at a lesion's size
(`featvis_jax.evaluation.elements`), are shown to a shape classifier one by one
(`featvis_jax.evaluation.shape_classifier`). The shape is *named rightly* where the classifier gives
it more than half of the picture, every element counting by its energy.

Its size is that of the elements in which the classifier sees the shape. True sizes are a range; a
picture's size passes within half an octave of the range's geometric middle, which for 9 to 17 mm is
the range itself.

How far the picture moves an independent network, whole or by its strongest patches in clean images,
is reported as numbers and is no score (`featvis_jax.evaluation.transfer`): a network that was
trained to find squares in brains responds to bars as well, so that these numbers say as much about
the network as about the picture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax.evaluation.concepts import Template
from featvis_jax.evaluation.energy import phase_scrambled
from featvis_jax.evaluation.shape_classifier import Prediction, ShapeClassifier, classify
from featvis_jax.evaluation.transfer import (
    Detector,
    InsertionSite,
    Yardstick,
    insertion_test,
    insertions,
)

MAJORITY = 0.5
"""Share of a picture's energy that the shape needs to be named."""

_SCRAMBLED = 4
_HALF_OCTAVE = 0.5 + 1e-9


class Concept(NamedTuple):
    """What a unit was trained on.

    Attributes:
      name: The template of its shape.
      size: Geometric middle of the lesions' sizes, in voxels: the side of a square of that area.
      yardstick: How far an independent network tells it from the other classes.
    """

    name: str
    size: float
    yardstick: Yardstick


@dataclasses.dataclass(frozen=True)
class Grade:
    """The grade of one picture.

    Attributes:
      prediction: The class that the classifier sees most of.
      share: How much of the picture it takes for the shape, on [0, 1].
      named: Whether that is more than half.
      size: Of the elements in which it sees the shape, in voxels, as `Concept.size`; NaN for none.
      size_passed: Whether that is within half an octave of the true one.
      transfer: Standing of the picture between clean, 0, and lesion, 1.
      transfer_scrambled: Mean standing of its scrambled copies.
      insertion: Mean change by a patch beyond its scrambled copy, as a share of the lesion's.
      insertion_p: How sure that is.
    """

    prediction: str
    share: float
    named: bool
    size: float
    size_passed: bool
    transfer: float
    transfer_scrambled: float
    insertion: float
    insertion_p: float


@dataclasses.dataclass(frozen=True)
class Grader:
    """All that a grade needs besides the picture.

    Attributes:
      templates: The shapes.
      classifier: Of elements; its classes are named by their first member.
      outlines: The classifier's classes, and the templates that belong to each.
      detect: Logits of the independent network.
      sites: Clean images and where patches are pasted.
      seed: Of the scrambled phases.
    """

    templates: Mapping[str, Template]
    classifier: ShapeClassifier
    outlines: Mapping[str, Sequence[str]]
    detect: Detector
    sites: Sequence[InsertionSite]
    seed: int = 0

    def grade(
        self, image: Float[np.ndarray, "*spatial 1"], concept: Concept, *, moves: bool = True
    ) -> Grade:
        """Grade a picture.

        Args:
          image: The picture, on the grid of the independent network.
          concept: What its unit was trained on.
          moves: Whether the independent network is asked too; NaN where it is not.

        Raises:
          ValueError: The picture holds something that is not finite.
        """
        if not np.isfinite(image).all():
            raise ValueError("The picture has values that are not finite: leave it out.")
        image = np.asarray(image, np.float32)
        own = next(name for name, members in self.outlines.items() if concept.name in members)
        prediction = classify(self.classifier, image, self.templates[own], size=concept.size)
        size = _size(prediction, own)
        standing, scrambled, insertion, p = (
            self._moved(image, concept) if moves else (math.nan,) * 4
        )
        return Grade(
            prediction=prediction.shape,
            share=prediction.shares[own],
            named=prediction.shares[own] > MAJORITY,
            size=size,
            size_passed=bool(abs(math.log2(size / concept.size)) <= _HALF_OCTAVE),
            transfer=standing,
            transfer_scrambled=scrambled,
            insertion=insertion,
            insertion_p=p,
        )

    def _moved(
        self, image: Float[np.ndarray, "*spatial 1"], concept: Concept
    ) -> tuple[float, float, float, float]:
        """Transfer, that of scrambled copies, insertion, and its p; all in one batch."""
        rng = np.random.default_rng(self.seed)
        copies = [phase_scrambled(image, rng) for _ in range(_SCRAMBLED)]
        pasted = insertions(image, self.sites, self.classifier.side, rng)
        stack = np.concatenate([[image], copies, pasted.patched, pasted.scrambled])
        standing = concept.yardstick.standing(self.detect(stack))
        first, second = 1 + len(copies), 1 + len(copies) + len(self.sites)
        insertion, p = insertion_test(standing[first:second], standing[second:])
        return float(standing[0]), float(standing[1:first].mean()), insertion, p


def _size(prediction: Prediction, own: str) -> float:
    """Geometric mean size of the elements of a shape, by their energy."""
    of_shape = [
        each for each, seen in zip(prediction.elements, prediction.seen, strict=True) if seen == own
    ]
    if not of_shape:
        return math.nan
    weights = [each.energy for each in of_shape]
    return float(np.exp(np.average([math.log(each.size) for each in of_shape], weights=weights)))

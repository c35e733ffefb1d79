"""Does a picture show what its unit was trained on? Four scores of one picture, put together.

1. Matched filter: the true shape fits better than every rival of another outline, and better than
   in phase-scrambled copies of the picture (`featvis_jax.evaluation.concepts`).
2. Judge: a classifier of patches names the shape (`featvis_jax.evaluation.judge`).
3. Transfer: the picture moves an independent network at least half as far as lesions do, its
   scrambled copies at most a tenth as far (`featvis_jax.evaluation.transfer`).
4. Insertion: its strongest patches, pasted into clean images, move that network further than
   equally strong patches without shape.

The shape is *named rightly* where 1 or 2 holds together with 3 or 4: the first two favour sharp
textures, the third what misleads all networks alike.

True sizes are a range; what is asked of a picture's size is to lie within half an octave of the
range's geometric middle, which for 9 to 17 mm is the range itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax.evaluation.concepts import Template, match_shapes, rivals
from featvis_jax.evaluation.energy import phase_scrambled
from featvis_jax.evaluation.judge import Judge, judge_image
from featvis_jax.evaluation.transfer import (
    Detector,
    Ground,
    Yardstick,
    insertion_test,
    insertions,
)

# Quarters of an octave from half the size to twice the size.
SIZES = tuple(2.0 ** (step / 4) for step in range(-4, 5))
_SCRAMBLED = 4
_TRANSFER, _TRANSFER_SCRAMBLED = 0.5, 0.1
SIGNIFICANT = 0.05
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
    """The scores of one picture.

    Attributes:
      correlation: Best normalised cross-correlation with every shape.
      margin: By how much the true shape leads its rivals.
      correlation_scrambled: Best correlation of the true shape with scrambled copies.
      filter_passed: Score 1.
      size: At which the true shape fits best, in voxels, as `Concept.size`.
      size_passed: Whether that is within half an octave of the true one.
      verdict: What the judge sees.
      judge_passed: Score 2.
      transfer: Standing of the picture between clean, 0, and lesion, 1.
      transfer_scrambled: Mean standing of its scrambled copies.
      transfer_passed: Score 3.
      insertion: Mean change by a patch beyond its scrambled copy, as a share of the lesion's.
      insertion_p: How sure that is.
      insertion_passed: Score 4.
      named: (1 or 2) and (3 or 4).
    """

    correlation: Mapping[str, float]
    margin: float
    correlation_scrambled: float
    filter_passed: bool
    size: float
    size_passed: bool
    verdict: str
    judge_passed: bool
    transfer: float
    transfer_scrambled: float
    transfer_passed: bool
    insertion: float
    insertion_p: float
    insertion_passed: bool
    named: bool


@dataclasses.dataclass(frozen=True)
class Grader:
    """All that the scores need besides the picture.

    Attributes:
      templates: The shapes.
      judge: Of patches; its classes are named by their first member.
      outlines: The judge's classes, and the templates that belong to each.
      detect: Logits of the independent network.
      places: Clean images and where patches are pasted.
      seed: Of the scrambled phases.
    """

    templates: Mapping[str, Template]
    judge: Judge
    outlines: Mapping[str, Sequence[str]]
    detect: Detector
    places: Sequence[Ground]
    seed: int = 0

    def chances(self, concept: Concept, rank: int) -> dict[str, float]:
        """Share of pictures without content that would pass every score, at most.

        A score that draws between k outlines gives each 1/k. Transfer has no level of its own:
        that a random picture moves a network half as far as a lesion, and its scrambled copies do
        not, is left out of the chance to be named, which is that of the other three together.

        Args:
          concept: The concept.
          rank: 2 or 3.
        """
        by_filter = 1 / max(1 + len(rivals(concept.name, templates=self.templates, rank=rank)), 1)
        by_filter /= 1 + _SCRAMBLED
        by_judge = 1 / len(self.judge.classes)
        shape = 1 - (1 - by_filter) * (1 - by_judge)
        sizes = sum(abs(math.log2(size)) <= _HALF_OCTAVE for size in SIZES) / len(SIZES)
        return {
            "filter": by_filter,
            "judge": by_judge,
            "insertion": SIGNIFICANT,
            "named": shape * SIGNIFICANT,
            "size": sizes,
        }

    def grade(self, image: Float[np.ndarray, "*spatial 1"], concept: Concept) -> Grade:
        """Score a picture.

        Args:
          image: The picture, on the grid of the independent network.
          concept: What its unit was trained on.

        Raises:
          ValueError: The picture holds something that is not finite.
        """
        if not np.isfinite(image).all():
            raise ValueError("The picture has values that are not finite: leave it out.")
        rng = np.random.default_rng(self.seed)
        image = np.asarray(image, np.float32)
        copies = [phase_scrambled(image, rng) for _ in range(_SCRAMBLED)]
        found = match_shapes(image, size=concept.size, templates=self.templates, multiples=SIZES)
        others = rivals(concept.name, templates=self.templates, rank=image.ndim - 1)
        margin = found.margin(concept.name, rivals=others)
        own = {concept.name: self.templates[concept.name]}
        by_chance = max(
            match_shapes(copy, size=concept.size, templates=own, multiples=SIZES).correlation[
                concept.name
            ]
            for copy in copies
        )
        filter_passed = margin > 0 and found.correlation[concept.name] > by_chance
        size = found.size[concept.name]
        verdict = judge_image(self.judge, image).shape
        judge_passed = concept.name in self.outlines.get(verdict, ())
        standing, scrambled, insertion, p = self._moved(image, copies, concept, rng)
        transfer_passed = standing >= _TRANSFER and scrambled <= _TRANSFER_SCRAMBLED
        insertion_passed = p < SIGNIFICANT
        return Grade(
            correlation=found.correlation,
            margin=margin,
            correlation_scrambled=by_chance,
            filter_passed=filter_passed,
            size=size,
            size_passed=bool(abs(math.log2(size / concept.size)) <= _HALF_OCTAVE),
            verdict=verdict,
            judge_passed=judge_passed,
            transfer=standing,
            transfer_scrambled=scrambled,
            transfer_passed=transfer_passed,
            insertion=insertion,
            insertion_p=p,
            insertion_passed=insertion_passed,
            named=(filter_passed or judge_passed) and (transfer_passed or insertion_passed),
        )

    def _moved(
        self,
        image: Float[np.ndarray, "*spatial 1"],
        copies: Sequence[Float[np.ndarray, "*spatial 1"]],
        concept: Concept,
        rng: np.random.Generator,
    ) -> tuple[float, float, float, float]:
        """Transfer, that of scrambled copies, insertion, and its p; all in one batch."""
        pasted = insertions(image, self.places, self.judge.side, rng)
        stack = np.concatenate([[image], copies, pasted.patched, pasted.scrambled])
        standing = concept.yardstick.standing(self.detect(stack))
        first, second = 1 + len(copies), 1 + len(copies) + len(self.places)
        insertion, p = insertion_test(standing[first:second], standing[second:])
        return float(standing[0]), float(standing[1:first].mean()), insertion, p

"""What a grade is worth: the same grade of pictures whose content is known."""

from collections.abc import Mapping

import numpy as np

from featvis_jax import progress, stopping
from featvis_jax.data.shapes import equal_area_side
from featvis_jax.data.tasks import LesionTask, OutlineTask
from featvis_jax.evaluation.grading import Concept, Grader
from featvis_jax.evaluation.known_pictures import known_picture, wrong_kinds
from featvis_jax.evaluation.summary import PERFECT, Graded
from featvis_jax.runs.graders import Truth

# Pictures of every kind.
_RIGHT, _WRONG = 12, 4


def calibrated(
    grader: Grader, by_name: Mapping[str, Concept], truth: Truth, *, seed: int
) -> list[Graded]:
    """Draw perfect pictures of every concept and wrong ones of many kinds, and grade them.

    Args:
      grader: The grade.
      by_name: The concepts.
      truth: Their shapes, and how large lesions are.
      seed: Of the pictures.
    """
    shape = grader.sites[0].image.shape[:-1]
    asked = []
    for label, name in truth.names.items():
        own = grader.templates[name]
        kinds = {PERFECT: lambda rng, rank, own=own: own, **wrong_kinds(own, len(shape))}
        for number, (kind, draw) in enumerate(kinds.items()):
            asked += [
                (label, name, kind, draw, number, variant)
                for variant in range(1, 1 + (_RIGHT if kind == PERFECT else _WRONG))
            ]
    found = []
    for label, name, kind, draw, number, variant in progress.each(
        asked, "grading drawn pictures", unit="picture"
    ):
        stopping.check()
        rng = np.random.default_rng([seed, 6, label, number, variant])
        sizes = _sizes(truth.task, equal_area_side(truth.shapes[label], len(shape)))
        image = known_picture(rng, draw, shape, sizes)
        grade = grader.grade(image, by_name[name], moves=False)
        size_mm = (
            grade.size / by_name[name].size * float(np.sqrt(np.prod(truth.task.lesions.size_mm)))
        )
        found.append(Graded("drawn", "drawn", number, variant, name, kind, size_mm, grade))
    return found


def _sizes(task: LesionTask | OutlineTask, side: float) -> tuple[float, float]:
    """Smallest and largest lesion in voxels, as sides of squares of their areas."""
    low, high = (size / task.lesions.voxel_size_mm * side for size in task.lesions.size_mm)
    return low, high

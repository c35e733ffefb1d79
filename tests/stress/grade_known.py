"""Grades pictures whose content is known: how often perfect ones are named, and wrong ones.

    python -m tests.stress.grade_known --count=20
    python -m tests.stress.grade_known --shapes=square,disc --volumes

Trains a classifier for every shape as `experiments.grade` does, on heads of smooth noise, and asks
it about perfect pictures and about every other kind. The bars: 95 % of the perfect ones of a shape,
at most 10 % of any other kind and 5 % of all of them.
"""

import argparse
import sys
import time

import numpy as np
from scipy import ndimage

from featvis_jax.data.shapes import SHAPES, Shape
from featvis_jax.evaluation import concepts
from featvis_jax.evaluation.figures import of_template, overlap
from featvis_jax.evaluation.grading import MAJORITY
from featvis_jax.evaluation.known_pictures import NEAR, PLUS, known_picture, wrong_kinds
from featvis_jax.evaluation.shape_classifier import classify, train_shape_classifier
from tests.evaluation.shapes import TUNED, UNSEEN

# Grids and sizes of lesions in voxels, as the shipped models have them.
_SLICE, _VOLUME = ((140, 192), (9.0, 17.0)), ((50, 59, 48), (6.0, 11.0))
_SUBJECTS = 12
_RIGHT, _KIND, _MEAN = 0.95, 0.10, 0.05


def tissue(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A head of smooth noise on black."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    inside = sum(axis**2 for axis in axes) < 1.2
    return ((0.5 + 0.12 * noise / noise.std()) * inside)[..., None].astype(np.float32)


def main() -> int:
    """Print a line for every shape and every kind; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="", help="Some of them, separated by commas.")
    parser.add_argument("--volumes", action="store_true", help="In three dimensions.")
    parser.add_argument("--count", type=int, default=20, help="Pictures of every kind.")
    parser.add_argument("--patches", type=int, default=12288, help="That a classifier learns from.")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    shapes = {**SHAPES, "plus": PLUS, **UNSEEN, **TUNED}
    asked = flags.shapes.split(",") if flags.shapes else list(shapes)
    unknown = set(asked) - set(shapes)
    if unknown:
        parser.error(f"--shapes: {', '.join(unknown)} is none of {', '.join(shapes)}.")
    missed = [name for name in asked if not _reaches(name, shapes, flags)]
    print("every bar is reached" if not missed else f"missed: {', '.join(missed)}")
    return int(bool(missed))


def _reaches(name: str, shapes: dict[str, Shape], flags: argparse.Namespace) -> bool:
    """Whether the classifier of a shape reaches all bars."""
    grid, sizes = _VOLUME if flags.volumes else _SLICE
    rank, started = len(grid), time.monotonic()
    own = concepts.template(shapes[name])
    templates = {**concepts.TEMPLATES, name: own}
    known = [other for other in (*SHAPES, "line") if other != name]
    outlines = concepts.outlines([name, *known], templates=templates, rank=rank)
    side = concepts.equal_area_side(shapes[name], rank)
    size = float(np.sqrt(np.prod(sizes))) * side
    rng = np.random.default_rng([flags.seed, 1])
    heads = [tissue(rng, grid) for _ in range(_SUBJECTS)]
    half = _SUBJECTS // 2
    classifier = train_shape_classifier(
        heads[:half],
        heads[half:],
        outlines,
        [name],
        size=size,
        templates=templates,
        patches=flags.patches,
        seed=flags.seed,
    )
    trained = time.monotonic() - started
    kinds = wrong_kinds(own, rank)
    figure = of_template(own, rank)
    for other, shape in shapes.items():
        drawn = concepts.template(shape)
        if other not in kinds and overlap(of_template(drawn, rank), figure) < NEAR:
            kinds[other] = lambda rng, rank, drawn=drawn: drawn

    shares = {}
    for number, (kind, draw) in enumerate([("", lambda rng, rank: own), *kinds.items()]):
        seen = []
        for each in range(flags.count):
            rng = np.random.default_rng([flags.seed, number, each])
            image = known_picture(rng, draw, grid, (sizes[0] * side, sizes[1] * side))
            prediction = classify(classifier, image, own, size=size)
            seen.append(prediction.shares[name] > MAJORITY)
        shares[kind] = float(np.mean(seen))
    perfect = shares.pop("")
    mean, most = float(np.mean(list(shares.values()))), max(shares, key=shares.__getitem__)
    print(
        f"{name} in {rank} dimensions: classifier trained in {trained:.0f} s, right in "
        f"{100 * classifier.balanced_accuracy:.0f} % of patches; perfect {100 * perfect:.0f} %, "
        f"wrong {100 * mean:.1f} %, at most {100 * shares[most]:.0f} % ({most})"
    )
    print("   " + ", ".join(f"{kind} {100 * share:.0f}" for kind, share in shares.items()))
    sys.stdout.flush()
    return perfect >= _RIGHT and mean <= _MEAN and shares[most] <= _KIND


if __name__ == "__main__":
    sys.exit(main())

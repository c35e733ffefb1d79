"""The judge and the whole grade on pictures whose shape is known, and on pictures without one."""

import inspect

import jax
import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.evaluation import judge as judge_module
from featvis_jax.evaluation.concepts import TEMPLATES, match_shapes, outlines, rivals
from featvis_jax.evaluation.energy import phase_scrambled
from featvis_jax.evaluation.grading import SIZES, Concept, Grader
from featvis_jax.evaluation.judge import judge_image, train_judge
from featvis_jax.evaluation.transfer import Yardstick, grounds

SIZE = 8.0
SHAPE = (64, 72)
OUTLINES = outlines(["square", "disc", "gaussian", "line"], rank=2)


def tissue(rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A head of smooth noise on black."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1.2
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    return ((0.5 + 0.12 * noise / noise.std()) * inside)[..., None].astype(np.float32)


def picture(name: str, rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Shapes of some size and either polarity on grey ground or low-pass noise."""
    ground = np.full(shape, 0.5)
    if rng.random() < 0.5:
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(1, 3))
        ground = ground + 0.03 * noise / noise.std()
    size = SIZE * float(np.exp2(rng.uniform(-0.5, 0.5)))
    grid = np.indices(shape).astype(float)
    cells = [n // 2 for n in shape]
    for corner in np.ndindex(*[2] * len(shape)):
        center = [
            (c + 0.5) * cell + rng.uniform(-3, 3) for c, cell in zip(corner, cells, strict=True)
        ]
        mask = TEMPLATES[name](grid - np.reshape(center, (-1, *[1] * len(shape))), size)
        level = 0.5 + rng.choice((-1, 1)) * rng.uniform(0.2, 0.5)
        ground = ground * (1 - mask) + level * mask
    return ground[..., None]


def board(rng: np.random.Generator) -> np.ndarray:
    """A checkerboard at any phase."""
    cell, (i, j) = rng.uniform(3, 14), np.indices(SHAPE) + rng.uniform(0, 30, (2, 1, 1))
    return ((i // cell + j // cell) % 2)[..., None]


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """Trainings compiled well, whatever XLA_FLAGS say: they run longer than that takes."""
    train = jax.jit(
        inspect.unwrap(judge_module._train),
        static_argnums=(0, 1),
        compiler_options={"xla_backend_optimization_level": 3},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_module, "_train", train)
        yield


@pytest.fixture(scope="module")
def judge(optimized):
    rng = np.random.default_rng(1)
    images = [tissue(rng) for _ in range(12)]
    return train_judge(images[:6], images[6:], OUTLINES, size=SIZE, patches=4096, epochs=10)


def test_the_judge_knows_patches_of_other_subjects(judge):
    assert judge.classes == ("square", "disc", "line", "clean")
    assert judge.balanced_accuracy > 0.5  # Of four, on patches that are blurred, shaded, crowded.


def test_shapes_are_named_by_the_filter_or_the_judge(judge, rng):
    right = {"filter": 0, "judge": 0, "either": 0}
    names = ["square", "disc", "gaussian", "line"] * 10
    for name in names:
        image = picture(name, rng)
        match = match_shapes(image, size=SIZE, multiples=SIZES)
        by_filter = match.margin(name, rivals=rivals(name, rank=2)) > 0
        by_judge = name in OUTLINES.get(judge_image(judge, image).shape, ())
        right["filter"] += by_filter
        right["judge"] += by_judge
        right["either"] += by_filter or by_judge
    assert right["either"] >= 0.95 * len(names), right
    assert min(right.values()) >= 0.8 * len(names), right


@pytest.mark.parametrize("kind", ["white", "scrambled", "checkerboard", "flat"])
def test_what_shows_no_shape_is_given_none(judge, kind, rng):
    verdicts = []
    for number in range(12):
        drawn = picture(["square", "disc"][number % 2], rng)
        image = {
            "white": lambda: rng.uniform(size=(*SHAPE, 1)),
            "scrambled": lambda drawn=drawn: phase_scrambled(drawn, rng),
            "checkerboard": lambda: board(rng),
            "flat": lambda: np.full((*SHAPE, 1), 0.5),
        }[kind]()
        verdicts.append(judge_image(judge, image).shape)
    # Chance is a quarter for each shape.
    for name in ("square", "disc", "line"):
        assert verdicts.count(name) <= 6, verdicts
    assert verdicts.count("clean") >= 5, verdicts


def test_neither_brightness_nor_polarity_matters(judge, rng):
    image = picture("square", rng)
    shares = [
        judge_image(judge, each).shares for each in (image, 0.2 * image + 0.3, image * 10 - 5)
    ]
    for other in shares[1:]:
        assert other == pytest.approx(shares[0], abs=1e-3)


def test_a_grade_puts_the_scores_together(judge, rng):
    images = [tissue(rng) for _ in range(8)]

    def bright(stack: np.ndarray) -> np.ndarray:
        """How well any place matches a bright or dark square: a detector that is right."""
        values = [match_shapes(x, size=SIZE, multiples=(1.0,)).correlation["square"] for x in stack]
        return np.stack([np.zeros(len(stack)), values], axis=1)

    grader = Grader(TEMPLATES, judge, OUTLINES, bright, grounds(images, judge.side, rng), seed=0)
    clean = float(bright(np.stack(images))[:, 1].mean())
    square = Concept("square", SIZE, Yardstick(1, clean=max(clean, 0.85), lesion=1.0))
    drawn = np.full((*SHAPE, 1), 0.5)
    drawn[20:28, 30:38] = 0.9
    grade = grader.grade(drawn, square)
    assert grade.filter_passed and grade.transfer_passed and grade.named and grade.size_passed
    assert grade.margin > 0 and grade.transfer > 0.5 > grade.transfer_scrambled
    other = grader.grade(picture("line", rng), square)
    assert not other.filter_passed and not other.judge_passed and not other.named
    assert grader.grade(picture("line", rng), square).verdict == "line"
    chances = grader.chances(square, 2)
    assert chances["judge"] == 1 / 4 and chances["filter"] == 1 / 5 / 5
    assert chances["named"] == pytest.approx((1 - 0.96 * 0.75) * 0.05)
    with pytest.raises(ValueError, match="not finite"):
        grader.grade(np.full((*SHAPE, 1), np.nan), square)


def test_volumes_are_judged_by_the_same_code(rng):
    shape = (30, 32, 28)
    images = [tissue(rng, shape) for _ in range(4)]
    classes = {"square": ("square",), "line": ("line",)}
    judge = train_judge(images[:2], images[2:], classes, size=6.0, patches=512, epochs=6)
    assert judge.balanced_accuracy > 0.45, "a third is chance"
    found = judge_image(judge, np.asarray(picture("square", rng, shape)))
    assert sum(found.shares.values()) == pytest.approx(1)


def test_images_smaller_than_a_patch_are_refused(rng):
    images = [tissue(rng, (12, 12))]
    with pytest.raises(ValueError, match="a patch 16 along each axis"):
        train_judge(images, images, OUTLINES, size=8.0, patches=8)

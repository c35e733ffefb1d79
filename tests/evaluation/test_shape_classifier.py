"""The classifier and the grade on pictures whose content is known: right, wrong, and nothing."""

import inspect

import jax
import numpy as np
import pytest
from scipy import ndimage

from featvis_jax.evaluation import classifier_patches, shape_classifier
from featvis_jax.evaluation.concepts import TEMPLATES, outlines, template
from featvis_jax.evaluation.energy import phase_scrambled
from featvis_jax.evaluation.grading import Concept, Grader
from featvis_jax.evaluation.known_pictures import known_picture, wrong_kinds
from featvis_jax.evaluation.shape_classifier import OTHER, classify, train_shape_classifier
from featvis_jax.evaluation.transfer import Yardstick, insertion_sites
from tests.evaluation.shapes import UNSEEN

SIZE = 10.0
SHAPE = (72, 84)
OUTLINES = outlines(["square", "disc", "gaussian", "line"], rank=2)
OWN = ["square", "disc"]


def tissue(rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A head of smooth noise on black."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1.2
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
    return ((0.5 + 0.12 * noise / noise.std()) * inside)[..., None].astype(np.float32)


def picture(draw, rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A few figures; `draw` is one of the templates or gives another figure each time."""
    given = TEMPLATES[draw] if isinstance(draw, str) else draw
    kinds = given if not isinstance(draw, str) else lambda rng, rank: given
    return known_picture(rng, kinds, shape, (8.0, 13.0))


def board(rng: np.random.Generator) -> np.ndarray:
    """A checkerboard at any phase."""
    cell, (i, j) = rng.uniform(3, 14), np.indices(SHAPE) + rng.uniform(0, 30, (2, 1, 1))
    return ((i // cell + j // cell) % 2)[..., None]


@pytest.fixture(scope="module", autouse=True)
def optimized():
    """Trainings compiled well, whatever XLA_FLAGS say: they run longer than that takes."""
    train = jax.jit(
        inspect.unwrap(shape_classifier._train),
        static_argnums=(0, 1),
        compiler_options={"xla_backend_optimization_level": 3},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape_classifier, "_train", train)
        yield


@pytest.fixture(scope="module")
def classifier(optimized):
    rng = np.random.default_rng(1)
    images = [tissue(rng) for _ in range(12)]
    return train_shape_classifier(
        images[:6], images[6:], OUTLINES, OWN, size=SIZE, patches=4096, epochs=6
    )


def shares(classifier, name: str, pictures: list[np.ndarray]) -> np.ndarray:
    """How much of every picture is taken for a shape."""
    predictions = [classify(classifier, each, TEMPLATES[name], size=SIZE) for each in pictures]
    return np.array([prediction.shares[name] for prediction in predictions])


def test_the_classifier_knows_patches_of_other_subjects(classifier):
    assert classifier.classes == ("square", "disc", "line", "something else", "clean")
    assert (
        classifier.balanced_accuracy > 0.5
    )  # Of five, on patches that are blurred, shaded, crowded.


@pytest.mark.parametrize(
    ("name", "drawn"), [("square", "square"), ("disc", "disc"), ("disc", "gaussian")]
)
def test_perfect_pictures_are_named(classifier, name, drawn, rng):
    found = shares(classifier, name, [picture(drawn, rng) for _ in range(12)])
    assert (found > 0.5).sum() >= 11, found


@pytest.mark.parametrize("name", OWN)
def test_wrong_pictures_of_every_kind_are_not(classifier, name, rng):
    kinds = wrong_kinds(TEMPLATES[name], 2)
    kinds |= {other: lambda r, k, s=s: template(s) for other, s in UNSEEN.items()}
    assert {"rectangle", "plus", "L", "polyomino", "cluster", "blob", "letter F"} <= set(kinds)
    found = {
        kind: shares(classifier, name, [picture(draw, rng) for _ in range(3)])
        for kind, draw in kinds.items()
    }
    named = {kind: int((values > 0.5).sum()) for kind, values in found.items()}
    assert sum(named.values()) <= 0.1 * 3 * len(named), named
    assert max(named.values()) <= 2, named


def test_what_it_was_never_shown_is_something_else(classifier, rng):
    pictures = [picture(lambda r, k, s=s: template(s), rng) for s in UNSEEN.values()]
    said = [classify(classifier, each, TEMPLATES["square"], size=SIZE).shape for each in pictures]
    assert not set(OWN) & set(said) and said.count(OTHER) >= 3, said


@pytest.mark.parametrize("kind", ["white", "scrambled", "checkerboard", "flat"])
def test_what_shows_no_shape_is_given_none(classifier, kind, rng):
    made = []
    for number in range(8):
        drawn = picture(OWN[number % 2], rng)
        made.append(
            {
                "white": lambda: rng.uniform(size=(*SHAPE, 1)),
                "scrambled": lambda drawn=drawn: phase_scrambled(drawn, rng),
                "checkerboard": lambda: board(rng),
                "flat": lambda: np.full((*SHAPE, 1), 0.5),
            }[kind]()
        )
    for name in OWN:
        assert (shares(classifier, name, made) > 0.5).sum() <= 1


def test_neither_brightness_nor_polarity_matters(classifier, rng):
    image = picture("square", rng)
    found = [
        classify(classifier, each, TEMPLATES["square"], size=SIZE).shares
        for each in (image, 0.2 * image + 0.3, image * 10 - 5)
    ]
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=0.01)


def test_a_grade_puts_the_class_the_size_and_the_numbers_together(classifier, rng):
    images = [tissue(rng) for _ in range(6)]

    def bright(stack: np.ndarray) -> np.ndarray:
        """The brightest window of the size of a lesion: a detector of bright things."""
        values = [ndimage.uniform_filter(each[..., 0], 9).max() for each in stack]
        return np.stack([np.zeros(len(stack)), values], axis=1)

    grader = Grader(
        TEMPLATES,
        classifier,
        OUTLINES,
        bright,
        insertion_sites(images, classifier.side, rng),
        seed=0,
    )
    clean = float(bright(np.stack(images))[:, 1].mean())
    square = Concept("square", SIZE, Yardstick(1, clean=clean, lesion=1.0))
    drawn = np.full((*SHAPE, 1), 0.5)
    drawn[20:30, 30:40] = drawn[45:55, 50:60] = 1.0
    grade = grader.grade(drawn, square)
    assert grade.named and grade.prediction == "square" and grade.share > 0.5
    assert grade.size_passed and grade.size == pytest.approx(10, rel=0.1)
    assert grade.transfer > 0.8 > grade.transfer_scrambled and grade.insertion > 0
    other = grader.grade(picture("line", rng), square, moves=False)
    assert not other.named and other.share < 0.5 and np.isnan(other.transfer)
    assert np.isnan(other.size) or not other.size_passed or other.share > 0
    # Asked of squares that are twice as large, it is one, and not of the right size.
    assert not grader.grade(drawn, square._replace(size=20.0)).size_passed
    with pytest.raises(ValueError, match="not finite"):
        grader.grade(np.full((*SHAPE, 1), np.nan), square)


@pytest.mark.parametrize("rank", [2, 3])
def test_patches_have_the_shape_in_the_middle_and_as_large_as_the_window_wants(rank, rng):
    images = [tissue(rng, (40, 42, 44)[:rank]) for _ in range(2)]
    classes = {"square": ("square",), "line": ("line",)}
    shown = classifier_patches.subjects(rng, classes, ["square"], TEMPLATES, rank, patches=320)
    found, labels = classifier_patches.patches(rng, images, shown, size=7.0, count=240)
    grid = found.shape[1]
    axis = np.arange(grid) - (grid - 1) / 2
    square = TEMPLATES["square"](np.stack(np.meshgrid(*[axis] * rank, indexing="ij")), grid / 2)
    square = (square - square.mean()) / square.std()
    likeness = np.abs([(patch[..., 0] * square).mean() for patch in found])
    of_class = [float(np.median(likeness[labels == label])) for label in range(4)]
    # Noise, blur and neighbours are in them; a bar along either axis holds most of a square.
    assert of_class[0] > 0.5 and max(of_class[1:]) < of_class[0] - 0.05, of_class
    assert of_class[3] == min(of_class), "the last class shows no figure"
    np.testing.assert_allclose(found.mean(axis=tuple(range(1, rank + 2))), 0, atol=1e-4)


def test_volumes_are_classified_by_the_same_code(rng):
    shape = (30, 32, 28)
    images = [tissue(rng, shape) for _ in range(4)]
    classes = {"square": ("square",), "line": ("line",)}
    classifier = train_shape_classifier(
        images[:2], images[2:], classes, ["square"], size=6.0, patches=128, epochs=2
    )
    image = known_picture(rng, lambda r, k: TEMPLATES["square"], shape, (5.0, 8.0))
    found = classify(classifier, image, TEMPLATES["square"], size=6.0)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert len(found.elements) == len(found.seen) > 0 and set(found.seen) <= set(classifier.classes)
    assert all(3 <= each.size <= 12 for each in found.elements)


def test_images_smaller_than_a_patch_are_refused(rng):
    images = [tissue(rng, (12, 12))]
    with pytest.raises(ValueError, match="a patch 16 along each axis"):
        train_shape_classifier(images, images, OUTLINES, OWN, size=8.0, patches=8)

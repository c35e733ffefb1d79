"""A judge of shapes: a small network that says what a patch shows, trained on real tissue.

It sees patches of held-out subjects with one lesion of every shape pasted in, or none, and is asked
about the patches of a picture that show most. Patches have zero mean and unit deviation, so that
neither brightness nor contrast nor polarity tells a shape. Pictures are no anatomy: half of the
patches have their ground phase-scrambled, half of the shapes have others like them around, and some
are blurred, shaded or grainy. Among the patches without a shape are stripes, checkerboards, and
patches whose shapes were phase-scrambled, none of which should be taken for one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree
from scipy import ndimage
from sklearn.metrics import balanced_accuracy_score

from featvis_jax.evaluation.concepts import TEMPLATES, Template
from featvis_jax.evaluation.energy import phase_scrambled, strongest_windows, window
from featvis_jax.nn.cnn import CNN

CLEAN = "clean"
"""The class of patches that show no shape."""

# Voxels along an axis of what the network sees, by rank; every window is resampled to it.
_GRID = {2: 24, 3: 16}
# Windows hold a lesion of the nominal size twice along an axis.
_WINDOW = 2.0
# Sizes of the lesions in them, in nominal ones: larger ones would leave nothing of the ground.
_SIZES = (0.5, 1.5)
# Contrast of a lesion, in standard deviations of its ground.
_CONTRAST = (1.5, 8.0)
_BATCH = 64
# A picture with less deviation than this shows nothing.
_FLAT = 1e-5


class Judge(NamedTuple):
    """A trained judge.

    Attributes:
      classes: What it tells apart; the last is "clean".
      side: Of a window of a picture, in voxels.
      module: The network.
      variables: Its weights.
      balanced_accuracy: On patches of subjects that it was not trained on.
    """

    classes: tuple[str, ...]
    side: int
    module: CNN
    variables: dict[str, PyTree[Array]]
    balanced_accuracy: float


class Verdict(NamedTuple):
    """What a judge says of a picture.

    Attributes:
      shape: The class with the largest share.
      shares: Probability of every class, averaged over the patches.
    """

    shape: str
    shares: Mapping[str, float]


def train_judge(
    training: Sequence[Float[np.ndarray, "*spatial 1"]],
    testing: Sequence[Float[np.ndarray, "*spatial 1"]],
    outlines: Mapping[str, Sequence[str]],
    *,
    size: float,
    templates: Mapping[str, Template] = TEMPLATES,
    patches: int = 16384,
    epochs: int = 8,
    seed: int = 0,
) -> Judge:
    """Train a judge.

    Args:
      training: Clean images of held-out subjects.
      testing: Clean images of other held-out subjects.
      outlines: The classes, and which templates each of them is drawn from.
      size: Nominal size of a lesion in voxels, the side of a square of the same area.
      templates: The shapes.
      patches: How many to train on; a quarter as many are used to test.
      epochs: How often each is seen.
      seed: Of patches and weights.
    """
    classes = (*outlines, CLEAN)
    side = max(round(_WINDOW * size), 4)
    rank = training[0].ndim - 1
    drawn = [
        _patches(np.random.default_rng([seed, part]), images, outlines, size, templates, count)
        for part, (images, count) in enumerate(((training, patches), (testing, patches // 4)))
    ]
    module = CNN(
        rank=rank,
        num_classes=len(classes),
        features=(12, 24, 32),
        pools=((2, 2), (2, 2), (2, 2)),
        padding="SAME",
    )
    variables = _fit(module, *drawn[0], epochs=epochs, seed=seed)
    found = np.asarray(_apply(module, variables, drawn[1][0])).argmax(axis=-1)
    accuracy = float(balanced_accuracy_score(drawn[1][1], found))
    return Judge(classes, side, module, variables, accuracy)


def judge_image(
    judge: Judge, image: Float[np.ndarray, "*spatial channels"], *, votes: int = 5
) -> Verdict:
    """Ask a judge about the patches of a picture that show most.

    Args:
      judge: The judge.
      image: The picture; channels are averaged.
      votes: Most patches that are asked about. One with less than half of the strongest one's
        contrast is not.

    Raises:
      ValueError: The picture is smaller than a patch.
    """
    plane = np.asarray(image, np.float64).mean(axis=-1, keepdims=True)
    starts = strongest_windows(plane, judge.side, count=votes)
    if float(plane.std()) < _FLAT:
        return Verdict(CLEAN, {name: float(name == CLEAN) for name in judge.classes})
    patches = [_normalised(window(plane, start, judge.side)[..., 0]) for start in starts]
    # One program for every picture: what is missing is filled up and not counted.
    filled = np.stack([*patches, *[patches[0]] * (votes - len(patches))])
    logits = np.asarray(_apply(judge.module, judge.variables, filled))[: len(patches)]
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = (odds / odds.sum(axis=-1, keepdims=True)).mean(axis=0)
    shape = judge.classes[int(shares.argmax())]
    return Verdict(shape, {n: float(s) for n, s in zip(judge.classes, shares, strict=True)})


def _patches(
    rng: np.random.Generator,
    images: Sequence[np.ndarray],
    outlines: Mapping[str, Sequence[str]],
    size: float,
    templates: Mapping[str, Template],
    count: int,
) -> tuple[Float[np.ndarray, "n *grid 1"], Int[np.ndarray, " n"]]:
    """Patches of every class in equal numbers, and their classes."""
    side = max(round(_WINDOW * size), 4)
    scrambled = [phase_scrambled(image, rng) for image in images]
    names = list(outlines)
    labels = np.arange(count) % (len(names) + 1)
    made = []
    for label in labels:
        ground = _ground(rng, images if rng.random() < 0.5 else scrambled, side)
        if label < len(names):
            members = outlines[names[label]]
            made.append(
                _drawn(rng, ground, templates[members[int(rng.integers(len(members)))]], size)
            )
        else:
            every = [name for members in outlines.values() for name in members]
            made.append(
                _shapeless(rng, ground, templates[every[int(rng.integers(len(every)))]], size)
            )
    return np.stack([_normalised(_grainy(rng, patch)) for patch in made]), labels


def _offsets(side: int, rank: int) -> np.ndarray:
    axis = np.arange(side) - (side - 1) / 2
    return np.stack(np.meshgrid(*[axis] * rank, indexing="ij"))


def _drawn(rng: np.random.Generator, ground: np.ndarray, draw: Template, size: float) -> np.ndarray:
    """A ground with one shape on it, and around it more of them for half of the patches."""
    side, rank = ground.shape[0], ground.ndim
    offsets, column = _offsets(side, rank), (-1, *[1] * rank)
    extent = size * float(np.exp(rng.uniform(*np.log(_SIZES))))
    # Anywhere in the window, as long as it lies in it.
    room = max((side - extent) / 2, 0.0) * 0.8
    centers = [rng.uniform(-room, room, rank)]
    # Pictures are full of shapes that touch each other.
    for _ in range(int(rng.integers(1, 3**rank - 1)) * int(rng.integers(2))):
        away = rng.standard_normal(rank)
        distance = extent * rng.uniform(1.0, 1.6) / float(np.abs(away).max())
        centers.insert(0, centers[-1] + away * distance)
    # Lines run along any axis, as in the matched filter; most shapes stay what they are.
    axis = int(rng.integers(rank))
    blur = rng.uniform(0, 0.12 * extent) * rng.integers(2)
    spread = max(float(ground.std()), 0.02)
    patch = ground.copy()
    for center in centers:
        mask = np.swapaxes(draw(offsets - center.reshape(column), extent), 0, axis)
        mask = ndimage.gaussian_filter(mask, blur)
        level = ground.mean() + rng.uniform(*_CONTRAST) * spread * rng.choice((-1, 1))
        # Shaded, as many a picture's shapes are.
        shade = rng.standard_normal(rank) * rng.integers(2) * spread / extent
        patch = patch * (1 - mask) + (level + np.tensordot(shade, offsets, 1)) * mask
    return patch


def _shapeless(
    rng: np.random.Generator, ground: np.ndarray, draw: Template, size: float
) -> np.ndarray:
    """A ground as it is, or with stripes or a checkerboard, or what was drawn without phases."""
    chance = rng.random()
    if chance < 0.4:
        return ground
    if chance < 0.7:
        mask = _texture(rng, _offsets(ground.shape[0], ground.ndim), size * rng.uniform(*_SIZES))
        return ground + mask * rng.uniform(*_CONTRAST) * max(float(ground.std()), 0.02)
    return phase_scrambled(_drawn(rng, ground, draw, size)[..., None], rng)[..., 0]


def _grainy(rng: np.random.Generator, patch: np.ndarray) -> np.ndarray:
    """A patch with white noise, as pictures have it and brains do not; half stay as they are."""
    grain = rng.uniform(0, 0.7) * rng.integers(2) * float(patch.std())
    return patch + grain * rng.standard_normal(patch.shape)


def _ground(rng: np.random.Generator, images: Sequence[np.ndarray], side: int) -> np.ndarray:
    """A window of an image with something in it."""
    image = images[int(rng.integers(len(images)))][..., 0]
    if side > min(image.shape):
        raise ValueError(
            f"The images have {image.shape} voxels and a patch {side} along each axis: take larger "
            "images or smaller lesions."
        )
    patch = np.zeros((side,) * image.ndim)
    for _ in range(50):
        first = [int(rng.integers(n - side + 1)) for n in image.shape]
        patch = image[tuple(slice(f, f + side) for f in first)].astype(np.float64)
        if (np.abs(patch) > 1e-3).mean() > 0.8:
            break
    return patch


def _texture(rng: np.random.Generator, offsets: np.ndarray, size: float) -> np.ndarray:
    """Stripes along one axis, or a checkerboard, at any phase."""
    rank = offsets.shape[0]
    cells = np.floor(offsets / size + rng.uniform(0, 2, rank).reshape(-1, *[1] * rank))
    chosen = cells[int(rng.integers(rank))] if rng.random() < 0.5 else cells.sum(axis=0)
    return (chosen % 2).astype(np.float64)


def _normalised(patch: np.ndarray) -> Float[np.ndarray, "*grid 1"]:
    """A patch on the judge's grid, with zero mean and unit deviation."""
    grid = _GRID[patch.ndim]
    resampled = np.asarray(
        ndimage.zoom(
            patch, [grid / n for n in patch.shape], order=1, mode="nearest", grid_mode=True
        )
    )
    centred = resampled - resampled.mean()
    return np.asarray((centred / max(float(centred.std()), 1e-6))[..., None], np.float32)


def _fit(
    module: CNN,
    patches: Float[np.ndarray, "n *grid 1"],
    labels: Int[np.ndarray, " n"],
    *,
    epochs: int,
    seed: int,
) -> dict[str, PyTree[Array]]:
    """Adam on the cross-entropy, in one program."""
    variables = module.init(jax.random.key(seed), jnp.asarray(patches[0]))
    rng = np.random.default_rng([seed, 2])
    batch = min(_BATCH, len(patches))
    steps = epochs * (len(patches) // batch)
    order = np.concatenate([rng.permutation(len(patches)) for _ in range(epochs + 1)])
    order = order[: steps * batch].reshape(steps, batch)
    signs = rng.choice(np.array([-1, 1], np.float32), (steps, batch))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    with jax.numpy_dtype_promotion("standard"):  # Adam mixes dtypes.
        params = _train(module, optimizer, variables, patches, labels, order, signs)
    return {**variables, "params": params}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(
    module: CNN,
    optimizer: optax.GradientTransformation,
    variables: dict[str, PyTree[Array]],
    patches: Float[Array, "n *grid 1"],
    labels: Int[Array, " n"],
    order: Int[Array, "steps batch"],
    signs: Float[Array, "steps batch"],
) -> PyTree[Array]:
    """The weights after all steps."""
    rest = {name: value for name, value in variables.items() if name != "params"}

    def loss(params: PyTree[Array], index: Array, sign: Array) -> Array:
        images = patches[index] * sign.reshape(-1, *[1] * (patches.ndim - 1))
        logits = module.apply({**rest, "params": params}, images)
        assert isinstance(logits, jax.Array)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[index]).mean()

    def step(
        carry: tuple[PyTree[Array], PyTree[Array]], batch: tuple[Array, Array]
    ) -> tuple[tuple[PyTree[Array], PyTree[Array]], None]:
        params, state = carry
        gradients = jax.grad(loss)(params, *batch)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = variables["params"]
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), (order, signs))
    return params


@functools.partial(jax.jit, static_argnums=0)
def _apply(
    module: CNN, variables: dict[str, PyTree[Array]], patches: Float[Array, "n *grid 1"]
) -> Float[Array, "n classes"]:
    """Logits of a batch of patches."""
    logits = module.apply(variables, jnp.asarray(patches))
    assert isinstance(logits, jax.Array)
    return logits

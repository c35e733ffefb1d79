"""A shape classifier: a small network that says what an element of a picture is.

It learns from windows of held-out subjects with shapes in them, with other figures of every kind
(`featvis_jax.evaluation.figures`), or without any, and is asked about the elements of a picture one
by one (`featvis_jax.evaluation.classifier_patches`). It may say "something else": whatever it has
never seen has no shape's name to fall back on. Windows have zero mean and unit deviation, so that
neither brightness nor contrast nor polarity gives a shape away.
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

from featvis_jax.evaluation import classifier_patches
from featvis_jax.evaluation.classifier_patches import normalised
from featvis_jax.evaluation.concepts import TEMPLATES, Template
from featvis_jax.evaluation.elements import Element, elements, window_of, window_radius, window_side
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.programs import fast

CLEAN = "clean"
"""The class of patches that show no shape."""

OTHER = "something else"
"""The class of patches that show a figure, and none of the shapes."""

# Channels of its convolutions, by rank.
_FEATURES = {2: (16, 32, 48), 3: (12, 24, 32)}
_BATCH = 64
# An element is no shape that explains less of its window: a square among the cells of a
# checkerboard explains a third.
_FIT = 0.35
# A picture with less deviation than this shows nothing.
_FLAT = 1e-5


class ShapeClassifier(NamedTuple):
    """A trained classifier.

    Attributes:
      classes: What it tells apart; the last two are "something else" and "clean".
      side: Of the window of an element of the nominal size, in voxels.
      module: The network.
      variables: Its weights.
      balanced_accuracy: On patches of subjects that it was not trained on.
    """

    classes: tuple[str, ...]
    side: int
    module: CNN
    variables: dict[str, PyTree[Array]]
    balanced_accuracy: float


class Prediction(NamedTuple):
    """What a classifier says of a picture.

    Attributes:
      shape: The class with the largest share.
      shares: Probability of every class, averaged over the elements by their energy.
      elements: The picture's elements.
      seen: The class of each.
    """

    shape: str
    shares: Mapping[str, float]
    elements: tuple[Element, ...]
    seen: tuple[str, ...]


def train_shape_classifier(
    training: Sequence[Float[np.ndarray, "*spatial 1"]],
    testing: Sequence[Float[np.ndarray, "*spatial 1"]],
    outlines: Mapping[str, Sequence[str]],
    own: Sequence[str],
    *,
    size: float,
    templates: Mapping[str, Template] = TEMPLATES,
    patches: int = 12288,
    epochs: int = 8,
    seed: int = 0,
) -> ShapeClassifier:
    """Train a classifier.

    Args:
      training: Clean images of held-out subjects.
      testing: Clean images of other held-out subjects.
      outlines: The shapes that it tells apart, and which templates each of them is drawn from.
      own: Those of them that pictures are asked for.
      size: Nominal size of a lesion in voxels, the side of a square of the same area.
      templates: The shapes.
      patches: How many to train on; a quarter as many are used to test.
      epochs: How often each is seen.
      seed: Of figures, patches and weights.
    """
    # Many arguments: images and shapes, and five settings that most callers leave as they are.
    from sklearn.metrics import balanced_accuracy_score

    rank = training[0].ndim - 1
    drawn = []
    for part, (images, count) in enumerate(((training, patches), (testing, patches // 4))):
        rng = np.random.default_rng([seed, part])
        shown = classifier_patches.subjects(rng, outlines, own, templates, rank, patches=count)
        drawn.append(classifier_patches.patches(rng, images, shown, size=size, count=count))
    classes = (*outlines, OTHER, CLEAN)
    module = CNN(
        rank=rank,
        num_classes=len(classes),
        features=_FEATURES[rank],
        pools=((2, 2), (2, 2), (2, 2)),
        padding="SAME",
    )
    variables = _fit(module, *drawn[0], epochs=epochs, seed=seed)
    found = np.asarray(_apply(module, variables, drawn[1][0])).argmax(axis=-1)
    accuracy = float(balanced_accuracy_score(drawn[1][1], found))
    side = max(window_side(size, window_radius(templates[name], rank)) for name in own)
    return ShapeClassifier(classes, side, module, variables, accuracy)


def classify(
    classifier: ShapeClassifier,
    image: Float[np.ndarray, "*spatial channels"],
    draw: Template,
    *,
    size: float,
    votes: int = 9,
) -> Prediction:
    """Ask a classifier about the elements of a picture.

    Args:
      classifier: The classifier.
      image: The picture; channels are averaged.
      draw: The shape that it should show.
      size: The shape's nominal size in voxels.
      votes: Most elements that are asked about.
    """
    plane = np.asarray(image, np.float64).mean(axis=-1, keepdims=True)
    radius = window_radius(draw, plane.ndim - 1)
    found = elements(plane, draw, size=size, radius=radius, count=votes)
    if float(plane.std()) < _FLAT or not found:
        return Prediction(
            CLEAN, {name: float(name == CLEAN) for name in classifier.classes}, (), ()
        )
    patches = [normalised(window_of(plane[..., 0], each, radius)) for each in found]
    # One program for every picture: what is missing is filled up and not counted.
    filled = np.stack([*patches, *[patches[0]] * (votes - len(patches))])
    logits = np.asarray(_apply(classifier.module, classifier.variables, filled))[: len(patches)]
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    odds /= odds.sum(axis=-1, keepdims=True)
    loose = [each.fit < _FIT for each in found]
    odds[loose] = np.array([name == OTHER for name in classifier.classes])
    weights = np.array([each.energy for each in found])
    shares = weights @ odds / weights.sum()
    shape = classifier.classes[int(shares.argmax())]
    return Prediction(
        shape,
        {name: float(share) for name, share in zip(classifier.classes, shares, strict=True)},
        tuple(found),
        tuple(classifier.classes[int(each)] for each in odds.argmax(axis=-1)),
    )


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
        logits = fast(module.apply)({**rest, "params": params}, images)
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
    logits = fast(module.apply)(variables, jnp.asarray(patches))
    assert isinstance(logits, jax.Array)
    return logits

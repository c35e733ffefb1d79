"""Does the network itself know the shape that it was trained on? Its answer to other shapes.

A picture can show no more than its network has learned, and a network that tells squares from
brains has not met bars: where these drive it harder than squares do, a picture of bars is right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from featvis_jax.data.lesions import Lesions, NoRoomError
from featvis_jax.data.shapes import Shape
from featvis_jax.evaluation.concepts import Template
from featvis_jax.evaluation.transfer import Detector, lead


class Response(NamedTuple):
    """How far lesions of one shape move a network.

    Attributes:
      shape: Name of the shape.
      change: By how much they raise the lead of the network's class, on average; in logits.
      harder: Share of images in which the shape moves the network further than its own does.
      p: Of a difference from its own shape, either way; 1 for its own.
      images: How many there were.
    """

    shape: str
    change: float
    harder: float
    p: float
    images: int


def shape_responses(
    detect: Detector,
    images: Iterable[Float[np.ndarray, "*spatial 1"]],
    lesions: Lesions,
    shapes: Mapping[str, Shape],
    *,
    own: Mapping[int, str],
    seed: int = 0,
) -> dict[str, list[Response]]:
    """Draw one lesion into each image, in one shape after the other, and ask the network.

    Places, sizes and grey levels are the same for all shapes. An image without room for one of them
    is passed over: all have to fit in the same place, a long bar too.

    Args:
      detect: The network.
      images: Clean images of held-out subjects.
      lesions: How lesions are drawn; one in each image, whatever their count is.
      shapes: By name, all of one area at one size.
      own: The shape that the network was trained on, by class. Where two classes have one, each
        is measured from images with the other's; else from clean images.
      seed: Of the lesions.

    Returns:
      For every class, by the name of its shape, a response to each of the shapes, in their order.

    Raises:
      NoRoomError: No image has room.

    References:
      Wilcoxon, Individual comparisons by ranking methods, 1945
    """
    one = dataclasses.replace(lesions, count=(1, 1))
    leads: dict[int, list[np.ndarray]] = {label: [] for label in own}
    without_room: NoRoomError | None = None
    for number, image in enumerate(images):
        rng = np.random.default_rng([seed, 5, number])
        try:
            drawn = one.add_each(tuple(shapes.values()), image, rng)
        except NoRoomError as error:
            without_room = error
            continue
        logits = detect(np.stack([image, *(damaged for damaged, _ in drawn)]))
        for label, found in leads.items():
            found.append(lead(logits, label))
    if without_room is not None and not all(leads.values()):
        raise without_room
    answers = {}
    for label, name in own.items():
        by_shape = dict(zip(("", *shapes), np.transpose(leads[label]), strict=True))
        other = next((each for each in own.values() if each != name), "")
        change = {shape: by_shape[shape] - by_shape[other] for shape in shapes}
        answers[name] = [_response(shape, change[shape], change[name]) for shape in shapes]
    return answers


def _response(
    shape: str, change: Float[np.ndarray, " n"], to_own: Float[np.ndarray, " n"]
) -> Response:
    return Response(
        shape,
        change=float(change.mean()),
        harder=float((change > to_own).mean()),
        p=_p(change - to_own),
        images=len(change),
    )


def _p(difference: Float[np.ndarray, " n"]) -> float:
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference).pvalue)  # pyright: ignore


def of_equal_area(template: Template, *, axis: int = 0) -> Shape:
    """A lesion shape from a template, whose area is that of a square or cube of the lesion's size.

    Args:
      template: One of `featvis_jax.evaluation.concepts`.
      axis: The one along which the template's first axis comes to lie.

    Example:
      >>> from featvis_jax.evaluation.concepts import TEMPLATES
      >>> grid = np.indices((41, 41), dtype=np.float64)
      >>> mask = of_equal_area(TEMPLATES["line"], axis=1)(grid, np.array([20.0, 20.0]), 9.0)
      >>> int(mask.any(axis=1).sum()), int(mask.any(axis=0).sum())
      (5, 15)
    """

    def shape(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
        offsets = coordinates - center.reshape(-1, *[1] * (coordinates.ndim - 1))
        order = np.arange(len(offsets))
        order[[0, axis]] = order[[axis, 0]]
        return template(offsets[order], size)

    return shape

"""Shapes that nobody was taught, for grades of drawn pictures, in slices and volumes."""

from collections.abc import Callable, Mapping

import numpy as np

from featvis_jax.data.shapes import Shape


def _shape(inside: Callable[[np.ndarray], np.ndarray]) -> Shape:
    def shape(coordinates: np.ndarray, center: np.ndarray, size: float) -> np.ndarray:
        column = np.reshape(center, (-1, *[1] * (coordinates.ndim - 1)))
        return np.asarray(inside((coordinates - column) / size), np.float64)

    return shape


def _within(u: np.ndarray, *limits: tuple[float, float]) -> np.ndarray:
    """Between limits along every axis; the last ones are those of all further axes."""
    pairs = [limits[min(axis, len(limits) - 1)] for axis in range(len(u))]
    return np.all([(v > low) & (v < high) for v, (low, high) in zip(u, pairs, strict=True)], axis=0)


def _arrow(u: np.ndarray) -> np.ndarray:
    head = (u[0] > -0.6) & (u[0] < 0) & (np.abs(u[1]) < 0.55 * (u[0] + 0.6) / 0.6)
    return (head | ((u[0] >= 0) & (u[0] < 0.6) & (np.abs(u[1]) < 0.2))) & _flat(u)


def _flat(u: np.ndarray) -> np.ndarray:
    """In volumes a figure is half as thick as it is wide."""
    return np.all([np.abs(v) < 0.25 for v in u[2:]], axis=0) if len(u) > 2 else np.array(True)


def _star(u: np.ndarray) -> np.ndarray:
    angle = np.arctan2(u[1], u[0]) * 5 / (2 * np.pi)
    ray = 2 * np.abs(angle - np.floor(angle + 0.5))
    return (np.sqrt((u[:2] ** 2).sum(axis=0)) < 0.75 - 0.42 * ray) & _flat(u)


def _letter_f(u: np.ndarray) -> np.ndarray:
    upright = _within(u, (-0.6, 0.6), (-0.4, -0.15))
    arms = _within(u, (-0.6, -0.35), (-0.4, 0.4)) | _within(u, (-0.1, 0.13), (-0.4, 0.25))
    return (upright | arms) & _flat(u)


def _letter_u(u: np.ndarray) -> np.ndarray:
    whole = _within(u, (-0.55, 0.55), (-0.5, 0.5))
    return whole & ~_within(u, (-0.6, 0.3), (-0.22, 0.22)) & _flat(u)


def _half_disc(u: np.ndarray) -> np.ndarray:
    return (np.sqrt((u**2).sum(axis=0)) < 0.8) & (u[0] > 0)


def _heart(u: np.ndarray) -> np.ndarray:
    x, y = u[1] / 0.55, -u[0] / 0.55 + 0.1
    return ((x**2 + y**2 - 1) ** 3 < x**2 * y**3) & _flat(u)


def _hexagon(u: np.ndarray) -> np.ndarray:
    a = np.abs(u / 0.62)
    return (a[0] < 0.866) & (a[1] + a[0] / 3**0.5 < 1) & _flat(u)


UNSEEN: Mapping[str, Shape] = {
    "arrow": _shape(_arrow),
    "star": _shape(_star),
    "letter F": _shape(_letter_f),
    "letter U": _shape(_letter_u),
    "half disc": _shape(_half_disc),
}
"""Shapes and wrong figures by which nothing was tuned."""

TUNED: Mapping[str, Shape] = {"heart": _shape(_heart), "hexagon": _shape(_hexagon)}
"""Shapes that were looked at while the classifier was made."""

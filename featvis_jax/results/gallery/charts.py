"""Charts as numbers for an inline SVG: sharp at every size, coloured by the page, no script.

A chart has the size 360 x 168; the templates draw it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT = 360, 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 24
_POINTS = 240


class Tick(NamedTuple):
    """A place on an axis, in pixels, and its number.

    Example:
      >>> Tick(0.0, "0").label
      '0'
    """

    place: float
    label: str


class Chart(NamedTuple):
    """What a template needs to draw curves against the step.

    Example:
      >>> chart([np.linspace(0, 1, 11)]).y_ticks[0].label
      '0'
    """

    line: str
    """path of the curve, or of the median"""
    band: str
    """closed path between the quartiles, empty for a single curve"""
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    first: float
    """value of the curve at its first step"""
    last: float
    """value of the curve at its last finite step"""
    steps: int
    dots: list[tuple[float, float, float]]
    """pixels to the right and down, and the value, of what was measured apart from the curve"""


def chart(
    traces: list[Float[np.ndarray, " steps"]], *, ends: Sequence[tuple[float, float]] = ()
) -> Chart | None:
    """Lay out one curve, or the median and the middle half of several.

    Args:
      traces: Values against the step, of one length; what is not finite is left out.
      ends: For each trace the value of its first and of its last image, measured in another way:
        a dot at each end, of several the medians.

    Returns:
      The chart; None if there is nothing finite to draw.

    Example:
      >>> chart([np.full(4, np.nan)])
    """
    steps = len(traces[0]) if traces else 0
    if not steps or not np.isfinite(traces).any():
        return None
    stacked = np.array(traces, np.float64)
    stacked[~np.isfinite(stacked)] = np.nan
    known = np.isfinite(stacked).any(axis=0)
    at = np.flatnonzero(known)
    quartiles = np.nanpercentile(stacked[:, known], (25, 50, 75), axis=0)
    shown = quartiles[1:2] if len(traces) == 1 else quartiles
    both = np.array(ends, np.float64).reshape(-1, 2)
    known_ends = [column[np.isfinite(column)] for column in both.T]
    medians = [float(np.median(some)) if some.size else None for some in known_ends]
    values = [*shown.ravel(), *(value for value in medians if value is not None)]
    low, high = float(min(values)), float(max(values))
    if high - low <= 1e-9 * max(1.0, abs(low)):
        low, high = low - 0.5, high + 0.5
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)

    def x(step: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return _LEFT + step / max(steps - 1, 1) * (WIDTH - _LEFT - _RIGHT)

    def y(value: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return _TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    line_at, line = _thinned(at, quartiles[1])
    band = ""
    if len(traces) > 1:
        band_at, upper = _thinned(at, quartiles[2])
        lower_at, lower = _thinned(at, quartiles[0])
        there = _path(x(band_at.astype(np.float64)), y(upper))
        back = _path(x(lower_at.astype(np.float64))[::-1], y(lower)[::-1])
        band = f"{there}L{back[1:]}Z"
    return Chart(
        line=_path(x(line_at.astype(np.float64)), y(line)),
        band=band,
        x_ticks=[
            Tick(float(x(np.array([tick]))[0]), label(tick))
            for tick in nice_ticks(0.0, float(max(steps - 1, 1)))
        ],
        y_ticks=[
            Tick(float(y(np.array([tick]))[0]), label(tick)) for tick in nice_ticks(low, high)
        ],
        first=float(quartiles[1][0]),
        last=float(quartiles[1][-1]),
        steps=steps,
        dots=[
            (float(x(np.array([step]))[0]), float(y(np.array([value]))[0]), value)
            for step, value in zip((0.0, float(max(steps - 1, 1))), medians, strict=True)
            if value is not None
        ],
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Return two to six round numbers inside a range.

    Args:
      low: Smallest value.
      high: Largest value, above it.

    Returns:
      Multiples of 1, 2 or 5 times a power of ten, in rising order.

    Example:
      >>> nice_ticks(0.0, 255.0)
      [0.0, 100.0, 200.0]
    """
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = min(
        (factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.99 * rough),
        default=10 * power,
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def label(value: float) -> str:
    """Write a number on an axis.

    Example:
      >>> label(-0.5), label(1200.0)
      ('−0.5', '1200')
    """
    return f"{value + 0.0:.6g}".replace("-", "\u2212")


def _thinned(
    at: np.ndarray, values: Float[np.ndarray, " n"]
) -> tuple[np.ndarray, Float[np.ndarray, " m"]]:
    """Keep the extremes of each stretch of a long curve, so that no peak is lost."""
    if len(at) <= 2 * _POINTS:
        return at, values
    kept = {0, len(at) - 1}
    for part in np.array_split(np.arange(len(at)), _POINTS):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    order = sorted(kept)
    return at[order], values[order]


def _path(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> str:
    """Return an SVG path through points."""
    if len(x) == 1:
        return f"M{x[0]:.1f} {y[0]:.1f}h0"
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))

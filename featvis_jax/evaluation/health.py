"""What became of a unit: whether its picture may be looked at, and if not, why.

The words are claims about a picture, and each is checked. The limits were set on the channels of
trained networks after 256 steps and of networks with random weights after 20, of which few pass;
they are the same for slices and volumes. docs/run-directory.md has the counts.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.special
from jaxtyping import Float

UNIFORM_SHARE = 0.02
"""An image counts as uniform below this standard deviation, as a share of the intensity range."""

_SHORT_OF_TARGET = 0.01
_FLUCTUATIONS = 3.0
_LAST_GAIN = 0.06
_FLAT_SHARE = 0.1
_FLATNESS_OF_NOISE = 0.85
# Of the frequencies along an axis, from minus to plus Nyquist, for the power in a cell.
_CELLS = 8


def status(
    image: Float[np.ndarray, "*spatial channels"],
    *,
    start: Float[np.ndarray, "*spatial channels"],
    objective_trace: Float[np.ndarray, " steps"],
    rise: float,
    finite: bool,
    response: float = np.nan,
    target: float | None = None,
    most: float | None = None,
    intensity_range: tuple[float, float],
    border: int = 0,
) -> str:
    """Name the state of a unit after its ascent; the first of these that applies.

    * ``diverged``: something in the ascent was no longer finite; the image is the last one before.
    * ``dead``: the objective was the same at every step; the unit does not react to its input.
    * ``unmoved``: the objective rose by less than three times what it changes by from one step to
      the next, or the image moved by less than 2 % of the intensity range.
    * ``unsettled``: the last quarter of the steps brought more than 6 % of the rise, compared with
      the quarter before. The picture would be another one after more steps.
    * ``weak``: where a target is known, the unit responds less strongly than that by more than 1 %,
      or not above 0. Nothing is said of ``unmoved``, ``unsettled`` and ``noise`` then, which are
      ways to guess that a picture fails.
    * ``driven``: it responds as strongly as its target, and its image holds more than a tenth of
      the range; one of less is ``uniform``. A single small figure on an even background is no grey
      level, which a standard deviation would take it for.
    * ``uniform``: the image is nearly flat: its standard deviation is below 2 % of the intensity
      range. The unit asks for a grey level and no pattern.
    * ``noise``: what the ascent added to its start is below 2 % of the range, or has in every
      channel the spectrum of white noise: cells of an eighth of the frequencies along each axis,
      in all directions, have nearly the same power (`flatness` of at least 0.85).
    * ``alive``: the objective rose and came to rest, and the ascent made a pattern.

    Of an image of several channels each is looked at by itself, and the one that moved most or
    holds most decides.

    Args:
      image: The final image.
      start: The first one.
      objective_trace: f before every step.
      rise: f of the final image less that of the first, both as they are, without transforms.
      finite: Whether the ascent stayed finite.
      response: Of the unit to the final image.
      target: The response that was aimed at, where one is known.
      most: Where f ends, if it does: what is there from the first step on is not dead.
      intensity_range: Lowest and highest intensity that the image could take.
      border: Voxels at each side to leave out, where fewer windows of the network overlap; the
        layer's receptive field is a good choice. Ignored where nothing would be left.

    Example:
      >>> flat, stripes = np.full((24, 24, 1), 0.5), np.tile([0.2, 0.8], (24, 12))[..., None]
      >>> settled = np.tanh(np.linspace(0.0, 9.0, 40))
      >>> options = dict(objective_trace=settled, rise=1.0, finite=True, intensity_range=(0.0, 1.0))
      >>> status(stripes, start=flat, **options), status(flat, start=stripes, **options)
      ('alive', 'uniform')
    """
    # Many arguments: each is one fact of an ascent, whose values this room does not import.
    if not finite:
        return "diverged"
    ended = most is not None and objective_trace[0] >= np.float32(most)
    if np.ptp(objective_trace) == 0 and not ended:
        return "dead"
    width = intensity_range[1] - intensity_range[0]
    if target is not None:
        if not response > 0 or not response >= target - _SHORT_OF_TARGET * abs(target):
            return "weak"
        spans = np.ptp(image, axis=tuple(range(image.ndim - 1)))
        return "uniform" if spans.max() < _FLAT_SHARE * width else "driven"
    limit = UNIFORM_SHARE * width
    if 2 * border < min(image.shape[:-1]):
        inner = (slice(border, -border or None),) * (image.ndim - 1)
        image, start = image[inner], start[inner]
    spatial = tuple(range(image.ndim - 1))
    # A unit may look at one of several channels alone: the others say nothing against it.
    moved = np.sqrt(np.mean(np.square(image - start), axis=spatial)).max()
    if rise <= _FLUCTUATIONS * _fluctuation(objective_trace) or moved < limit:
        return "unmoved"
    if _last_gain(objective_trace) > _LAST_GAIN:
        return "unsettled"
    if image.std(axis=spatial).max() < limit:
        return "uniform"
    added = np.moveaxis(_without(image, start), -1, 0)
    seen = [channel for channel in added if channel.std() >= limit]
    patterned = any(flatness(channel) < _FLATNESS_OF_NOISE for channel in seen)
    return "alive" if patterned else "noise"


def flatness(image: Float[np.ndarray, "*spatial"]) -> float:
    """How evenly an image's power is spread over frequencies and directions: 1 for white noise.

    The geometric over the arithmetic mean of the power in cells of an eighth of the frequencies
    along each axis, without the mean of the image and tapered towards its border; as a share of
    what white noise on as many voxels is expected to have.

    Args:
      image: One channel.

    Returns:
      0 for a flat image, and for white noise 1 within a few percent, or a tenth where an axis has
      no more than a dozen voxels.

    Example:
      >>> noise = np.random.default_rng(0).normal(size=(64, 64))
      >>> stripes = np.tile(np.sin(np.arange(64)), (64, 1))
      >>> round(flatness(noise), 1), round(flatness(stripes + 0.2 * noise), 1)
      (1.0, 0.1)
    """
    values = np.asarray(image, np.float32) - np.float32(image.mean(dtype=np.float64))
    for axis, side in enumerate(image.shape):
        taper = np.hanning(side + 2)[1:-1].astype(np.float32)
        values *= np.expand_dims(taper, [a for a in range(image.ndim) if a != axis])
    spectrum = np.asarray(scipy.fft.rfftn(values, workers=-1))
    power = np.square(np.abs(spectrum))
    counts = np.ones(())
    for axis, side in enumerate(image.shape):
        half = axis == image.ndim - 1  # The other half of the last axis is its mirror image.
        frequencies = scipy.fft.rfftfreq(side) if half else scipy.fft.fftfreq(side) + 0.5
        cell = np.minimum((frequencies * _CELLS).astype(int), _CELLS - 1)
        # Frequencies of a cell are neighbours, from 0 up and from the most negative one up.
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        size = np.diff(first, append=len(cell))
        power = np.add.reduceat(power, first, axis, dtype=np.float64)
        power /= np.expand_dims(size, [a for a in range(image.ndim) if a != axis])
        # A Hann taper makes one independent frequency of three halves of one.
        counts = np.multiply.outer(counts, np.maximum(1.0, size / 1.5))
    mean = power.mean()
    if mean == 0:
        return 0.0
    # The logarithm of a mean of n exponential variables is expected to be psi(n) - log(n).
    expected = np.mean(scipy.special.digamma(counts) - np.log(counts))
    return float(np.exp(np.log(power + 1e-30 * mean).mean() - expected) / mean)


def _fluctuation(trace: np.ndarray) -> float:
    """What a trace changes by from one step to the next, but for its trend and its jumps."""
    changes = np.diff(trace)
    if changes.size == 0:
        return 0.0
    return float(1.48 / np.sqrt(2) * np.median(np.abs(changes - np.median(changes))))


def _last_gain(trace: np.ndarray) -> float:
    """How much the last quarter is above the one before it, as a share of the whole rise."""
    quarter = max(1, trace.size // 4)
    before, last = trace[-2 * quarter : -quarter], trace[-quarter:]
    rise = last.mean() - trace[0]
    return float((last.mean() - before.mean()) / rise) if rise > 0 and before.size else 0.0


def _without(image: np.ndarray, start: np.ndarray) -> np.ndarray:
    """What is in an image beside its start, in each channel: the residual of a regression."""
    spatial = tuple(range(image.ndim - 1))
    centred, first = (each - each.mean(axis=spatial, keepdims=True) for each in (image, start))
    along = (centred * first).sum(axis=spatial, keepdims=True)
    length = np.square(first).sum(axis=spatial, keepdims=True)
    return centred - first * np.divide(along, length, out=np.zeros_like(along), where=length > 0)

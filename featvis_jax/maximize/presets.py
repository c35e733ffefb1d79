"""Named regularization strategies: those of the paper's figures 3 and 4, and others to compare.

A name such as `rotation_30` is a family and a strength; other strengths work too. Names joined by
commas form a chain, in the order given. The paper applies its transforms to the image itself at
every 50th step, blurring at every one.
"""

import difflib
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from featvis_jax.maximize.drive import Drive
from featvis_jax.maximize.penalties import clutter
from featvis_jax.maximize.transforms import (
    chain,
    clip,
    gaussian_blur,
    jitter,
    noise,
    random_resized_crop,
    resize,
    roll,
    rotate,
    scale,
    switching_bilateral,
    total_variation,
    translate,
)
from featvis_jax.maximize.transforms import every as every_steps
from featvis_jax.maximize.transforms.checks import check_integer
from featvis_jax.types import Scalar, Step, Transform

__all__ = ["CLOUDS", "DRIVEN", "STRATEGIES", "Strategy", "strategy"]

DRIVEN = "driven"
"""The default: every other strategy has a strength that is the same for all units."""

CLOUDS: dict[str, Any] = {"decay": 1.5, "noise": 0.3}
"""Of `parameterizations.fourier`, for an image that is to become clean: it starts from clouds with
enough contrast for the deepest layers to respond to, and has little that would have to be cleaned
away."""


class Strategy(NamedTuple):
    """A named way to regularize an ascent.

    Attributes:
      name: As given on a command line.
      description: One line.
      projection: Applied to the image itself after every update.
      robustness: Applied before the network, gradients flowing through it.
      references: Where it comes from.
      drive: Makes both as strong as each unit permits; None applies them as they are.
    """

    name: str
    description: str
    projection: Transform
    robustness: Transform
    references: tuple[str, ...]
    drive: Drive | None = None


class _Part(NamedTuple):
    """One transform of a strategy, and when it is applied."""

    when: Literal["periodically", "every step", "before the network"]
    transform: Transform


class _Entry(NamedTuple):
    description: str
    parts: tuple[_Part, ...]
    references: tuple[str, ...]


class _Family(NamedTuple):
    """Strategies that differ in one number, which stands for {} in the description."""

    strength: str
    description: str
    when: Literal["periodically", "every step", "before the network"]
    make: Callable[[float], Transform]
    listed: tuple[str, ...]
    references: tuple[str, ...]


_EITEL = (
    "Eitel, Melkonyan, Ritter, Feature visualization for convolutional neural network models "
    "trained on neuroimaging data, 2022"
)
_OLAH = "Olah, Mordvintsev, Schubert, Feature visualization, Distill 2017"
_SMILKOV = "Smilkov et al., SmoothGrad: removing noise by adding noise, 2017"
_LIN = "Lin, Tsai, Chiu, Switching bilateral filter, ICASSP 2010"
_CHAMBOLLE = "Chambolle, An algorithm for total variation minimization, JMIV 2004"

_FAMILIES = {
    "jitter": _Family(
        "strength",
        "brightness jitter: times a factor from U(max(0, 1 - b), 1 + b), b = {}",
        "periodically",
        lambda strength: jitter(strength=strength),
        ("1", "2"),
        (_EITEL,),
    ),
    "rotation": _Family(
        "degrees",
        "random rotation within {} degrees",
        "periodically",
        lambda degrees: rotate(max_degrees=degrees),
        ("10", "30", "90"),
        (_EITEL,),
    ),
    "translation": _Family(
        "fraction",
        "random shift within {} of each side",
        "periodically",
        lambda fraction: translate(max_fraction=fraction),
        ("0.1",),
        (_EITEL,),
    ),
    "resize": _Family(
        "factor",
        "linear resizing to {} of each side and back",
        "periodically",
        lambda factor: resize(factor=factor),
        ("0.5",),
        (_EITEL,),
    ),
    "zoom": _Family(
        "factor",
        "linear resizing to {} of each side, padded or cropped to the old grid",
        "periodically",
        lambda factor: resize(factor=factor, onto_grid="crop"),
        ("0.9", "1.1"),
        (_EITEL,),
    ),
    "tv": _Family(
        "weight",
        "total-variation (TV) denoising of weight {}",
        "periodically",
        lambda weight: total_variation(weight=weight),
        ("0.1",),
        (_EITEL, _CHAMBOLLE),
    ),
    "blur": _Family(
        "sigma",
        "Gaussian blur of sigma {} voxels at every step",
        "every step",
        lambda sigma: gaussian_blur(sigma=sigma),
        ("0.5", "1"),
        (_EITEL,),
    ),
    "clip": _Family(
        "highest",
        "intensities clipped to [0, {}] at every step",
        "every step",
        lambda highest: clip(high=highest),
        ("1",),
        (),
    ),
    "noise": _Family(
        "deviation",
        "white noise of standard deviation {} before the network",
        "before the network",
        lambda deviation: noise(standard_deviation=deviation),
        ("0.1",),
        (_SMILKOV,),
    ),
    "roll": _Family(
        "voxels",
        "random roll of at most {} voxels before the network, for a Fourier parameterization",
        "before the network",
        lambda voxels: roll(max_voxels=_whole(voxels)),
        ("6",),
        (_OLAH,),
    ),
}


def strategy(
    name: str,
    *,
    every: int = 50,
    steps: int = 256,
    intensity_range: tuple[float, float] = (0.0, 1.0),
    baseline: float | Float[np.ndarray, "*spatial channels"] | None = None,
) -> Strategy:
    """Build a strategy from its name, or a chain of strategies from names joined by commas.

    Neighbours that are applied periodically share one period, and so one resampling where they
    only move voxels about.

    Args:
      name: A name of `STRATEGIES`, a family with another strength such as "rotation_17", or
        several of them joined by commas.
      every: Period of the transforms that the paper applies at every 50th step.
      steps: Number of steps of the run, for strengths that change over it.
      intensity_range: Lowest and highest intensity, which "driven" scales with.
      baseline: A grey level or an image that "driven" leads back to; the middle of the range by
        default.

    Returns:
      The strategy, with a projection and a robustness transform, either of which may be the
      identity.

    Raises:
      ValueError: Where a name is unknown, naming the nearest ones, or a number is out of range.

    Example:
      >>> from featvis_jax.maximize.transforms import describe
      >>> describe(strategy("tv_0.1,blur_1", every=10).projection).split("(")[:4]
      ['chain', 'every', 'chain', 'total_variation']
    """
    check_integer("strategy", "every", every, low=1)
    check_integer("strategy", "steps", steps, low=1)
    names = [part.strip() for part in name.split(",")]
    driven = _driven(intensity_range, baseline)
    entries = [driven if part == DRIVEN else _entry(part, steps) for part in names]
    parts = [part for entry in entries for part in entry.parts]
    references = (reference for entry in entries for reference in entry.references)
    return Strategy(
        name=",".join(names),
        description="; ".join(entry.description for entry in entries),
        projection=_projection(parts, every),
        robustness=chain(*[part.transform for part in parts if part.when == "before the network"]),
        references=tuple(dict.fromkeys(references)),
        drive=Drive(cost=clutter(intensity_range=intensity_range, baseline=baseline))
        if DRIVEN in names
        else None,
    )


def _driven(
    intensity_range: tuple[float, float], baseline: float | Float[np.ndarray, "..."] | None
) -> _Entry:
    """What a drive applies in part; in whole it is more than most units stand."""
    low, high = intensity_range
    middle = (low + high) / 2 if baseline is None else baseline
    # Around a scan there is nothing; around a figure on a background, more of that.
    outside = low if isinstance(middle, np.ndarray) else middle
    grain = noise(standard_deviation=0.1 * (high - low))
    return _Entry(
        "Lucid's robustness, noise and few edges, as strong as possible while the unit is driven",
        tuple(_Part("before the network", each) for each in (_lucid(fill=outside), grain)),
        (_OLAH, _SMILKOV),
    )


def _projection(parts: list[_Part], every: int) -> Transform:
    """Chain what is applied to the image, gathering neighbours of the same period."""
    chained: list[Transform] = []
    waiting: list[Transform] = []
    for part in parts:
        if part.when == "periodically":
            waiting.append(part.transform)
        elif part.when == "every step":
            if waiting:
                chained.append(every_steps(every, chain(*waiting)))
                waiting = []
            chained.append(part.transform)
    if waiting:
        chained.append(every_steps(every, chain(*waiting)))
    return chain(*chained)


def _entry(name: str, steps: int) -> _Entry:
    fixed = _fixed(steps)
    if name in fixed:
        return fixed[name]
    match = re.fullmatch(r"([a-z]+)_(\d+(?:\.\d+)?)", name)
    if match is None or match[1] not in _FAMILIES:
        nearest = difflib.get_close_matches(name, STRATEGIES, n=3, cutoff=0.0)
        families = ", ".join(
            f"{key}_{family.strength.upper()}" for key, family in _FAMILIES.items()
        )
        raise ValueError(
            f"regularization {name!r} is unknown; nearest: {', '.join(nearest)}; "
            f"families that take any number: {families}"
        )
    family = _FAMILIES[match[1]]
    try:
        transform = family.make(float(match[2]))
    except ValueError as error:
        raise ValueError(f"regularization {name!r}: {error}") from error
    part = _Part(family.when, transform)
    return _Entry(family.description.format(match[2]), (part,), family.references)


def _fixed(steps: int) -> dict[str, _Entry]:
    """The strategies that are no family."""

    def periodic(
        description: str, *transforms: Transform, references: tuple[str, ...] = ()
    ) -> _Entry:
        parts = tuple(_Part("periodically", transform) for transform in transforms)
        return _Entry(description, parts, (_EITEL, *references))

    coarse_cubic = resize(factor=0.5, interpolation="cubic")
    smooth = total_variation(weight=0.1)
    turned = (jitter(strength=1.0), rotate(max_degrees=90.0))
    paper = (jitter(strength=1.0), rotate(max_degrees=30.0), smooth)
    blur = _Part("every step", gaussian_blur(sigma=0.5))
    entries = {
        "none": _Entry("no regularization: the naive ascent", (), ()),
        "paper": _Entry(
            "brightness jitter 1, rotation 30, TV denoising 0.1 periodically; blur 0.5 every step",
            (*(_Part("periodically", transform) for transform in paper), blur),
            (_EITEL,),
        ),
        "recommended": _Entry(
            "Lucid's robustness before the network, TV denoising of weight 0.05 every 10th step",
            (
                _Part("before the network", _lucid()),
                _Part("every step", every_steps(10, total_variation(weight=0.05))),
            ),
            (_OLAH, _CHAMBOLLE),
        ),
        "lucid": _Entry(
            "Lucid's robustness to shift, scale and rotation, before the network",
            (_Part("before the network", _lucid()),),
            (_OLAH,),
        ),
        "blur_every_step": _Entry(
            "Gaussian blur at every step; sigma falls from 1.5 to 0.3 voxels over the run",
            (_Part("every step", gaussian_blur(sigma=_falling(1.5, 0.3, steps), radius=6)),),
            (_EITEL,),
        ),
        "sbf": periodic("switching bilateral filter", switching_bilateral(), references=(_LIN,)),
        "jitter_rotation": periodic("brightness jitter 1, rotation within 90 degrees", *turned),
        "jitter_rotation_tv": periodic(
            "brightness jitter 1, rotation within 90 degrees, TV denoising of weight 0.1",
            *turned,
            smooth,
            references=(_CHAMBOLLE,),
        ),
        "resize_cubic": periodic("cubic resizing to 0.5 of each side and back", coarse_cubic),
        "resize_cubic_tv": periodic(
            "cubic resizing to 0.5 of each side and back, TV denoising of weight 0.1",
            coarse_cubic,
            smooth,
            references=(_CHAMBOLLE,),
        ),
    }
    for interpolation in ("nearest", "linear", "cubic"):
        entries[f"crop_{interpolation}"] = periodic(
            f"random resized crop, {interpolation} interpolation",
            random_resized_crop(interpolation=interpolation),
        )
    return entries


def _lucid(*, fill: float = 0.0) -> Transform:
    """Lucid's default, resampled once; its jitter of d crops at one of d + 1 places, +- d / 2.

    Lucid shows the network the padding around the image; here the grid is kept.
    """
    return chain(
        translate(max_voxels=4, fill=fill),
        scale(factors=[1 + (i - 5) / 50 for i in range(11)], fill=fill),
        rotate(degrees=[*range(-10, 11), *[0] * 5], fill=fill),
        translate(max_voxels=2, fill=fill),
    )


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError(f"{number:g} voxels; expected a whole number")
    return int(number)


def _falling(first: float, last: float, steps: int) -> Callable[[Step], Scalar]:
    def sigma(step: Step) -> Scalar:
        progress = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1)
        return first + (last - first) * progress

    return sigma


def _listed() -> dict[str, str]:
    entries = {name: entry.description for name, entry in _fixed(1).items()}
    entries[DRIVEN] = _driven((0.0, 1.0), None).description
    for family, (_, description, _, _, strengths, _) in _FAMILIES.items():
        for strength in strengths:
            entries[f"{family}_{strength}"] = description.format(strength)
    first = (DRIVEN, "recommended", "none", "paper", "lucid")
    return {name: entries[name] for name in (*first, *sorted(set(entries) - set(first)))}


STRATEGIES = _listed()
"""One line for every named strategy, by its name."""

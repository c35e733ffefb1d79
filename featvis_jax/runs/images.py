"""What is optimized: how an image is written down, and where it starts; by options."""

import dataclasses
from typing import Any

import numpy as np
import optax

from featvis_jax.data.volumes import load_on_grid
from featvis_jax.maximize import parameterizations
from featvis_jax.maximize.drive import Drive
from featvis_jax.maximize.optimizers import NADAM
from featvis_jax.maximize.parameterizations import (
    FIXED_CONTRASTS,
    INTENSITIES,
    FixedContrast,
    Parameterization,
    level_set,
)
from featvis_jax.maximize.presets import CLOUDS, Strategy
from featvis_jax.models import Model
from featvis_jax.options import errors_of, option
from featvis_jax.ranges import Range, to_shares
from featvis_jax.results.grids import voxel_size_mm
from featvis_jax.runs import channels, deformations
from featvis_jax.runs.deformations import DeformationOptions

LEVEL_SET = "level_set"
# What bodies cost, in parts of the target that they are to reach.
_PRICE = 4.0
# Of a scaled scan, the share of voxels that may lie beyond the range.
_MOST_BEYOND = 0.05
_BY_AFFINE = (
    "It is placed on the network's grid by its affine, whatever the order of its axes, and has to "
    "cover the grid voxel by voxel; for a network without an affine (see `grid`) it is taken as it "
    "is stored."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions(DeformationOptions):
    """The image."""

    parameterization: str | Parameterization | None = option(
        None,
        "How the image is parameterized (docs/parameterizations.md); by default fourier for "
        "`regularization=driven` and pixels for all other strategies. All but pixels need a "
        "strategy that acts before the network: driven, lucid or none. level_set draws bodies of "
        "one grey level; deformation changes the shape of the scan that `start_image` names.",
        choices=("pixels", "fourier", "laplacian", "cppn", "phase", LEVEL_SET, deformations.NAME),
    )
    intensity: str | None = option(
        None,
        "How intensities are kept in range; the default depends on `parameterization`. With dark, "
        "bright and both, elements of that polarity on an even background compete for a fixed "
        "`contrast`.",
        choices=(*INTENSITIES, *FIXED_CONTRASTS),
    )
    contrast: float | None = option(
        None,
        "Contrast of all elements with `intensity=dark`, bright or both: root mean square, as a "
        f"share of the range; {FixedContrast().contrast:g} by default. Of a level set, how far "
        "bodies are from their background; 0.4 by default.",
    )
    start_image: str | None = option(
        None,
        "NIfTI file to start from; for a network with several input channels, a file with as many "
        "volumes, or as many files, separated by commas. Or mean: the mean of the scans of "
        "`reference`. Or reference, for a scan that is deformed: of each of the `variants` a scan "
        "of its own, spread over the people of `reference`. " + _BY_AFFINE,
    )
    mask: str | None = option(
        None, "NIfTI mask: nothing outside it changes, in any channel. " + _BY_AFFINE
    )
    hold: tuple[str, ...] | None = option(
        None,
        "CHANNEL:FILE, or several separated by commas: keep an input channel fixed at a NIfTI "
        "file, such as T1w:scan.nii.gz, while the other channels are optimized. The file is placed "
        "on the network's grid like `start_image`.",
        repeats=True,
    )
    learning_rate: float | None = option(
        None,
        "Learning rate of Adam (of NAdam for phase; for deformation the length of a step in mm); "
        "the default depends on `parameterization`.",
    )


def start_image(model: Model, options: ImageOptions) -> np.ndarray | None:
    """The image to start from, on the model's grid and within its range; None where none is named.

    With several scans of a reference they lie along a first axis, one for each variant.

    Args:
      model: The network.
      options: What is optimized.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It does not fit.
    """
    if options.start_image is None:
        return None
    if options.start_image in (deformations.MEAN, deformations.REFERENCE):
        if model.starts is None:
            raise ValueError(deformations.no_reference(options.start_image))
        scans = np.clip(model.starts, *model.intensity_range)
        return scans[0] if options.start_image == deformations.MEAN else scans
    start = channels.read_channels("start_image", options.start_image, model)
    _refuse_other_range(f"`start_image={options.start_image}`", start, model)
    # Of a scan that was scaled a few voxels lie beyond the range, which percentiles are.
    return np.clip(to_shares(start, model.channel_ranges), *model.intensity_range)


def baseline(
    model: Model, start: np.ndarray | None, options: ImageOptions
) -> np.ndarray | float | None:
    """What clutter is measured from: the start image or the even background; None without either.

    Args:
      model: The network.
      start: The image to start from.
      options: What is optimized.
    """
    if start is not None and options.start_image == deformations.REFERENCE:
        return start.mean(axis=0)
    if start is not None or options.intensity not in FIXED_CONTRASTS:
        return start
    low, high = model.intensity_range
    return low + FIXED_CONTRASTS[options.intensity].level * (high - low)


def parameterization(
    model: Model,
    strategy: Strategy,
    start: np.ndarray | None,
    options: ImageOptions,
    *,
    variants: int,
    up_to: float | None = None,
) -> Parameterization:
    """What options say to optimize.

    Args:
      model: The network.
      strategy: How the image is regularized.
      start: The image to start from.
      options: What is optimized.
      variants: Images of each unit.
      up_to: Where the objective ends, if it does.

    Raises:
      FileNotFoundError: A file that an option names is not there.
      ValueError: A file does not fit, or the model has no spectrum to keep to.
    """
    name = options.parameterization
    shared = ["spacing_mm"] if name == LEVEL_SET else []
    if name != deformations.NAME and (idle := options.idle(but=shared)) is not None:
        raise ValueError(
            f"`{idle}` is for `parameterization={deformations.NAME}`: leave it out, or give that."
        )
    if name == LEVEL_SET:
        chosen = _level_set(model, options, up_to=up_to)
        return _finished(model, chosen, start, options, variants=variants)
    made_of: dict[str, Any] = {"intensity_range": model.intensity_range}
    if options.intensity is not None:
        made_of["intensity"] = FIXED_CONTRASTS.get(options.intensity, options.intensity)
    if options.contrast is not None:
        if options.intensity not in FIXED_CONTRASTS:
            raise ValueError(
                f"`contrast={options.contrast}` is for elements on an even background, which "
                f"`intensity={options.intensity}` does not have: give an `intensity` of "
                f"{' or '.join(FIXED_CONTRASTS)}."
            )
        made_of["intensity"] = FIXED_CONTRASTS[options.intensity]._replace(
            contrast=options.contrast
        )
    if options.start_image == deformations.REFERENCE:
        _refuse_one_start(options)
    if name == deformations.NAME:
        if options.intensity is not None:
            raise ValueError(
                f"`intensity={options.intensity}`: a scan that is deformed keeps its own: leave it "
                "out."
            )
        chosen = deformations.deformed(model, start, options, variants=variants)
        return _finished(model, chosen, start, options, variants=variants)
    if isinstance(options.parameterization, Parameterization):
        return _finished(model, options.parameterization, start, options, variants=variants)
    name = options.parameterization or ("pixels" if strategy.drive is None else "fourier")
    if name == "fourier" and strategy.drive is not None:
        made_of |= CLOUDS
    if name == "phase":
        if model.spectrum is None:
            raise ValueError(
                "`parameterization=phase` needs the mean spectrum of the training images, and the "
                f"model {model.name} has none: give `reference=DIR`, a cohort to compute it from, "
                "or take fourier."
            )
        chosen = parameterizations.phase(model.spectrum, **made_of)
    else:
        chosen = getattr(parameterizations, name)(**made_of)
    return _finished(model, chosen, start, options, variants=variants)


def _level_set(model: Model, options: ImageOptions, *, up_to: float | None) -> Parameterization:
    """Bodies on an even background, by options."""
    told = f"`parameterization={LEVEL_SET}`"
    if options.start_image is not None:
        raise ValueError(
            f"`start_image={options.start_image}`: {told} draws bodies on an even background, "
            "which no scan is: leave it out, or take fourier."
        )
    if options.intensity not in (None, "dark", "bright"):
        raise ValueError(
            f"`intensity={options.intensity}`: bodies of {told} are dark or bright: give one of "
            "these."
        )
    given: dict[str, Any] = {
        name: value
        for name, value in (
            ("polarity", options.intensity),
            ("contrast", options.contrast),
            ("spacing_mm", options.spacing_mm),
            ("price", None if up_to is None else _PRICE * abs(up_to)),
        )
        if value is not None
    }
    sizes = voxel_size_mm(model.affine, model.image_shape[:-1]) or 1.0
    try:
        return level_set(voxel_size_mm=sizes, intensity_range=model.intensity_range, **given)
    except ValueError as error:
        raise ValueError(f"{told}: {str(error).removeprefix('level_set: ')}") from error


def _refuse_one_start(options: ImageOptions) -> None:
    """What takes one scan alone cannot start from several."""
    told = f"`start_image={deformations.REFERENCE}`"
    if options.parameterization != deformations.NAME:
        raise ValueError(
            f"{told} gives each variant a scan of its own, to be deformed: give "
            f"`parameterization={deformations.NAME}`, or `start_image=FILE`."
        )
    if options.mask is not None:
        raise ValueError(
            f"`mask={options.mask}`: the scans of {told} are deformed as a whole: leave it out."
        )


def _finished(
    model: Model,
    chosen: Parameterization,
    start: np.ndarray | None,
    options: ImageOptions,
    *,
    variants: int,
) -> Parameterization:
    """A parameterization with its start, its mask and the channels that are held."""
    if start is not None and options.parameterization != deformations.NAME:
        # Variants of a unit that start alike would stay alike.
        noise = 0.01 if variants > 1 else 0.0
        chosen = parameterizations.from_image(start, chosen, noise=noise)
    if options.mask is not None:
        outside = model.intensity_range[0] if start is None else start
        with errors_of("mask", options.mask):
            mask = load_on_grid(options.mask, model.grid)[..., 0]
            chosen = parameterizations.inside(mask, chosen, outside=outside)
    return _holding(model, chosen, options.hold or ())


def _holding(model: Model, chosen: Parameterization, hold: tuple[str, ...]) -> Parameterization:
    """With the channels that are held put in, if there are any."""
    held = channels.held(model, hold)
    if not held:
        return chosen
    image = np.zeros(model.image_shape, np.float32)
    for channel, scan in held.items():
        _refuse_other_range(f"`hold={','.join(hold)}`", scan, model, first=channel)
        image[..., channel : channel + 1] = scan
    shares = to_shares(image, model.channel_ranges)
    return parameterizations.holding(shares, held, chosen)


def _refuse_other_range(given: str, image: np.ndarray, model: Model, *, first: int = 0) -> None:
    """Refuse an image whose channels, from the first on, have not the intensities of a network's.

    A scan in a scanner's units would be white all over, once clipped.
    """
    if model.channel_ranges is None:
        _refuse_beyond(given, image, model, model.intensity_range)
        return
    names = channels.input_channels(model).names
    for number in range(image.shape[-1]):
        own = first + number
        part = image[..., number : number + 1]
        _refuse_beyond(f"{given}: {names[own]}", part, model, model.channel_ranges[own])


def _refuse_beyond(given: str, image: np.ndarray, model: Model, between: Range) -> None:
    low, high = between
    slack = 1e-3 * (high - low)
    beyond = np.mean((image < low - slack) | (image > high + slack))
    told = f"{given}: intensities from {image.min():g} to {image.max():g}"
    if model.scale is None and beyond > 0:
        raise ValueError(
            f"{told}; the network's images are in [{low:g}, {high:g}]: give `scaling`, so that it "
            "is scaled as they were, or the range of a foreign network as `intensity_range`."
        )
    if beyond > _MOST_BEYOND:
        raise ValueError(
            f"{told} once it is scaled, {100 * beyond:.2g} % of them beyond the network's range "
            f"of {low:g} to {high:g}: give a wider `intensity_range`."
        )


def optimizer(
    chosen: Parameterization, drive: Drive | None, options: ImageOptions, *, steps: int
) -> tuple[optax.GradientTransformation, str]:
    """The optimizer of an ascent, and its description.

    Args:
      chosen: What is optimized.
      drive: Of the recipe; with one, steps become smaller towards the end.
      options: What is optimized.
      steps: Of the ascent.

    Raises:
      ValueError: The learning rate is not a positive number.
    """
    rate = chosen.learning_rate if options.learning_rate is None else options.learning_rate
    if not 0 < rate < float("inf"):
        raise ValueError(f"`learning_rate={rate}`: expected a positive number.")
    kind = NADAM if options.parameterization == "phase" else chosen.optimizer
    return kind.of(rate, steps, settles=kind.settles or drive is not None)

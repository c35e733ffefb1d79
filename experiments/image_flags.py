"""The flags that say what is optimized: how an image is written down, and where it starts."""

from typing import Any

import numpy as np
import optax
from absl import flags

from experiments import channel_flags, intensity_flags
from experiments.flag_values import errors_of
from experiments.grid_flags import read_image
from experiments.networks import Model
from featvis_jax.visualize import parameterizations
from featvis_jax.visualize.drive import Drive, settling
from featvis_jax.visualize.parameterizations import GROUNDS, INTENSITIES, Ground, Parameterization
from featvis_jax.visualize.presets import CLOUDS, Strategy

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "parameterization",
    None,
    ["pixels", "fourier", "laplacian", "cppn", "phase"],
    "How an image is written down (docs/parameterizations.md); by default fourier for "
    "--regularization=driven and pixels for all other strategies. All but pixels need one that "
    "acts before the network: driven, lucid or none.",
)
flags.DEFINE_enum(
    "intensity",
    None,
    [*INTENSITIES, *GROUNDS],
    "How the range is kept; a default for each of them. dark, bright and both: elements of that "
    "polarity on an even ground, with a fixed --contrast that they compete for.",
)
flags.DEFINE_float(
    "contrast",
    None,
    "Of all elements on a ground, as a share of the range (root mean square); "
    f"{Ground().contrast:g} by default.",
)
# Of a scaled scan, the share of voxels that may lie beyond the range.
_MOST_BEYOND = 0.05
_BY_AFFINE = (
    "It is laid onto the network's grid by its affine, whatever the order of its axes, and has to "
    "cover it voxel by voxel; onto that of a network without one (see --grid) as it is stored."
)
flags.DEFINE_string(
    "start_image",
    None,
    "NIfTI file to start from; for a network of several channels with as many volumes, or as many "
    "files, joined with commas. " + _BY_AFFINE,
)
flags.DEFINE_string(
    "mask", None, "NIfTI mask: nothing changes outside, in no channel. " + _BY_AFFINE
)
flags.DEFINE_float(
    "learning_rate", None, "Of Adam (of NAdam for phase); by default what suits the start."
)


def start_image(model: Model) -> np.ndarray | None:
    """The image of --start_image on the model's grid; None without the flag.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It does not fit.
    """
    if FLAGS.start_image is None:
        return None
    start = channel_flags.read_channels("start_image", FLAGS.start_image, model)
    _refuse_other_range(f"--start_image={FLAGS.start_image}", start, model)
    # Of a scan that was scaled a few voxels lie beyond the range, which percentiles are.
    return np.clip(start, *model.intensity_range)


def ground(model: Model, start: np.ndarray | None) -> np.ndarray | float | None:
    """What an image is without its figure; None where the flags do not say.

    Args:
      model: The network.
      start: The image of --start_image.
    """
    if start is not None or FLAGS.intensity not in GROUNDS:
        return start
    low, high = model.intensity_range
    return low + GROUNDS[FLAGS.intensity].level * (high - low)


def parameterization(
    model: Model, strategy: Strategy, start: np.ndarray | None
) -> Parameterization:
    """What the flags say to optimize.

    Args:
      model: The network.
      strategy: How the image is regularized.
      start: The image of --start_image.

    Raises:
      FileNotFoundError: A file that a flag names is not there.
      ValueError: A file does not fit, or the model has no spectrum to keep to.
    """
    options: dict[str, Any] = {"intensity_range": model.intensity_range}
    if FLAGS.intensity is not None:
        options["intensity"] = GROUNDS.get(FLAGS.intensity, FLAGS.intensity)
    if FLAGS.contrast is not None:
        if FLAGS.intensity not in GROUNDS:
            raise ValueError(
                f"--contrast={FLAGS.contrast}: says how much elements stand out from a ground, and "
                f"--intensity={FLAGS.intensity} has none: take one of {', '.join(GROUNDS)}."
            )
        options["intensity"] = GROUNDS[FLAGS.intensity]._replace(contrast=FLAGS.contrast)
    name = FLAGS.parameterization or ("pixels" if strategy.drive is None else "fourier")
    if name == "fourier" and strategy.drive is not None:
        options |= CLOUDS
    if name == "phase":
        if model.spectrum is None:
            raise ValueError(
                f"--parameterization=phase keeps to the training images' mean spectrum, and "
                f"--model={FLAGS.model} comes without one: give --reference=DIR, a cohort whose "
                "scans have one, or take fourier."
            )
        chosen = parameterizations.phase(model.spectrum, **options)
    else:
        chosen = getattr(parameterizations, name)(**options)
    if start is not None:
        # Variants of a unit that start alike would stay alike.
        noise = 0.01 if FLAGS.variants > 1 else 0.0
        chosen = parameterizations.from_image(start, chosen, noise=noise)
    if FLAGS.mask is not None:
        outside = model.intensity_range[0] if start is None else start
        mask = read_image("mask", model)[..., 0]
        with errors_of(f"--mask={FLAGS.mask}: "):
            chosen = parameterizations.inside(mask, chosen, outside=outside)
    return _holding(model, chosen)


def _holding(model: Model, chosen: Parameterization) -> Parameterization:
    """With the channels of --hold put in, if there are any."""
    held = channel_flags.held(model)
    if not held:
        return chosen
    image = np.zeros(model.image_shape, np.float32)
    for channel, scan in held.items():
        _refuse_other_range(f"--hold={','.join(FLAGS.hold)}", scan, model)
        image[..., channel : channel + 1] = scan
    return parameterizations.holding(image, held, chosen)


def _refuse_other_range(given: str, image: np.ndarray, model: Model) -> None:
    """A scan in a scanner's units would be white all over, once clipped."""
    low, high = model.intensity_range
    slack = 1e-3 * (high - low)
    beyond = np.mean((image < low - slack) | (image > high + slack))
    told = f"{given}: intensities from {image.min():g} to {image.max():g}"
    if intensity_flags.scale() is None and beyond > 0:
        raise ValueError(
            f"{told}; the network's images are in [{low:g}, {high:g}]: give --scaling, by which it "
            "is scaled as they were, or the range of a foreign network by --intensity_range."
        )
    if beyond > _MOST_BEYOND:
        raise ValueError(
            f"{told} once it is scaled, {100 * beyond:.2g} % of them beyond the network's range "
            f"of {low:g} to {high:g}: give a wider --intensity_range."
        )


def optimizer(
    chosen: Parameterization, drive: Drive | None
) -> tuple[optax.GradientTransformation, str]:
    """The optimizer of an ascent, and its description.

    Args:
      chosen: What is optimized.
      drive: Of the recipe; with one, steps become smaller towards the end.

    Raises:
      ValueError: The learning rate is not a positive number.
    """
    rate = chosen.learning_rate if FLAGS.learning_rate is None else FLAGS.learning_rate
    if not 0 < rate < float("inf"):
        raise ValueError(f"--learning_rate={rate}: expected a positive number.")
    name = "nadam" if FLAGS.parameterization == "phase" else "adam"
    if drive is None:
        return getattr(optax, name)(rate), f"{name}(learning_rate={rate})"
    made = getattr(optax, name)(settling(rate, FLAGS.steps))
    return made, f"{name}(learning_rate=settling({rate}, {FLAGS.steps}))"

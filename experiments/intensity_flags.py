"""The flags about the intensities of a network's images: how scans are scaled, and their range."""

from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from experiments.flag_values import numbers
from experiments.networks import Model
from featvis_jax.data.intensities import SCALINGS

SCALING = flags.DEFINE_enum(
    "scaling",
    None,
    list(SCALINGS),
    "How the scans that --model was trained on were scaled, each by itself: unit to 0..1, by its "
    "percentiles; zscore to a mean of 0 and a standard deviation of 1; zscore_nonzero to the same "
    "over its voxels that are not 0, which stay 0. Scans of --reference, --real_examples, "
    "--start_image and --hold are scaled so before the network sees them. Without it those of a "
    "cohort are by unit, and single files have to be scaled already.",
)
RANGE = flags.DEFINE_list(
    "intensity_range",
    None,
    "LOW,HIGH of a foreign network's images: between them pictures are drawn. 0,1 by default; for "
    "z-scores what the scans of --reference span, from percentile 0.1 to 99.9.",
)


def given(model: Model) -> Model:
    """A model with what the flags say of the intensities of its images.

    Args:
      model: The network.

    Raises:
      ValueError: The flags contradict each other, or a model that knows its images.
    """
    scaling, between = SCALING.value, _range()
    if model.scaling is None:
        between = model.intensity_range if between is None else between
        return model._replace(scaling=scaling, intensity_range=between)
    wrong = None
    if scaling not in (None, model.scaling):
        wrong = f"--scaling={scaling}"
    elif between not in (None, model.intensity_range):
        wrong = f"--intensity_range={','.join(RANGE.value or [])}"
    if wrong is not None:
        low, high = model.intensity_range
        raise ValueError(
            f"{wrong}: {model.card['name']} was trained on scans scaled by {model.scaling}, from "
            f"{low:g} to {high:g}: leave the flag out."
        )
    return model


def _range() -> tuple[float, float] | None:
    """The ends of --intensity_range, which --scaling does not contradict."""
    if RANGE.value is None:
        return None
    low, high = numbers("intensity_range", float, 2)
    told, scaling = f"--intensity_range={','.join(RANGE.value)}", SCALING.value
    if not low < high or not np.isfinite([low, high]).all():
        raise ValueError(f"{told}: expected LOW,HIGH, LOW < HIGH.")
    if scaling is not None:
        is_centred = SCALINGS[scaling].is_centred
        if is_centred and not low < 0 < high:
            raise ValueError(
                f"{told}: z-scores, which --scaling={scaling} asks for, lie around 0; expected a "
                "range such as -2,4, or leave it out and give --reference=DIR, whose scans tell."
            )
        if not is_centred and not 0 <= low < high <= 1:
            raise ValueError(
                f"{told}: --scaling={scaling} brings scans to 0..1; expected a part of that, or "
                "leave one of the two flags out."
            )
    return low, high


def needs_range(model: Model) -> bool:
    """Whether nobody has said yet between which ends the images of a network lie.

    Args:
      model: The network.
    """
    return model.scaling is not None and SCALINGS[model.scaling].is_centred and RANGE.value is None


def setting(model: Model) -> dict[str, Any] | None:
    """What a run's configuration says of its images' intensities; None where nobody knows them.

    Args:
      model: The network, with what its flags and scans tell.
    """
    if model.scaling is None:
        return None
    between = list(model.intensity_range)
    return {"scaling": model.scaling, "unit": unit(model), "range": between}


def unit(model: Model) -> str | None:
    """What the intensities of a network's images are, in words; None where nobody knows.

    Args:
      model: The network, with what its flags and scans tell.
    """
    return None if model.scaling is None else SCALINGS[model.scaling].unit


def scale() -> Callable[[np.ndarray], np.ndarray] | None:
    """What is done to single scans before the network sees them; None without --scaling."""
    return None if SCALING.value is None else SCALINGS[SCALING.value].scale

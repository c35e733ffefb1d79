"""A scan whose shape is optimized, by options."""

from __future__ import annotations

import dataclasses

import numpy as np

from featvis_jax.maximize.parameterizations import (
    Budget,
    Parameterization,
    Stiffness,
    deformation,
)
from featvis_jax.models import Model
from featvis_jax.options import Options, option
from featvis_jax.results.grids import voxel_size_mm
from featvis_jax.runs.reference_scans import Inputs

NAME = "deformation"
MEAN = "mean"
# Of the start's coefficients, as a share of their bound, where variants are not to start alike.
_NOISE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeformationOptions(Options):
    """The deformation of a scan."""

    changes: str | None = option(
        None,
        "What may change of the scan: its shape (the default), its brightness, smoothly from place "
        "to place, or both.",
        choices=("shape", "brightness", "both"),
    )
    spacing_mm: float | None = option(
        None,
        "From one control point of the deformation to the next, in mm; at least two voxels, 12 by "
        "default.",
    )
    stiffness: float | None = option(
        None, "Weight of the energy of the deformation; 1000 by default.", least=0.0
    )
    energy: str | None = option(
        None,
        "Its energy: membrane (the default), mean squared slopes of the displacement, or bending, "
        "mean squared second derivatives.",
        choices=("membrane", "bending"),
    )
    strain: float | None = option(
        None,
        "By how much any length may change at most, as a share below 1; 0.75 by default. The scan "
        "never folds.",
    )
    rms_displacement_mm: float | None = option(
        None, "Budget: root mean square of the displacement at most, in mm."
    )
    rms_log_growth: float | None = option(
        None, "Budget: root mean square at most of the logarithm of the ratio of volumes."
    )
    rms_log_brightness: float | None = option(
        None, "Budget: root mean square at most of the logarithm of the ratio of brightness."
    )

    @property
    def idle(self) -> str | None:
        """One of these that is given, to be refused where nothing is deformed."""
        given = (field.name for field in dataclasses.fields(DeformationOptions))
        return next((name for name in given if getattr(self, name) is not None), None)


def with_mean(model: Model, inputs: Inputs | None, start_image: str | None) -> Model:
    """The model with the mean of its reference, where an ascent starts from it.

    Args:
      model: The network.
      inputs: Its reference.
      start_image: The option.

    Raises:
      ValueError: It has none.
    """
    if start_image != MEAN:
        return model
    if inputs is None:
        raise ValueError(
            f"`start_image={MEAN}` is the mean of the scans of `reference`: give that cohort, or a "
            "NIfTI file to start from."
        )
    total = np.zeros(model.image_shape, np.float64)
    for position in inputs.positions:
        total += inputs.source[position]
    return model._replace(mean=np.asarray(total / len(inputs.positions), np.float32))


def deformed(
    model: Model, start: np.ndarray | None, options: DeformationOptions, *, variants: int
) -> Parameterization:
    """What options say to deform, and how.

    Args:
      model: The network.
      start: The scan, on the network's grid.
      options: How.
      variants: Images of each unit.

    Raises:
      ValueError: There is no scan, nobody says how large its voxels are, or an option is out of
        bounds.
    """
    told = f"`parameterization={NAME}`"
    if start is None:
        raise ValueError(
            f"{told} needs a scan to deform: give `start_image=FILE`, or `start_image={MEAN}` for "
            "the mean of `reference`."
        )
    sizes = voxel_size_mm(model.affine, model.image_shape[:-1])
    if sizes is None:
        raise ValueError(
            f"{told}: nobody says how large the voxels of the network's images are, and lengths "
            "are in mm: give `grid=FILE`, a NIfTI file on the grid of its input."
        )
    plain = Stiffness()
    given = {
        name: getattr(options, name)
        for name in ("changes", "spacing_mm", "strain")
        if getattr(options, name) is not None
    }
    weight = plain.weight if options.stiffness is None else options.stiffness
    try:
        return deformation(
            start,
            voxel_size_mm=sizes,
            stiffness=Stiffness(options.energy or plain.energy, weight),
            budget=Budget(*(getattr(options, name) for name in Budget._fields)),
            intensity_range=model.intensity_range,
            noise=_NOISE if variants > 1 else 0.0,
            **given,
        )
    except ValueError as error:
        raise ValueError(f"{told}: {str(error).removeprefix(f'{NAME}: ')}") from error

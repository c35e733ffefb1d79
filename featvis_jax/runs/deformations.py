"""A scan whose shape is optimized, by options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from featvis_jax.data.sources import Contrasts, Slices, Source, over_people
from featvis_jax.maximize.parameterizations import (
    ENERGIES,
    Budget,
    Parameterization,
    Stiffness,
    deformations,
)
from featvis_jax.models import Model
from featvis_jax.options import Options, option
from featvis_jax.ranges import to_shares
from featvis_jax.results.grids import voxel_size_mm
from featvis_jax.results.starts import Start
from featvis_jax.runs.reference_scans import Inputs

NAME = "deformation"
# Under small shifts and noise a deformation has to change what a place is, and not the few edges
# that a network is most sensitive to.
_SHIFT_MM, _NOISE_BEFORE = 6.0, "noise_0.1"
MEAN, REFERENCE = "mean", "reference"
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
        "From one control point to the next, in mm, at least two voxels: of a deformation, 16 by "
        "default, and of a level set, four voxels by default.",
    )
    stiffness: float | None = option(
        None,
        "Weight of the energy of the deformation; 120 by default for total_variation, 500 for the "
        "others.",
        least=0.0,
    )
    energy: str | None = option(
        None,
        "Its energy: total_variation (the default), mean slopes of the displacement, which changes "
        "few places; membrane, mean squared slopes, which changes many by little; or bending, mean "
        "squared second derivatives.",
        choices=ENERGIES,
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

    def idle(self, *, but: Sequence[str] = ()) -> str | None:
        """One of these that is given, to be refused where nothing is deformed.

        Args:
          but: Those that have another use there.
        """
        names = (field.name for field in dataclasses.fields(DeformationOptions))
        given = (name for name in names if name not in but and getattr(self, name) is not None)
        return next(given, None)


def regularization(model: Model) -> str:
    """The strategy under which a deformation shows what a network was seen to go by.

    Args:
      model: The network. Where nobody says how large its voxels are, they count as of 1 mm.
    """
    sizes = voxel_size_mm(model.affine, model.image_shape[:-1]) or (1.0,)
    return f"roll_{max(1, round(_SHIFT_MM / min(sizes)))},{_NOISE_BEFORE}"


def starts(inputs: Inputs | None, start_image: str | None, *, variants: int) -> list[Start]:
    """The scans of the reference that variants of a unit start from; none where they share one.

    They are spread evenly over its people, and slices over their heights too.

    Args:
      inputs: The reference.
      start_image: The option.
      variants: Images of each unit.

    Raises:
      ValueError: There is no reference, or it has fewer images.
    """
    if start_image != REFERENCE:
        return []
    source = _given(inputs, start_image).source
    slices = source.sources[0] if isinstance(source, Contrasts) else source
    return [
        Start(slices.owner(position), slices.index[position][1], slices.height_mm(position))
        if isinstance(slices, Slices)
        else Start(source.owner(position))
        for position in _positions(source, variants)
    ]


def with_starts(
    model: Model, inputs: Inputs | None, start_image: str | None, *, variants: int
) -> Model:
    """The model with what an ascent starts from of its reference, if it is to.

    Args:
      model: The network. One that has its starts keeps them.
      inputs: Its reference.
      start_image: The option.
      variants: Images of each unit.

    Raises:
      ValueError: There is no reference, or it has fewer images than there are variants.
    """
    if start_image not in (MEAN, REFERENCE) or model.starts is not None:
        return model
    given = _given(inputs, start_image)
    if start_image == REFERENCE:
        scans = [given.source[position] for position in _positions(given.source, variants)]
        return model._replace(starts=to_shares(np.asarray(scans, np.float32), model.channel_ranges))
    if model.grid.anywhere:
        raise ValueError(
            f"`start_image={MEAN}`: the network takes patches from anywhere in the brain, whose "
            f"mean shows no anatomy: give `start_image={REFERENCE}`, or a NIfTI file to start from."
        )
    total = np.zeros(model.image_shape, np.float64)
    for position in given.positions:
        total += given.source[position]
    mean = np.asarray(total / len(given.positions), np.float32)
    return model._replace(starts=to_shares(mean, model.channel_ranges)[None])


def _given(inputs: Inputs | None, start_image: str) -> Inputs:
    if inputs is None:
        raise ValueError(no_reference(start_image))
    return inputs


def no_reference(start_image: str) -> str:
    """What a user is told who asks for scans of a reference and names none.

    Args:
      start_image: The option.
    """
    are = "is the mean of the" if start_image == MEAN else "takes one for each variant of the"
    return (
        f"`start_image={start_image}` {are} scans of `reference`: give that cohort, or a NIfTI "
        "file to start from."
    )


def _positions(source: Source, variants: int) -> tuple[int, ...]:
    if variants > len(source):
        raise ValueError(
            f"`variants={variants}`: `start_image={REFERENCE}` gives each variant a scan of its "
            f"own, and `reference` has {len(source)} images: give at most as many variants."
        )
    return over_people(source, variants)


def stiffness(options: DeformationOptions) -> Stiffness:
    """What a deformation costs by options.

    Args:
      options: How a scan is deformed.
    """
    return Stiffness(options.energy or Stiffness().energy, options.stiffness)


def deformed(
    model: Model, start: np.ndarray | None, options: DeformationOptions, *, variants: int
) -> Parameterization:
    """What options say to deform, and how.

    Args:
      model: The network.
      start: The scan, on the network's grid, within `Model.intensity_range`; or one for each
        variant, along a first axis.
      options: How.
      variants: Images of each unit.

    Raises:
      ValueError: There is no scan, nobody says how large its voxels are, or an option is out of
        bounds.
    """
    told = f"`parameterization={NAME}`"
    if start is None:
        raise ValueError(
            f"{told} needs a scan to deform: give `start_image=FILE`, `start_image={MEAN}` for "
            f"the mean of `reference`, or `start_image={REFERENCE}` for a scan of each variant."
        )
    sizes = voxel_size_mm(model.affine, model.image_shape[:-1])
    if sizes is None:
        raise ValueError(
            f"{told}: nobody says how large the voxels of the network's images are, and lengths "
            "are in mm: give `grid=FILE`, a NIfTI file on the grid of its input."
        )
    given = {
        name: getattr(options, name)
        for name in ("changes", "spacing_mm", "strain")
        if getattr(options, name) is not None
    }
    try:
        scans = start if start.ndim > len(model.image_shape) else start[None]
        return deformations(
            list(scans),
            voxel_size_mm=sizes,
            stiffness=stiffness(options),
            budget=Budget(*(getattr(options, name) for name in Budget._fields)),
            intensity_range=model.intensity_range,
            noise=_NOISE if variants > len(scans) else 0.0,
            **given,
        )
    except ValueError as error:
        raise ValueError(f"{told}: {str(error).removeprefix(f'{NAME}: ')}") from error

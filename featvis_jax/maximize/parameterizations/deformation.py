"""An image written down as a given scan whose shape changes: anatomy instead of texture.

An ascent by voxels, frequencies or pyramids may paint anything. Here the picture stays a brain:
what is optimized is a smooth displacement of a scan, and what comes out beside the warped scan is
how much each place had to grow or shrink.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import numpy as np

from featvis_jax.maximize import splines, warps
from featvis_jax.maximize.objectives import Numbers, fingerprint
from featvis_jax.maximize.optimizers import UNIT_STEPS
from featvis_jax.maximize.parameterizations.base import Parameterization
from featvis_jax.maximize.parameterizations.deformed_scans import (
    ENERGIES,
    MOST_LOG_BRIGHTNESS,
    TOTAL_VARIATION,
    Budget,
    Coefficients,
    DeformedScans,
)
from featvis_jax.maximize.splines import ControlGrid
from featvis_jax.types import Key, Scalar

CHANGES = ("shape", "brightness", "both")


class Stiffness(NamedTuple):
    """What a deformation costs.

        weight * (energy of the displacement + that of the logarithm of the brightness ratio)

    Attributes:
      energy: "total_variation", the mean of |grad u|, which lets few places change by much;
        "membrane", that of |grad u|^2, which lets many change by little; or "bending", that of
        squared second derivatives, in control spacings, which asks nothing of what grows or shears
        evenly. No energy asks anything of what moves as a whole, and none has a unit. Brightness
        costs the mean of its size or of its square.
      weight: What it weighs against the objective, from 0; None for what is usual. A logit of 8 for
        a local growth of a quarter is a good trade at 120 for total variation, and at 500 for the
        others.

    Example:
      >>> Stiffness().price, Stiffness("bending").price
      (120.0, 500.0)
    """

    energy: str = TOTAL_VARIATION
    weight: float | None = None

    @property
    def price(self) -> float:
        """The weight that counts: the given one, or what is usual for the energy."""
        usual = 120.0 if self.energy == TOTAL_VARIATION else 500.0
        return usual if self.weight is None else self.weight


_STIFFNESS, _UNLIMITED = Stiffness(), Budget()


def deformation(
    scan: Numbers,
    *,
    voxel_size_mm: float | Sequence[float] = 1.0,
    spacing_mm: float = 16.0,
    changes: str = "shape",
    stiffness: Stiffness = _STIFFNESS,
    strain: float = 0.75,
    budget: Budget = _UNLIMITED,
    intensity_range: tuple[float, float] = (0.0, 1.0),
    noise: float = 0.0,
) -> Parameterization:
    """A scan, smoothly deformed.

        image(x) = low + (scan(x + u(x)) - low) e^b(x)

    with u a displacement and b, where it is asked for, the logarithm of a brightness ratio, both
    cubic B-splines on one grid of control points. The map x + u(x) is one to one for all
    parameters, and its determinant lies within ``(1 - strain)^n`` and ``(1 + strain)^n`` everywhere
    (`featvis_jax.maximize.warps`): coefficients are bounded by a hyperbolic tangent.

    `Parameterization.maps` has ``logjac``, the logarithm of how much larger what is seen at a voxel
    is than in the scan; ``displacement``, u in mm along the axes of the image; and ``logbright``,
    b.

    Args:
      scan: ``(*spatial, channels)`` on the network's grid; all channels are deformed alike.
      voxel_size_mm: Along each axis, or one number for all.
      spacing_mm: From one control point to the next, at least two voxels: the smallest structure
        that grows by itself.
      changes: "shape", "brightness", or "both". Brightness beside shape stands for atrophy that
        shows as contrast; alone, it tells whether the network asks for shape at all.
      stiffness: What the deformation costs.
      strain: By how much any length may change at most, as a share, in (0, 1).
      budget: How much it may do at most.
      intensity_range: Lowest and highest intensity, which brightness keeps to; the lowest stays.
      noise: Standard deviation of the start's coefficients as a share of their bound, in [0, 1].
        The variants of a unit are the same without.

    Raises:
      ValueError: An option is out of bounds, or no field of that spacing reaches the budget. A scan
        of another shape than the network's images is refused when the ascent is made.

    References:
      Rueckert, Sonoda, Hayes, Hill, Leach, Hawkes, Nonrigid registration using free-form
      deformations, 1999.
      Ashburner, Friston, Voxel-based morphometry - the methods, 2000.

    Example:
      >>> scan = np.linspace(0, 1, 400).reshape(20, 20, 1)
      >>> start = deformation(scan, spacing_mm=8.0)
      >>> parameters = start.init(jax.random.key(0), (20, 20, 1))
      >>> {name: values.shape for name, values in parameters.items()}
      {'shape': (2, 6, 6)}
      >>> np.allclose(start.decode(parameters), scan)
      True
    """
    # Many arguments: each is one choice about the field, and none belongs to another.
    return deformations(
        [scan],
        voxel_size_mm=voxel_size_mm,
        spacing_mm=spacing_mm,
        changes=changes,
        stiffness=stiffness,
        strain=strain,
        budget=budget,
        intensity_range=intensity_range,
        noise=noise,
    )


def deformations(
    scans: Sequence[Numbers],
    *,
    voxel_size_mm: float | Sequence[float] = 1.0,
    spacing_mm: float = 16.0,
    changes: str = "shape",
    stiffness: Stiffness = _STIFFNESS,
    strain: float = 0.75,
    budget: Budget = _UNLIMITED,
    intensity_range: tuple[float, float] = (0.0, 1.0),
    noise: float = 0.0,
) -> Parameterization:
    """Several scans, each smoothly deformed: the variants of a unit.

    What all of them ask for is the network's; what one asks for alone may be that scan's.

    Args:
      scans: Of one shape, at least one; a recipe has as many variants.
      voxel_size_mm: As `deformation`, like all that follows.
      spacing_mm: From one control point to the next.
      changes: "shape", "brightness" or "both".
      stiffness: What the deformation costs.
      strain: By how much any length may change at most.
      budget: How much it may do at most.
      intensity_range: Lowest and highest intensity.
      noise: Of the start.

    Raises:
      ValueError: As `deformation`; or the scans differ in shape.

    Example:
      >>> deformations([np.zeros((20, 20, 1))] * 3, spacing_mm=8.0).variants
      3
    """
    # Many arguments: those of `deformation`.
    shapes = {np.shape(scan) for scan in scans}
    if len(shapes) != 1:
        raise ValueError(
            f"deformation: the scans have the shapes {sorted(shapes)}; expected one, of at least "
            "one scan."
        )
    values = np.stack([np.asarray(scan, np.float32) for scan in scans])
    _check(values[0], changes, stiffness, strain, intensity_range, noise)
    if not np.isfinite(values).all():
        raise ValueError("deformation: a scan is not finite; expected intensities.")
    grid = _grid(values.shape[1:-1], spacing_mm, voxel_size_mm)
    field = DeformedScans(values, grid, changes, strain, intensity_range)
    _check_budget(field, budget)

    def init(key: Key, image_shape: tuple[int, ...]) -> Coefficients:
        if values.shape[1:] != image_shape:
            raise ValueError(
                f"deformation: the scan has shape {values.shape[1:]}, but the network takes "
                f"{image_shape}: resample or crop it to that grid."
            )
        return {
            name: noise * bound * jax.random.normal(jax.random.fold_in(key, n), field.shapes[name])
            for n, (name, bound) in enumerate(field.bounds.items())
        }

    def cost(parameters: Coefficients) -> Scalar:
        return stiffness.price * field.energy(parameters, stiffness.energy)

    priced = stiffness._replace(weight=stiffness.price)
    sizes = ", ".join(f"{size:g}" for size in grid.voxel_size_mm)
    several = len(values) > 1
    told = fingerprint(values if several else values[0])
    return Parameterization(
        f"deformation{'s' if several else ''}({told}, voxel_size_mm=({sizes}), "
        f"spacing_mm={spacing_mm:g}, changes={changes!r}, stiffness={priced}, "
        f"strain={strain:g}, budget={budget}, intensity_range={intensity_range}, noise={noise:g})",
        init,
        decode=field.image,
        constrain=lambda parameters: field.within(parameters, budget),
        is_image=False,
        learning_rate=0.05 * spacing_mm,
        cost=cost if stiffness.price else None,
        maps=field.maps,
        optimizer=UNIT_STEPS,
        variants=len(values) if several else None,
    )


def _grid(
    spatial: tuple[int, ...], spacing_mm: float, voxel_size_mm: float | Sequence[float]
) -> ControlGrid:
    try:
        return splines.control_grid(spatial, spacing_mm=spacing_mm, voxel_size_mm=voxel_size_mm)
    except ValueError as error:
        raise ValueError(f"deformation: {error}") from error


def _check(
    scan: np.ndarray,
    changes: str,
    stiffness: Stiffness,
    strain: float,
    intensity_range: tuple[float, float],
    noise: float,
) -> None:
    """Refuse what no grid can mend."""
    if not 2 <= scan.ndim <= 4 or not np.isfinite(scan).all():
        raise ValueError(
            f"deformation: the scan has shape {scan.shape}; expected finite intensities of shape "
            "(*spatial, channels), of one to three spatial axes."
        )
    if changes not in CHANGES:
        raise ValueError(
            f"deformation: changes is {changes!r}; expected one of {', '.join(CHANGES)}."
        )
    if stiffness.energy not in ENERGIES or not 0 <= stiffness.price < math.inf:
        raise ValueError(
            f"deformation: stiffness is {stiffness}; expected an energy, one of "
            f"{', '.join(ENERGIES)}, and a weight from 0."
        )
    if not 0 < strain < 1:
        raise ValueError(
            f"deformation: strain is {strain}; expected a share in (0, 1): from 1 on the scan may "
            "fold."
        )
    low, high = intensity_range
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"deformation: intensity_range is {intensity_range}; expected two finite numbers, "
            "low < high."
        )
    if not 0 <= noise <= 1:
        raise ValueError(f"deformation: noise is {noise}; expected a share in [0, 1].")


def _check_budget(field: DeformedScans, budget: Budget) -> None:
    """Refuse a budget that limits nothing, since no field reaches it."""
    rank = field.rank
    reach = {
        "rms_displacement_mm": warps.bound_mm(field.grid, strain=field.strain) * math.sqrt(rank),
        "rms_log_growth": -math.log(warps.determinant_limits(rank, strain=field.strain)[0]),
        "rms_log_brightness": MOST_LOG_BRIGHTNESS * math.sqrt(field.scans.shape[-1]),
    }
    for name, most in reach.items():
        wanted = cast(float | None, getattr(budget, name))
        if wanted is None:
            continue
        if ("brightness" if "brightness" in name else "shape") not in field.bounds:
            raise ValueError(
                f"deformation: the budget has {name}={wanted:g}, but changes={field.changes!r} "
                "leaves it as it is: take another limit, or changes='both'."
            )
        if not 0 < wanted <= most:
            raise ValueError(
                f"deformation: the budget is {name}={wanted:g}; with spacing_mm="
                f"{field.spacing_mm:g} and strain={field.strain:g} no field reaches more than "
                f"{most:.3g}: expected a number above 0, and at most that."
            )

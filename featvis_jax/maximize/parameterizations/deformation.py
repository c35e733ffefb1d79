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
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from featvis_jax.maximize import splines, warps
from featvis_jax.maximize.objectives import VARIANTS, Numbers, fingerprint
from featvis_jax.maximize.optimizers import UNIT_STEPS
from featvis_jax.maximize.parameterizations.base import Parameterization
from featvis_jax.maximize.splines import ControlGrid
from featvis_jax.types import Image, Key, Scalar

CHANGES = ("shape", "brightness", "both")
# Brightness from a half to twice the scan's.
_MOST_LOG_BRIGHTNESS = math.log(2)
_SAMPLES_PER_SPACING = 4

Coefficients = dict[str, Float[Array, " _ *points"]]


class Stiffness(NamedTuple):
    """What a deformation costs.

        weight * (energy of the displacement + mean squared logarithm of the brightness ratio)

    Attributes:
      energy: "membrane", the mean of |grad u|^2, which is 0 where the scan moves as a whole; or
        "bending", that of squared second derivatives, in control spacings, which is 0 where it
        grows or shears evenly, too. Neither has a unit.
      weight: What it weighs against the objective, from 0. A logit of 8 for a local growth of a
        quarter is a good trade at 1,000.

    Example:
      >>> Stiffness("bending").weight
      1000.0
    """

    energy: str = "membrane"
    weight: float = 1000.0


class Budget(NamedTuple):
    """How much a deformation may do at most, over the whole image; what is None has no limit.

    A stiffness is a price, which has to suit the network; a budget is none. Both may be set.

    Attributes:
      rms_displacement_mm: Root mean square of the displacement's length.
      rms_log_growth: Root mean square of the logarithm of the ratio of volumes, kept to within a
        hundredth.
      rms_log_brightness: Root mean square of the logarithm of the brightness ratio.

    Example:
      >>> Budget(rms_displacement_mm=0.5)
      Budget(rms_displacement_mm=0.5, rms_log_growth=None, rms_log_brightness=None)
    """

    rms_displacement_mm: float | None = None
    rms_log_growth: float | None = None
    rms_log_brightness: float | None = None


_STIFFNESS, _UNLIMITED = Stiffness(), Budget()


def deformation(
    scan: Numbers,
    *,
    voxel_size_mm: float | Sequence[float] = 1.0,
    spacing_mm: float = 12.0,
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
      >>> bool(jnp.allclose(start.decode(parameters), jnp.asarray(scan, jnp.float32)))
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
    spacing_mm: float = 12.0,
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
      >>> deformations(np.zeros((3, 20, 20, 1)), spacing_mm=8.0).variants
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
    field = _Field(values, grid, changes, strain, intensity_range)
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
        return stiffness.weight * field.energy(parameters, stiffness.energy)

    sizes = ", ".join(f"{size:g}" for size in grid.voxel_size_mm)
    several = len(values) > 1
    told = fingerprint(values if several else values[0])
    return Parameterization(
        f"deformation{'s' if several else ''}({told}, voxel_size_mm=({sizes}), "
        f"spacing_mm={spacing_mm:g}, changes={changes!r}, stiffness={stiffness}, "
        f"strain={strain:g}, budget={budget}, intensity_range={intensity_range}, noise={noise:g})",
        init,
        decode=field.image,
        constrain=lambda parameters: field.within(parameters, budget),
        is_image=False,
        learning_rate=0.05 * spacing_mm,
        cost=cost if stiffness.weight else None,
        maps=field.maps,
        optimizer=UNIT_STEPS,
        variants=len(values) if several else None,
    )


class _Field(NamedTuple):
    """What coefficients stand for. Those of brightness are in mm, too: steps of one length."""

    scans: np.ndarray
    grid: ControlGrid
    changes: str
    strain: float
    intensity_range: tuple[float, float]

    @property
    def scan(self) -> Image:
        """The scan, or of several that of the variant that asks."""
        scans = jnp.asarray(self.scans)
        return scans[0] if len(scans) == 1 else scans[lax.axis_index(VARIANTS)]

    @property
    def rank(self) -> int:
        return self.scans.ndim - 2

    @property
    def spacing_mm(self) -> float:
        return self.grid.spacing[0] * self.grid.voxel_size_mm[0]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        components = {"shape": self.rank, "brightness": self.scans.shape[-1]}
        return {name: (components[name], *self.grid.shape) for name in self.bounds}

    @property
    def bounds(self) -> dict[str, float]:
        """Of the coefficients, in mm."""
        found = {
            "shape": warps.bound_mm(self.grid, strain=self.strain),
            "brightness": _MOST_LOG_BRIGHTNESS * self.spacing_mm,
        }
        return found if self.changes == "both" else {self.changes: found[self.changes]}

    def bounded(self, parameters: Coefficients) -> Coefficients:
        return {
            name: bound * jnp.tanh(parameters[name] / bound) for name, bound in self.bounds.items()
        }

    def image(self, parameters: Coefficients) -> Image:
        bounded, image = self.bounded(parameters), self.scan
        if "shape" in bounded:
            image = warps.warp(image, warps.displacement(bounded["shape"], self.grid))
        if "brightness" in bounded:
            low, high = self.intensity_range
            ratio = jnp.exp(self.log_brightness(bounded["brightness"]))
            image = jnp.clip(low + (image - low) * ratio, low, high)
        return image

    def log_brightness(self, coefficients: Float[Array, " channels *points"]) -> Image:
        fields = [splines.evaluate(each, self.grid) for each in coefficients / self.spacing_mm]
        return jnp.stack(fields, axis=-1)

    def energy(self, parameters: Coefficients, kind: str) -> Scalar:
        bounded, total = self.bounded(parameters), jnp.zeros(())
        if "shape" in bounded:
            of = splines.membrane_energy if kind == "membrane" else splines.bending_energy
            total += of(bounded["shape"], self.grid)
        if "brightness" in bounded:
            total += jnp.square(self._rms(bounded["brightness"] / self.spacing_mm))
        return total

    def maps(self, parameters: Coefficients) -> dict[str, Float[Array, "*spatial _"]]:
        bounded, found = self.bounded(parameters), {}
        if "shape" in bounded:
            sizes = self.grid.voxel_size_mm
            moved = warps.displacement(bounded["shape"], self.grid)
            found["logjac"] = warps.log_growth(bounded["shape"], self.grid)[..., None]
            found["displacement"] = jnp.stack(
                [along * size for along, size in zip(moved, sizes, strict=True)], axis=-1
            )
        if "brightness" in bounded:
            found["logbright"] = self.log_brightness(bounded["brightness"])
        return found

    def within(self, parameters: Coefficients, budget: Budget) -> Coefficients:
        """Parameters of the same field, only smaller where it does more than it may."""
        bounded, kept = self.bounded(parameters), dict(parameters)
        shares = {name: jnp.ones(()) for name in bounded}
        if budget.rms_displacement_mm is not None:
            shares["shape"] = _share(budget.rms_displacement_mm, self._rms(bounded["shape"]))
        if budget.rms_log_growth is not None:
            # Nearly in proportion to the field: a few corrections find it.
            first = shares["shape"]
            for _ in range(4):
                found = self._rms_log_growth(shares["shape"] * bounded["shape"])
                wanted = shares["shape"] * budget.rms_log_growth / found
                shares["shape"] = jnp.minimum(wanted, first)
        if budget.rms_log_brightness is not None:
            found = self._rms(bounded["brightness"] / self.spacing_mm)
            shares["brightness"] = _share(budget.rms_log_brightness, found)
        for name, share in shares.items():
            bound = self.bounds[name]
            smaller = jnp.clip(share * bounded[name] / bound, -1 + 1e-6, 1 - 1e-6)
            kept[name] = jnp.where(share < 1, bound * jnp.arctanh(smaller), parameters[name])
        return kept

    def _rms(self, coefficients: Float[Array, " components *points"]) -> Scalar:
        squares = [splines.mean_square(each, self.grid) for each in coefficients]
        # The small number is for no field at all.
        return jnp.sqrt(jnp.maximum(sum(squares[1:], squares[0]), 1e-20))

    def _rms_log_growth(self, coefficients_mm: Float[Array, " rank *points"]) -> Scalar:
        places = []
        for side, spacing in zip(self.grid.spatial, self.grid.spacing, strict=True):
            count = min(side, math.ceil(_SAMPLES_PER_SPACING * side / spacing))
            # The middle of each part, as a mean has it.
            places.append((np.arange(count) + 0.5) * side / count - 0.5)
        growth = warps.log_growth(coefficients_mm, self.grid, places=places)
        return jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(growth)), 1e-20))


def _share(most: float, found: Scalar) -> Scalar:
    return jnp.minimum(most / found, 1.0)


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
    if stiffness.energy not in ("membrane", "bending") or not 0 <= stiffness.weight < math.inf:
        raise ValueError(
            f"deformation: stiffness is {stiffness}; expected an energy, membrane or bending, and "
            "a weight from 0."
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


def _check_budget(field: _Field, budget: Budget) -> None:
    """Refuse a budget that limits nothing, since no field reaches it."""
    rank = field.rank
    reach = {
        "rms_displacement_mm": warps.bound_mm(field.grid, strain=field.strain) * math.sqrt(rank),
        "rms_log_growth": -math.log(warps.determinant_limits(rank, strain=field.strain)[0]),
        "rms_log_brightness": _MOST_LOG_BRIGHTNESS * math.sqrt(field.scans.shape[-1]),
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

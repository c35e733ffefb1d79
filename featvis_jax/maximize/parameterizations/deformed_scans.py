"""What a scan becomes by a smooth displacement and a smooth change of its brightness."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from featvis_jax.maximize import splines, warps
from featvis_jax.maximize.objectives import VARIANTS
from featvis_jax.maximize.splines import ControlGrid, Places
from featvis_jax.types import Image, Scalar

MOST_LOG_BRIGHTNESS = math.log(2)
"""Brightness is from a half to twice the scan's."""
ENERGIES = TOTAL_VARIATION, MEMBRANE, BENDING = "total_variation", "membrane", "bending"
_SAMPLES_PER_SPACING = 4

Coefficients = dict[str, Float[Array, " _ *points"]]


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


class DeformedScans(NamedTuple):
    """Scans, and what coefficients make of them.

    Those of brightness are in mm, too, so that one step changes a volume and the brightness in it
    by about as much.

    Attributes:
      scans: ``(scans, *spatial, channels)``, one for each variant of a unit.
      grid: The control points.
      changes: "shape", "brightness" or "both".
      strain: By how much any length may change at most.
      intensity_range: Lowest and highest intensity, which brightness keeps to.
    """

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
        """Number of spatial axes."""
        return self.scans.ndim - 2

    @property
    def spacing_mm(self) -> float:
        """From one control point to the next."""
        return self.grid.spacing[0] * self.grid.voxel_size_mm[0]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the coefficients."""
        components = {"shape": self.rank, "brightness": self.scans.shape[-1]}
        return {name: (components[name], *self.grid.shape) for name in self.bounds}

    @property
    def bounds(self) -> dict[str, float]:
        """Of the coefficients, in mm."""
        found = {
            "shape": warps.bound_mm(self.grid, strain=self.strain),
            "brightness": MOST_LOG_BRIGHTNESS * self.spacing_mm,
        }
        return found if self.changes == "both" else {self.changes: found[self.changes]}

    def bounded(self, parameters: Coefficients) -> Coefficients:
        """The coefficients of any parameters.

        Args:
          parameters: Of any size.
        """
        return {
            name: bound * jnp.tanh(parameters[name] / bound) for name, bound in self.bounds.items()
        }

    def image(self, parameters: Coefficients) -> Image:
        """The scan as it becomes.

        Args:
          parameters: Of any size.
        """
        bounded, image = self.bounded(parameters), self.scan
        if "shape" in bounded:
            image = warps.warp(image, warps.displacement(bounded["shape"], self.grid))
        if "brightness" in bounded:
            low, high = self.intensity_range
            ratio = jnp.exp(self.log_brightness(bounded["brightness"]))
            image = jnp.clip(low + (image - low) * ratio, low, high)
        return image

    def log_brightness(self, coefficients: Float[Array, " channels *points"]) -> Image:
        """The logarithm of the brightness ratio at every voxel.

        Args:
          coefficients: Within their bounds.
        """
        fields = [splines.evaluate(each, self.grid) for each in coefficients / self.spacing_mm]
        return jnp.stack(fields, axis=-1)

    def energy(self, parameters: Coefficients, kind: str) -> Scalar:
        """What `Stiffness` weighs.

        Args:
          parameters: Of any size.
          kind: One of `ENERGIES`.
        """
        bounded, total = self.bounded(parameters), jnp.zeros(())
        if "shape" in bounded:
            total += self._energy_of_shape(bounded["shape"], kind)
        if "brightness" in bounded:
            shares = bounded["brightness"] / self.spacing_mm
            if kind == TOTAL_VARIATION:
                logs = [splines.evaluate(each, self.grid, places=self._places) for each in shares]
                squares = [jnp.square(each) for each in logs]
                total += jnp.mean(splines.smooth_length(sum(squares[1:], squares[0])))
            else:
                total += jnp.square(self._rms(shares))
        return total

    def maps(self, parameters: Coefficients) -> dict[str, Float[Array, "*spatial _"]]:
        """What there is at every voxel beside the image, by name.

        Args:
          parameters: Of any size.
        """
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
        """Parameters of the same field, only smaller if it does more than it may.

        Args:
          parameters: Of any size.
          budget: What it may do.
        """
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

    def _energy_of_shape(self, coefficients_mm: Float[Array, " rank *points"], kind: str) -> Scalar:
        if kind == TOTAL_VARIATION:
            return splines.total_variation(coefficients_mm, self.grid, places=self._places)
        of = splines.membrane_energy if kind == MEMBRANE else splines.bending_energy
        return of(coefficients_mm, self.grid)

    @property
    def _places(self) -> Places:
        """Enough places for means over the image of what is not quadratic in the coefficients."""
        found = []
        for side, spacing in zip(self.grid.spatial, self.grid.spacing, strict=True):
            count = min(side, math.ceil(_SAMPLES_PER_SPACING * side / spacing))
            # The middle of each part, as a mean has it.
            found.append((np.arange(count) + 0.5) * side / count - 0.5)
        return found

    def _rms(self, coefficients: Float[Array, " components *points"]) -> Scalar:
        squares = [splines.mean_square(each, self.grid) for each in coefficients]
        # The small number is for no field at all.
        return jnp.sqrt(jnp.maximum(sum(squares[1:], squares[0]), 1e-20))

    def _rms_log_growth(self, coefficients_mm: Float[Array, " rank *points"]) -> Scalar:
        growth = warps.log_growth(coefficients_mm, self.grid, places=self._places)
        return jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(growth)), 1e-20))


def _share(most: float, found: Scalar) -> Scalar:
    return jnp.minimum(most / found, 1.0)

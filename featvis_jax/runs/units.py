"""What a run keeps of a finished unit: its row with a status, its image and its traces."""

import numpy as np

from featvis_jax.evaluation import health
from featvis_jax.evaluation.strength import strength
from featvis_jax.maximize.layer import FinishedUnit
from featvis_jax.models import Model
from featvis_jax.nn.network import Layer
from featvis_jax.ranges import to_intensities
from featvis_jax.results.starts import Start
from featvis_jax.results.tables import UnitRecord, UnitResult


def unit_result(
    unit: FinishedUnit,
    layer: Layer,
    model: Model,
    *,
    seconds: float,
    strongest: float | None,
    seed: int,
    name: str | None = None,
    begun: Start | None = None,
    most: float | None = None,
) -> UnitResult:
    """What is stored of a unit.

    Args:
      unit: After its ascent.
      layer: Its layer.
      model: Its network.
      seconds: Its share in the time of its batch.
      strongest: Its response to the strongest real input, where that is known.
      seed: Of the run.
      name: What the unit is called, where it is one of several directions.
      most: Where its objective ends, which is then what was aimed at.
      begun: The scan that it started from, where each variant has its own.
    """
    # Many arguments: each is one fact of a unit or of its run.
    seen = unit.objective_trace[np.isfinite(unit.objective_trace)]
    target = unit.target if most is None else most
    image = to_intensities(unit.image, model.channel_ranges)
    record = UnitRecord(
        layer=layer.name,
        channel=unit.channel,
        variant=unit.variant + 1,
        status=health.status(
            unit.image,
            start=unit.start,
            objective_trace=unit.objective_trace,
            rise=unit.final_objective - unit.initial_objective,
            finite=unit.finite,
            response=unit.response if most is None else unit.final_objective,
            target=target,
            most=most,
            intensity_range=model.intensity_range,
            border=layer.receptive_field or 0,
        ),
        initial_objective=unit.initial_objective,
        final_objective=unit.final_objective,
        transformed_objective=float(seen[-1]) if seen.size else None,
        response=unit.response,
        target=target,
        strength=strength(unit.response, strongest),
        penalty=unit.penalty,
        intensity_min=float(image.min()),
        intensity_max=float(image.max()),
        steps=len(unit.objective_trace),
        seconds=round(seconds, 3),
        seed=seed,
    )
    traces = unit.objective_trace, unit.penalty_trace
    return UnitResult(
        record,
        image,
        *traces,
        transparency=unit.transparency,
        name=name,
        maps={} if unit.maps is None else _maps(unit, model),
        start=begun,
    )


def _maps(unit: FinishedUnit, model: Model) -> dict[str, np.ndarray]:
    """What is kept beside an image; a displacement along the axes of the world, if it is known."""
    assert unit.maps is not None
    affine = model.affine
    found = {"scan": to_intensities(unit.start, model.channel_ranges), **unit.maps}
    if "displacement" in found and affine is not None:
        along = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        moved = found["displacement"]
        found["displacement"] = np.asarray(moved @ along[:, : moved.shape[-1]].T, np.float32)
    return found

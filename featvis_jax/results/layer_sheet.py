"""The contact sheet of a layer: its finished units as a run's configuration asked for them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from featvis_jax.results import asked, channels, sheets
from featvis_jax.results.nifti import Affine
from featvis_jax.results.pixels import Window
from featvis_jax.results.tables import UnitRecord


def layer_sheet(
    rows: Sequence[UnitRecord],
    images: Iterable[Float[np.ndarray, "*spatial channels"]],
    *,
    configuration: Mapping[str, Any],
    total: int,
    affine: Affine | None,
    window: Literal["shared", "own"] | Window = "shared",
) -> bytes:
    """Draw the finished units of a layer on one page.

    Args:
      rows: At least one, all of one layer.
      images: Of these.
      configuration: What decides the images, as run.json has it.
      total: Channels that the layer has.
      affine: Of the grid that the images lie on; None if nobody knows.
      window: As in `sheets.Look`.

    Returns:
      The bytes of a .png file.
    """
    layer = rows[0].layer
    question = asked.question(configuration, layer)
    compared_with = asked.compared_with(configuration)
    asked_for = configuration.get("variants")
    variants = asked_for if isinstance(asked_for, int) and asked_for > 1 else 1
    number = len({row.channel for row in rows})
    return sheets.contact_sheet(
        images,
        titles=[
            sheets.tile_title(row, variants=variants, name=question.label(row.channel))
            for row in rows
        ],
        statuses=[row.status for row in rows],
        title=f"{layer}: {question.sought}" if question.suppresses else layer,
        subtitle=question.counted(number, total, variants=variants)
        + (f"; \u00d7 {compared_with}" if compared_with else ""),
        groups=[row.channel for row in rows],
        look=sheets.Look(window=window),
        voxels=sheets.Voxels(
            affine=affine,
            channels=channels.of_run(configuration),
            unit=asked.intensity_unit(configuration),
        ),
    )

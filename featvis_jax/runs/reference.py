"""How strongly real inputs drive the units of a run: what its pictures aim at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from featvis_jax.maximize.objectives import Objective
from featvis_jax.maximize.reference import Asked, unit_responses
from featvis_jax.models import Model
from featvis_jax.options import tell
from featvis_jax.progress import callback
from featvis_jax.results import shards
from featvis_jax.results.store import Run, RunView
from featvis_jax.results.tables import ReferenceRecord
from featvis_jax.runs.reference_scans import Inputs
from featvis_jax.runs.sizing import Work


def responses(
    model: Model, asked: Mapping[str, Asked], inputs: Inputs
) -> dict[str, Float32[np.ndarray, "images units"]]:
    """How strongly units respond to real inputs.

    Args:
      model: The network.
      asked: Units by layer.
      inputs: The images.
    """
    with callback("reference", unit="image") as on_images:
        return unit_responses(
            model.network,
            asked,
            inputs.images(),
            batch_size=batch_size(model),
            progress=lambda done: on_images(done, inputs.total),
        )


def of_layer(
    model: Model, layer: str, objective: Objective, inputs: Inputs
) -> tuple[Float32[np.ndarray, "images units"], Float32[np.ndarray, " units"]]:
    """Responses of all units of a layer to every image, and their reference.

    Args:
      model: The network.
      layer: The layer.
      objective: What its units are asked for.
      inputs: The images.
    """
    asked = all_units(model, layer, objective)
    found = responses(model, {layer: asked}, inputs)[layer]
    return found, np.percentile(found, inputs.percentile, axis=0).astype(np.float32)


def all_units(model: Model, layer: str, objective: Objective) -> Asked:
    """Every unit that an objective has in a layer: its channels, its directions, or one.

    Args:
      model: The network.
      layer: The layer.
      objective: What its units are asked for.
    """
    return Asked(objective, range(objective.num_units(model.network.layer(layer).channels)))


def batch_size(model: Model) -> int:
    """Images that go through a network together."""
    return 16 if len(model.image_shape) == 3 else 1


def strongest(
    model: Model,
    objectives: Mapping[str, Objective],
    channels: Mapping[str, Sequence[int]],
    inputs: Inputs,
) -> list[ReferenceRecord]:
    """The reference of every unit, and a word on those that no real input drives.

    Args:
      model: The network.
      objectives: What is maximized, by layer.
      channels: Of which channels.
      inputs: The images.
    """
    asked = {layer: Asked(objectives[layer], channels[layer]) for layer in channels}
    rows = []
    for layer, found in responses(model, asked, inputs).items():
        values = np.percentile(found, inputs.percentile, axis=0).astype(np.float32)
        pairs = zip(channels[layer], values, strict=True)
        rows += [ReferenceRecord(layer, channel, float(value)) for channel, value in pairs]
    silent = sum(not row.reference > 0 for row in rows)
    if silent:
        tell(f"`reference`: no image drives {silent} of {len(rows)} units, which get no strength")
    return rows


def of_units(work: Work, model: Model, inputs: Inputs | None) -> dict[tuple[str, int], float]:
    """The reference of every unit, by layer and channel; empty without real inputs.

    Args:
      work: What is to be done.
      model: The network.
      inputs: The images; None without any.
    """
    if inputs is None:
        return {}
    objectives = {layer: recipe.objective for layer, recipe in work.recipes.items()}
    rows = strongest(model, objectives, work.channels, inputs)
    return {row.unit: row.reference for row in rows}


def of_run(
    run: Run, work: Work, model: Model, inputs: Inputs | None, out: Path
) -> dict[tuple[str, int], float]:
    """The reference of every unit of a run, by layer and channel; stored, it is not measured again.

    Args:
      run: What this process writes to, the run or a shard of it.
      work: What the run has to do.
      model: The network.
      inputs: The images; None without any, and then there is nothing to know.
      out: Directory of the run.
    """
    if inputs is None:
        return {}
    wanted = {(layer, channel) for layer, some in work.channels.items() for channel in some}
    # What another shard has found is taken as it is: other processors would round it otherwise.
    for view in (run, RunView(out), *shards.shards(out)):
        rows = view.reference()
        if wanted <= {row.unit for row in rows}:
            break
    else:
        objectives = {layer: recipe.objective for layer, recipe in work.recipes.items()}
        rows = strongest(model, objectives, work.channels, inputs)
        # A run that grows keeps what it has.
        rows = [row for row in run.reference() if row.unit not in wanted] + rows
    run.write_reference(rows)
    return {row.unit: row.reference for row in rows}


def targets(
    found: Mapping[tuple[str, int], float], layer: str, channels: Sequence[int]
) -> Float[np.ndarray, " channels"] | None:
    """What the ascents of a batch aim at: NaN for a unit that no real input drives.

    Args:
      found: Reference of every unit; empty without any.
      layer: The units' layer.
      channels: Their numbers.
    """
    if not found:
        return None
    return aimed(np.array([found[layer, channel] for channel in channels]))


def aimed(reference: Float[np.ndarray, " channels"]) -> Float[np.ndarray, " channels"]:
    """Targets: the reference of each unit, NaN where no real input drives it.

    Args:
      reference: Of some units.
    """
    return np.where(reference > 0, reference, np.nan).astype(np.float64)

"""Networks that look for planted anatomy, and their scans as a unit would have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from featvis_jax import models
from featvis_jax.data.anatomy import AnatomyTask, described_anatomy
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.grids import Grid
from featvis_jax.data.masks import brain_mask
from featvis_jax.data.splits import Split
from featvis_jax.maximize import objectives, transforms
from featvis_jax.maximize.layer import FinishedUnit, visualize
from featvis_jax.maximize.parameterizations import Parameterization, Stiffness, deformations
from featvis_jax.maximize.recipe import Recipe
from featvis_jax.models import Model
from featvis_jax.nn.network import Network
from featvis_jax.runs import cohort_images, cohorts

LAYER, ELSEWHERE, HERE = "logits", 0, 1
# Settled on one network of one place, and the same for all others.
TARGET, STEPS, MOVED_MM, NOISE = 8.0, 256, 6.0, 0.1
# Where what was planted is all over the brain; settled on one network of a pattern.
DIFFUSE = {"stiffness": Stiffness("membrane", 200.0), "spacing_mm": 20.0}


class Trained(NamedTuple):
    """A network, what it looks for, and scans of people whom it has not seen."""

    name: str
    model: Model
    task: AnatomyTask
    scans: np.ndarray
    brains: np.ndarray
    is_shuffled: bool

    @property
    def network(self) -> Network:
        """The network alone."""
        return self.model.network

    def planted(self, share: float) -> np.ndarray:
        """The scans with the planted change."""
        return np.stack([self.task.changed(scan, share) for scan in self.scans])


def trained(directory: Path, cohort_path: str, count: int, cache: str) -> Trained:
    """A network with scans spread over the people whom it has not seen."""
    model = models.load(directory / "model")
    grid, told = Grid(model.image_shape[:-1], model.affine), model.card["data"]
    task = described_anatomy(told, grid)
    if task is None:
        raise SystemExit(f"{directory}: no anatomy was planted in what it was trained on")
    cohort = cohorts.resampled(read_cohort(cohort_path), model.resampled_mm, told=cohort_path)
    people = Split.load(directory / "split.json").test
    cached = cohorts.cached_volumes(cohort, Path(cache))
    images = cohort_images.source(
        cohort,
        [cached[who] for who in people],
        grid,
        told=cohort_path,
        slices_mm=told.get("slices_mm"),
    )
    chosen = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    scans = np.stack([images[int(position)] for position in chosen])
    brains = np.stack([brain_mask(scan[..., 0]) for scan in scans])
    return Trained(directory.name, model, task, scans, brains, told.get("labels") == "shuffled")


def difference(network: Network, images: np.ndarray) -> np.ndarray:
    """How far the logit of "here" is above the other's."""

    @jax.jit
    def of(image: jax.Array) -> jax.Array:
        logits = network.activations(network.variables, image, [LAYER])[LAYER]
        return logits[HERE] - logits[ELSEWHERE]

    return np.array([float(of(jnp.asarray(image))) for image in images])


def robust(size_mm: float) -> transforms.Transform:
    """What a deformation has to work under."""
    return transforms.chain(
        transforms.roll(max_voxels=round(MOVED_MM / size_mm)),
        transforms.noise(standard_deviation=NOISE),
    )


def ascended(
    network: Network,
    start: Parameterization,
    size_mm: float,
    count: int,
    *,
    unit: int = HERE,
    **options: Any,
) -> list[FinishedUnit]:
    """A unit's ascent from several starts, in the form of its variants."""
    recipe = Recipe(
        objectives.up_to(objectives.logit_difference(LAYER), TARGET),
        start,
        **{
            "steps": STEPS,
            "variants": count,
            "robustness": robust(size_mm),
            **options,
        },
    )
    return list(visualize(network, recipe, LAYER, [unit], seed=0))


def deformed(
    trained: Trained,
    *,
    scans: np.ndarray | None = None,
    network: Network | None = None,
    unit: int = HERE,
    changes: str = "shape",
    cheaper: float = 1.0,
) -> list[FinishedUnit]:
    """Every scan as a unit would have it; other scans, or by another network of the same task."""
    scans = trained.scans if scans is None else scans
    options: dict[str, Any] = {"stiffness": Stiffness()}
    if trained.task.planted.cue == "pattern":
        options = DIFFUSE
    stiffness = options["stiffness"]
    options = {**options, "stiffness": stiffness._replace(weight=stiffness.price / cheaper)}
    size_mm = trained.task.voxel_size_mm
    start = deformations(list(scans), voxel_size_mm=size_mm, changes=changes, **options)
    return ascended(network or trained.network, start, size_mm, len(scans), unit=unit)

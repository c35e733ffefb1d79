"""A run of deformed scans, read again: its units, whose scans they are, what it was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax.models import Model
from featvis_jax.options import fields, from_lines, given_in_python
from featvis_jax.results import tables
from featvis_jax.results.starts import Start
from featvis_jax.results.store import RunView
from featvis_jax.results.tables import Key
from featvis_jax.runs.graded_pictures import flags_of
from featvis_jax.runs.visualize_job import AscentOptions


class People(NamedTuple):
    """Whose scans the variants of a unit are.

    Attributes:
      names: A name for each variant; of a run whose variants share one scan the same for all.
      starts: What the run says of each; nothing there.
    """

    names: list[str]
    starts: list[Start]

    @property
    def variants(self) -> dict[str, list[int]]:
        """The variants of each person, from 1."""
        own: dict[str, list[int]] = {}
        for variant, name in enumerate(self.names, start=1):
            own.setdefault(name, []).append(variant)
        return own

    @property
    def heights_mm(self) -> list[float | None]:
        """Of the slice of each variant; None where the grid says it, or nobody."""
        return [each.height_mm for each in self.starts] or [None] * len(self.names)


def people_of(view: RunView) -> People:
    """Whose scans the variants of a run are.

    Args:
      view: The run.
    """
    starts = view.starts
    return People([each.person for each in starts] or [""] * view.variants, starts)


class DeformedUnit:
    """The maps of a unit, read when asked for."""

    def __init__(self, view: RunView, unit: tuple[str, int], people: People):
        """Keep which they are."""
        self.view, self.unit, self.people = view, unit, people

    @property
    def keys(self) -> list[Key]:
        """Of its images."""
        return [(*self.unit, variant) for variant in range(1, self.view.variants + 1)]

    def of(self, variant: int, name: str) -> Float[np.ndarray, "*spatial"]:
        """The first component of a map."""
        return self.view.map(*self.unit, variant, name=name)[..., 0]

    def of_people(self, name: str) -> Iterator[Float[np.ndarray, "*spatial"]]:
        """The mean of a map over the images of each person."""
        for variants in self.people.variants.values():
            total: Any = 0.0
            for variant in variants:
                total = total + self.of(variant, name).astype(np.float64)
            yield total / len(variants)


def units_of(view: RunView) -> list[tuple[str, int]]:
    """The units of a run that have all their images, by layer and channel.

    Args:
      view: The run.

    Raises:
      ValueError: There is none, or they are no scans whose shape was changed.
    """
    told, records = f"`run={view.directory}`", view.records()
    done = tables.complete((record.key for record in records), variants=view.variants)
    units = [unit for unit in dict.fromkeys(record.unit for record in records) if unit in done]
    if not units:
        raise ValueError(f"{told}: no unit of it has all its images: let it end first.")
    if "logjac" not in view.map_names(*units[0]):
        raise ValueError(
            f"{told}: its images are no scans whose shape was changed; expected a run made with "
            "--parameterization=deformation, and not with --changes=brightness."
        )
    return units


def asked_of(view: RunView) -> AscentOptions:
    """What a run was asked for.

    Args:
      view: The run.

    Raises:
      ValueError: It does not tell, or it had no target.
    """
    told, text = f"`run={view.directory}`", flags_of(view)
    names = {each.name for each in fields(AscentOptions)}
    for name in given_in_python(text):
        if name in names:
            raise ValueError(
                f"{told}: its {name} was given in Python, and is not known to compare shape with "
                "brightness by: give it by name, or compare in Python with "
                "featvis_jax.evidence.brightness."
            )
    given = from_lines(AscentOptions, text)
    # What was found to fit then, fits again.
    given["batch"] = view.configuration.get("batch", given.get("batch", "auto"))
    asked = AscentOptions(**given)
    if asked.up_to is None:
        raise ValueError(
            f"{told} was made without --up_to: what shape and brightness take can be compared only "
            "at a target that both are to reach. Make it again with a target, such as --up_to=8."
        )
    return asked


def as_it_was(view: RunView, model: Model) -> Model:
    """The network with the range that its images had in a run.

    Args:
      view: The run.
      model: The network.
    """
    told = view.configuration.get("intensities")
    if told is None:
        return model
    low, high = told["range"]
    said = dataclasses.replace(model.told, intensity_range=(low, high))
    return model._replace(intensity_range=(low, high), told=said)

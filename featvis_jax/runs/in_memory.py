"""Visualizing from Python: units in memory, to look at and to keep."""

from __future__ import annotations

import base64
import difflib
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import jax

from featvis_jax.maximize.layer import FinishedBatch
from featvis_jax.maximize.planning import Batch
from featvis_jax.models import Model, from_network, load
from featvis_jax.nn.network import Layer, Network
from featvis_jax.options import as_lines, fields
from featvis_jax.results.layer_sheet import layer_sheet
from featvis_jax.results.store import Run, open_run
from featvis_jax.results.tables import UnitResult
from featvis_jax.runs import reference, sizing
from featvis_jax.runs.batches import ascend
from featvis_jax.runs.environment import environment
from featvis_jax.runs.visualize import finish, layer_record, pages
from featvis_jax.runs.visualize_job import AscentOptions, Job, job


class Units(Sequence[UnitResult]):
    """Finished units, in the order in which they were asked for; made by `visualize`.

    A notebook shows their contact sheet.

    Attributes:
      model: The network.
    """

    def __init__(
        self,
        done: Job,
        results: Sequence[UnitResult],
        *,
        batch_size: int,
        strongest: Mapping[tuple[str, int], float],
    ) -> None:
        """Keep what an ascent left; see `visualize`."""
        self.model = done.model
        self._job, self._results, self._strongest = done, tuple(results), dict(strongest)
        self._configuration = {**done.configuration, "batch": batch_size}

    def __len__(self) -> int:
        """Number of images: of units, times the variants of each."""
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> UnitResult: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[UnitResult]: ...
    def __getitem__(self, index: int | slice) -> UnitResult | Sequence[UnitResult]:
        """A unit by its place among those that were asked for."""
        return self._results[index]

    def __repr__(self) -> str:
        """A line for each."""
        return "\n".join(map(repr, self._results))

    def sheet(self, layer: str | None = None) -> bytes:
        """The contact sheet of a layer.

        Args:
          layer: Name of one that was asked for; by default the first.

        Returns:
          The bytes of a .png file.

        Raises:
          ValueError: No unit of that layer was asked for.
        """
        layer = self._job.layers[0].name if layer is None else layer
        own = [result for result in self._results if result.layer == layer]
        if not own:
            names = ", ".join(each.name for each in self._job.layers)
            raise ValueError(f"layer is {layer!r}; there are units of {names}.")
        return layer_sheet(
            [result.record for result in own],
            (result.image for result in own),
            configuration=self._configuration,
            total=self.model.network.layer(layer).channels,
            affine=self.model.affine,
            window=self.model.intensity_range,
        )

    def _repr_html_(self) -> str:
        """The contact sheets, which name the statuses."""
        sheets = {each.name: base64.b64encode(self.sheet(each.name)) for each in self._job.layers}
        return "".join(
            f'<img alt="{html.escape(layer)}" style="max-width: 100%" '
            f'src="data:image/png;base64,{data.decode()}">'
            for layer, data in sheets.items()
        )

    def save(self, directory: str | Path, *, gallery: bool = True) -> Run:
        """Write the directory that the command line writes: images, tables, sheets and pages.

        Args:
          directory: A new or empty one, or one that holds the same run.
          gallery: Whether to build the pages.

        Returns:
          The run, closed.

        Raises:
          ValueError: The directory holds something else.
          OSError: It cannot be written.
        """
        done, model = self._job, self.model
        with open_run(directory, self._configuration, environment=environment(None)) as run:
            if self._strongest:
                rows = [
                    reference.ReferenceRecord(*unit, value)
                    for unit, value in self._strongest.items()
                ]
                run.write_reference(rows)
            run.write_flags(_flags(done))
            run.write_layers([layer_record(each, model.network) for each in model.network.layers])
            there = {record.key for record in run.records()}
            missing = [result for result in self._results if result.record.key not in there]
            run.write_units(missing, affine=model.affine, window=model.intensity_range)
            finish(run, done, None)
        if gallery:
            pages(run)
        return run


def _flags(done: Job) -> str:
    """The flags that repeat a job, as far as flags can say it."""
    told = as_lines(done.options, done.model.told)
    if "--model=" not in told:
        told = f"# model was given in Python: {done.model.name}\n{told}"
    return f"{told}\n"


def visualize(
    model: Model | Network | str | Path,
    layer: str | Sequence[str],
    *,
    channels: str | int | Sequence[int | str] = "all",
    **options: Any,
) -> Units:
    """Find the images that drive units of a trained network most.

    Args:
      model: A model (`load`, `from_flax`, `from_function`), or what `load` takes.
      layer: Name of a layer, or of several; ``"all"`` for every layer with weights.
      channels: Numbers of channels, or as the command line has them: ``"all"``, ``"0:8"``; of
        several directions their numbers or names.
      **options: Fields of `featvis_jax.runs.visualize_job.AscentOptions`, by the names of the flags
        of ``featvis visualize``: ``steps=256``, ``objective="logit_difference"``,
        ``parameterization="fourier"``, ``regularization="lucid"``, ``variants=4``,
        ``reference="DIR"``, ``seed=0``, ... An objective, a penalty or a parameterization may be a
        value of `featvis_jax.maximize` in place of a name, and `direction` a vector, a matrix
        with a direction in each row, or either by name, in place of a file.

    Returns:
      The units: a sequence of images with their statuses and traces, which a notebook shows as a
      contact sheet, and which `Units.save` keeps.

    Raises:
      TypeError: There is no such option.
      ValueError: The options contradict each other, or do not fit the network.
      FileNotFoundError: A file that an option names is not there.
      MemoryError: Not even one unit fits into memory.

    Example:
      >>> units = visualize("square-lesion", "conv1", channels=[0, 3], steps=2)
      >>> [unit.channel for unit in units], units[1].image.shape, len(units[1].trace)
      ([0, 3], (140, 192, 1), 2)
    """
    found = model
    if isinstance(found, Network):
        found = from_network(found, name="network")
    elif not isinstance(found, Model):
        found = load(found)
    names = [each.name for each in fields(AscentOptions)]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise TypeError(f"visualize() has no option {name!r}{meant}")
    wanted = [channels] if isinstance(channels, int) else channels
    layers = (layer,) if isinstance(layer, str) else tuple(layer)
    checked = job(found, AscentOptions(layer=layers, channels=wanted, **options))
    return units_of(checked)


def units_of(checked: Job) -> Units:
    """Do a job in memory.

    Args:
      checked: What to do.

    Raises:
      MemoryError: Not even one unit fits into memory.
    """
    strongest = reference.of_units(checked.work, checked.model, checked.inputs)
    results: list[UnitResult] = []
    size = ascended(checked, results.extend, strongest=strongest)
    return Units(checked, results, batch_size=size, strongest=strongest)


def ascended(
    checked: Job,
    store: Callable[[Sequence[UnitResult]], None],
    *,
    strongest: Mapping[tuple[str, int], float] | None = None,
) -> int:
    """Do a job, and hand its units on, some at a time.

    Args:
      checked: What to do.
      store: Called with the units of each batch.
      strongest: Response to the strongest real input, by layer and channel.

    Returns:
      Units per batch.

    Raises:
      MemoryError: Not even one unit fits into memory.
    """
    size, programs = checked.options.batch_size, {}
    if size is None:
        with jax.default_matmul_precision(checked.options.precision):
            size, programs = sizing.largest_size(checked.work)

    def finished(
        layer: Layer, batch: Batch, finished: FinishedBatch, new: Sequence[UnitResult]
    ) -> None:
        del layer, batch, finished
        store(new)

    ascend(
        checked,
        checked.batches(size),
        size,
        store=finished,
        programs=programs,
        strongest=strongest,
    )
    return size

"""How strongly the scans of --reference drive the units of a run: what its pictures aim at.

The scans are participant data. What is kept of them is one number for each unit, and a checksum.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float, Float32

from experiments import channel_flags, cohort_reading, intensity_flags, objective_flags
from experiments.networks import Model
from experiments.plan import Work
from experiments.progress import callback
from experiments.task_names import named_task
from featvis_jax.data import pipeline
from featvis_jax.data.intensities import SCALINGS
from featvis_jax.data.lesions import NoRoomError
from featvis_jax.data.pipeline import Source
from featvis_jax.data.tasks import LesionTask, OutlineTask, described_task
from featvis_jax.results import shards
from featvis_jax.results.store import Run, RunView
from featvis_jax.results.tables import ReferenceRecord
from featvis_jax.visualize.objectives import Objective
from featvis_jax.visualize.parameterizations import mean_magnitude_spectrum
from featvis_jax.visualize.reference import Asked, unit_responses

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "reference",
    None,
    "A cohort, or one scan, that says how strongly real inputs drive each unit: pictures are told "
    "beside the strongest of them. Of a network that looks for lesions they are seen with and "
    "without. A foreign network has its spectrum and the range of its z-scores from there "
    "(--scaling). Of several input channels, the scans of each by its name (--channel_names), or "
    "one scan for each, joined with commas.",
)
flags.DEFINE_integer(
    "reference_images", 240, "Images of --reference, spread over its people.", lower_bound=2
)
flags.DEFINE_float(
    "reference_percentile",
    100.0,
    "Of the responses to the images of --reference, what counts as the strongest.",
)
flags.register_validator(
    "reference_percentile",
    lambda value: 0 < value <= 100,
    message="expected a number above 0, at most 100",
)
flags.DEFINE_string(
    "reference_task",
    None,
    "FILE.py:FUNCTION, the shape of the lesions that --model looks for, where it is your own.",
)

# Of so many people the strongest is little to go by.
_FEW_SCANS = 20
# Percentiles that are the ends of a range which nobody tells.
_SPANNED = (0.1, 99.9)
_LOOKED_AT = 40
# How far the images may be from those that a network was trained on: their ends as a share of the
# range, their mean by its standard deviation, and their standard deviation by a factor.
_MOST_APART, _MOST_SHIFTED, _MOST_SPREAD = 0.1, 0.5, 2.0


class Inputs(NamedTuple):
    """Real inputs.

    Attributes:
      source: Images of the cohort.
      positions: Those that are taken.
      task: Draws lesions into them; None where the network looks for none.
      shape_sha256: Checksum of the file that the lesions' shape comes from, where it is the user's.
      percentile: Of the responses to them.
      seed: Of the lesions.
    """

    source: Source
    positions: tuple[int, ...]
    task: LesionTask | OutlineTask | None
    shape_sha256: str | None
    percentile: float
    seed: int

    @property
    def total(self) -> int:
        """How many images there are, those with lesions among them."""
        return len(self.positions) * (1 if self.task is None else self.task.images_per_element)

    @property
    def lesions(self) -> str | None:
        """What the images have of lesions, in words."""
        if self.task is None:
            return None
        return "with" if isinstance(self.task, OutlineTask) else "with and without"

    def _lesions_sha256(self) -> str:
        """Of all that says how lesions are drawn."""

        def named(value: Any) -> str:
            return str(getattr(value, "__name__", repr(value)))

        assert self.task is not None
        told = [self.shape_sha256, dataclasses.asdict(self.task)]
        text = json.dumps(told, default=named, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def configuration(self) -> dict[str, Any]:
        """What decides the values, as JSON values; the scans by a checksum alone."""
        scans = [volume.scan_sha256 for volume in self.source.volumes]
        return {
            "scans_sha256": hashlib.sha256(json.dumps(scans).encode()).hexdigest(),
            "scans": len(scans),
            "images": self.total,
            "of": "slices" if len(self.source.shape) == 2 else "volumes",
            "lesions": self.lesions,
            "lesions_sha256": None if self.task is None else self._lesions_sha256(),
            "percentile": self.percentile,
        }

    def scans(
        self, on_images: Callable[[int, int], None]
    ) -> Iterator[Float32[np.ndarray, "*spatial channels"]]:
        """Every image as it is, without lesions.

        Args:
          on_images: Called with how many are done, of how many.
        """
        for done, position in enumerate(self.positions, start=1):
            yield self.source[position]
            on_images(done, len(self.positions))

    def images(self) -> Iterator[Float32[np.ndarray, "*spatial channels"]]:
        """Every image, without lesions and with them; one that has no room for any as it is."""
        for position in self.positions:
            image = self.source[position]
            if self.task is None:
                yield image
                continue
            rng = np.random.default_rng([self.seed, 1, position])
            try:
                yield from self.task.examples(image, self.source.owner(position), rng, 1.0)["image"]
            except NoRoomError:
                yield from [image] * self.task.images_per_element


def read(model: Model) -> tuple[Model, Inputs | None]:
    """The scans of --reference, and the model with what they tell of its images.

    A foreign network does not come with the intensities that it was trained on: what its scans
    span is its range, unless --intensity_range is given, and their mean spectrum is its own.

    Args:
      model: The network.

    Returns:
      The model, and the images on its grid; None without --reference.

    Raises:
      FileNotFoundError: There is no such cohort.
      CohortError: It cannot be read.
      ValueError: Its grid is not the model's, or nobody says which range z-scores have.
    """
    found = _inputs(model)
    if found is None:
        if intensity_flags.needs_range(model):
            raise ValueError(
                f"--scaling={model.scaling}: z-scores have no ends that are known beforehand; give "
                "--reference=DIR, a cohort whose scans tell, or --intensity_range=LOW,HIGH, such "
                "as -2,4."
            )
        return model, None
    if model.scaling is None and intensity_flags.RANGE.value is None:
        _tell(
            "its scans are scaled to 0..1 each, since nobody says how those were that the network "
            f"was trained on: give --scaling={'|'.join(SCALINGS)}"
        )
        model = model._replace(scaling="unit")
    if intensity_flags.needs_range(model):
        with callback("intensities of --reference", unit="image") as on_images:
            try:
                between = spanned(found.scans(on_images))
            except ValueError as error:
                raise ValueError(f"--reference={FLAGS.reference}: {error}") from error
        model = model._replace(intensity_range=between)
    if model.spectrum is None and (FLAGS.parameterization == "phase" or FLAGS.config is not None):
        with callback("spectrum of --reference", unit="image") as on_images:
            model = model._replace(spectrum=mean_magnitude_spectrum(found.scans(on_images)))
    _warn(found, model)
    return model, found


def spanned(
    images: Iterable[Float32[np.ndarray, "*spatial channels"]],
) -> tuple[float, float]:
    """Percentiles 0.1 and 99.9 of all voxels of some images together, to three decimals.

    Args:
      images: With the intensities of cached volumes, which are float16.

    Raises:
      ValueError: They have one intensity.

    Example:
      >>> ramp = np.arange(2000, dtype=np.float32).reshape(40, 50, 1)
      >>> spanned([ramp, ramp])
      (1.0, 1997.0)
    """
    # There are few float16: counted, images take no memory together.
    counts = np.zeros(2**16, np.int64)
    for image in images:
        bits = image.astype(np.float16).view(np.uint16)
        counts += np.bincount(bits.ravel(), minlength=len(counts))
    values = np.arange(len(counts), dtype=np.uint16).view(np.float16).astype(np.float64)
    order = np.argsort(values)
    below = np.cumsum(counts[order])
    ends = values[order][np.searchsorted(below, np.array(_SPANNED) * below[-1] / 100)]
    low, high = (round(float(end), 3) for end in ends)
    if not low < high:
        raise ValueError(
            f"the network's images of its scans have the intensity {low:g} alone; expected some "
            "that differ: look at the scans and at --grid."
        )
    return low, high


def _inputs(model: Model) -> Inputs | None:
    """The images of --reference on the model's grid; None without the flag."""
    if FLAGS.reference is None:
        for name in ("reference_images", "reference_percentile", "reference_task"):
            if FLAGS[name].value != FLAGS[name].default:
                raise ValueError(f"--{name} is about the scans of --reference, and there are none.")
        return None
    channels = channel_flags.input_channels(model)
    source = cohort_reading.flagged_source(
        "reference", model.grid, channels=channels, scaling=model.scaling
    )
    assert source is not None
    if len(source) == 0:
        raise ValueError(f"--reference={FLAGS.reference}: no image of its scans holds a brain.")
    task, shape_sha256 = _task(model)
    each = 1 if task is None else task.images_per_element
    wanted = min(len(source), max(1, FLAGS.reference_images // each))
    positions = tuple(np.linspace(0, len(source) - 1, wanted).astype(int).tolist())
    return Inputs(source, positions, task, shape_sha256, FLAGS.reference_percentile, FLAGS.seed)


def responses(
    model: Model, asked: Mapping[str, Asked], inputs: Inputs
) -> dict[str, Float32[np.ndarray, "images channels"]]:
    """How strongly units respond to the images of --reference.

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
    found = responses(model, {layer: all_units(model, layer, objective)}, inputs)[layer]
    return found, np.percentile(found, inputs.percentile, axis=0).astype(np.float32)


def all_units(model: Model, layer: str, objective: Objective) -> Asked:
    """Every unit of a layer, or the one of a layer that is asked for as a whole.

    Args:
      model: The network.
      layer: The layer.
      objective: What its units are asked for.
    """
    count = 1 if objective_flags.has_one_unit() else model.network.layer(layer).channels
    return Asked(objective, range(count))


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
        _tell(f"no image drives {silent} of {len(rows)} units: they have no strength")
    return rows


def of_run(
    run: Run, work: Work, model: Model, inputs: Inputs | None, out: Path
) -> dict[tuple[str, int], float]:
    """The reference of every unit of a run, by layer and channel; stored, it is not measured again.

    Args:
      run: What this process writes to, the run or a shard of it.
      work: What the run has to do.
      model: The network.
      inputs: The images; None without --reference, and then there is nothing to know.
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
    run.write_reference(rows)
    return {row.unit: row.reference for row in rows}


def targets(
    found: Mapping[tuple[str, int], float], layer: str, channels: Sequence[int]
) -> Float[np.ndarray, " channels"] | None:
    """What the ascents of a batch aim at: NaN for a unit that no real input drives.

    Args:
      found: Reference of every unit; empty without --reference.
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


def _task(model: Model) -> tuple[LesionTask | OutlineTask | None, str | None]:
    """The lesion task that the model was trained on, and the checksum of a shape's own file."""
    name, told = model.card.get("task"), model.card.get("data", {})
    shape = sha256 = None
    if FLAGS.reference_task is not None:
        try:
            given = named_task(FLAGS.reference_task)
        except ValueError as error:
            raise ValueError(str(error).replace("--task", "--reference_task")) from error
        name, shape, sha256 = given.name, given.shape, given.sha256
        if not told.get("lesions"):
            raise ValueError(
                f"--reference_task={FLAGS.reference_task}: the model {model.card['name']!r} does "
                "not tell how the lesions that it was trained on were drawn: leave the flag out."
            )
        if name != model.card.get("task"):
            raise ValueError(
                f"--reference_task={FLAGS.reference_task}: the model {model.card['name']!r} was "
                f"trained on {model.card.get('task')!r}; give that task."
            )
    if name is None:
        return None, None
    task = described_task(name, told, rank=len(model.image_shape) - 1, shape=shape)
    if task is None and told.get("lesions"):
        _tell(
            f"the lesions of {name!r} have a shape of your own, and none are drawn: give it by "
            "--reference_task=FILE.py:FUNCTION"
        )
    return task, sha256


def _warn(found: Inputs, model: Model) -> None:
    """Tell of what makes a comparison doubtful; it is made all the same."""
    people = len({volume.participant_id for volume in found.source.volumes})
    if people < _FEW_SCANS:
        whose = "1 person" if people == 1 else f"{people} people"
        _tell(
            f"scans of {whose}; the strongest image of fewer than {_FEW_SCANS} people says "
            "little of what real inputs can do"
        )
    seen = np.stack(list(pipeline.spread(found.source, max_images=_LOOKED_AT)))
    low, high = model.intensity_range
    ends = float(seen.min()), float(seen.max())
    apart = max(abs(ends[0] - low), abs(ends[1] - high)) / (high - low)
    # Percentiles of these very images are no other range.
    if apart > _MOST_APART and not intensity_flags.needs_range(model):
        _tell(
            f"its images have intensities from {ends[0]:.3g} to {ends[1]:.3g}, those of the "
            f"network from {low:.3g} to {high:.3g}: it may answer to the range alone"
        )
    trained = _statistics(model)
    if trained is None:
        return
    mean, deviation = float(seen.mean(dtype=np.float64)), float(seen.std(dtype=np.float64))
    factor = max(deviation / trained[1], trained[1] / max(deviation, 1e-9))
    if abs(mean - trained[0]) > _MOST_SHIFTED * trained[1] or factor > _MOST_SPREAD:
        _tell(
            f"the intensities of its images are {mean:.3g} on average with a standard deviation of "
            f"{deviation:.3g}, those that the network was trained on {trained[0]:.3g} with "
            f"{trained[1]:.3g}: it may answer to the brightness alone"
        )


def _statistics(model: Model) -> tuple[float, float] | None:
    """Mean and standard deviation of the images that a network was trained on, where it knows."""
    variables = model.network.variables
    stored = variables.get("statistics", {}) if isinstance(variables, Mapping) else {}
    if "mean" not in stored or "std" not in stored:
        return None
    mean, deviation = float(stored["mean"]), float(stored["std"])
    return (mean, deviation) if (mean, deviation) != (0.0, 1.0) else None


def _tell(text: str) -> None:
    print(f"--reference={FLAGS['reference'].value}: {text}", file=sys.stderr)

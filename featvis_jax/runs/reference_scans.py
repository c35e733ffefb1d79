"""The real scans that pictures are told beside, and what they tell of a network's images.

The scans are participant data. What is kept of them is one number for each unit, and a checksum.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from featvis_jax.data import sources
from featvis_jax.data.intensities import SCALINGS
from featvis_jax.data.lesions import NoRoomError
from featvis_jax.data.pipeline import Examples
from featvis_jax.data.sources import Source
from featvis_jax.data.tasks import LesionTask, OutlineTask, described_task
from featvis_jax.maximize.parameterizations import mean_magnitude_spectrum
from featvis_jax.models import Model, with_ranges
from featvis_jax.options import errors_of, option, tell
from featvis_jax.progress import callback
from featvis_jax.ranges import Range, Ranges, to_shares
from featvis_jax.runs.cache import CacheOptions
from featvis_jax.runs.channels import input_channels
from featvis_jax.runs.cohort_images import source_of
from featvis_jax.runs.tasks import named_task


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferenceOptions(CacheOptions):
    """Reference scans."""

    reference: str | None = option(
        None,
        "A cohort, or one scan, with which to measure how strongly real images drive each unit; "
        "pictures are compared with the strongest response. A network that looks for lesions is "
        "shown the images with and without lesions. A foreign network also gets its spectrum and "
        "the range of its z-scores or raw intensities (`scaling`) from here. With several input "
        "channels, the scans of each are found by its name (`channel_names`); or give one scan for "
        "each, separated by commas.",
    )
    reference_images: int = option(
        240, "Number of images of `reference`, spread evenly over its people.", least=2
    )
    reference_percentile: float = option(
        100.0,
        "Percentile of the responses to `reference` that counts as the strongest; above 0, at most "
        "100.",
    )
    reference_task: str | None = option(
        None,
        "FILE.py:FUNCTION, the shape of the lesions that `model` looks for, if it is your own.",
    )

    def __post_init__(self) -> None:
        """Refuse a percentile that is none."""
        super().__post_init__()
        if not 0 < self.reference_percentile <= 100:
            raise ValueError(
                f"`reference_percentile={self.reference_percentile}`: expected a number above 0, "
                "at most 100."
            )


# Of so many people the strongest is little to go by.
_FEW_SCANS = 20
# Percentiles that are the ends of a range which nobody tells.
_SPANNED = (0.1, 99.9)
_LOOKED_AT = 40
# The last bits of a float32, in which intensities are not told apart.
_LEFT_OUT = 10
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
        return len(self.positions) * self.each

    @property
    def each(self) -> int:
        """How many images are made of one: without lesions and with them."""
        return 1 if self.task is None else self.task.images_per_element

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
            "of": sources.kind(self.source),
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
            yield from self.examples(position)["image"]

    def examples(self, position: int) -> Examples:
        """The images that are made of one, and which of them has the lesions; NaN for none at all.

        Args:
          position: Of the image in the source.
        """
        image = self.source[position]
        alone: Examples = {
            "image": np.stack([image] * self.each),
            "label": np.full(self.each, np.nan),
        }
        if self.task is None:
            return alone
        rng = np.random.default_rng([self.seed, 1, position])
        try:
            return self.task.examples(image, self.source.owner(position), rng, 1.0)
        except NoRoomError:
            return alone


def read(
    model: Model, options: ReferenceOptions, *, seed: int, needs_spectrum: bool = False
) -> tuple[Model, Inputs | None]:
    """The real scans, and the model with what they tell of its images.

    A foreign network does not come with the intensities that it was trained on: what its scans
    span is its range, unless it is told, and their mean spectrum is its own.

    Args:
      model: The network.
      options: Which scans.
      seed: Of the lesions that are drawn into them.
      needs_spectrum: Whether the model has to have one.

    Returns:
      The model, and the images on its grid; None where no scans are named.

    Raises:
      FileNotFoundError: There is no such cohort.
      CohortError: It cannot be read.
      ValueError: Its grid is not the model's, or nobody says which range z-scores have.
    """
    found = _inputs(model, options, seed=seed)
    if found is None:
        if model.needs_range:
            raise ValueError(
                f"`scaling={model.scaling}`: the range of the images ({model.unit}) is not known "
                "beforehand; give `reference=DIR`, a cohort to take it from, or "
                "`intensity_range=LOW,HIGH`, such as -2,4 for z-scores."
            )
        return model, None
    if model.scaling is None and model.told.intensity_range is None:
        _tell(
            options,
            "its scans are scaled to 0..1 each, since nobody says how those were that the network "
            f"was trained on: give `scaling={'|'.join(SCALINGS)}`",
        )
        model = model._replace(scaling="unit")
    if model.needs_range:
        told = errors_of("reference", options.reference)
        with callback("intensities of the reference", unit="image") as on_images, told:
            ranges = spanned(found.scans(on_images), names=input_channels(model).names)
        model = with_ranges(model, ranges)
    if model.spectrum is None and needs_spectrum:
        with callback("spectrum of the reference", unit="image") as on_images:
            scans = (to_shares(each, model.channel_ranges) for each in found.scans(on_images))
            spectrum = mean_magnitude_spectrum(scans)
        model = model._replace(spectrum=spectrum)
    _warn(found, model, options)
    return model, found


def spanned(
    images: Iterable[Float32[np.ndarray, "*spatial channels"]], *, names: Sequence[str]
) -> Ranges:
    """Percentiles 0.1 and 99.9 of all voxels of some images together, to three decimals.

    Args:
      images: Read once, and never together.
      names: Of their channels.

    Returns:
      Those of each channel.

    Raises:
      ValueError: They have one intensity.

    Example:
      >>> ramp = np.arange(2000, dtype=np.float32).reshape(40, 50, 1)
      >>> spanned([ramp, ramp], names=[""])
      ((1.0, 1997.0),)
    """
    # Counted, images take no memory together. The bits that are left out of a float32 are a
    # hundredth of a percent: z-scores of a cache, which are float16, and whole numbers up to
    # 16384 have none.
    counts = np.zeros((len(names), 2 ** (32 - _LEFT_OUT)), np.int64)
    for image in images:
        for own, channel in zip(counts, np.moveaxis(image, -1, 0), strict=True):
            bits = np.ascontiguousarray(channel, np.float32).view(np.uint32) >> _LEFT_OUT
            own += np.bincount(bits.ravel(), minlength=len(own))
    return tuple(_ends(own, name) for own, name in zip(counts, names, strict=True))


def _ends(counts: Int[np.ndarray, " bits"], name: str) -> Range:
    """Percentiles of a channel, whose values are the bits that are counted."""
    present = np.flatnonzero(counts)
    values = (present.astype(np.uint32) << _LEFT_OUT).view(np.float32).astype(np.float64)
    order = np.argsort(values)
    below = np.cumsum(counts[present][order])
    ends = values[order][np.searchsorted(below, np.array(_SPANNED) * below[-1] / 100)]
    low, high = (round(float(end), 3) for end in ends)
    if not low < high:
        raise ValueError(
            f"all images of its scans{f' of {name}' if name else ''} have the single intensity "
            f"{low:g}; expected several: look at the scans and at `grid`."
        )
    return low, high


def _inputs(model: Model, options: ReferenceOptions, *, seed: int) -> Inputs | None:
    """The images of the scans on the model's grid; None where none are named."""
    if options.reference is None:
        for name in ("reference_images", "reference_percentile", "reference_task"):
            if getattr(options, name) != getattr(ReferenceOptions(), name):
                raise ValueError(f"`{name}` concerns the scans of `reference`: give it too.")
        return None
    source = source_of(
        "reference",
        options.reference,
        model.grid,
        channels=input_channels(model),
        scaling=model.scaling,
        slices_mm=model.card.get("data", {}).get("slices_mm"),
        voxel_size_mm=model.resampled_mm,
        cache=options.cache,
    )
    if len(source) == 0:
        raise ValueError(f"`reference={options.reference}`: no image of its scans holds a brain.")
    task, shape_sha256 = _task(model, options)
    each = 1 if task is None else task.images_per_element
    wanted = min(len(source), max(1, options.reference_images // each))
    positions = tuple(np.linspace(0, len(source) - 1, wanted).astype(int).tolist())
    percentile = options.reference_percentile
    return Inputs(source, positions, task, shape_sha256, percentile, seed)


def _task(
    model: Model, options: ReferenceOptions
) -> tuple[LesionTask | OutlineTask | None, str | None]:
    """The lesion task that the model was trained on, and the checksum of a shape's own file."""
    name, told = model.card.get("task"), model.card.get("data", {})
    shape = sha256 = None
    if options.reference_task is not None:
        given = named_task(options.reference_task, name="reference_task")
        name, shape, sha256 = given.name, given.shape, given.sha256
        if not told.get("lesions"):
            raise ValueError(
                f"`reference_task={options.reference_task}`: the model {model.name!r} does "
                "not record how the lesions of its training were drawn: leave it out."
            )
        if name != model.card.get("task"):
            raise ValueError(
                f"`reference_task={options.reference_task}`: the model {model.name!r} was "
                f"trained on {model.card.get('task')!r}; give that task."
            )
    if name is None:
        return None, None
    task = described_task(name, told, rank=len(model.image_shape) - 1, shape=shape)
    if task is None and told.get("lesions"):
        _tell(
            options,
            f"the lesions of {name!r} have a shape of your own, and none are drawn: give it by "
            "`reference_task=FILE.py:FUNCTION`",
        )
    return task, sha256


def _warn(found: Inputs, model: Model, options: ReferenceOptions) -> None:
    """Tell of what makes a comparison doubtful; it is made all the same."""
    people = len({volume.participant_id for volume in found.source.volumes})
    if people < _FEW_SCANS:
        whose = "1 person" if people == 1 else f"{people} people"
        _tell(
            options,
            f"scans of {whose}; the strongest image of fewer than {_FEW_SCANS} people says "
            "little of what real inputs can do",
        )
    seen = np.stack(list(sources.spread(found.source, max_images=_LOOKED_AT)))
    # Percentiles of these very images are no other range.
    if not model.needs_range:
        _warn_of_ranges(seen, model, options)
    trained = _statistics(model)
    if trained is None:
        return
    mean, deviation = float(seen.mean(dtype=np.float64)), float(seen.std(dtype=np.float64))
    factor = max(deviation / trained[1], trained[1] / max(deviation, 1e-9))
    if abs(mean - trained[0]) > _MOST_SHIFTED * trained[1] or factor > _MOST_SPREAD:
        _tell(
            options,
            f"the intensities of its images are {mean:.3g} on average with a standard deviation of "
            f"{deviation:.3g}, those that the network was trained on {trained[0]:.3g} with "
            f"{trained[1]:.3g}: it may answer to the brightness alone",
        )


def _warn_of_ranges(seen: np.ndarray, model: Model, options: ReferenceOptions) -> None:
    """Tell of images that lie elsewhere than the network's, each channel where it has a range."""
    parts = [("", seen, model.intensity_range)]
    if model.channel_ranges is not None:
        names, each = input_channels(model).names, np.moveaxis(seen, -1, 0)
        told = [f" of {name}" for name in names]
        parts = list(zip(told, each, model.channel_ranges, strict=True))
    for name, part, (low, high) in parts:
        ends = float(part.min()), float(part.max())
        if max(abs(ends[0] - low), abs(ends[1] - high)) / (high - low) > _MOST_APART:
            _tell(
                options,
                f"its images{name} have intensities from {ends[0]:.3g} to {ends[1]:.3g}, those of "
                f"the network from {low:.3g} to {high:.3g}: it may answer to the range alone",
            )


def _statistics(model: Model) -> tuple[float, float] | None:
    """Mean and standard deviation of the images that a network was trained on, where it knows."""
    variables = model.network.variables
    stored = variables.get("statistics", {}) if isinstance(variables, Mapping) else {}
    if "mean" not in stored or "std" not in stored:
        return None
    mean, deviation = float(stored["mean"]), float(stored["std"])
    return (mean, deviation) if (mean, deviation) != (0.0, 1.0) else None


def _tell(options: ReferenceOptions, text: str) -> None:
    tell(f"`reference={options.reference}`: {text}")

"""The pictures of a grading: those of runs, of control runs, and files of any other tool."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from featvis_jax import models
from featvis_jax.data.arrays import load_array
from featvis_jax.data.errors import VolumeError
from featvis_jax.data.grids import Grid
from featvis_jax.data.sources import Source
from featvis_jax.data.volumes import load_on_grid
from featvis_jax.evaluation.energy import phase_scrambled
from featvis_jax.evaluation.examples import top_examples
from featvis_jax.evaluation.summary import PICTURE
from featvis_jax.model_options import ModelOptions
from featvis_jax.models import Model
from featvis_jax.options import fields, from_lines, shown_value
from featvis_jax.progress import callback
from featvis_jax.results.asked import question
from featvis_jax.results.store import RunView, read_run
from featvis_jax.results.tables import UnitRecord

_SUFFIXES = (".nii", ".nii.gz", ".npy")

Units = Mapping[tuple[str, int], str]
"""The concept of every unit that is graded, by layer and channel."""


class Picture(NamedTuple):
    """A picture to grade.

    Attributes:
      run: Name of its run or file.
      layer: Of its unit.
      channel: Of its unit.
      variant: From 1.
      concept: What its unit was trained on.
      kind: "picture" or a control.
      load: Reads it.
    """

    run: str
    layer: str
    channel: int
    variant: int
    concept: str
    kind: str
    load: Callable[[], Float[np.ndarray, "*spatial 1"]]


def open_runs(paths: Sequence[str], *, told: str = "run") -> list[RunView]:
    """Runs by their directories.

    Args:
      paths: The directories.
      told: What names them: an option, or ``option=NAME``.

    Raises:
      FileNotFoundError: There is no run.
      ValueError: A run holds no finished picture, or those of what does not drive its units.
    """
    runs = []
    for path in paths:
        try:
            run = read_run(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"`{told}={path}`: {error}") from error
        if not run.records():
            raise ValueError(f"`{told}={path}`: the run has no finished picture: let it end first.")
        if len(run.input_channels.names) > 1:
            raise ValueError(
                f"`{told}={path}`: its pictures have the channels {run.input_channels.told}; "
                "grading plants shapes in scans of one contrast, and expects pictures of one "
                "channel."
            )
        for layer in dict.fromkeys(record.layer for record in run.records()):
            asked = question(run.configuration, layer)
            if asked.suppresses or not asked.is_of_channels:
                raise ValueError(
                    f"`{told}={path}`: the pictures of {layer} show {asked.sought}; expected what "
                    "drives each channel or logit most: visualize with another --objective, and "
                    "without --sign=-1."
                )
        runs.append(run)
    return runs


def option_of(run: RunView, name: str) -> str | None:
    """What an option was when a run was made, by its flags.txt; None where it was left open.

    Args:
      run: The run.
      name: Of the option.
    """
    start = f"--{name}="
    lines = flags_of(run).splitlines()
    return next((line[len(start) :] for line in lines if line.startswith(start)), None)


def refuse_other_weights(run: RunView, model: Model, spec: str) -> None:
    """Refuse a network that a run was not made with.

    Args:
      run: The run.
      model: The network.
      spec: What named it.

    Raises:
      ValueError: The weights are others.
    """
    configuration = run.configuration
    if configuration.get("weights_sha256") != model.card["weights_sha256"]:
        raise ValueError(
            f"`run={run.directory}` is of the model {configuration.get('model')!r} with the "
            f"weights {configuration.get('weights_sha256')}; `model={spec}` has "
            f"{model.card['weights_sha256']}: give the model that the run was made with."
        )


def flags_of(run: RunView) -> str:
    """The flags that a run was made with, one a line; nothing where it does not tell.

    Args:
      run: The run.
    """
    path = run.directory / "flags.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def model_of_run(options: ModelOptions, run: RunView, given: Model | None) -> Model:
    """The network of a run, with what was said of it when the run was made.

    Args:
      options: What is said of it now, which comes first.
      run: The run.
      given: The network itself, where it was made in Python.

    Raises:
      FileNotFoundError: There is no such network.
      ValueError: The run does not name its network, or it is another one.
    """
    if given is not None:
        refuse_other_weights(run, given, given.name)
        return given
    told = {each.name: getattr(options, each.name) for each in fields(ModelOptions)}
    known = from_lines(ModelOptions, flags_of(run))
    told = {name: known.get(name) if value is None else value for name, value in told.items()}
    if told["model"] is None:
        raise ValueError("`model` is missing: the run does not name its network.")
    model = models.loaded(ModelOptions(**told))
    refuse_other_weights(run, model, shown_value(told["model"]))
    return model


def channels_of(runs: Sequence[RunView]) -> dict[str, list[int]]:
    """The channels that runs have pictures of, by layer.

    Args:
      runs: The runs.
    """
    found: dict[str, set[int]] = {}
    for run in runs:
        for record in run.records():
            found.setdefault(record.layer, set()).add(record.channel)
    return {layer: sorted(channels) for layer, channels in found.items()}


def of_run(run: RunView, units: Units, *, kind: str = PICTURE) -> list[Picture]:
    """The pictures that a run has of some units.

    Args:
      run: The run.
      units: The concept of each unit.
      kind: "picture", or the name of a control.
    """
    found = []
    for record in run.records():
        concept = units.get(record.unit)
        if concept is None:
            continue

        def load(record: UnitRecord = record) -> Float[np.ndarray, "*spatial 1"]:
            return run.image(*record.key)[0]

        name = run.directory.resolve().name
        found.append(Picture(name, *record.key, concept, kind, load))
    return found


def of_directory(path: str, concept: str, grid: Grid) -> list[Picture]:
    """Every image of a directory, whatever made it.

    Args:
      path: The directory.
      concept: What its images should show.
      grid: What NIfTI files are laid onto by their affines; arrays are taken as they are.

    Raises:
      FileNotFoundError: There is no such directory, or no image in it.
      ValueError: An image cannot be read, or is not on the grid.
    """
    files = [p for p in sorted(Path(path).glob("*")) if p.name.endswith(_SUFFIXES)]
    if not files:
        raise FileNotFoundError(
            f"`images={path}`: no image there; expected a directory with files that end in "
            f"{', '.join(_SUFFIXES)}."
        )
    for file in files:
        _read(file, grid)  # One that is no good is told now, not after the classifier has learned.
    return [
        Picture(
            file.name, "images", number, 1, concept, PICTURE, lambda file=file: _read(file, grid)
        )
        for number, file in enumerate(files)
    ]


def _read(path: Path, grid: Grid) -> Float[np.ndarray, "*spatial 1"]:
    """One image of any tool."""
    try:
        if path.suffix != ".npy":
            return load_on_grid(path, grid)
        image = load_array(path)
    except OSError as error:
        raise type(error)(f"`images`: {error}") from error
    except VolumeError as error:
        raise ValueError(f"`images`: {error}; or give an array, .npy, taken as it is") from error
    except ValueError as error:
        raise ValueError(f"`images`: {error}") from error
    # An array comes with or without a channel.
    image = image if image.shape == (*grid.shape, 1) else image[..., None]
    if image.shape != (*grid.shape, 1):
        raise ValueError(
            f"`images`: {path} has shape {image.shape[:-1]}; `transfer_model` takes {grid.shape}: "
            "resample it to that grid."
        )
    return image


def scrambled(pictures: Sequence[Picture], *, seed: int) -> list[Picture]:
    """Every picture with its phases scrambled.

    Args:
      pictures: The pictures.
      seed: Of the phases.
    """

    def load(number: int, picture: Picture) -> Float[np.ndarray, "*spatial 1"]:
        rng = np.random.default_rng([seed, 3, number])
        return np.asarray(phase_scrambled(picture.load(), rng), np.float32)

    return [
        each._replace(kind="scrambled", load=lambda n=number, p=each: load(n, p))
        for number, each in enumerate(pictures)
    ]


def real(model: Model, source: Source, units: Units, *, count: int) -> list[Picture]:
    """The clean images of held-out subjects that drive every unit most.

    Args:
      model: The network.
      source: The images.
      units: The concept of each unit.
      count: Images of each unit.
    """
    found = []
    batch_size = 16 if len(model.image_shape) == 3 else 1
    for layer in dict.fromkeys(layer for layer, _ in units):
        with callback(f"real images, {layer}", unit="image") as on_images:
            top = top_examples(
                model.network,
                layer,
                source,
                count=count,
                batch_size=batch_size,
                progress=on_images,
            )
        for (name, channel), concept in units.items():
            if name != layer:
                continue
            for variant, index in enumerate(top.image[channel], start=1):
                load = lambda index=int(index): source[index]  # noqa: E731
                found.append(Picture("real", layer, channel, variant, concept, "real", load))
    return found

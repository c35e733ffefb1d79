"""Networks with what is known about their images: ours, anybody's, and how each is loaded."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import numpy as np
from flax import linen, nnx

from featvis_jax.checkpoints import load_model, weights_hash, zoo_names
from featvis_jax.data.grids import Grid, coincide, described
from featvis_jax.data.intensities import SCALINGS
from featvis_jax.data.volumes import read_grid
from featvis_jax.importers.kinds import KINDS, network_of_jax, refuse_unknown
from featvis_jax.layers_table import layers_text
from featvis_jax.model_options import InputOptions, ModelOptions
from featvis_jax.nn import tracing
from featvis_jax.nn.network import Network, of_prepared, permuted_weights
from featvis_jax.options import errors_of, shown_value, some
from featvis_jax.progress import announced
from featvis_jax.ranges import Range, Ranges, to_intensities


class Model(NamedTuple):
    """A network and what is known about its images.

    Printed, it is a table of its layers.

    Attributes:
      network: The network.
      card: Its ``name`` and ``weights_sha256``; for a model of ours all that its card holds.
      affine: Voxel indices of its input to mm; None for one that does not tell where it looks.
      intensity_range: Of the images that it was trained on, as far as anybody says.
      channel_ranges: Of each of their channels, where these differ: `intensity_range` is then 0 to
        1, and an ascent works on shares of them (`featvis_jax.ranges`), with `network_of_shares`.
      spectrum: Mean magnitude spectrum of those images, where it is known; of their shares.
      starts: Scans of a reference that ascents are to start from, ``(scans, *spatial, channels)``:
        one for each variant of a unit, or one for all; of their shares.
      scaling: How scans become those images, a name in `featvis_jax.data.intensities.SCALINGS`;
        None where nobody says.
      told: What its user says of it.
    """

    network: Network
    card: dict[str, Any]
    affine: np.ndarray | None = None
    intensity_range: Range = (0.0, 1.0)
    spectrum: np.ndarray | None = None
    starts: np.ndarray | None = None
    scaling: str | None = None
    told: InputOptions = InputOptions()
    channel_ranges: Ranges | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.card["name"]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the images it takes, ``(*spatial, channels)``."""
        return self.network.image_shape

    @property
    def network_of_shares(self) -> Network:
        """The network as an ascent sees it, whose images lie within `intensity_range`."""
        own = functools.partial(to_intensities, ranges=self.channel_ranges)
        return self.network if self.channel_ranges is None else of_prepared(self.network, own)

    @property
    def grid(self) -> Grid:
        """Where the voxels of those images lie."""
        anywhere = "patch" in self.card.get("data", {})
        return Grid(self.image_shape[:-1], self.affine, anywhere)

    @property
    def resampled_mm(self) -> float | None:
        """The voxel size that the scans of its training were resampled to, if they were."""
        return self.card.get("data", {}).get("resampled_mm")

    @property
    def needs_range(self) -> bool:
        """Whether nobody has said yet between which ends its images lie."""
        is_open = self.scaling is not None and SCALINGS[self.scaling].ends is None
        return is_open and self.told.intensity_range is None

    @property
    def unit(self) -> str | None:
        """What the intensities of its images are, in words; None where nobody knows."""
        return None if self.scaling is None else SCALINGS[self.scaling].unit

    @property
    def scale(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What is done to single scans before it sees them; None where they are scaled already."""
        return None if self.told.scaling is None else SCALINGS[self.told.scaling].scale

    def __repr__(self) -> str:
        """Its layers."""
        shape = " x ".join(map(str, self.image_shape[:-1]))
        channels = "" if self.image_shape[-1] == 1 else f" of {self.image_shape[-1]} channels"
        return f"{self.name}, images of {shape} voxels{channels}\n\n{layers_text(self.network)}"


def load(
    model: str | Path,
    *,
    input_shape: Sequence[int] | None = None,
    grid: str | Path | None = None,
    scaling: str | None = None,
    intensity_range: Sequence[float] | Sequence[Sequence[float]] | None = None,
    channel_names: Sequence[str] | None = None,
    random_weights: int | None = None,
) -> Model:
    """Load a trained network.

    Args:
      model: A name of the zoo, the directory of a trained model, or a file; docs/your-network.md
        has all that is taken.
      input_shape: ``(*spatial, channels)`` where the model leaves it open.
      grid: A NIfTI file on the grid of the network's input, whose affine is taken.
      scaling: How the scans that it was trained on were scaled: "unit", "zscore",
        "zscore_nonzero" or "raw".
      intensity_range: Of a foreign network's images, or a pair for each channel; 0 to 1 by default.
      channel_names: Of the input channels.
      random_weights: Seed by which the values of every tensor of weights are put in a random
        order: a control.

    Raises:
      FileNotFoundError: There is no such model.
      ValueError: It cannot be loaded, or is told something that it contradicts.

    Example:
      >>> model = load("square-lesion")
      >>> model.image_shape, [layer.name for layer in model.network.layers[:2]]
      ((140, 192, 1), ['conv1', 'pool1'])
    """
    ends = None if intensity_range is None else np.ravel(intensity_range).astype(float).tolist()
    return loaded(
        ModelOptions(
            model=str(model),
            input_shape=None if input_shape is None else tuple(input_shape),
            grid=None if grid is None else str(grid),
            scaling=scaling,
            intensity_range=None if ends is None else tuple(ends),
            channel_names=None if channel_names is None else tuple(channel_names),
            random_weights=random_weights,
        )
    )


def loaded(options: ModelOptions) -> Model:
    """The network that options name.

    Args:
      options: Which, and what a user says of it.

    Raises:
      FileNotFoundError: There is no such model.
      ValueError: It cannot be loaded, or is told something that it contradicts.
    """
    if options.model is None:
        raise ValueError("`model` is missing: name a network. See docs/your-network.md.")
    own = some(ModelOptions, options)  # A launcher's options are more than these.
    with announced(f"reading the model {options.model}"):
        found = with_input_options(_read(options.model, options.input_shape), own)
    seed = options.random_weights
    return found if seed is None else with_permuted_weights(found, seed)


@overload
def from_flax(
    module: linen.Module, variables: Any, image_shape: Sequence[int], /, *, name: str | None = None
) -> Model: ...
@overload
def from_flax(
    module: nnx.Module, image_shape: Sequence[int], /, *, name: str | None = None
) -> Model: ...
def from_flax(module: linen.Module | nnx.Module, /, *given: Any, name: str | None = None) -> Model:
    """A trained Flax module as a model.

    Args:
      module: Takes a batch of images, ``(batch, *spatial, channels)``.
      *given: ``variables, image_shape`` for a Linen module, ``image_shape`` alone for an NNX
        module, which has its own; the shape is ``(*spatial, channels)``.
      name: What it is called; by default its class.

    Raises:
      ValueError: It is no such module, or fails on an image of this shape.

    Example:
      >>> class Small(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
      ...     def __call__(self, images):
      ...         return self.conv(images)
      >>> from_flax(Small(nnx.Rngs(0)), (20, 24, 1)).network.layers[0].name
      'conv'
    """
    network = network_of_jax((module, *given))
    return from_network(network, name=name or type(module).__name__)


def from_function(
    function: Callable[..., Any],
    weights: Any,
    image_shape: Sequence[int],
    *,
    name: str | None = None,
) -> Model:
    """Any function of JAX as a model.

    Args:
      function: ``(weights, images) -> output``; `jax.ad_checkpoint.checkpoint_name` names its
        layers.
      weights: Any tree of arrays.
      image_shape: ``(*spatial, channels)``.
      name: What it is called; by default the function's name.

    Raises:
      ValueError: It is no network.
    """
    network = network_of_jax((function, weights, image_shape))
    return from_network(network, name=name or getattr(function, "__name__", "function"))


def from_network(network: Network, *, name: str) -> Model:
    """A network that is known by its weights alone.

    Args:
      network: The network.
      name: What it is called.
    """
    digest = hashlib.sha256(weights_hash(network.variables).encode())
    digest.update(str(network.image_shape).encode())
    return Model(network, {"name": name, "weights_sha256": digest.hexdigest()})


def with_input_options(model: Model, told: InputOptions) -> Model:
    """A model with what a user says of its images.

    Args:
      model: The network.
      told: What the user says.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: That contradicts itself, or what the model knows.
    """
    if told.grid is not None:
        with errors_of("grid", told.grid):
            model = on_grid(model, told.grid)
    ranges = told.ranges
    if model.scaling is None:
        model = model._replace(scaling=told.scaling, told=told)
        return model if ranges is None else with_ranges(model, ranges)
    wrong = None
    if told.scaling not in (None, model.scaling):
        wrong = f"`scaling={told.scaling}`"
    elif ranges not in (None, (model.intensity_range,)):
        wrong = f"`intensity_range={shown_value(told.intensity_range)}`"
    if wrong is not None:
        low, high = model.intensity_range
        raise ValueError(
            f"{wrong}: {model.name} was trained on scans scaled by {model.scaling}, from "
            f"{low:g} to {high:g}: leave it out."
        )
    return model._replace(told=told)


def with_ranges(model: Model, ranges: Ranges) -> Model:
    """A model whose images have these ranges.

    Args:
      model: The model.
      ranges: One for all channels of its images, or one for each.

    Raises:
      ValueError: There are more or fewer.
    """
    channels = model.image_shape[-1]
    if len(ranges) not in (1, channels):
        raise ValueError(
            f"`intensity_range={shown_value([end for each in ranges for end in each])}`: "
            f"{len(ranges)} pairs; expected LOW,HIGH, or {channels} pairs, one for each channel."
        )
    if len(set(ranges)) == 1:
        return model._replace(intensity_range=ranges[0], channel_ranges=None)
    return model._replace(intensity_range=(0.0, 1.0), channel_ranges=ranges)


def on_grid(model: Model, path: Path | str) -> Model:
    """A model with the affine of a reference image.

    Args:
      model: The model.
      path: A NIfTI file whose axes, as they are stored, are those of the network's input.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It has another shape than the images of the network, or lies elsewhere than a
        model that knows its place; the message begins with the file.
    """
    reference = read_grid(path, rank=len(model.image_shape) - 1)
    if reference.shape != model.image_shape[:-1]:
        raise ValueError(
            f"{path}: {described(reference)}; the network takes {described(model.grid)}, in this "
            "order of axes: give a file on that grid."
        )
    if model.affine is None:
        return model._replace(affine=reference.affine)
    if not coincide(reference, model.grid):
        raise ValueError(
            f"{path}: {described(reference)}, but {model.name} was trained on "
            f"{described(model.grid)}: leave it out."
        )
    return model


def with_permuted_weights(model: Model, seed: int) -> Model:
    """The same network with the values of every tensor of weights in random order.

    Args:
      model: The network.
      seed: Of the order; it is part of the card's name, and its checksum is another one.
    """
    weights = permuted_weights(jax.random.key(seed), model.network.variables)
    card = {
        **model.card,
        "name": f"{model.name} (weights permuted by seed {seed})",
        "weights_sha256": hashlib.sha256(
            f"{model.card['weights_sha256']} {weights_hash(weights)}".encode()
        ).hexdigest(),
    }
    return model._replace(network=model.network._replace(variables=weights), card=card)


def _read(spec: str, shape: tuple[int, ...] | None) -> Model:
    """What a name means."""
    if shape is not None and (len(shape) < 2 or min(shape) < 1):
        raise ValueError(
            f"`input_shape={shown_value(shape)}`: expected X,Y,CHANNELS or X,Y,Z,CHANNELS."
        )
    kind = next((kind for kind in KINDS if kind.fits(spec)), None)
    if kind is None:
        return _ours(spec, shape)
    network, path = kind.load(spec, shape)
    _refuse_other_shape(spec, network, shape)
    return Model(network, {"name": spec, "weights_sha256": _fingerprint(path, network)})


def _ours(spec: str, shape: tuple[int, ...] | None) -> Model:
    if spec not in zoo_names():
        refuse_unknown(Path(spec), zoo=zoo_names())
    trained = load_model(spec)
    network = tracing.linen_network(trained.module, trained.variables, trained.image_shape)
    _refuse_other_shape(spec, network, shape)
    return Model(
        network,
        trained.card,
        trained.affine,
        trained.intensity_range,
        trained.spectrum,
        scaling="unit",  # As our trainings read every cohort.
    )


def _refuse_other_shape(spec: str, network: Network, shape: tuple[int, ...] | None) -> None:
    if shape is not None and shape != network.image_shape:
        raise ValueError(
            f"`input_shape={shown_value(shape)}`: the images of `model={spec}` have the shape "
            f"{network.image_shape}, which is fixed: leave it out."
        )


def _fingerprint(path: Path, network: Network) -> str:
    """SHA-256 over the file, the weights and the input: whatever decides the images."""
    digest = hashlib.sha256(path.read_bytes())
    digest.update(weights_hash(network.variables).encode())
    digest.update(str(network.image_shape).encode())
    return digest.hexdigest()

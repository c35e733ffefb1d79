"""What an ascent maximizes, by options."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from featvis_jax.data.arrays import load_arrays
from featvis_jax.data.volumes import load_on_grid
from featvis_jax.maximize import objectives
from featvis_jax.maximize.objectives import Directions, Numbers, Objective, directions_of
from featvis_jax.models import Model
from featvis_jax.nn.network import Layer
from featvis_jax.options import Options, errors_of, option, shown_value


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(Options):
    """The objective."""

    objective: str | Objective = option(
        "channel",
        "What to maximize: the mean of a channel; a channel at one position (neuron); the mean "
        "square of a whole layer; a logit, alone or minus the other logits; the mean projection "
        "onto a vector of channels, alone or weighted by the cosine with it.",
        choices=(
            *("channel", "neuron", "layer", "logit", "logit_difference"),
            *("direction", "cosine_direction"),
        ),
    )
    position: tuple[int, ...] | None = option(
        None,
        "For neuron: position on the layer's grid; the centre by default. Of a layer of tokens "
        "(docs/your-network.md), the place of one on their grid, or its number alone, which class "
        "tokens have too.",
    )
    other: int | None = option(
        None, "For logit_difference: the logit to subtract; the others by default."
    )
    direction: str | Numbers | Mapping[str, Numbers] | Directions | None = option(
        None,
        "For direction and cosine_direction: a .npy or .npz file with one number per channel, or "
        "with a matrix that has a direction in each row. `channels` chooses among several; "
        "the arrays of a .npz file have names.",
    )
    attention: str | None = option(
        None,
        "A NIfTI mask: maximize the channel's mean inside it. Like `mask`, it is placed on the "
        "network's grid by its affine.",
    )
    pooling: str | None = option(
        None,
        "How an objective weighs positions: all alike, or the strongest most; by default strongest "
        "for `regularization=driven` and mean for all other strategies.",
        choices=("mean", "strongest"),
    )
    sign: str = option("1", "-1 to show what suppresses a unit.", choices=("1", "-1"))
    up_to: float | None = option(
        None,
        "Where the objective ends: more of it is not asked for, and what the image costs decides.",
    )
    variants: int = option(1, "Number of images per unit, optimized together.", least=1)
    diversity: float | None = option(
        None,
        "Weight of the term that keeps a unit's variants apart; 1 by default, 0 for "
        "`start_image=reference`, whose variants are of different scans.",
        least=0.0,
    )

    def __post_init__(self) -> None:
        """Check the values, and of directions given in Python make what a file of them holds."""
        super().__post_init__()
        if self.direction is not None and not isinstance(self.direction, str):
            try:
                object.__setattr__(self, "direction", directions_of(self.direction))
            except ValueError as error:
                raise ValueError(f"`direction`: {error}") from error

    @functools.cached_property
    def vectors(self) -> np.ndarray | Directions | None:
        """The direction, or several, that it is about; None where it is about something else.

        Raises:
          FileNotFoundError: There is no such file.
          ValueError: There is none, or the file holds something else.
        """
        if isinstance(self.objective, Objective):
            return self.objective.directions
        if self.objective not in _ALONG:
            return None
        if self.direction is None:
            raise ValueError(f"`objective={self.objective}` needs `direction=FILE`, .npy or .npz.")
        if not isinstance(self.direction, str):
            return directions_of(self.direction)
        with errors_of("direction", self.direction):
            return directions_of(load_arrays(self.direction))

    @property
    def unit_names(self) -> tuple[str, ...]:
        """The names of units of its own; none where its units are a layer's channels, or one."""
        return self.vectors.names if isinstance(self.vectors, Directions) else ()

    @property
    def has_one_unit(self) -> bool:
        """Whether it is about a layer as a whole, not about its channels."""
        if isinstance(self.objective, Objective):
            return self.objective.has_one_unit
        return self.objective == "layer" or isinstance(self.vectors, np.ndarray)


_ALONG = ("direction", "cosine_direction")
_OVER_PLACES = ("channel", *_ALONG)


def objective(
    model: Model, layer: str, options: ObjectiveOptions, *, pooling: str, apart: bool = False
) -> Objective:
    """What options say to maximize in a layer.

    Args:
      model: The network.
      layer: The layer.
      options: What to maximize.
      pooling: "mean" or "strongest", where the options do not say.
      apart: Whether the variants of a unit differ by themselves.

    Raises:
      FileNotFoundError: A file that an option names is not there.
      ValueError: The options contradict each other, or a file holds something else.
    """
    _refuse_idle(options)
    if isinstance(options.objective, Objective):
        chosen = options.objective
    elif options.attention is not None:
        with errors_of("attention", options.attention):
            mask = load_on_grid(options.attention, model.grid)[..., 0]
            chosen = objectives.attention(layer, objectives.on_layer(mask, model.network, layer))
    elif options.objective == "neuron":
        chosen = objectives.neuron(layer, position=_position(model.network.layer(layer), options))
    elif options.objective == "logit_difference":
        chosen = objectives.logit_difference(layer, other=options.other)
    elif options.objective in _ALONG:
        chosen = getattr(objectives, options.objective)(layer, _fitting(model, layer, options))
    else:
        chosen = getattr(objectives, options.objective)(layer)
    tokens = model.network.layer(layer).tokens
    is_over_places = options.attention is None and options.objective in _OVER_PLACES
    if is_over_places and tokens is not None and tokens.has_others:
        chosen = objectives.of_tokens(chosen, first=tokens.first, stop=tokens.stop)
    if options.sign == "-1":
        chosen = -chosen
    if (options.pooling or pooling) == "strongest":
        chosen = objectives.strongest(chosen)
    if options.up_to is not None:
        with errors_of("up_to", options.up_to):
            chosen = objectives.up_to(chosen, options.up_to)
    weight = float(not apart) if options.diversity is None else options.diversity
    if options.variants > 1 and weight:
        chosen = chosen + weight * objectives.diversity(layer)
    return chosen


def _position(layer: Layer, options: ObjectiveOptions) -> tuple[int, ...] | None:
    """Where a neuron is: of a layer of tokens the number of one."""
    tokens, position = layer.tokens, options.position
    if tokens is None or (position is not None and len(position) == 1):
        return position
    grid = tokens.grid
    place = tuple(side // 2 for side in grid) if position is None else position
    inside = len(place) == len(grid) and all(
        0 <= i < side for i, side in zip(place, grid, strict=True)
    )
    if not inside:
        raise ValueError(
            f"`position={shown_value(place)}`: the tokens of layer {layer.name!r} lie on a grid of "
            f"{' x '.join(map(str, grid))}: give one index from 0 for each of its axes, or the "
            f"number of a token, from 0 to {tokens.total - 1}."
        )
    return (tokens.number(place),)


def _refuse_idle(options: ObjectiveOptions) -> None:
    """An option that another one makes meaningless is a mistake."""
    readers = {
        "position": ("neuron",),
        "other": ("logit_difference",),
        "direction": _ALONG,
        "attention": ("channel",),
    }
    for name, wanted in readers.items():
        if getattr(options, name) is not None and options.objective not in wanted:
            raise ValueError(
                f"`{name}` is for `objective={' or '.join(wanted)}`, but the objective is "
                f"{options.objective}: leave one of them out."
            )
    if options.diversity is not None and options.variants == 1:
        raise ValueError("`diversity` needs several variants of a unit: give `variants` too.")


def _fitting(model: Model, layer: str, options: ObjectiveOptions) -> np.ndarray | Directions:
    """The directions of options, which have to be those of a layer."""
    found, channels = options.vectors, model.network.layer(layer).channels
    assert found is not None
    length = (found.vectors if isinstance(found, Directions) else found).shape[-1]
    if length != channels:
        told = f"`direction={options.direction}`" if isinstance(options.direction, str) else ""
        raise ValueError(
            f"{told or '`direction`'}: a vector has {length} numbers, but layer {layer!r} has "
            f"{channels} channels: give one number for each channel."
        )
    return found

"""What an ascent maximizes, by options."""

import dataclasses

import numpy as np

from featvis_jax.data.arrays import load_array
from featvis_jax.data.volumes import load_on_grid
from featvis_jax.maximize import objectives
from featvis_jax.maximize.objectives import Objective
from featvis_jax.models import Model
from featvis_jax.options import Options, errors_of, option


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
        None, "For neuron: position on the layer's grid; the centre by default."
    )
    other: int | None = option(
        None, "For logit_difference: the logit to subtract; the others by default."
    )
    direction: str | None = option(
        None, "For direction and cosine_direction: a .npy file with one number per channel."
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
    variants: int = option(1, "Number of images per unit, optimized together.", least=1)
    diversity: float | None = option(
        None, "Weight of the term that keeps a unit's variants apart; 1 by default.", least=0.0
    )

    @property
    def has_one_unit(self) -> bool:
        """Whether it is about a layer as a whole, not about its channels."""
        if isinstance(self.objective, Objective):
            return bool(self.objective.layers) and not self.objective.unit_layers
        return self.objective in _OF_A_WHOLE_LAYER


# Objectives of a layer as a whole have one unit, which goes by number 0.
_OF_A_WHOLE_LAYER = ("layer", "direction", "cosine_direction")


def objective(model: Model, layer: str, options: ObjectiveOptions, *, pooling: str) -> Objective:
    """What options say to maximize in a layer.

    Args:
      model: The network.
      layer: The layer.
      options: What to maximize.
      pooling: "mean" or "strongest", where the options do not say.

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
        chosen = objectives.neuron(layer, position=options.position)
    elif options.objective == "logit_difference":
        chosen = objectives.logit_difference(layer, other=options.other)
    elif options.objective in ("direction", "cosine_direction"):
        chosen = getattr(objectives, options.objective)(layer, vector=_direction(options.direction))
    else:
        chosen = getattr(objectives, options.objective)(layer)
    if options.sign == "-1":
        chosen = -chosen
    if (options.pooling or pooling) == "strongest":
        chosen = objectives.strongest(chosen)
    weight = 1.0 if options.diversity is None else options.diversity
    if options.variants > 1 and weight:
        chosen = chosen + weight * objectives.diversity(layer)
    return chosen


def _refuse_idle(options: ObjectiveOptions) -> None:
    """An option that another one makes meaningless is a mistake."""
    readers = {
        "position": ("neuron",),
        "other": ("logit_difference",),
        "direction": ("direction", "cosine_direction"),
        "attention": ("channel",),
    }
    for name, wanted in readers.items():
        if getattr(options, name) is not None and options.objective not in wanted:
            raise ValueError(
                f"`{name}` is for `objective={' or '.join(wanted)}`, but the objective is "
                f"{options.objective}: leave one of them out."
            )
    if options.objective in readers["direction"] and options.direction is None:
        raise ValueError(f"`objective={options.objective}` needs `direction=FILE.npy`.")
    if options.diversity is not None and options.variants == 1:
        raise ValueError("`diversity` needs several variants of a unit: give `variants` too.")


def _direction(path: str | None) -> np.ndarray:
    assert path is not None
    with errors_of("direction", path):
        return load_array(path)

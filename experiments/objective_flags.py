"""The flags that say what is maximized."""

import numpy as np
from absl import flags

from experiments.flag_values import errors_of, numbers
from experiments.grid_flags import read_image
from experiments.networks import Model
from featvis_jax.data.arrays import load_array
from featvis_jax.visualize import objectives
from featvis_jax.visualize.objectives import Objective

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "objective",
    "channel",
    ["channel", "neuron", "layer", "logit", "logit_difference", "direction", "cosine_direction"],
    "What to maximize: the mean of a channel; a channel at one place; the mean square of a whole "
    "layer; a logit, alone or less the others; the mean along a vector over channels, alone or "
    "weighted by the cosine with it.",
)
flags.DEFINE_list("position", None, "Where on the layer's grid, for neuron; its centre by default.")
flags.DEFINE_integer("other", None, "The logit to tell from, for logit_difference; all by default.")
flags.DEFINE_string("direction", None, "A .npy file with one number per channel, for directions.")
flags.DEFINE_string(
    "attention",
    None,
    "A NIfTI mask: maximize the channel's mean under it. It is laid onto the network's grid by its "
    "affine, as --mask is.",
)
flags.DEFINE_enum(
    "pooling",
    None,
    ["mean", "strongest"],
    "How an objective of many places weighs them: all alike, or the strongest most; by default "
    "strongest for --regularization=driven and mean for all other strategies.",
)
flags.DEFINE_enum("sign", "1", ["1", "-1"], "-1 for what suppresses a unit.")
flags.DEFINE_integer("variants", 1, "Images of each unit, optimized together.", lower_bound=1)
flags.DEFINE_float(
    "diversity", None, "Weight that keeps a unit's variants apart; 1 by default.", lower_bound=0.0
)

# Objectives of a layer as a whole have one unit, which goes by number 0.
_OF_A_WHOLE_LAYER = ("layer", "direction", "cosine_direction")


def has_one_unit() -> bool:
    """Whether --objective is about a layer as a whole, not about its channels."""
    return FLAGS.objective in _OF_A_WHOLE_LAYER


def objective(model: Model, layer: str, *, pooling: str) -> Objective:
    """What the flags say to maximize in a layer.

    Args:
      model: The network.
      layer: The layer.
      pooling: "mean" or "strongest", where --pooling does not say.

    Raises:
      FileNotFoundError: A file that a flag names is not there.
      ValueError: The flags contradict each other, or a file holds something else.
    """
    _refuse_idle_flags()
    if FLAGS.attention is not None:
        mask = read_image("attention", model)[..., 0]
        with errors_of(f"--attention={FLAGS.attention}: "):
            chosen = objectives.attention(layer, objectives.on_layer(mask, model.network, layer))
    elif FLAGS.objective == "neuron":
        chosen = objectives.neuron(
            layer, position=None if FLAGS.position is None else tuple(numbers("position", int))
        )
    elif FLAGS.objective == "logit_difference":
        chosen = objectives.logit_difference(layer, other=FLAGS.other)
    elif FLAGS.objective in ("direction", "cosine_direction"):
        chosen = getattr(objectives, FLAGS.objective)(layer, vector=_direction())
    else:
        chosen = getattr(objectives, FLAGS.objective)(layer)
    if FLAGS.sign == "-1":
        chosen = -chosen
    if (FLAGS.pooling or pooling) == "strongest":
        chosen = objectives.strongest(chosen)
    weight = 1.0 if FLAGS.diversity is None else FLAGS.diversity
    if FLAGS.variants > 1 and weight:
        chosen = chosen + weight * objectives.diversity(layer)
    return chosen


def _refuse_idle_flags() -> None:
    """A flag that another one makes meaningless is a mistake."""
    readers = {
        "position": ("neuron",),
        "other": ("logit_difference",),
        "direction": ("direction", "cosine_direction"),
        "attention": ("channel",),
    }
    for name, wanted in readers.items():
        if FLAGS[name].value is not None and FLAGS.objective not in wanted:
            raise ValueError(
                f"--{name} is for --objective={' or '.join(wanted)}, and it is {FLAGS.objective}: "
                "leave one of them out."
            )
    if FLAGS.objective in readers["direction"] and FLAGS.direction is None:
        raise ValueError(f"--objective={FLAGS.objective} needs --direction=FILE.npy.")
    if FLAGS.diversity is not None and FLAGS.variants == 1:
        raise ValueError("--diversity is about several variants of a unit: give --variants too.")


def _direction() -> np.ndarray:
    with errors_of("--direction="):
        return load_array(FLAGS.direction)

"""What to maximize.

An objective maps the activations of one image to a number. It is a value: objectives add, subtract
and scale, and name the layers that they read. Every one takes a layer before its non-linearity or,
by the name ``NAME/relu``, after it.

    objective = channel("conv3") - 0.5 * channel("conv3").of(7) + 2 * diversity("conv3")
"""

from featvis_jax.maximize.objectives.activations import (
    channel,
    layer,
    logit,
    logit_difference,
    neuron,
)
from featvis_jax.maximize.objectives.base import VARIANTS, Objective, fingerprint
from featvis_jax.maximize.objectives.directions import cosine_direction, direction
from featvis_jax.maximize.objectives.limits import up_to
from featvis_jax.maximize.objectives.masks import attention, on_layer
from featvis_jax.maximize.objectives.sequences import of_tokens
from featvis_jax.maximize.objectives.strongest import strongest
from featvis_jax.maximize.objectives.units import Directions, Numbers, Unit, directions_of
from featvis_jax.maximize.objectives.variants import diversity, interpolation

__all__ = [
    "VARIANTS",
    "Directions",
    "Numbers",
    "Objective",
    "Unit",
    "attention",
    "channel",
    "cosine_direction",
    "direction",
    "directions_of",
    "diversity",
    "fingerprint",
    "interpolation",
    "layer",
    "logit",
    "logit_difference",
    "neuron",
    "of_tokens",
    "on_layer",
    "strongest",
    "up_to",
]

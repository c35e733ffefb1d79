"""Reading objectives and responses off an image, with no more of the network than they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array

from featvis_jax.maximize import fields
from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.nn.network import Network, Variables
from featvis_jax.types import Activations, Image, Scalar

Read = Callable[[Variables, Image, Unit], list[Scalar]]
Respond = Callable[[Variables, Array, Unit], Array]


def reader(network: Network, terms: Sequence[Objective]) -> Read:
    """Make the function that reads objectives off one image.

    It computes no more of the network than they read: of a neuron what lies in its receptive field.

    Args:
      network: The trained network.
      terms: Objectives and penalties.

    Returns:
      ``(variables, image, unit) -> values``, one for each term.
    """
    layers = tuple(dict.fromkeys(name for term in terms for name in term.layers))
    narrow = len(layers) == 1 and all(term.reads_one_channel for term in terms)
    place = fields.only_place(network, terms) if narrow else None

    def read(variables: Variables, image: Image, unit: Unit) -> list[Scalar]:
        activations: Activations
        if place is not None:
            activations = fields.at_place(network, variables, image, layers[0], unit, place)
            unit = unit._replace(channel=jnp.zeros_like(unit.channel))
        elif narrow:
            activations = network.one_channel(variables, image, layers[0], unit.channel)
            unit = unit._replace(channel=jnp.zeros_like(unit.channel))
        else:
            activations = network.activations(variables, image, layers)
        return [term.value(activations, image, unit) for term in terms]

    return read


def responder(network: Network, objective: Objective) -> Respond:
    """Make the function that tells how strongly a unit responds to an image.

    Args:
      network: The trained network.
      objective: What the unit is asked for.

    Returns:
      ``(variables, image, unit) -> response``.
    """
    read = reader(network, [dataclasses.replace(response_of(objective), place=None)])
    return lambda variables, image, unit: read(variables, image, unit)[0]


def response_of(objective: Objective) -> Objective:
    """How strongly the unit of an objective responds, as a term that can be read beside it.

    Args:
      objective: What the unit is asked for.
    """
    return dataclasses.replace(objective, value=objective.response)

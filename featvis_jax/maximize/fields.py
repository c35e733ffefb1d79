"""A neuron's receptive field, cut out of the image, instead of a layer over all of it."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.maximize.objectives.base import Place
from featvis_jax.nn.network import Network, Variables
from featvis_jax.types import Activations, Image


def only_place(network: Network, terms: Sequence[Objective]) -> Place | None:
    """Where all that is read of a network lies, if it can be computed from less than the image.

    Args:
      network: The network.
      terms: Objectives and penalties that read one layer, or the image alone.

    Returns:
      The place of the one term that reads the network; ``None`` where there are several, or where
      it reads more or sees all of the image.
    """
    reading = [term for term in terms if term.layers]
    if len(reading) != 1:
        return None
    field = network.layer(reading[0].layers[0]).receptive_field
    return None if field is None else reading[0].place


def at_place(
    network: Network,
    variables: Variables,
    image: Image,
    name: str,
    unit: Unit,
    place: Place,
) -> Activations:
    """The unit's channel of a layer, right at one place of its grid and nowhere else.

    The gradient is zero outside of what the place sees, as that of the whole network is, so that
    everything else in an ascent stays what it was.

    Args:
      network: The network.
      variables: Its weights.
      image: The whole image.
      name: The layer.
      unit: Its channel.
      place: Where.

    Returns:
      The layer with its own grid and one channel.
    """
    grid = network.layer(name).shape[:-1]
    one = network.one_channel(variables, image, name, unit.channel, place(grid))[name]
    return {name: jnp.broadcast_to(one, (*grid, 1))}

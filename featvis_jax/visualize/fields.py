"""A neuron's receptive field, cut out of the image, instead of a layer over all of it."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from featvis_jax.nn.network import Network, Variables
from featvis_jax.types import Activations, Image
from featvis_jax.visualize.objectives import Objective, Unit
from featvis_jax.visualize.objectives.base import Place


def only_place(network: Network, terms: Sequence[Objective]) -> Place | None:
    """Where all that is read of a network lies, if it can be computed from less than the image.

    Args:
      network: The network.
      terms: Objectives and penalties that read one layer, or the image alone.

    Returns:
      The place of the one term that reads the network; ``None`` where there are several, where it
      reads more, or where the place sees all of the image or past its border.
    """
    reading = [term for term in terms if term.layers]
    if len(reading) != 1 or not network.may_be_cropped:
        return None
    layer, sizes = network.layer(reading[0].layers[0]), network.image_shape[:-1]
    reach, stride = layer.receptive_field, layer.stride
    if reach is None or stride is None or reach >= max(sizes):
        return None
    ends = [(count - 1) * stride + reach for count in layer.shape[:-1]]
    inside = all(end <= size for end, size in zip(ends, sizes, strict=True))
    return reading[0].place if inside else None


def at_place(
    network: Network,
    variables: Variables,
    image: Image,
    name: str,
    unit: Unit,
    place: Place,
) -> Activations:
    """The unit's channel of a layer, right at one place of its grid and nowhere else.

    The gradient of the cut is zero outside of the box, as that of the whole network is, so that
    everything else in an ascent stays what it was.

    Args:
      network: A network with a place by `only_place`.
      variables: Its weights.
      image: The whole image.
      name: The layer.
      unit: Its channel, and where `place` asks for it the position.
      place: Where.

    Returns:
      The layer with its own grid and one channel.
    """
    layer = network.layer(name)
    grid, stride, reach = layer.shape[:-1], layer.stride, layer.receptive_field
    assert stride is not None and reach is not None
    for axis, index in enumerate(place(unit, grid)):
        if not isinstance(index, int):  # Data: negative ones count from the end of the grid.
            index = jnp.where(index < 0, index + grid[axis], index)
        image = lax.dynamic_slice_in_dim(image, index * stride, reach, axis)
    one = network.one_channel(variables, image, name, unit.channel)[name]
    return {name: jnp.broadcast_to(one, (*grid, 1))}

"""By which channels of the layers below a unit is driven, by a picture and by real inputs.

The *contribution* of a channel is its activation times the gradient of the unit's response, summed
over space. In a network of convolutions and ReLUs the contributions of a layer and the biases above
it add up to the response. A picture may drive a unit through channels that no strong real input
uses for it, or by what goes around the layers that have a name: then it shows something that the
unit never gets to see. Of the kinds of forgery that are known, those with a branch of their own do
just that.

References:
  Geirhos et al., Don't trust your eyes: on the (un)reliability of feature visualizations, 2024
  Bareeva et al., Manipulating feature visualizations with gradient slingshots, 2025
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int

from featvis_jax.evidence.observing import Images, at_places
from featvis_jax.maximize.objectives import Objective, Unit
from featvis_jax.maximize.reference import Asked
from featvis_jax.nn.network import Network, Variables, split_relu
from featvis_jax.types import Image

# How many layers are looked back to, and among how many the search for them goes.
_DEPTH, _SEARCHED = 3, 24
# Units that are asked what they read, until one answers.
_ASKED = 8
# A channel that never had such a share in the response of a real input is not one of its ways.
_USED = 0.01
# What channels may leave open of the response to real inputs, as shares: a bias, the same for all,
# and what varies.
_LEFT, _VARYING = 0.5, 0.25


class Contributions(NamedTuple):
    """Of the channels of one layer below.

    Attributes:
      response: Of the unit, ``(images,)``.
      channels: What each channel contributes, ``(images, channels)``.
    """

    response: Float32[np.ndarray, " images"]
    channels: Float32[np.ndarray, "images channels"]

    def of(self, images: Sequence[int] | Bool[np.ndarray, " images"]) -> Contributions:
        """The same of some of the images."""
        return Contributions(*(each[np.asarray(images)] for each in self))


class Pair(NamedTuple):
    """A unit and an image.

    Attributes:
      unit: The unit, by its place among those that were asked for.
      image: The number of the image.
      place: Where the unit is looked at, a flat index.
    """

    unit: int
    image: int
    place: int


def layers_below(
    network: Network, objective: Objective, image: Float[np.ndarray, "*spatial channels"]
) -> tuple[str, ...]:
    """The nearest layers below whose channels a unit mixes, nearest first.

    A normalization or an activation passes one channel on and says nothing of ways; of layers that
    see equally much of the image, the last one counts.

    Args:
      network: The network.
      objective: What its units are asked for.
      image: A real input.

    Returns:
      At most three names; none for a first layer.
    """
    names, aliases = [layer.name for layer in network.layers], dict(network.aliases)
    own = min(names.index(split_relu(name, names, aliases=aliases)[0]) for name in objective.layers)
    before = [layer for layer in network.layers[:own] if layer.channels > 1][-_SEARCHED:]
    if not before:
        return ()
    of_unit = jax.jit(_with_gradients(network, objective, tuple(layer.name for layer in before)))
    total = objective.num_units(network.layer(objective.layers[0]).channels)
    found: dict[str, Array] = {}
    # A unit that is silent behind its ReLU tells nothing: another one is asked.
    for number in np.unique(np.linspace(0, total - 1, min(total, _ASKED)).astype(int)):
        unit = jax.tree.map(lambda leaf: leaf[0], objective.units([int(number)]))
        _, found = of_unit(network.variables, unit, image, np.int32(-1))
        if any(np.asarray(each).any() for each in found.values()):
            break
    chosen: list[str] = []
    field: int | str | None = "none yet"
    for layer in reversed(before):
        reads = int(np.count_nonzero(np.asarray(found[layer.name])))
        if reads < 2 or layer.receptive_field == field:
            continue
        chosen.append(layer.name)
        field = layer.receptive_field
    return tuple(chosen[:_DEPTH])


Contribute = Callable[
    [Images, Sequence[Pair], Callable[[int], None] | None], dict[str, Contributions]
]
"""``(images, pairs, progress) -> contributions`` by layer, in the order of the pairs."""


def contributor(
    network: Network, asked: Asked, below: Sequence[str], *, batch_size: int = 8
) -> Contribute:
    """Make the function that tells what the channels of some layers below contribute to units.

    Args:
      network: The network.
      asked: The units.
      below: Names of layers, of `layers_below`.
      batch_size: Pairs of a unit and an image in one call of a program.
    """
    units, below = asked.objective.units(asked.channels), tuple(below)
    one = _with_gradients(network, asked.objective, below)

    @jax.jit
    def program(variables: Variables, units: Unit, images: Array, places: Array) -> Any:
        return lax.map(lambda pair: one(variables, *pair), (units, images, places))

    def contribute(
        images: Images, pairs: Sequence[Pair], progress: Callable[[int], None] | None = None
    ) -> dict[str, Contributions]:
        responses: list[np.ndarray] = []
        channels: dict[str, list[np.ndarray]] = {name: [] for name in below}
        for start in range(0, len(pairs), batch_size):
            batch = list(pairs[start : start + batch_size])
            filled = batch + batch[-1:] * (batch_size - len(batch))
            chosen = np.array([pair.unit for pair in filled])
            stack = np.stack([images[pair.image] for pair in filled]).astype(np.float32)
            places = np.array([pair.place for pair in filled], np.int32)
            response, found = program(network.variables, _some(units, chosen), stack, places)
            responses.append(np.asarray(response)[: len(batch)])
            for name in below:
                channels[name].append(np.asarray(found[name])[: len(batch)])
            if progress is not None:
                progress(start + len(batch))
        if not pairs:
            return {}
        response = np.concatenate(responses)
        return {name: Contributions(response, np.concatenate(channels[name])) for name in below}

    return contribute


def _some(units: Unit, chosen: Int[np.ndarray, " n"]) -> Unit:
    return jax.tree.map(lambda leaf: leaf[chosen], units)


def _with_gradients(
    network: Network, objective: Objective, below: tuple[str, ...]
) -> Callable[[Variables, Unit, Image, Int[Array, ""]], Any]:
    """Make the function that tells what channels below contribute to a unit's response.

    At place -1 the response is the sum over all places.
    """
    layers = tuple(dict.fromkeys([*objective.layers, *below]))
    shapes = {name: network.layer(name).shape for name in below}

    def of_unit(variables: Variables, unit: Unit, image: Image, place: Array) -> Any:
        def response(added: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            changes = {name: lambda output, name=name: output + added[name] for name in below}
            activations = network.activations(variables, image, layers, changes)
            values = at_places(objective, activations, image, unit)
            value = jnp.where(place < 0, values.sum(), values[jnp.maximum(place, 0)])
            return value, {name: activations[name] for name in below}

        nothing = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        (value, seen), gradient = jax.value_and_grad(response, has_aux=True)(nothing)
        by_channel = {
            name: (seen[name] * gradient[name]).reshape(-1, shape[-1]).sum(axis=0)
            for name, shape in shapes.items()
        }
        return value, by_channel

    return of_unit


def by_other_ways(picture: Contributions, real: Contributions) -> float:
    """The share of a response that comes by ways that strong real inputs do not take.

    Two parts: what the channels of the layer below do not account for, beyond what they leave open
    in real inputs, and what comes through channels that have no part in the response to any. Behind
    a normalization, or beside a connection that skips the layer, channels do not account for the
    response to real inputs either, and nothing can be said.

    Args:
      picture: Contributions to the response to one picture.
      real: Those to the strongest real inputs.

    Returns:
      A share in [0, 1]; NaN for a picture that does not drive the unit, and for a layer whose
      channels do not account for the response to real inputs.

    Example:
      >>> real = Contributions(np.ones(2, np.float32), np.float32([[0.7, 0.3, 0], [0.6, 0.4, 0]]))
      >>> usual = Contributions(np.float32([2.0]), np.float32([[1.4, 0.6, 0]]))
      >>> by_other_ways(usual, real)
      0.0
      >>> round(by_other_ways(Contributions(usual.response, np.float32([[0.2, 0, 1.8]])), real), 3)
      0.9
      >>> round(by_other_ways(Contributions(usual.response, np.float32([[0.2, 0, 0]])), real), 3)
      0.9
    """
    response = float(picture.response[0])
    if not response > 0:
        return float("nan")
    ours, theirs = picture.channels[0], real.channels
    left, left_real = response - ours.sum(), real.response - theirs.sum(axis=1)
    weakest = float(real.response.min())
    if not (np.abs(left_real).max() <= _LEFT * weakest and np.ptp(left_real) <= _VARYING * weakest):
        return float("nan")
    # A bias leaves the same to every image.
    beyond = max(0.0, (left - float(left_real.max())) / response)
    driving = np.clip(ours, 0, None)
    used = (_shares(np.clip(theirs, 0, None)) >= _USED).any(axis=0)
    unused = float(driving[~used].sum() / max(driving.sum(), np.finfo(np.float32).tiny))
    return float(np.clip(beyond + (1 - beyond) * unused, 0.0, 1.0))


def _shares(values: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    whole = values.sum(axis=1, keepdims=True)
    return np.divide(values, whole, out=np.zeros_like(values), where=whole > 0)

"""A part of a sequence, such as those tokens of a transformer that are places of the image."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Float

from featvis_jax.maximize.objectives.base import Objective, Value
from featvis_jax.maximize.objectives.units import Unit
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Activations, Image


def of_tokens(objective: Objective, *, first: int, stop: int) -> Objective:
    """The same of some tokens alone.

    The mean of a channel over all tokens counts a class token and registers too, which have no
    place in the image; `featvis_jax.nn.tokens.Tokens` says which those are.

    Args:
      objective: One that reads layers of tokens, ``(tokens, channels)``.
      first: The first token that counts, from 0.
      stop: The one after the last.

    Raises:
      ValueError: There is no token from `first` to `stop`. Where a layer has fewer,
        `featvis_jax.maximize.ascent.check` says so.

    Example:
      >>> import jax.numpy as jnp
      >>> from featvis_jax.maximize.objectives import channel
      >>> activations = {"block1": jnp.array([[9.0], [1.0], [3.0]])}
      >>> places = of_tokens(channel("block1"), first=1, stop=3)
      >>> float(places.value(activations, jnp.zeros((4, 4, 1)), Unit(jnp.int32(0))))
      2.0
    """
    if not 0 <= first < stop:
        raise ValueError(f"of_tokens: tokens {first} to {stop}; expected 0 <= first < stop.")
    description = f"of_tokens({objective.description}, first={first}, stop={stop})"

    def check(network: Network) -> None:
        for layer in map(network.layer, objective.layers):
            if len(layer.shape) != 2 or layer.shape[0] < stop:
                raise ValueError(
                    f"{description}: layer {layer.name!r} of shape {layer.shape} has no token "
                    f"{stop - 1}: take a layer of shape (tokens, channels) with more."
                )

    def of_some(read: Value) -> Value:
        def value(activations: Activations, image: Image, unit: Unit) -> Float[Array, "*places"]:
            cut = {name: activations[name][first:stop] for name in objective.layers}
            return read({**activations, **cut}, image, unit)

        return value

    return dataclasses.replace(
        objective,
        description=description,
        value=of_some(objective.value),
        places=None if objective.places is None else of_some(objective.places),
        places_of=objective.places_of and f"{objective.places_of}, tokens {first} to {stop}",
        alone=None if objective.alone is None else of_some(objective.alone),
        checks=(*objective.checks, check),
    )

"""What a network loses without some of its channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

Variables = dict[str, PyTree[Array]]


def silenced(variables: Variables, channels: Mapping[str, Sequence[int]]) -> Variables:
    """The weights of a network in which some channels are always 0.

    The filter and the bias of each of them are set to zero. Behind a ReLU nothing of the channel is
    left then, and all other weights stay as they are.

    Args:
      variables: ``params`` with a ``kernel`` (..., in, out) and a ``bias`` (out,) for every layer,
        and whatever else the network has.
      channels: Numbers of the channels by layer.

    Returns:
      New variables; the old ones are untouched.

    Raises:
      ValueError: There is no such layer or channel.

    Example:
      >>> params = {"conv1": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)}}
      >>> silenced({"params": params}, {"conv1": [1]})["params"]["conv1"]["bias"].tolist()
      [1.0, 0.0]
    """
    params = dict(variables["params"])
    for layer, numbers in channels.items():
        if layer not in params or "kernel" not in params[layer]:
            raise ValueError(f"There is no layer {layer!r} with filters; there are {list(params)}.")
        count = params[layer]["kernel"].shape[-1]
        wrong = [number for number in numbers if not 0 <= number < count]
        if wrong:
            raise ValueError(f"{layer} has channels 0 to {count - 1}; got {wrong}.")
        index = jnp.asarray(np.array(numbers, np.int32))
        params[layer] = {
            name: jnp.asarray(leaf).at[..., index].set(0.0) for name, leaf in params[layer].items()
        }
    return {**variables, "params": params}


def as_many_others(
    rng: np.random.Generator, chosen: Mapping[str, Sequence[int]], pool: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Draw as many channels of each layer from a pool, without replacement, for a comparison.

    Args:
      rng: Where the draws come from.
      chosen: Channels by layer.
      pool: Channels to draw from, by layer; where there are fewer than wanted, all are taken.

    Returns:
      Channels by layer, in rising order.

    Example:
      >>> as_many_others(np.random.default_rng(0), {"conv1": [0]}, {"conv1": [3]})
      {'conv1': [3]}
    """
    return {
        layer: sorted(
            int(n)
            for n in rng.choice(
                list(pool.get(layer, ())), min(len(numbers), len(pool.get(layer, ()))), False
            )
        )
        for layer, numbers in chosen.items()
    }

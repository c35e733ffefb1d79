"""The network that a program is: its layers, and what they put out for an image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from featvis_jax.nn.network import Channel, Layer, Network, Place, Variables, select, split_relu
from featvis_jax.nn.programs import flat
from featvis_jax.nn.programs.cuts import Cut, Part, Source
from featvis_jax.nn.programs.fast import apply_fast
from featvis_jax.nn.programs.flat import Flat, Marked
from featvis_jax.nn.programs.parts import Plan
from featvis_jax.nn.programs.reach import spans, summary
from featvis_jax.types import Image

_HIDDEN = (
    "it is computed inside of what can only be computed as a whole, such as jax.lax.while_loop, "
    "jax.lax.cond or a function with a derivative of its own: take a layer around it, or write "
    "the network without that."
)


class _Reading(NamedTuple):
    """Which axes of a marked value are what.

    Attributes:
      grid: Axes in the order of the layer's grid.
      channel: The axis with its channels.
    """

    grid: tuple[int, ...]
    channel: int


def network_of(
    function: Callable[[Variables, Array], Any],
    variables: Variables,
    image_shape: Sequence[int],
) -> Network:
    """The network of a function that calls some of the values it computes layers.

    Args:
      function: ``(variables, images) -> anything``, of a batch of one image.
      variables: Its weights.
      image_shape: ``(*spatial, channels)`` of one image.

    Raises:
      ValueError: Nothing in it is called a layer.
    """
    image_shape = tuple(image_shape)
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    traced = flat.trace(lambda variables, image: function(variables, image[None]), variables, image)
    targets, layers, refused = _layers(traced, image_shape)
    if traced.closed_over:
        variables = {"variables": variables, "closed_over": list(traced.closed_over)}
    names = frozenset(targets)

    def inputs(plan: Plan, variables: Variables, image: Image) -> list[tuple[Array, Part] | None]:
        if image.shape != image_shape:
            raise ValueError(f"The image has shape {image.shape}; expected {image_shape}.")
        # A dictionary's leaves come sorted by their keys, as the program does not have them.
        given = variables
        if traced.closed_over:
            given = (variables["variables"], variables["closed_over"])  # pyright: ignore
        leaves = [image, *jax.tree.leaves(given)]
        return [
            None if taken is None else (leaf, {})
            for leaf, taken in zip(leaves, plan.takes, strict=True)
        ]

    @functools.cache
    def plan_of_layers(bases: tuple[str, ...]) -> Plan:
        wanted = [(targets[base].variable, _lane(targets[base])) for base in bases]
        return Plan(traced.program, wanted)

    def activations(
        variables: Variables, image: Image, layers: tuple[str, ...]
    ) -> dict[str, Array]:
        bases = tuple(dict.fromkeys(split_relu(name, names)[0] for name in layers))
        plan = plan_of_layers(bases)
        found = plan.run(inputs(plan, variables, image), {}, apply_fast)
        outputs = {
            base: targets[base].read(value) for base, value in zip(bases, found, strict=True)
        }
        return select(outputs, layers, names)

    @functools.cache
    def plan_of_channel(base: str, at_place: bool) -> Plan:
        target = targets[base]
        return Plan(traced.program, [(target.variable, target.one_channel(at_place))])

    def one_channel(
        variables: Variables,
        image: Image,
        layer: str,
        channel: Channel,
        place: Place | None = None,
    ) -> dict[str, Array]:
        base, _ = split_relu(layer, names)
        plan = plan_of_channel(base, place is not None)
        sources: dict[str, Any] = {"channel": channel}
        sources.update({f"place {i}": index for i, index in enumerate(place or ())})
        (found,) = plan.run(inputs(plan, variables, image), sources, apply_fast)
        return select({base: targets[base].read(found)}, (layer,), names)

    return Network(activations, one_channel, variables, image_shape, layers, refused=refused)


class _Target(NamedTuple):
    """A layer: its value in the program, and how that is read."""

    marked: Marked
    reading: _Reading

    @property
    def variable(self) -> core.Var:
        return self.marked.variable

    def read(self, value: Array) -> Array:
        """``(*grid, channels)``."""
        order = (*self.reading.grid, self.reading.channel)
        dropped = [axis for axis in range(value.ndim) if axis not in order]
        shape = [value.shape[axis] for axis in order]
        return value.transpose(*dropped, *order).reshape(shape)

    def one_channel(self, at_place: bool) -> Part:
        """The part that is one of its channels, perhaps at one place alone."""
        shape = self.variable.aval.shape  # pyright: ignore
        channel, part = self.reading.channel, _lane(self)
        part[channel] = Cut(Source("channel", shape[channel]), 1, 0, 1)
        if at_place:
            for i, axis in enumerate(self.reading.grid):
                part[axis] = Cut(Source(f"place {i}", shape[axis]), 1, 0, 1)
        return part


def _lane(target: _Target) -> Part:
    """Of a module under `jax.vmap`, the one copy."""
    return {axis: Cut(None, 0, lane, 1) for axis, lane in enumerate(target.marked.lane)}


def _layers(
    traced: Flat, image_shape: tuple[int, ...]
) -> tuple[dict[str, _Target], tuple[Layer, ...], tuple[tuple[str, str], ...]]:
    """What can be asked for, by name, and what cannot, with the reason."""
    variables = list(dict.fromkeys(marked.variable for marked in traced.marked.values()))
    found = spans(traced.program, variables, image_shape)
    seen = dict(zip(variables, found, strict=True))
    targets: dict[str, _Target] = {}
    layers: list[Layer] = []
    refused = [(name, _HIDDEN) for name in traced.hidden]
    for name, marked in traced.marked.items():
        shape, lanes = marked.variable.aval.shape, len(marked.lane)  # pyright: ignore
        of_axes = seen[marked.variable]
        axes = list(range(lanes, len(shape)))
        if marked.operator:
            reading = _of_module(axes, shape)
        else:
            reading = _of_value(axes, shape, {s.axis for s in of_axes if s is not None})
        if reading is None:
            refused.append((name, f"no axis of its shape {shape[lanes:]} is known to be channels."))
            continue
        targets[name] = _Target(marked, reading)
        reach = summary(of_axes, image_shape[:-1])
        layers.append(
            Layer(
                name=name,
                operator=marked.operator or "value",
                shape=tuple(shape[axis] for axis in (*reading.grid, reading.channel)),
                receptive_field=reach.receptive_field if reading.grid else None,
                stride=reach.stride if reading.grid else None,
                has_weights=marked.has_weights,
            )
        )
    if not targets:
        raise ValueError(_no_layers(refused))
    return targets, tuple(layers), tuple(refused)


def _no_layers(refused: Sequence[tuple[str, str]]) -> str:
    if refused:
        return f"None of its layers can be taken: {refused[0][0]!r}, since {refused[0][1]}"
    return (
        "it calls nothing a layer: write x = jax.ad_checkpoint.checkpoint_name(x, 'conv1') where "
        "it has computed what is to be visualized."
    )


def _of_module(axes: Sequence[int], shape: tuple[int, ...]) -> _Reading | None:
    """Of a batch of one image with channels last, as modules of Flax have it."""
    if len(axes) < 2 or shape[axes[0]] != 1:
        return None
    return _Reading(tuple(axes[1:-1]), axes[-1])


def _of_value(
    axes: Sequence[int], shape: tuple[int, ...], in_space: set[int | None]
) -> _Reading | None:
    """Of a value in any layout: its channels are the last axis that has no place in the image."""
    others = [axis for axis in axes if axis not in in_space]
    if not others:
        return None
    *rest, channel = others
    # A batch of one, or an axis that others were made of, such as a sequence of tokens.
    kept = {axis for axis in rest if shape[axis] > 1} | (set(axes) - set(others))
    return _Reading(tuple(sorted(kept)), channel)

"""The network that a program is: its layers, and what they put out for an image."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from featvis_jax.nn.network import (
    Changes,
    Channel,
    Layer,
    Network,
    Place,
    Variables,
    select,
    split_relu,
)
from featvis_jax.nn.programs import flat
from featvis_jax.nn.programs.cuts import Cut, Part, Source
from featvis_jax.nn.programs.fast import apply_fast
from featvis_jax.nn.programs.flat import Flat, Marked
from featvis_jax.nn.programs.parts import Plan
from featvis_jax.nn.programs.receptive_fields import points, spans, summary
from featvis_jax.nn.programs.sequences import on_grid, tokens_of
from featvis_jax.nn.programs.spans import Span
from featvis_jax.nn.tokens import Tokens
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

    def read(self, value: Array) -> Array:
        """``(*grid, channels)``."""
        shape = [value.shape[axis] for axis in self._kept]
        return value.transpose(*self._order(value.ndim)).reshape(shape)

    def written(self, output: Array, like: Array) -> Array:
        """The value that is read as `output`, in the layout of another one."""
        order = self._order(like.ndim)
        moved = output.reshape([like.shape[axis] for axis in order])
        return moved.transpose(*(order.index(axis) for axis in range(like.ndim)))

    @property
    def _kept(self) -> tuple[int, ...]:
        return (*self.grid, self.channel)

    def _order(self, rank: int) -> list[int]:
        """All axes, those with a single element in front."""
        return [*(axis for axis in range(rank) if axis not in self._kept), *self._kept]


def network_of(
    function: Callable[[Variables, Array], Any],
    variables: Variables,
    image_shape: Sequence[int],
    *,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Network:
    """The network of a function that calls some of the values it computes layers.

    Args:
      function: ``(variables, images) -> anything``, of a batch of one image.
      variables: Its weights.
      image_shape: ``(*spatial, channels)`` of one image.
      aliases: Other names of layers.

    Raises:
      ValueError: Nothing in it is called a layer.
    """
    image_shape = tuple(image_shape)
    traced = _tracer(function, variables, image_shape)
    first = traced(jax.sharding.get_abstract_mesh())
    readings, layers, refused = _layers(first, image_shape)
    closed_over = [jnp.asarray(constant) for constant in first.closed_over]
    if closed_over:
        variables = (variables, closed_over)
    compute = _computing(traced, readings, image_shape, aliases)

    def activations(
        variables: Variables,
        image: Image,
        layers: tuple[str, ...],
        changes: Changes = MappingProxyType({}),
    ) -> dict[str, Array]:
        return compute(variables, image, layers, _Axes.NONE, changes)

    def one_channel(
        variables: Variables,
        image: Image,
        layer: str,
        channel: Channel,
        place: Place | None = None,
    ) -> dict[str, Array]:
        places = {f"place {i}": index for i, index in enumerate(place or ())}
        axes = _Axes.CHANNEL if place is None else _Axes.CHANNEL_AND_GRID
        return compute(variables, image, (layer,), axes, {}, channel=channel, **places)

    of_layers = tuple(aliases.items())
    return Network(activations, one_channel, variables, image_shape, layers, refused, of_layers)


class _Axes(enum.Enum):
    """Along which axes of a layer one element alone is computed."""

    NONE = enum.auto()
    CHANNEL = enum.auto()
    CHANNEL_AND_GRID = enum.auto()


def _tracer(
    function: Callable[[Variables, Array], Any], variables: Variables, image_shape: tuple[int, ...]
) -> Callable[[Any], Flat]:
    """Make the function that tells the program on some devices, traced when it is asked for."""
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)

    @functools.cache
    def traced(mesh: Any) -> Flat:
        """The program on some devices: its rules for derivatives remember where they first ran."""
        del mesh
        return flat.trace(lambda weights, image: function(weights, image[None]), weights, image)

    return traced


def _computing(
    traced: Callable[[Any], Flat],
    readings: Mapping[str, _Reading],
    image_shape: tuple[int, ...],
    aliases: Mapping[str, str],
) -> Callable[..., dict[str, Array]]:
    """Make the function that computes layers of an image, or an element of each along some axes."""

    @functools.cache
    def plan(mesh: Any, names: tuple[str, ...], axes: _Axes) -> Plan:
        program = traced(mesh)
        return Plan(
            program.program,
            [
                (marked.variable, _part(marked, readings[name], axes))
                for name, marked in ((name, program.marked[name]) for name in names)
            ],
        )

    def compute(
        variables: Variables,
        image: Image,
        asked: tuple[str, ...],
        axes: _Axes,
        changes: Changes,
        **sources: Any,
    ) -> dict[str, Array]:
        if image.shape != image_shape:
            raise ValueError(f"The image has shape {image.shape}; expected {image_shape}.")
        names = tuple(
            dict.fromkeys(split_relu(name, readings, aliases=aliases)[0] for name in asked)
        )
        mesh = jax.sharding.get_abstract_mesh()
        how = plan(mesh, names, axes)
        leaves = [image, *jax.tree.leaves(variables)]
        given = [
            None if taken is None else (leaf, {})
            for leaf, taken in zip(leaves, how.takes, strict=True)
        ]
        found = how.run(given, sources, apply_fast, _edits(traced(mesh), readings, changes))
        outputs = {n: readings[n].read(value) for n, value in zip(names, found, strict=True)}
        return select(outputs, asked, readings, aliases=aliases)

    return compute


def _edits(
    traced: Flat, readings: Mapping[str, _Reading], changes: Changes
) -> dict[core.Var, Callable[[Array], Array]]:
    """What changes of layers make of the values that these are read from."""

    def edit(name: str) -> Callable[[Array], Array]:
        reading = readings[name]
        # Of a module under `jax.vmap`, the one copy.
        own = tuple(slice(lane, lane + 1) for lane in traced.marked[name].lane)

        def edited(value: Array) -> Array:
            changed = changes[name](reading.read(value[own]))
            return value.at[own].set(reading.written(changed, value[own]))

        return edited

    edits: dict[core.Var, Callable[[Array], Array]] = {}
    for name in changes:
        variable, before = traced.marked[name].variable, edits.get(traced.marked[name].variable)
        edits[variable] = edit(name) if before is None else _after(before, edit(name))
    return edits


def _after(
    first: Callable[[Array], Array], then: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    return lambda value: then(first(value))


def _part(marked: Marked, reading: _Reading, axes: _Axes) -> Part:
    """Of a layer; of a module under `jax.vmap`, of the one copy."""
    shape = marked.variable.aval.shape  # pyright: ignore
    part: Part = {axis: Cut(None, 0, lane, 1) for axis, lane in enumerate(marked.lane)}
    if axes is not _Axes.NONE:
        part[reading.channel] = Cut(Source("channel", shape[reading.channel]), 1, 0, 1)
    if axes is _Axes.CHANNEL_AND_GRID:
        for i, axis in enumerate(reading.grid):
            part[axis] = Cut(Source(f"place {i}", shape[axis]), 1, 0, 1)
    return part


def _layers(
    traced: Flat, image_shape: tuple[int, ...]
) -> tuple[dict[str, _Reading], tuple[Layer, ...], tuple[tuple[str, str], ...]]:
    """What can be asked for, by name, and what cannot, with the reason."""
    variables = list(dict.fromkeys(marked.variable for marked in traced.marked.values()))
    found = spans(traced.program, variables, image_shape)
    seen = dict(zip(variables, found, strict=True))
    values = [marked.variable for marked in traced.marked.values() if _needs_points(marked)]
    lying = dict(zip(values, points(traced.program, values, image_shape), strict=True))
    readings: dict[str, _Reading] = {}
    layers: list[Layer] = []
    refused = [(name, _HIDDEN) for name in traced.hidden]
    for name, marked in traced.marked.items():
        shape, lanes = marked.variable.aval.shape, len(marked.lane)  # pyright: ignore
        of_axes = seen[marked.variable]
        axes = list(range(lanes, len(shape)))
        if marked.operator:
            reading = _of_module(axes, shape)
        else:
            reading = _of_value(axes, shape, _axes_in_space(lying[marked.variable]))
        if reading is None:
            refused.append((name, f"no axis of its shape {shape[lanes:]} is known to be channels."))
            continue
        readings[name] = reading
        tokens = _tokens(marked, reading, lying.get(marked.variable))
        if tokens is not None:
            of_axes = on_grid(of_axes, reading.grid[0], tokens)
        field = summary(of_axes, image_shape[:-1])
        layers.append(
            Layer(
                name=name,
                operator=marked.operator or "value",
                shape=tuple(shape[axis] for axis in (*reading.grid, reading.channel)),
                receptive_field=field.size if reading.grid else None,
                stride=field.stride if reading.grid else None,
                has_weights=marked.has_weights,
                tokens=tokens,
            )
        )
    if not readings:
        raise ValueError(_no_layers(refused))
    return readings, tuple(layers), tuple(refused)


def _needs_points(marked: Marked) -> bool:
    """Whether where a value's elements lie tells what its axes, or its tokens, are."""
    is_sequence = len(marked.variable.aval.shape) - len(marked.lane) == 3  # pyright: ignore
    return not marked.operator or (is_sequence and marked.tokens is None)


def _axes_in_space(lying: Sequence[Span | None]) -> set[int]:
    return {span.axis for span in lying if span is not None and span.axis is not None}


def _tokens(
    marked: Marked, reading: _Reading, lying: Sequence[Span | None] | None
) -> Tokens | None:
    """Which elements of a sequence are places of the image."""
    if len(reading.grid) != 1 or marked.tokens is not None or lying is None:
        return marked.tokens
    return tokens_of(lying, reading.grid[0])


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


def _of_value(axes: Sequence[int], shape: tuple[int, ...], in_space: set[int]) -> _Reading | None:
    """Of a value in any layout: its channels are the last axis that has no place in the image."""
    others = [axis for axis in axes if axis not in in_space]
    if not others:
        return None
    *rest, channel = others
    # A batch of one, or an axis that others were made of, such as a sequence of tokens.
    kept = {axis for axis in rest if shape[axis] > 1} | (set(axes) - set(others))
    return _Reading(tuple(sorted(kept)), channel)

"""What of a graph can be asked for, and by which name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import onnx

from featvis_jax.importers.onnx import axes, axis_rules, modules
from featvis_jax.importers.onnx import graph as graphs
from featvis_jax.importers.onnx.axes import Reading
from featvis_jax.importers.onnx.graph import Graph, Step, Value
from featvis_jax.importers.onnx.image import image_axes
from featvis_jax.importers.onnx.modules import Call, numbered
from featvis_jax.importers.onnx.scopes import scopes
from featvis_jax.nn.programs.marks import mark
from featvis_jax.nn.tokens import Tokens

_MERGED = "its batch normalization is merged into its weights by the exporter: take {!r}."


class Target(NamedTuple):
    """An output that can be asked for.

    Attributes:
      value: Its name in the file.
      operator: What makes it.
      has_weights: Whether that has weights of its own.
      reading: Which of its axes are what.
      tokens: Of a sequence, which of its elements are places of the image.
    """

    value: str
    operator: str
    has_weights: bool
    reading: Reading
    tokens: Tokens | None

    def mark(self, name: str, value: Value) -> None:
        """Call it a layer, channels last."""
        if value.channels_last and self.reading.is_plain:
            array = value.array[0]
        else:
            array = self.reading.read(graphs.as_in_onnx(value))
        mark(
            array[None],
            name,
            operator=self.operator,
            has_weights=self.has_weights,
            tokens=self.tokens,
        )


class Targets(NamedTuple):
    """The outputs of a graph.

    Attributes:
      layers: By name, in the order in which they are computed.
      aliases: Names of nodes in the file, and the layers that they are.
      refused: Names of what is no layer, each with the reason.
    """

    layers: dict[str, Target]
    aliases: dict[str, str]
    refused: tuple[tuple[str, str], ...]


class _Named(NamedTuple):
    """An output with a name."""

    name: str
    value: str
    operator: str
    has_weights: bool


def targets(model: onnx.ModelProto, graph: Graph, *, image_is_last: bool) -> Targets:
    """Every output whose axes are known under its names, and the names of all others.

    Args:
      model: The file.
      graph: What it computes.
      image_is_last: Whether the image has channels last there.

    Raises:
      ValueError: Nothing in it has known axes.
    """
    names = _of_nodes(graph)
    aliases: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    of_nodes = {named.value: named for named in names}
    if of_scopes := scopes(model):
        outputs = [output.name for output in model.graph.output]
        calls = modules.calls(graph, of_scopes, outputs)
        names, aliases = _of_modules(graph, calls, of_nodes)
        refused += _merged(graph, calls)
    found = axis_rules.follow(graph, image_axes(graph.input_shape, image_is_last=image_is_last))
    layers: dict[str, Target] = {}
    for named in names:
        reading = axes.reading(found[named.value])
        if reading is None:
            shape = tuple(map(axes.length, found[named.value]))
            refused.append((named.name, f"no axis of its shape {shape} is known to be channels."))
        else:
            tokens = _tokens(reading, rank=len(graph.input_shape) - 2)
            layers[named.name] = Target(
                named.value, named.operator, named.has_weights, reading, tokens
            )
    if not layers:
        listed = ", ".join(name for name, _ in refused) or "no numbers"
        raise ValueError(f"of all that it computes ({listed}) no axis is known to be channels.")
    known = {*layers, *(name for name, _ in refused)}
    aliases = {alias: name for alias, name in aliases.items() if alias not in known}
    return Targets(layers, aliases, tuple(refused))


def _tokens(reading: Reading, *, rank: int) -> Tokens | None:
    """Which elements of a sequence are places of the image, if they lie row by row."""
    if reading.joined is None:
        return None
    before, parts, behind = reading.joined
    found = [int(str(part.role)) for part in parts if part.size > 1]
    if found != sorted(set(found)) or any(part.stride != 1 for part in parts):
        return None
    sizes = {int(str(part.role)): part.size for part in parts}
    return Tokens(before, tuple(sizes.get(axis, 1) for axis in range(rank)), behind)


def _values(graph: Graph) -> Iterator[tuple[int, Step, str]]:
    """All that can be a layer, with the number of its step."""
    for number, step in enumerate(graph.steps):
        for value, shape in zip(step.node.outputs, step.shapes, strict=True):
            if value and shape is not None and _is_numbers(shape):
                yield number, step, value


def _is_numbers(shape: jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(shape.dtype, jnp.floating) and all(shape.shape)


def _of_nodes(graph: Graph) -> list[_Named]:
    """Every output under the name of its node, or its own where a node has several or no name."""
    counts: Counter[str] = Counter()
    of_steps = []
    for step in graph.steps:
        name = step.node.name.strip("/")
        counts[name] += 1
        of_steps.append(numbered(name, counts[name]))
    taken: dict[str, _Named] = {}
    for number, step, value in _values(graph):
        several = sum(map(bool, step.node.outputs)) > 1
        name = value.strip("/") if several or not of_steps[number] else of_steps[number]
        while name in taken:
            name += "_"
        has_weights = bool(modules.parameters(graph, step))
        taken[name] = _Named(name, value, step.node.operator, has_weights)
    return list(taken.values())


def _of_modules(
    graph: Graph, calls: tuple[Call, ...], of_nodes: dict[str, _Named]
) -> tuple[list[_Named], dict[str, str]]:
    """Every output of a module under its path, other operations by scope and operator; aliases."""
    innermost: dict[int, Call] = {}
    for call in calls:  # Those inside of another one come first.
        for number in call.steps:
            innermost.setdefault(number, call)
    returned: dict[str, list[Call]] = {}
    for call in calls:
        returned.setdefault(call.value, []).append(call)
    counts = Counter(call.path.partition("@")[0] for call in calls)
    names: list[_Named] = []
    aliases: dict[str, str] = {}
    for number, step, value in _values(graph):
        made_in, node = innermost.get(number), of_nodes[value]
        given = [
            _Named(call.path, value, call.operator or _operator(graph, call), _has_own(graph, call))
            for call in returned.get(value, ())
        ]
        if made_in is None or not made_in.is_whole:
            path = f"{made_in.path}." if made_in else ""
            name = path.partition("@")[0].removesuffix(".")
            name = f"{name}.{_snake_case(step.node.operator)}".strip(".")
            counts[name] += 1
            operation = node._replace(name=numbered(name, counts[name]))
            if given:
                aliases[operation.name] = given[0].name
            else:
                given = [operation]
        names += given
        if given:
            aliases[node.name] = given[0].name
    return names, aliases


def _has_own(graph: Graph, call: Call) -> bool:
    return any(modules.parameters(graph, graph.steps[number]) for number in call.own)


def _operator(graph: Graph, call: Call) -> str:
    """The operator of a module whose class the file does not tell: of its weights, or the last."""
    of_weights = [n for n in call.own if modules.parameters(graph, graph.steps[n])]
    chosen = graph.steps[of_weights[0] if of_weights and call.is_whole else call.steps[-1]]
    operator, weights = chosen.node.operator, modules.parameters(graph, chosen)
    # The exporter by tracing names weights anew that it has put others into.
    is_merged = len(weights) == 2 and all(name.startswith("onnx::Conv_") for name in weights)
    return f"{operator}+BatchNormalization" if is_merged else operator


def _snake_case(operator: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operator).lower()


def _merged(graph: Graph, calls: tuple[Call, ...]) -> Iterator[tuple[str, str]]:
    """Convolutions of which only what a batch normalization makes of their output is left."""
    paths = {call.path for call in calls}
    for call in calls:
        if not call.operator.startswith("BatchNorm"):
            continue
        for number in call.own:
            for name in modules.parameters(graph, graph.steps[number]):
                path = name.removesuffix(".weight")
                is_other = graph.steps[number].node.operator.startswith(("Conv", "Gemm"))
                if is_other and path not in {name, *paths}:
                    yield path, _MERGED.format(call.path)

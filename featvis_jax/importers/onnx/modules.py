"""Calls of modules among the steps of a graph, and the value that each returns."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from featvis_jax.importers.onnx.graph import Graph, Step
from featvis_jax.importers.onnx.scopes import Scope


class Call(NamedTuple):
    """One call of a module.

    Attributes:
      path: Of the module, with ``@2`` for its second call.
      operator: The module's class; empty where the file does not tell.
      steps: Numbers of the steps that are made in it.
      own: Of those, the ones that no module inside of it makes.
      value: Name of what it returns, the last of several; empty if nothing is left of it.
    """

    path: str
    operator: str
    steps: tuple[int, ...]
    own: tuple[int, ...]
    value: str

    @property
    def is_whole(self) -> bool:
        """Whether no other module is called inside of it."""
        return len(self.own) == len(self.steps)


def calls(graph: Graph, scopes: dict[str, Scope], outputs: Iterable[str]) -> tuple[Call, ...]:
    """All calls of modules, those inside of another one before it.

    Args:
      graph: The graph.
      scopes: Of its nodes.
      outputs: What it returns.
    """
    steps = graph.steps
    users: dict[str, set[int]] = {name: {len(steps)} for name in outputs}
    for number, step in enumerate(steps):
        for name in step.node.inputs:
            users.setdefault(name, set()).add(number)
    of_steps = _of_steps(steps, scopes, users)
    counts: Counter[str] = Counter()
    found: list[Call] = []

    def descend(members: Sequence[int], depth: int) -> None:
        for run in _runs(members, of_steps, depth):
            for part in _apart(run, graph, of_steps, depth):
                descend(part, depth + 1)
                scope = of_steps[part[0]]
                path = scope.modules[depth]
                counts[path] += 1
                found.append(
                    Call(
                        path=numbered(path, counts[path]),
                        operator=scope.classes[depth] if scope.classes else "",
                        steps=tuple(part),
                        own=tuple(n for n in part if len(of_steps[n].modules) == depth + 1),
                        value=_returned(part, steps, users),
                    )
                )

    descend(range(len(steps)), 0)
    return tuple(found)


def numbered(name: str, number: int) -> str:
    """The name of the second and later of several that have the same."""
    return name if number == 1 else f"{name}@{number}"


def _of_steps(
    steps: Sequence[Step], scopes: dict[str, Scope], users: dict[str, set[int]]
) -> list[Scope]:
    """The scope of every step; one of which the file says nothing is made where it is used."""
    found: list[Scope] = [Scope()] * (len(steps) + 1)
    for number, step in reversed(list(enumerate(steps))):
        outputs = [name for name in step.node.outputs if name]
        told = [scopes[name] for name in outputs if name in scopes]
        if not told:
            of_users = [found[user] for name in outputs for user in users.get(name, ())]
            told = [functools.reduce(_common, of_users)] if of_users else [Scope()]
        found[number] = told[0]
    return found[:-1]


def _common(one: Scope, other: Scope) -> Scope:
    """The modules that both are made in."""
    pairs = zip(one.modules, other.modules, strict=False)
    count = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return Scope(one.modules[:count], one.classes[:count])


def _runs(members: Sequence[int], scopes: Sequence[Scope], depth: int) -> list[list[int]]:
    """Steps in a row that are made in the same module."""
    inside = itertools.groupby(members, key=lambda n: scopes[n].modules[depth : depth + 1])
    return [list(run) for path, run in inside if path]


def _apart(run: list[int], graph: Graph, scopes: Sequence[Scope], depth: int) -> list[list[int]]:
    """The calls of one module that follow upon one another.

    Where the file does not count them, they repeat a pattern of steps with the same weights.
    """
    if all(len(scopes[n].modules) == depth + 1 and scopes[n].call is not None for n in run):
        return [list(part) for _, part in itertools.groupby(run, key=lambda n: scopes[n].call)]
    weights = [parameters(graph, graph.steps[n]) for n in run]
    pattern = [
        (
            scopes[n].modules[depth + 1 :],
            graph.steps[n].node.operator,
            scopes[n].place,
            # What is folded into them is folded for each call, but those calls are counted.
            names if scopes[n].call is None else len(names),
        )
        for n, names in zip(run, weights, strict=True)
    ]
    for period in range(1, len(run) // 2 + 1 if any(weights) else 0):
        if len(run) % period == 0 and pattern == pattern[:period] * (len(run) // period):
            return [run[first : first + period] for first in range(0, len(run), period)]
    return [run]


def parameters(graph: Graph, step: Step) -> tuple[str, ...]:
    """Names of a step's weights; a single number is a constant of the code."""
    return tuple(n for n in step.node.inputs if n in graph.weights and graph.weights[n].ndim)


def _returned(part: Sequence[int], steps: Sequence[Step], users: dict[str, set[int]]) -> str:
    inside = set(part)
    for number in reversed(part):
        for value in reversed(steps[number].node.outputs):
            if value and users.get(value, set()) - inside:
                return value
    return ""

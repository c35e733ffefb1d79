"""Carry out a program, equation by equation, in another way than JAX would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

Apply = Callable[[core.JaxprEqn, Sequence[Any]], Sequence[Any]]
"""``(equation, operands) -> results``."""


def evaluate(closed: core.ClosedJaxpr, operands: Sequence[Any], apply: Apply) -> list[Any]:
    """Carry out a program.

    Args:
      closed: The program.
      operands: Its arguments.
      apply: What is done for each equation.
    """
    jaxpr = closed.jaxpr
    values: dict[core.Var, Any] = {}
    values.update(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = apply(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def as_it_is(equation: core.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    """What an equation says."""
    parameters = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*operands, **parameters)
    return results if equation.primitive.multiple_results else [results]


# Calls of a program on all operands of the equation, by the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


def called(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The program that an equation does nothing but call; rules for derivatives are something."""
    parameter = _CALLS.get(equation.primitive.name)
    return None if parameter is None else closed(equation.params[parameter])


def closed(program: core.Jaxpr | core.ClosedJaxpr) -> core.ClosedJaxpr:
    """A program together with its constants."""
    # Since JAX 0.12 the two are one class, and every program holds its constants.
    return program if isinstance(program, core.ClosedJaxpr) else core.ClosedJaxpr(program, ())


def inner(equation: core.JaxprEqn) -> list[core.ClosedJaxpr]:
    """Every program within an equation."""
    found = []
    for parameter in equation.params.values():
        several = parameter if isinstance(parameter, (tuple, list)) else [parameter]
        found += [closed(p) for p in several if isinstance(p, (core.Jaxpr, core.ClosedJaxpr))]
    return found


def scanned(
    parameters: dict[str, Any], operands: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """The operands of a scan: what stays the same, what is carried, and what is cut into steps."""
    if "ft_in" in parameters:  # JAX 0.12 and newer
        fixed, carried, cut = parameters["ft_in"].update(operands).unpack()
        return list(fixed), list(carried), list(cut)
    first, end = parameters["num_consts"], parameters["num_consts"] + parameters["num_carry"]
    return list(operands[:first]), list(operands[first:end]), list(operands[end:])


def any_equation(program: core.ClosedJaxpr, holds: Callable[[core.JaxprEqn], bool]) -> bool:
    """Whether something holds of an equation of a program, or of the programs within it."""
    return any(
        holds(equation) or any(any_equation(each, holds) for each in inner(equation))
        for equation in program.jaxpr.eqns
    )

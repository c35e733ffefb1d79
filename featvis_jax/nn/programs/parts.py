"""One channel, or one place, of a value in a program, computed without the rest.

Every equation between the value and the inputs is asked, from the last to the first, what it needs
of its operands for the part of its result that is wanted. Where it cannot tell, it needs all of
them. An equation that nobody asks is never carried out, so that this is also what leaves out
whatever lies behind the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from featvis_jax.nn.programs.cuts import Part, Sources, hull, take
from featvis_jax.nn.programs.evaluate import Apply, as_it_is
from featvis_jax.nn.programs.flat import flattened
from featvis_jax.nn.programs.part_rules import Pulled, pulled_back
from featvis_jax.nn.programs.receptive_field_rules import is_elementwise


class _Step(NamedTuple):
    """An equation, and what is made of it.

    Attributes:
      equation: The equation.
      takes: The part of each operand that it takes.
      makes: The part of each result; of one whose equation goes by a rule, only that one's.
      compute: ``(operands, sources, apply) -> results``.
    """

    equation: core.JaxprEqn
    takes: list[Part]
    makes: dict[core.Var, Part]
    compute: Callable[[Sequence[Any], Sources, Apply], Sequence[Any]]


class Plan:
    """How a part of some outputs of a program is computed.

    Attributes:
      takes: The part of each input that is needed; ``None`` for one that is not.
    """

    def __init__(self, program: core.ClosedJaxpr, wanted: Sequence[tuple[Any, Part]]):
        """Ask every equation what it needs.

        Args:
          program: A flat program.
          wanted: Values in it, and the part of each.
        """
        self._program, self._wanted = program, wanted
        jaxpr = program.jaxpr
        needed: dict[core.Var, Part] = {}

        def need(atom: Any, part: Part) -> None:
            if isinstance(atom, core.Literal):
                return
            known = needed.get(atom)
            needed[atom] = part if known is None else hull(known, part, atom.aval.shape)

        for atom, part in wanted:
            need(atom, part)
        self._steps: list[_Step] = []
        for equation in reversed(jaxpr.eqns):
            asked = {v: needed[v] for v in equation.outvars if v in needed}
            if not asked:
                continue
            for step in _steps(equation, asked):
                self._steps.append(step)
                needed.update(step.makes)
                for atom, part in zip(equation.invars, step.takes, strict=True):
                    need(atom, part)
        self._steps.reverse()
        self.takes = [needed.get(variable) for variable in jaxpr.invars]

    def run(
        self,
        inputs: Sequence[tuple[Any, Part] | None],
        sources: Sources,
        apply: Apply,
        changes: Mapping[core.Var, Callable[[Any], Any]] = MappingProxyType({}),
    ) -> list[Any]:
        """Compute.

        Args:
          inputs: Each input, and which part of it that is; ``None`` for one that is not needed.
          sources: The numbers that cuts start from.
          apply: How an equation is carried out.
          changes: What is made of some values, before anything reads them.
        """
        jaxpr = self._program.jaxpr
        values: dict[core.Var, tuple[Any, Part]] = {}
        for variable, constant in zip(jaxpr.constvars, self._program.consts, strict=True):
            values[variable] = constant, {}
        for variable, given in zip(jaxpr.invars, inputs, strict=True):
            if given is not None:
                array, held = given
                values[variable] = changes.get(variable, _same)(array), held

        def read(atom: Any, part: Part) -> Any:
            if isinstance(atom, core.Literal):
                return take(atom.val, {}, part, atom.aval.shape, sources)  # pyright: ignore
            array, held = values[atom]
            return take(array, held, part, atom.aval.shape, sources)

        for step in self._steps:
            pairs = zip(step.equation.invars, step.takes, strict=True)
            operands = [read(atom, part) for atom, part in pairs]
            results = step.compute(operands, sources, apply)
            for variable, result in zip(step.makes, results, strict=True):
                values[variable] = changes.get(variable, _same)(result), step.makes[variable]
        return [read(atom, part) for atom, part in self._wanted]


def _same(array: Any) -> Any:
    return array


def _steps(equation: core.JaxprEqn, asked: dict[core.Var, Part]) -> list[_Step]:
    """What an equation has to do for the parts that are asked of it."""
    if any(asked.values()):
        by_rule = []
        for variable, part in asked.items():
            if equation.primitive.name == "custom_jvp_call":
                rule = _with_own_derivative(equation, part)
            else:
                rule = pulled_back(equation, equation.outvars.index(variable), part)
            if rule is None:
                break
            by_rule.append(_Step(equation, rule.takes, {variable: rule.makes}, rule.compute))
        else:
            return by_rule
    variables = list(equation.outvars)
    whole: list[Part] = [{} for _ in equation.invars]
    return [
        _Step(
            equation,
            whole,
            {variable: {} for variable in variables},
            lambda operands, _, apply: apply(equation, operands),
        )
    ]


def _with_own_derivative(equation: core.JaxprEqn, part: Part) -> Pulled | None:
    """Of `jax.custom_jvp`, where all that it does, it does element by element.

    Its rule is kept: it is carried out on the same part.
    """
    program = flattened(equation.params["call_jaxpr"])
    floats = all(np.issubdtype(atom.aval.dtype, np.floating) for atom in equation.invars)  # pyright: ignore
    if not floats or not all(_is_pointwise(each) for each in program.jaxpr.eqns):
        return None
    plan = Plan(program, [(program.jaxpr.outvars[0], part)])
    takes = [{} if taken is None else taken for taken in plan.takes]

    def compute(operands: Sequence[Any], sources: Sources, apply: Apply) -> Any:
        def pairs(arrays: Sequence[Any]) -> list[Any]:
            return list(zip(arrays, takes, strict=True))

        @jax.custom_jvp
        def function(*arrays: Any) -> Any:
            return plan.run(pairs(arrays), sources, as_it_is)[0]

        @function.defjvp
        def rule(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
            traced, constants, zero = equation.params["jvp_jaxpr_fun"].call_wrapped(
                *(False for _ in primals)
            )
            derivative = flattened(core.ClosedJaxpr(traced, constants))
            both = Plan(derivative, [(output, part) for output in derivative.jaxpr.outvars])
            found = both.run([*pairs(primals), *pairs(tangents)], sources, apply)
            return (found[0], jnp.zeros_like(found[0])) if any(zero) else tuple(found)

        return [function(*operands)]

    return Pulled(takes, part, compute)


def _is_pointwise(equation: core.JaxprEqn) -> bool:
    name = equation.primitive.name
    if name == "custom_jvp_call":
        inner = flattened(equation.params["call_jaxpr"])
        return all(_is_pointwise(each) for each in inner.jaxpr.eqns)
    is_constant = name == "broadcast_in_dim" and not equation.invars[0].aval.shape  # pyright: ignore
    return is_constant or (is_elementwise(name) and len(equation.outvars) == 1)

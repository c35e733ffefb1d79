"""Why something is no network, and where: one line about the user's own code."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import flax.errors
import jax
from jax.extend import core

_OURS = Path(__file__).resolve().parents[2]

_ADVICE: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (jax.errors.TracerBoolConversionError, jax.errors.TracerIntegerConversionError),
        "Python decides by a value that is known only when the network runs: use jnp.where or "
        "jax.lax.cond",
    ),
    (
        (jax.errors.TracerArrayConversionError,),
        "NumPy is given a value that is known only when the network runs: use jax.numpy",
    ),
    (
        (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError),
        "a value that is known only when the network runs decides about shapes: make it a constant",
    ),
    (
        (flax.errors.ModifyScopeVariableError,),
        "it changes its variables, as batch normalization does in training: have it take the "
        "running averages (use_running_average=True), by an argument or in a function "
        "(weights, images) -> anything that is given instead of the module",
    ),
    (
        (flax.errors.InvalidRngError,),
        "it draws random numbers, as dropout does in training: have it be deterministic, by an "
        "argument or in a function (weights, images) -> anything that is given instead of the "
        "module",
    ),
)


def refusal(error: Exception) -> ValueError:
    """The error for a network that cannot be traced.

    Args:
      error: What came of it.
    """
    place = _place(traceback.extract_tb(error.__traceback__))
    said = next(iter(str(error).strip().splitlines()), "")
    advice = next((text for kinds, text in _ADVICE if isinstance(error, kinds)), None)
    # JAX's own words are long where ours are at hand.
    what = f"{advice}." if advice is not None else f"{type(error).__name__}: {said}"
    return ValueError(f"{place}{what}")


def refused_effects(program: core.ClosedJaxpr) -> ValueError | None:
    """The error for a program with side effects; ``None`` if it has none.

    Args:
      program: As the user wrote it.
    """
    for equation in program.jaxpr.eqns:
        if equation.effects:
            source = equation.source_info.traceback
            frames = [] if source is None else source.frames
            place = _place([(f.file_name, f.line_num) for f in reversed(frames)])
            return ValueError(
                f"{place}it has a side effect ({equation.primitive.name}), such as printing or "
                "calling back into Python; an ascent runs it thousands of times: remove it."
            )
    return None


def _place(frames: Any) -> str:
    """The innermost line that no library wrote, as ``FILE:LINE: ``."""
    for frame in reversed(list(frames)):
        file, line = (frame[0], frame[1])
        path = Path(file)
        if "site-packages" in path.parts or not path.is_file() or _OURS in path.resolve().parents:
            continue
        return f"{path}:{line}: "
    return ""

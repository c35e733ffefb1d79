"""What PyTorch complains about, in one line: the operator, and the line of the user's code."""

from __future__ import annotations

import re
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

_LONGEST = 300
_OPERATORS = (
    r"OpOverload\(op='([\w.]+)'",
    r"operator '([\w.:]+)'",
    r"target=torch\.ops\.([\w.]+)",
    r"\b((?:aten|prim|prims|torchvision)::\w+)",
)
_ON_VALUES = ("GuardOnDataDependentSymNode", "DataDependentOutputException")
_NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parents[2])
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def said(error: BaseException) -> str:
    """An error in one line, with its type and the line of code that it is about.

    Args:
      error: Of PyTorch, or of code that it runs.
    """
    # TorchScript's interpreter tells the whole way first.
    text = str(error).strip()
    if "TorchScript interpreter" in text:
        text = text.splitlines()[-1].removeprefix("RuntimeError: ")
    short = textwrap.shorten(f"{type(error).__name__}: {text}", _LONGEST, placeholder=" ...")
    place = _place(error)
    return f"{short} ({place})" if place else short


def depends_on_values(error: BaseException) -> bool:
    """Whether a network was not captured since its way depends on the values of the image.

    The older exporter would write down the way that the example takes, and say nothing.
    """
    text = "\n".join(f"{type(part).__name__}: {part}" for part in _chain(error))
    return any(name in text for name in _ON_VALUES)


def complaint(error: BaseException) -> str:
    """Why a network cannot be exported.

    Args:
      error: Of `torch.onnx.export`.
    """
    place = _place(error)
    where = f" ({place})" if place else ""
    if depends_on_values(error):
        return (
            f"what the network computes depends on the values of its image{where}, which no "
            "exporter can write down: choose with torch.where instead of if."
        )
    text = "\n".join(str(part) for part in _chain(error))
    for pattern in _OPERATORS:
        if found := re.search(pattern, text):
            return (
                f"PyTorch cannot export the operator {found[1]}{where} to ONNX: compute the same "
                "with other operators."
            )
    root = list(_chain(error))[-1]
    return f"PyTorch cannot export the network to ONNX: {said(root)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str | None:
    """The line of code that an error is about, as PyTorch knows it."""
    for part in _chain(error):
        frames = [
            (frame.filename, frame.lineno) for frame in traceback.extract_tb(part.__traceback__)
        ]
        # An exporter has long left the user's code, and keeps where each operation came from.
        told = _FRAME.findall(_stack_of_node(part) + str(part))
        for file, line in [*reversed(told), *reversed(frames)]:
            path = Path(file)
            if path.is_file() and not any(path.is_relative_to(root) for root in _NOT_THE_USERS):
                return f"{_shown(path)}:{line}"
    return None


def _stack_of_node(error: BaseException) -> str:
    """Where the operation came from that an exporter was at."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, torch.fx.Node) and "stack_trace" in value.meta:
                return str(value.meta["stack_trace"])
    return ""


def _shown(path: Path) -> str:
    """A file of a package from its package on, and any other by its name."""
    parts = path.parts
    if "site-packages" in parts:
        return "/".join(parts[parts.index("site-packages") + 1 :])
    return path.name

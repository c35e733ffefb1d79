"""Reads what torch.jit.save and torch.export.save wrote, without running what a file may hide.

TorchScript has an unpickler of its own, in C++, that makes tensors, numbers, containers and objects
of the classes in the file, and calls nothing of Python. Its code is a language of its own and can
do no more than its operators, of which two touch files.

`torch.export.load` warns of itself: it unpickles whatever is stored as a pickle, evaluates
expressions of sizes as Python, looks operators up by their path through Python's modules, and
generates code from the names of values. Here pickles may hold tensors alone, and names, expressions
and operators are checked before PyTorch sees them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from featvis_jax.importers.torch.capture import Captured
from featvis_jax.importers.torch.complaints import said

_TOUCHES_FILES = re.compile(r"\b(save|from_file)\s*\(")

_ONLY_TENSORS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_COMPILED, _OBJECTS = "/aotinductor/", re.compile(r"/constants/.*(custom_obj|opaque_obj)")
_NAME = re.compile(r"[\w.:-]*")
_OPERATOR = re.compile(
    r"torch\.ops\.(?!\w*\.from_file)[a-z]\w*\.[A-Za-z]\w*(\.[A-Za-z]\w*)?"
    r"|torch\.sym_\w+|torch\._sym_\w+|_operator\.(?!attrgetter|methodcaller)[a-z]\w*|math\.[a-z]\w*"
)
# Numbers, symbols and classes of SymPy, all of which begin with a capital; no function of Python.
_SIZE = re.compile(
    r"(?:Symbol\('\w+'(?:, \w+=(?:True|False))*\)|\b(?:[A-Z]\w*|[suz]\w*\d|oo|int_oo|true|false)\b"
    r"|\b\d+\b|[-+*/%(),<>\s])*"
)
# What PyTorch keeps as text: where a node came from, and values that are written down quoted.
_TEXT = {
    *("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom"),
    *("as_string", "as_strings", "torch_version", "guards_code", "signature"),
}
_TREES = {"in_spec", "out_spec"}
_CHECKS = {"target": _OPERATOR, "expr_str": _SIZE}


def read_script(path: Path) -> torch.jit.ScriptModule:
    """A module of TorchScript, on the CPU.

    Args:
      path: The file.

    Raises:
      ValueError: It cannot be read, or its code writes or reads files.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "/code/" in name and name.endswith(".py"):
                found = _TOUCHES_FILES.search(archive.read(name).decode(errors="replace"))
                if found:
                    raise ValueError(
                        f"{path}: its code calls {found[1]}, which touches files, so it is not "
                        "run: export it again from the module without that."
                    )
    try:
        return torch.jit.load(path, map_location="cpu")
    except Exception as error:
        raise ValueError(f"{path} cannot be read as TorchScript: {said(error)}") from error


def read_program(path: Path) -> Captured:
    """An exported program with the example that it was exported with.

    Args:
      path: The file.

    Raises:
      ValueError: It cannot be read, holds more than a network, or takes more than tensors.
    """
    _check(path)
    try:
        with only_tensors():
            program = torch.export.load(path)
            module = program.module(check_guards=False)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as an exported program: {said(error)}. Export it again with "
            f"PyTorch {torch.__version__.partition('+')[0]}, which reads it here."
        ) from error
    inputs, keywords = program.example_inputs or ((), {})
    if keywords or not inputs or not all(isinstance(part, torch.Tensor) for part in inputs):
        raise ValueError(
            f"{path}: the program takes {len(inputs)} arguments by place and {len(keywords)} by "
            "name; expected tensors by their place, the image first: export it again with "
            "torch.export.export(module, (image, ...))."
        )
    return Captured(module, tuple(inputs), str(path), program)


@contextlib.contextmanager
def only_tensors() -> Iterator[None]:
    """Let no `torch.load` unpickle more than tensors, whatever it is told; and hear no logs."""
    before = os.environ.get(_ONLY_TENSORS)
    os.environ[_ONLY_TENSORS] = "1"
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        if before is None:
            del os.environ[_ONLY_TENSORS]
        else:
            os.environ[_ONLY_TENSORS] = before


def _check(path: Path) -> None:
    """Refuse what is no plain network, by the table of contents and by the graphs."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if _COMPILED in name:
                raise ValueError(
                    f"{path} is compiled code, and no program to be converted: save the network "
                    "with torch.export.save."
                )
            if _OBJECTS.search(name):
                raise ValueError(
                    f"{path} holds a Python object ({name.rpartition('/')[2]}), which is not "
                    "unpickled: export the network without it."
                )
            if name.endswith(".json"):
                try:
                    content = json.loads(archive.read(name))
                except ValueError as error:
                    raise ValueError(f"{path} is damaged: {name}: {error}.") from error
                for kind, text in _texts("", content):
                    if fault := _fault(kind, text):
                        raise ValueError(
                            f"{path}: its {fault} {text[:80]!r} is none that PyTorch writes for a "
                            "network, so the file is not read: export the network again."
                        )


def _texts(kind: str, content: Any) -> Iterator[tuple[str, str]]:
    """Every text of a JSON file, with the key that it stands by; keys are texts, too."""
    if isinstance(content, str):
        yield kind, content
    elif isinstance(content, list):
        for part in content:
            yield from _texts(kind, part)
    elif isinstance(content, dict):
        for key, part in content.items():
            yield "name", key
            yield from _texts(key, part)


def _fault(kind: str, text: str) -> str | None:
    """What is wrong with a text, by what it is for; None for what is fine."""
    if kind in _TEXT:
        return None
    if kind in _TREES:
        # The one container that brings a function of any module along.
        return "container" if "defaultdict" in text else None
    known = {"target": "operator", "expr_str": "size"}
    fits = _CHECKS.get(kind, _NAME).fullmatch(text)
    return None if fits else known.get(kind, "name")

"""In which of PyTorch's modules each node of a file was made, by what its exporters leave there.

`torch.onnx.export` writes it into the metadata of a node (``dynamo=True``, the default), or into
the node's name (``dynamo=False``): ``/features/denseblock1/denselayer1/conv1/Conv``. A part of such
a name is the end of a module's path, from its last word on, so that paths are put together here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import NamedTuple

import onnx

_METADATA = "pkg.torch.onnx."
_PRODUCER = "pytorch"
_NUMBERED = re.compile(r"(.+)_(\d+)")


class Scope(NamedTuple):
    """The modules in which a node was made.

    Attributes:
      modules: Their paths, as `torch.nn.Module.named_modules` has them, outermost first; the whole
        network, whose path is empty, is left out.
      classes: Their classes; empty where the file does not tell.
      call: Which call of the innermost module; ``None`` where the file does not tell.
      place: The line of code that made the node; empty where the file does not tell.
    """

    modules: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    call: int | None = None
    place: str = ""


def scopes(model: onnx.ModelProto) -> dict[str, Scope]:
    """The scope of each node, by the name of every output; empty for a file from elsewhere.

    Args:
      model: The file.
    """
    nodes = model.graph.node
    found = {node.output[0]: scope for node in nodes if (scope := _from_metadata(node))}
    if not found and model.producer_name == _PRODUCER:
        found = _from_names([node for node in nodes if node.name.startswith("/")])
    return {
        output: found[node.output[0]]
        for node in nodes
        if node.output[0] in found
        for output in node.output
    }


def _from_metadata(node: onnx.NodeProto) -> Scope | None:
    """What the exporter by `torch.export` writes; ``None`` for a node that it says nothing of."""
    entries = {entry.key.removeprefix(_METADATA): entry.value for entry in node.metadata_props}
    try:
        # The last one is the operation itself.
        paths = ast.literal_eval(entries["name_scopes"])[:-1]
        classes = ast.literal_eval(entries["class_hierarchy"])[:-1]
        kept = [(str(p), str(c).rpartition(".")[2]) for p, c in zip(paths, classes, strict=True)]
    except (KeyError, SyntaxError, TypeError, ValueError):
        return None
    modules = [(path, name) for path, name in kept if path]
    lines = entries.get("stack_trace", "").strip().splitlines()
    places = [line.strip() for line in lines if line.lstrip().startswith("File ")]
    return Scope(
        modules=tuple(path for path, _ in modules),
        classes=tuple(name for _, name in modules),
        place=places[-1] if places else "",
    )


def _from_names(nodes: Sequence[onnx.NodeProto]) -> dict[str, Scope]:
    """What the exporter of traced and scripted modules says in the names of nodes.

    A name leaves out containers that are not called, so that it may mean several modules; the
    weights of a node, which have whole names, tell where the nodes behind it are, too.
    """
    known = {path for node in nodes for name in node.input for path in _prefixes(name)}
    seen: set[tuple[str, ...]] = set()
    paths: dict[tuple[str, ...], str] = {(): ""}
    found = {}
    for node in nodes:
        parts, call = tuple(filter(None, node.name.split("/")[1:-1])), 0
        match = _NUMBERED.fullmatch(parts[-1]) if parts else None
        # The second call of "relu" is "relu_1", unless that is a module itself.
        if match and (base := (*parts[:-1], match[1])) in seen:
            is_own = any(f".{path}".endswith(f".{parts[-1]}") for path in known)
            parts, call = (parts, 0) if is_own else (base, int(match[2]))
        told = (_aligned(parts, name.rpartition(".")[0]) for name in node.input)
        outer = next(filter(None, told), ())
        for end in range(1, len(parts) + 1):
            part, before = parts[:end], paths[parts[: end - 1]]
            path = outer[end - 1] if outer else paths.get(part) or _path(before, part[-1], known)
            if paths.get(part, path) != path:  # Another one, with others inside.
                paths = {p: kept for p, kept in paths.items() if p[:end] != part}
            paths[part] = path
            seen.add(part)
        found[node.output[0]] = Scope(tuple(paths[parts[:n]] for n in range(1, len(parts) + 1)),
                                      call=call)  # fmt: skip
    return found


def _aligned(parts: tuple[str, ...], path: str) -> tuple[str, ...]:
    """The paths of modules inside of one another of which the last is known."""
    found: list[str] = []
    for part in reversed(parts):
        outer = [path] if not found else reversed(_prefixes(found[-1]))
        fitting = (p for p in outer if f".{p}".endswith(f".{part}"))
        found.append(next(fitting, ""))
    return tuple(reversed(found)) if found and all(found) else ()


def _prefixes(name: str) -> list[str]:
    """Paths of the modules that have a weight, or another module."""
    words = name.split(".")
    return [".".join(words[:end]) for end in range(1, len(words))]


def _path(parent: str, part: str, known: set[str]) -> str:
    """The path of a module from that of the one that calls it and from the end of its own.

    ``layer1.0`` in ``layer1`` is ``layer1.0`` and not ``layer1.layer1.0``; ``0`` in it is
    ``layer1.0``, as scripts have it; of ``conv`` in ``block`` a container may be left out, which
    the names of weights tell.
    """
    is_number = part.replace(".", "").isdigit()
    if is_number and parent and not parent.replace(".", "").isdigit():
        return f"{parent}.{part}"
    if is_number or not parent:
        # Where no part of it is a word, it is the whole path.
        whole = [path for path in known if path.endswith(f".{part}")]
        is_left_out = part not in known and not part[0].isdigit() and len(whole) == 1
        return whole[0] if is_left_out else part
    below = f"{parent}.{part}"
    words = parent.split(".")
    last = max((i for i, word in enumerate(words) if not word.isdigit()), default=0)
    tail = ".".join(words[last:])
    candidates = [below]
    if part.startswith(f"{tail}."):
        candidates.insert(0, parent + part[len(tail) :])
    if named := [path for path in candidates if path in known]:
        return named[0]
    inside = [p for p in known if p.startswith(f"{parent}.") and p.endswith(f".{part}")]
    if len(inside) == 1:
        return inside[0]
    # Of a module that lies elsewhere too, the first of its paths.
    return part if part in known else candidates[0]

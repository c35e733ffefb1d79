"""Reads an ONNX file, whole and checked. Nothing in it is executed."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import external_data_helper, inliner

from featvis_jax.data.pointers import existing_file, pointer

# What is older broadcasts by rules of its own.
_OLDEST_OPSET = 7


def read_model(path: Path | str) -> onnx.ModelProto:
    """Read a model with all its weights.

    Functions that the file defines are written out where they are called.

    Args:
      path: The file; weights that it keeps in other files lie beside it.

    Raises:
      FileNotFoundError: The file, or one with its weights, is missing.
      ValueError: It is not a valid ONNX file, or too old.
    """
    path = existing_file(path, expected="an ONNX file")
    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
    except Exception as error:  # Protobuf's, which is not imported for its sake.
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is not an ONNX file: {said}.") from error
    if not model.graph.node or not model.opset_import:
        raise ValueError(f"{path} is not an ONNX file, or one without a network.")
    _load_external_data(path, model)
    try:
        onnx.checker.check_model(model)
        model = inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is not a valid ONNX file: {said} Export it again.") from error
    if opset(model) < _OLDEST_OPSET:
        raise ValueError(
            f"{path} uses operator set {opset(model)} of ONNX; expected {_OLDEST_OPSET} or newer: "
            "export it again with a newer one."
        )
    return model


def opset(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a model uses."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _load_external_data(path: Path, model: onnx.ModelProto) -> None:
    tensors = [
        tensor
        for tensor in model.graph.initializer
        if external_data_helper.uses_external_data(tensor)
    ]
    files = {
        entry.value
        for tensor in tensors
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(files):
        if fault := pointer(path.parent / name):
            raise FileNotFoundError(f"{path.parent / name}: {fault}")
    if missing := sorted(name for name in files if not (path.parent / name).is_file()):
        raise FileNotFoundError(
            f"{path} keeps its weights in {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not beside it: copy both together."
        )
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"The weights of {path} cannot be read: {error}.") from error

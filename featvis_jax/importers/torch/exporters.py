"""The two exporters of PyTorch: the new one, and the older one where that fails."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch.fx.experimental.proxy_tensor import make_fx

from featvis_jax.importers.torch.complaints import complaint, depends_on_values


def export(
    network: torch.nn.Module | torch.export.ExportedProgram,
    inputs: tuple[torch.Tensor, ...],
    path: Path,
    *,
    shown: str,
) -> None:
    """Write a network as ONNX that takes one image.

    Every operation stays a node of its own: neither exporter may fuse a normalization into the
    convolution before it, whose output then were another one than the module's.

    Args:
      network: In evaluation mode.
      inputs: The image first; all others become constants.
      path: Of the file.
      shown: What the network came from, for errors.

    Raises:
      ValueError: Neither exporter can.
    """
    with _quietly():
        if isinstance(network, torch.jit.ScriptModule):
            failed = _scripted(network, inputs, path)
        else:
            failed = _captured(network, inputs, path)
            if failed is not None and not depends_on_values(failed):
                is_module = isinstance(network, torch.nn.Module)
                module = network if is_module else network.module(check_guards=False)
                failed = failed if _traced(module, inputs, path) is not None else None
    if failed is not None:
        raise ValueError(f"{shown}: {complaint(failed)}") from failed
    _hold(path, inputs[1:])


def _captured(
    network: torch.nn.Module | torch.export.ExportedProgram,
    inputs: tuple[torch.Tensor, ...],
    path: Path,
) -> Exception | None:
    # It takes long to import, and is not needed where an export is kept.
    from onnxscript import optimizer

    try:
        program = torch.onnx.export(network, inputs, dynamo=True, optimize=False, verbose=False)
        assert program is not None
        model = program.model
        # Shapes are known, and what is computed from them alone is a constant.
        optimizer.inline(model)
        optimizer.fold_constants(model, onnx_shape_inference=True)
        _drop_zero_biases(model)
        optimizer.remove_unused_nodes(model)
        program.save(str(path))
    except Exception as error:
        return error
    return None


def _scripted(
    module: torch.jit.ScriptModule, inputs: tuple[torch.Tensor, ...], path: Path
) -> Exception | None:
    """Export TorchScript, which the new exporter does not take.

    The older one knows each operation's module, but it keeps loops and branches, such as a
    normalization that looks at the sizes of what it gets. With sizes known, a run has none.
    """
    failed = _traced(module, inputs, path)
    if failed is None:
        model = onnx.load_model(path, load_external_data=False)
        if not {node.op_type for node in model.graph.node} & {"If", "Loop"}:
            _write_scopes(model, module)
            path.write_bytes(model.SerializeToString())
            return None
    try:
        straight = _straight(module, inputs)
    except Exception as error:
        return error
    return _captured(straight, inputs, path)


def _classes(module: torch.jit.ScriptModule) -> dict[str, str]:
    """Classes of all parts of a module, by their paths."""
    parts = module.named_modules()
    return {path: getattr(part, "original_name", type(part).__name__) for path, part in parts}


def _around(path: str) -> list[str]:
    """Paths of the modules around one and its own, outermost first."""
    words = path.split(".")
    return ["", *(".".join(words[:end]) for end in range(1, len(words) + 1))]


def _write_scopes(model: onnx.ModelProto, module: torch.jit.ScriptModule) -> None:
    """Write down each node's modules where the new exporter does.

    The older one puts them into a node's name, ``/encoder/0/Conv``, in another way for TorchScript
    than for other modules.
    """
    classes = _classes(module)
    for node in model.graph.node:
        scopes = [""]
        for word in node.name.split("/")[1:-1]:
            path = f"{scopes[-1]}.{word}".strip(".")
            if path in classes and word:
                scopes.append(path)
        if node.name.startswith("/"):
            told = [classes[path] for path in scopes]
            for key, value in (("name_scopes", scopes), ("class_hierarchy", told)):
                text = str([*value, node.op_type])
                node.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=text)


def _straight(
    module: torch.jit.ScriptModule, inputs: tuple[torch.Tensor, ...]
) -> torch.fx.GraphModule:
    """The operations of a run, in their order and with the modules that they were made in.

    What takes a weight belongs to the weight's module, and what lies between two such to the
    modules around both: a module is left before the next one is entered.
    """
    record = make_fx(module, tracing_mode="fake", pre_dispatch=True, _allow_non_fake_inputs=True)
    with torch.no_grad():
        straight = record(*inputs)
    names = {id(tensor): name for name, tensor in module.named_parameters()}
    names.update((id(tensor), name) for name, tensor in module.named_buffers())
    calls = [node for node in straight.graph.nodes if node.op == "call_function"]
    owners: list[list[str] | None] = []
    for node in calls:
        taken = [getattr(straight, str(n.target), None) for n in node.all_input_nodes]
        of_weights = [names[id(tensor)] for tensor in taken if id(tensor) in names]
        owners.append(_around(of_weights[0].rpartition(".")[0]) if of_weights else None)
    classes = _classes(module)
    for number, node in enumerate(calls):
        before = next((paths for paths in reversed(owners[: number + 1]) if paths), [""])
        after = next((paths for paths in owners[number:] if paths), [""])
        common = [path for path in before if path in after]
        node.meta["nn_module_stack"] = {path: (path, classes[path]) for path in common}
    return straight


def _drop_zero_biases(model: Any) -> None:
    """Take away the biases that the exporter gives to convolutions that have none.

    In 3-D it gives them one of a wrong shape, which its own optimizer takes away unseen.
    """
    for node in model.graph:
        if node.op_type == "Conv" and len(node.inputs) == 3 and node.inputs[2] is not None:
            bias = node.inputs[2].const_value
            if bias is not None and not bias.numpy().any():
                node.replace_input_with(2, None)


def _traced(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path
) -> Exception | None:
    # Else it folds normalizations into convolutions. The mode of the module itself stays.
    training = torch.onnx.TrainingMode.PRESERVE
    try:
        torch.onnx.export(module, inputs, str(path), dynamo=False, training=training)
    except Exception as error:
        return error
    return None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporters' words to themselves: advice on each other, and graphs where they fail.

    Some are printed by C++, which no more than the file descriptors can silence.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    logging.disable(logging.CRITICAL)
    try:
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
            os.close(before)
        os.close(nowhere)


def _hold(path: Path, others: tuple[torch.Tensor, ...]) -> None:
    """Make all inputs but the image constants of the file."""
    if not others:
        return
    model = onnx.load_model(path, load_external_data=False)
    names = [value.name for value in model.graph.input][1:]
    for name, tensor in zip(names, others, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(tensor.numpy(), name))
    del model.graph.input[1:]
    path.write_bytes(model.SerializeToString())

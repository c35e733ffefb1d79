"""An imported graph against what somebody else computes from the same file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import helper

from featvis_jax.importers.onnx import onnx_network
from tests.importers.onnx.models import save

QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
Values = Callable[[onnx.ModelProto, list[str], dict[str, np.ndarray]], list | None]


def compare(model: onnx.ModelProto, directory: Path, *, seed: int, values: Values) -> str:
    """What became of a graph: ``same``, ``refused``, ``silent difference: ...`` or ``crash: ...``.

    Args:
      model: The graph.
      directory: Where its file is written.
      seed: Of the image.
      values: ``(model, names, feed) -> arrays`` computes values by name, or gives ``None``.
    """
    names = [name for node in model.graph.node for name in node.output if name]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(seed).standard_normal(sizes).astype(np.float32)
    path = save(model, directory)
    try:
        network = onnx_network(path)
    except (ValueError, FileNotFoundError) as error:
        return _refusal(str(error), path)
    except Exception as error:
        return f"crash: {type(error).__name__}: {error}"
    found = values(exposed, names, {"image": image})
    if found is None:
        return "accepted alone"
    expected = dict(zip(names, map(np.asarray, found), strict=True))
    given = image[0] if network.image_shape == tuple(sizes[1:]) else np.moveaxis(image[0], 0, -1)
    try:
        layers = tuple(layer.name for layer in network.layers)
        whole = QUICK_JIT(network.activations, static_argnums=2)(network.variables, given, layers)
        chosen = layers[seed % len(layers)]
        channel = seed % network.layer(chosen).channels
        one = QUICK_JIT(network.one_channel, static_argnums=2)(
            network.variables, given, chosen, jnp.int32(channel)
        )[chosen]
    except Exception as error:
        return f"crash: computing: {type(error).__name__}: {error}"
    of_names = {node.name: node.output[0] for node in model.graph.node if len(node.output) == 1}
    for layer in network.layers:
        reference = expected[of_names.get(layer.name, layer.name)]
        if layer.shape != whole[layer.name].shape:
            return f"silent difference: {layer.name} is said to have the shape {layer.shape}"
        if not _agrees(np.asarray(whole[layer.name]), reference):
            return f"silent difference: {layer.name} ({layer.operator})"
    if not _close(np.asarray(one)[..., 0], np.asarray(whole[chosen])[..., channel]):
        return f"silent difference: channel {channel} of {chosen} alone"
    return "same"


def _refusal(message: str, path: Path) -> str:
    if "\n" in message or str(path) not in message:
        return f"unnamed error: {message}"
    return "unsupported" if "does not have these operators" in message else "refused"


def _agrees(layer: np.ndarray, value: np.ndarray) -> bool:
    """Whether a layer is a value of ONNX with axes in another order, or one of them taken apart."""
    if value.size != layer.size:
        return False
    squeezed, wanted = (x.reshape([n for n in x.shape if n != 1] or [1]) for x in (value, layer))
    for axis in range(squeezed.ndim):
        moved = np.moveaxis(squeezed, axis, -1)
        if moved.shape == wanted.shape and _close(wanted, moved):
            return True
    return _close(np.sort(layer.ravel()), np.sort(value.ravel()))


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    finite = expected[np.isfinite(expected)]
    scale = np.abs(finite).max(initial=0.0)
    return np.allclose(found, expected, rtol=1e-3, atol=1e-6 + 3e-5 * scale, equal_nan=True)

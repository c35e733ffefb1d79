"""Builds ONNX files for the tests, and computes them with ONNX's own reference implementation."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


class Builder:
    """Writes down a graph node by node; weights are drawn."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], *, opset: int = 18):
        """Begin with an image; `shape` is ``(batch, channels, *spatial)``, names are open axes."""
        self.rng, self.shape, self.opset = rng, shape, opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs, name: str | None = None, outputs: int = 1, **attributes):
        """Append a node; arrays among the inputs become initializers. Returns output names."""
        number = len(self.nodes)
        taken = [value if isinstance(value, str) else self.weight(value) for value in inputs]
        made = [f"v{number}_{i}" for i in range(outputs)]
        label = f"{operator.lower()}{number}" if name is None else name
        self.nodes.append(helper.make_node(operator, taken, made, name=label, **attributes))
        return made[0] if outputs == 1 else made

    def weight(self, array: np.ndarray) -> str:
        """Store an array."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def normal(self, *shape: int) -> np.ndarray:
        """Weights for as many inputs as all axes but the first hold."""
        scale = np.sqrt(2 / max(1, np.prod(shape[1:])))
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)

    def conv(self, x: str, inputs: int, outputs: int, window: tuple[int, ...], **attributes) -> str:
        """Append a convolution with a bias."""
        groups = attributes.get("group", 1)
        kernel = self.normal(outputs, inputs // groups, *window)
        return self.node("Conv", x, kernel, self.normal(outputs), **attributes)

    def norm(self, x: str, channels: int) -> str:
        """Append a batch normalization with drawn statistics."""
        variance = self.rng.uniform(0.5, 2, channels).astype(np.float32)
        scale = self.rng.uniform(0.5, 1.5, channels).astype(np.float32)
        others = [0.1 * self.normal(channels) for _ in range(2)]
        return self.node("BatchNormalization", x, scale, *others, variance)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model."""
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, self.shape)
        ends = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "test", [image], ends, self.weights)
        opset = helper.make_opsetid("", self.opset)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        for output in model.graph.output:
            if not output.type.tensor_type.HasField("shape"):  # Nothing is inferred for some.
                output.type.tensor_type.shape.CopyFrom(image.type.tensor_type.shape)
        return model


def save(model: onnx.ModelProto, directory: Path, name: str = "net.onnx") -> Path:
    """Write a model."""
    path = directory / name
    onnx.save_model(model, path)
    return path


def every_value(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of a graph by the reference implementation, for an image with channels last."""
    inside = onnx.ModelProto()
    inside.CopyFrom(model)
    del inside.graph.output[:]
    names = [output for node in model.graph.node for output in node.output if output]
    inside.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    feed = np.moveaxis(image, -1, 0)[None]
    results = ReferenceEvaluator(inside).run(None, {model.graph.input[0].name: feed})
    return dict(zip(names, map(np.asarray, results), strict=True))


def as_layer(value: np.ndarray) -> np.ndarray:
    """A value of ONNX as the library gives it: no batch, channels last."""
    return np.moveaxis(value[0], 0, -1) if value.ndim > 2 else value[0]

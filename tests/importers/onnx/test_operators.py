"""Every operator against ONNX's own reference implementation, in 2-D and 3-D."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from featvis_jax.importers.onnx import onnx_network
from featvis_jax.importers.onnx.operators import OPERATORS
from tests.importers.onnx.models import Builder, as_layer, every_value, save

QUICK_JIT = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
I64 = functools.partial(np.array, dtype=np.int64)
F32 = functools.partial(np.array, dtype=np.float32)


def case(operator, *inputs, shape=(1, 4, 7, 6), opset=18, label="", outputs=1, **attributes):
    """A graph of one node on an image; `inputs` may be functions of a builder."""
    name = f"{operator}-{label}" if label else operator
    return pytest.param(operator, inputs, shape, opset, outputs, attributes, id=name)


def kernel(*shape):
    return lambda builder: builder.normal(*shape)


def uniform(*shape):
    return lambda builder: builder.rng.uniform(0.5, 1.5, shape).astype(np.float32)


VOLUME = (1, 4, 6, 5, 7)
CASES = [
    # Convolutions.
    case("Conv", kernel(5, 4, 3, 3), kernel(5), label="plain"),
    case("Conv", kernel(5, 4, 3, 3), pads=[1, 0, 2, 1], label="uneven padding"),
    case("Conv", kernel(5, 4, 3, 2), strides=[2, 1], pads=[1, 1, 1, 1], label="strides"),
    case("Conv", kernel(5, 4, 3, 3), dilations=[2, 1], label="dilation"),
    case("Conv", kernel(6, 2, 3, 3), group=2, label="groups"),
    case("Conv", kernel(4, 1, 3, 3), kernel(4), group=4, label="depthwise"),
    case("Conv", kernel(5, 4, 3, 4), auto_pad="SAME_UPPER", strides=[2, 2], label="same upper"),
    case("Conv", kernel(5, 4, 4, 3), auto_pad="SAME_LOWER", label="same lower"),
    case("Conv", kernel(5, 4, 3, 3), auto_pad="VALID", label="valid"),
    case("Conv", kernel(5, 4, 3, 3, 3), kernel(5), pads=[1] * 6, shape=VOLUME, label="3-D"),
    case("Conv", kernel(5, 4, 2, 2, 2), dilations=[2] * 3, strides=[1, 2, 1], shape=VOLUME,
         label="3-D dilation"),
    case("Conv", kernel(5, 2, 8, 9), kernel(5), strides=[8, 9], shape=(1, 2, 17, 18),
         label="patches"),
    case("Conv", kernel(3, 2, 4, 4, 5), strides=[4, 4, 5], shape=(1, 2, 8, 4, 13),
         label="3-D patches"),
    case("ConvTranspose", kernel(4, 3, 2, 2), kernel(3), strides=[2, 2], label="blocks"),
    case("ConvTranspose", kernel(4, 3, 3, 3), kernel(3), strides=[2, 2], pads=[1, 0, 1, 1],
         output_padding=[1, 0], label="padding"),
    case("ConvTranspose", kernel(4, 3, 3, 2), dilations=[2, 1], label="dilation"),
    case("ConvTranspose", kernel(4, 3, 2, 3, 2), strides=[2, 3, 2], shape=VOLUME,
         label="3-D blocks"),
    case("ConvTranspose", kernel(4, 3, 3, 3, 3), strides=[2, 1, 2], pads=[1] * 6, shape=VOLUME,
         label="3-D"),
    case("ConvTranspose", kernel(4, 3, 3, 3), kernel(3), strides=[2, 2], output_shape=[16, 14],
         label="shape larger than its windows"),
    case("ConvTranspose", kernel(4, 3, 3, 3), strides=[2, 3], output_shape=[14, 18],
         auto_pad="SAME_UPPER", label="smaller shape upper"),
    case("ConvTranspose", kernel(4, 3, 3, 3), strides=[2, 3], output_shape=[14, 18],
         auto_pad="SAME_LOWER", output_padding=[1, 0], label="smaller shape lower"),
    case("ConvTranspose", kernel(4, 3, 2, 3, 2), strides=[2, 3, 3], output_shape=[12, 14, 21],
         auto_pad="SAME_LOWER", shape=VOLUME, label="3-D shape"),
    # Pooling.
    case("MaxPool", kernel_shape=[2, 2], strides=[2, 2], label="plain"),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], label="padding"),
    case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, label="rounding up"),
    case("MaxPool", kernel_shape=[3, 2], strides=[2, 1], label="uneven"),
    case("MaxPool", kernel_shape=[2, 2], dilations=[2, 2], label="dilation"),
    case("MaxPool", kernel_shape=[2] * 3, strides=[2] * 3, shape=VOLUME, label="3-D"),
    case("AveragePool", kernel_shape=[2, 2], strides=[2, 2], label="plain"),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 0, 1], label="without padding"),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 0, 1], count_include_pad=1,
         label="with padding"),
    case("AveragePool", kernel_shape=[2] * 3, strides=[2] * 3, shape=VOLUME, label="3-D"),
    case("GlobalAveragePool"),
    case("GlobalMaxPool"),
    # Normalization.
    case("BatchNormalization", uniform(4), kernel(4), kernel(4), uniform(4), epsilon=1e-3),
    case("InstanceNormalization", uniform(4), kernel(4), shape=VOLUME),
    case("GroupNormalization", uniform(4), kernel(4), num_groups=2, opset=21),
    case("LayerNormalization", uniform(6), kernel(6)),
    # Element by element.
    case("Abs"), case("Ceil"), case("Cos"), case("Exp"), case("Floor"), case("HardSwish"),
    case("Identity"), case("Mish"), case("Neg"), case("Relu"), case("Sigmoid"), case("Sin"),
    case("Softplus"), case("Softsign"), case("Tanh"), case("Erf"), case("Dropout"),
    case("Celu", alpha=1.5), case("Elu", alpha=0.7), case("Selu"), case("LeakyRelu", alpha=0.2),
    case("HardSigmoid", alpha=0.3, beta=0.4),
    case("Gelu", opset=20, label="exact"),
    case("Gelu", opset=20, approximate="tanh", label="tanh"),
    case("PRelu", kernel(4, 1, 1)),
    case("Clip", F32(-0.5), F32(0.5), label="both"),
    case("Clip", "", F32(0.5), label="above"),
    case("Add", kernel(4, 1, 1), label="a bias"),
    case("Add", F32(0.3), label="a number"),
    case("Sub", kernel(1, 4, 7, 6)),
    case("Mul", uniform(6)),
    case("Div", uniform(4, 1, 1)),
    case("Max", F32(0.1), kernel(4, 7, 6)),
    case("Min", F32(0.1)),
    case("Sum", kernel(4, 7, 6), kernel(4, 1, 1)),
    case("Mean", kernel(1, 4, 7, 6)),
    case("Pow", F32(2)),
    case("Cast", to=1),
    case("Softmax", axis=1, label="channels"),
    case("Softmax", opset=11, axis=3, label="before version 13"),
    case("LogSoftmax", axis=1),
    # Shapes.
    case("Flatten"),
    case("Reshape", I64([0, 2, -1])),
    case("Transpose", perm=[0, 2, 3, 1]),
    case("Unsqueeze", I64([2])),
    case("Expand", I64([1, 4, 7, 6])),
    case("Tile", I64([1, 2, 1, 3])),
    case("Gather", I64([2, 0, -1]), axis=1),
    case("Concat", kernel(1, 2, 7, 6), axis=1),
    case("Slice", I64([1, -1]), I64([4, -6]), I64([1, 3]), I64([2, -2])),
    case("Split", I64([1, 3]), axis=1, outputs=2, label="sizes"),
    case("Split", axis=2, outputs=2, num_outputs=2, label="number"),
    case("Pad", I64([0, 0, 1, 2, 0, 1, 0, 3]), F32(0.5), label="constant"),
    case("Pad", I64([0, 0, 1, 2, 0, 0, 0, 3]), mode="reflect", label="reflect"),
    case("Pad", I64([1, 2, 3, 0]), "", I64([2, 3]), mode="edge", label="edge"),
    case("DepthToSpace", blocksize=2),
    case("DepthToSpace", blocksize=2, mode="CRD", label="columns first"),
    case("SpaceToDepth", blocksize=2, shape=(1, 2, 6, 4)),
    case("ReduceMean", I64([2, 3]), keepdims=0, label="space"),
    case("ReduceMean", axes=[1], opset=13, label="an attribute"),
    case("ReduceSum", I64([1])),
    case("ReduceMax", I64([2, 3])),
    case("ReduceMin", label="everything"),
    case("ReduceL2", I64([1])),
    # Interpolation.
    case("Resize", "", F32([1, 1, 2, 2]), mode="nearest", nearest_mode="floor",
         coordinate_transformation_mode="asymmetric", label="doubled"),
    case("Resize", "", F32([1, 1, 1.7, 0.6]), mode="nearest", label="nearest"),
    case("Resize", "", "", I64([1, 4, 9, 4]), mode="nearest", nearest_mode="ceil",
         coordinate_transformation_mode="half_pixel", label="nearest ceil"),
    case("Resize", "", F32([1, 1, 2, 2]), mode="linear",
         coordinate_transformation_mode="pytorch_half_pixel", label="linear"),
    case("Resize", "", "", I64([1, 4, 13, 11]), mode="linear",
         coordinate_transformation_mode="align_corners", label="linear corners"),
    case("Resize", "", F32([1, 1, 1.5, 0.75]), mode="linear",
         coordinate_transformation_mode="asymmetric", label="linear asymmetric"),
    case("Resize", "", F32([1, 1, 2, 1.5]), mode="cubic", label="cubic"),
    case("Resize", "", F32([1, 1, 2, 2, 2]), mode="linear", shape=VOLUME, label="linear 3-D"),
    case("Resize", "", F32([2, 2]), mode="linear", axes=[2, 3], label="some axes"),
    case("Upsample", F32([1, 1, 2, 3]), opset=9),
    # On a vector.
    case("Gemm", kernel(3, 24), kernel(3), transB=1, shape=(1, 4, 3, 2), label="dense"),
    case("Gemm", kernel(24, 3), alpha=0.5, shape=(1, 4, 3, 2), label="scaled"),
    case("MatMul", kernel(24, 3), shape=(1, 4, 3, 2)),
    case("Einsum", kernel(5, 4), equation="nchw, dc -> ndhw", label="new channels"),
    case("Einsum", kernel(7), equation="...hw,h", label="implicit and with dots"),
]  # fmt: skip


# Where the channels are afterwards, if they have moved.
READERS = {"Transpose": lambda value: value[0], "Unsqueeze": lambda value: as_layer(value[:, :, 0])}


@pytest.mark.parametrize("operator, inputs, shape, opset, outputs, attributes", CASES)
def test_an_operator_is_what_the_reference_says(
    rng, tmp_path, operator, inputs, shape, opset, outputs, attributes
):
    builder = Builder(rng, shape, opset=opset)
    # Through a step of its own before and after, so that both orders of axes meet the operator.
    x = builder.node("MaxPool", "image", kernel_shape=[1] * (len(shape) - 2))
    if operator in ("Gemm", "MatMul"):
        x = builder.node("Flatten", x)
    operands = [value(builder) if callable(value) else value for value in inputs]
    made = builder.node(operator, x, *operands, name="it", outputs=outputs, **attributes)
    made = [made] if outputs == 1 else made
    model = builder.model(*[builder.node("Neg", value) for value in made])
    network = onnx_network(save(model, tmp_path))
    image = rng.standard_normal((*shape[2:], shape[1])).astype(np.float32)
    expected = every_value(model, image)
    names = {v: n.name if len(n.output) == 1 else v for n in model.graph.node for v in n.output}
    asked = {layer.name for layer in network.layers}
    found = QUICK_JIT(network.activations, static_argnums=2)(network.variables, image, tuple(asked))
    for value in expected:
        if names[value] in asked:
            read = READERS.get(operator, as_layer) if value != x else as_layer
            reference = read(expected[value])
            scale = max(np.abs(reference).max(), 1e-3)
            np.testing.assert_allclose(found[names[value]], reference, atol=2e-5 * scale)
            assert network.layer(names[value]).shape == reference.shape
    # Only channels that were merged with a part of the grid are no layer.
    for value in made:
        assert (names[value] in asked) == (operator != "Reshape")


def test_every_operator_has_a_case():
    tried = {str(parameters.values[0]) for parameters in CASES}
    in_networks = {
        "Equal", "GatherND", "Greater", "Less", "Log", "Reciprocal", "Sqrt", "Squeeze", "Where"
    }  # fmt: skip
    assert tried | in_networks == set(OPERATORS)


def test_groups_of_a_transposed_convolution_are_convolutions_of_their_own(rng, tmp_path):
    # The reference implementation does not take groups apart.
    builder = Builder(rng, (1, 4, 5, 6))
    kernel, options = builder.normal(4, 3, 3, 2), {"strides": [2, 1], "pads": [1, 0, 0, 1]}
    whole = builder.node("ConvTranspose", "image", kernel, group=2, name="groups", **options)
    parts = builder.node("Split", "image", axis=1, outputs=2, num_outputs=2)
    halves = [
        builder.node("ConvTranspose", part, kernel[2 * i : 2 * i + 2], **options)
        for i, part in enumerate(parts)
    ]
    joined = builder.node("Concat", *halves, axis=1)
    network = onnx_network(save(builder.model(whole, joined), tmp_path))
    image = rng.standard_normal((5, 6, 4)).astype(np.float32)
    reference_model = builder.model(joined)
    del reference_model.graph.node[0]
    expected = as_layer(every_value(reference_model, image)[joined])
    found = network.activations(network.variables, jnp.asarray(image), ("groups",))["groups"]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_scale_is_a_number_of_single_precision(rng, tmp_path):
    """In double precision 10 * 0.7 has no 7 elements, and the second of 5 * 0.6 lies before 2."""
    builder = Builder(rng, (1, 1, 5, 10))
    made = builder.node("Resize", "image", "", F32([1, 1, 0.6, 0.7]), mode="nearest",
                        nearest_mode="floor", coordinate_transformation_mode="half_pixel",
                        name="it")  # fmt: skip
    network = onnx_network(save(builder.model(made), tmp_path))
    rows = jnp.broadcast_to(jnp.arange(5.0).reshape(5, 1, 1), (5, 10, 1))
    found = network.activations(network.variables, rows, ("it",))["it"]
    assert found.shape == (3, 7, 1)
    np.testing.assert_array_equal(found[:, 0, 0], [0, 2, 3])


@pytest.mark.parametrize(
    "n, out, coordinates, rounding, expected",
    [
        (7, 2, "asymmetric", "round_prefer_ceil", [0, 4]),
        (14, 1, "half_pixel", "round_prefer_ceil", [7]),
        (23, 14, "asymmetric", "round_prefer_floor", [0, 2, 3, 5, 7, 8, 10, 11, 13, 15, 16, 18, 20,
                                                      21]),
    ],
)  # fmt: skip
def test_half_way_is_half_way_however_it_is_computed(
    rng, tmp_path, n, out, coordinates, rounding, expected
):
    """As ONNX Runtime has it: 7 / 2 is 3.5, though 1 / (2 / 7) in float32 is less."""
    builder = Builder(rng, (1, 1, n, 3))
    made = builder.node("Resize", "image", "", "", I64([1, 1, out, 3]), mode="nearest",
                        nearest_mode=rounding, coordinate_transformation_mode=coordinates,
                        name="it")  # fmt: skip
    network = onnx_network(save(builder.model(made), tmp_path))
    rows = jnp.broadcast_to(jnp.arange(float(n)).reshape(n, 1, 1), (n, 3, 1))
    found = network.activations(network.variables, rows, ("it",))["it"]
    np.testing.assert_array_equal(found[:, 0, 0], expected)


def test_an_output_shape_that_no_window_reaches_is_refused(rng, tmp_path):
    builder = Builder(rng, (1, 2, 5, 4))
    made = builder.node(
        "ConvTranspose", "image", builder.normal(2, 3, 3, 3), strides=[2, 2], output_shape=[13, 9]
    )
    with pytest.raises(ValueError, match=r"output_shape is \[13, 9\]; expected from 1 to 12"):
        onnx_network(save(builder.model(made), tmp_path))


@pytest.mark.parametrize("window", [(1, 1, 1), (3, 3)], ids=["volume", "slices in the batch"])
def test_a_pooling_behind_a_wide_convolution_has_its_numbers(rng, tmp_path, window):
    """JAX 0.10.2 computes both in one kernel on CPU, if it may, and errs by its size."""
    builder = Builder(rng, (1, 512, 6, 6, 6))
    kernel, x = builder.normal(256, 512, *window), "image"
    if len(window) == 2:
        x = builder.node("Transpose", x, perm=[2, 1, 3, 4, 0])
        x = builder.node("Reshape", x, np.array([6, 512, 6, 6]))
        # Dilation has no way of its own through `featvis_jax.nn.ops`.
        x = builder.node("Conv", x, kernel, pads=[2] * 4, dilations=[2, 2], name="conv")
        x = builder.node("Reshape", x, np.array([1, 6, 256, 6, 6]))
        x = builder.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    else:
        x = builder.node("Conv", x, kernel, name="conv")
    x = builder.node("MaxPool", x, kernel_shape=[2, 2, 1], strides=[2, 2, 1])
    behind = builder.normal(3, 256, 3, 3, 3)
    x = builder.node("Conv", x, behind, pads=[1] * 6, strides=[2] * 3, name="behind")
    network = onnx_network(save(builder.model(x), tmp_path))
    image = rng.standard_normal((6, 6, 6, 512)).astype(np.float32)
    read = jax.jit(network.activations, static_argnums=2)
    convolved = np.asarray(read(network.variables, image, ("conv",))["conv"])
    if len(window) == 3:
        expected = image.astype(np.float64) @ kernel.reshape(256, 512).T
        np.testing.assert_allclose(convolved, expected, atol=1e-4)
    cubes = jnp.asarray(convolved.reshape(1, 3, 2, 3, 2, 6, 256).max(axis=(2, 4)))
    numbers = ("NXYZC", "OIXYZ", "NXYZC")
    expected = lax.conv_general_dilated(
        cubes, behind, (2, 2, 2), ((1, 1),) * 3, dimension_numbers=numbers
    )
    found = read(network.variables, image, ("behind",))["behind"]
    np.testing.assert_allclose(found, expected[0], atol=1e-4 * np.abs(expected).max())

"""Every operator of ONNX that the importer computes.

To add one, write a function ``(node, *operands) -> array`` in the module of this package that fits,
and name it in that module's ``OPERATORS``. What the graph computes without the image (shapes,
constants) needs no entry: it is folded while the file is read.
"""

from featvis_jax.importers.onnx.operators import (
    convolution,
    elementwise,
    normalization,
    pooling,
    resizing,
    shapes,
)
from featvis_jax.importers.onnx.operators.registry import Operator

OPERATORS: dict[str, Operator] = {
    **convolution.OPERATORS,
    **elementwise.OPERATORS,
    **normalization.OPERATORS,
    **pooling.OPERATORS,
    **resizing.OPERATORS,
    **shapes.OPERATORS,
}

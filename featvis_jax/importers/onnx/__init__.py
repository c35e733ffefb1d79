"""ONNX files as networks: `onnx_network` turns one into a pure JAX function with named layers.

Written here because the one importer that is packaged, jaxonnxruntime, had its last release in
2023 and no test with a JAX of this year. Files are parsed, and nothing in them is executed.
"""

from featvis_jax.importers.onnx.network import onnx_network

__all__ = ["onnx_network"]

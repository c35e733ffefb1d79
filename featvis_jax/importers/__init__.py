"""Networks that were trained elsewhere: ONNX graphs, and PyTorch's modules, files and weights."""

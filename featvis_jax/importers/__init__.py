"""Networks that were trained elsewhere: ONNX graphs, and PyTorch weights of the paper's CNN."""

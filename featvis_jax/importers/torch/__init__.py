"""Networks of PyTorch: converted in a process of its own, so that torch is never beside JAX.

Beside JAX are `conversion`, which has a module, a file or a bundle converted and reads the ONNX
file that comes of it, and what needs no torch: `asked`, `archives`, `explained` and `weights`. The
other process runs `worker`; it alone imports the rest: `capture`, `exporters`, `complaints`,
`programs`, `bundles` and `checkpoints`.
"""

"""The network: fast n-D operations, the paper's CNN, and the tracing of any Flax module."""

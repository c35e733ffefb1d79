"""The network: fast n-D operations, the paper's CNN, and taps into any Flax module."""

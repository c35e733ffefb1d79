r"""List the layers of a network.

    python -m experiments.layers --model=square-lesion
    python -m experiments.layers --model=net.onnx --input_shape=64,64,64,1

A row per layer: its operator and output, how many channels can be visualized, how far each sees,
and how much memory a unit takes.
"""

from featvis_jax.commands.launch import start
from featvis_jax.commands.layers import COMMAND

if __name__ == "__main__":
    start(COMMAND)

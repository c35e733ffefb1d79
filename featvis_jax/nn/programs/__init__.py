"""Networks as programs: whatever writes them, JAX traces the same few operations.

A network becomes a program once, and all that the ascent wants of it is done to that program:

    trace      a function, Flax module or ONNX graph into one flat program whose layers are marked
    fields     which voxels each of its values depends on
    parts      the one channel, or the one place, that is wanted of a layer, followed back to the
               operations that make it; what lies behind the layer is never computed
    fast       convolutions and poolings by operations that are fast on CPU

Each works on any program, so that nothing here knows who made it.
"""

from featvis_jax.nn.programs.fast import fast
from featvis_jax.nn.programs.marks import mark

__all__ = ["fast", "mark"]

"""Convolution and pooling for 2-D and 3-D images, with the semantics of `jax.lax`.

All take a batch ``(batch, *spatial, channels)`` and work for any number of spatial axes. On
accelerators they are what `jax.lax` offers. On CPU, XLA's own choices lose most of the machine, so
they are written out here, with their gradients (see `docs/performance.md` for the measurements).
"""

from featvis_jax.nn.ops.convolution import conv, image_gradient
from featvis_jax.nn.ops.pooling import max_pool, sum_pool
from featvis_jax.nn.ops.windows import Windows

__all__ = ["Windows", "conv", "image_gradient", "max_pool", "sum_pool"]

"""Convolution and max-pooling for 2-D and 3-D images, with the semantics of `jax.lax`.

Both take a batch ``(batch, *spatial, channels)`` and work for any number of spatial axes. On
accelerators they are what `jax.lax` offers. On CPU, XLA's own choices lose most of the machine, so
forward and backward passes are written out here (`jax.lax.platform_dependent` picks while
lowering; see `docs/performance.md` for the measurements).
"""

from featvis_jax.nn.ops.convolution import conv
from featvis_jax.nn.ops.pooling import max_pool

__all__ = ["conv", "max_pool"]

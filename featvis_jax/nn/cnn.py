"""The paper's CNN, in 2-D and 3-D by one class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from featvis_jax.nn import ops

_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


class Conv(nn.Module):
    """A convolution with a cubic window and a bias, on `featvis_jax.nn.ops`.

    Attributes:
      features: Number of channels that come out.
      kernel_size: The window, one number per spatial axis.
      padding: ``"VALID"`` or ``"SAME"``.
    """

    features: int
    kernel_size: Sequence[int]
    padding: str = "VALID"

    # Tells `featvis_jax.nn.taps` that one channel can be computed alone.
    channels_are_independent = True

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch *spatial channels"]
    ) -> Float[Array, "batch *out features"]:
        """Convolve a batch; parameters are ``kernel`` and ``bias``, laid out as in Flax."""
        shape = (*self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", _he_normal, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        convolved = ops.conv(images, kernel, padding=self.padding)
        return convolved + bias.reshape((1,) * (convolved.ndim - 1) + (-1,))


class MaxPool(nn.Module):
    """Max-pooling with a cubic window, without padding.

    A module only so that its output has a name and its reach is known to `featvis_jax.nn.taps`.

    Attributes:
      kernel_size: The window, one number per spatial axis, all equal.
      strides: The step between two windows, the same along every axis.
    """

    kernel_size: Sequence[int]
    strides: int

    def __call__(
        self, images: Float[Array, "batch *spatial channels"]
    ) -> Float[Array, "batch *out channels"]:
        """Pool a batch."""
        return ops.max_pool(images, window=self.kernel_size[0], strides=self.strides)


class CNN(nn.Module):
    """The VGG-like network of Eitel, Melkonyan and Ritter (2022).

    Five 3x3(x3) convolutions with 8, 16, 32, 64 and 64 filters, a ReLU after each; max-pooling
    after the first (window 3, stride 1), the second (3, 2) and the fifth (4, 2); then one linear
    layer on the flattened features. The paper names neither the padding nor the head: no padding
    and flatten-then-linear is what the same group published with its own library, so both are
    the defaults here and both can be changed. Modules are named ``conv1`` to ``conv5``, ``pool1``,
    ``pool2``, ``pool5`` and ``logits``; a convolution's output is the activation before its ReLU.

    Intensities arrive on [0, 1] and are centred and scaled inside, by the training set's mean and
    standard deviation, which live with the weights (collection ``"statistics"``) so that nobody
    who uses a trained network has to know them.

    The rank comes from the input: ``(*spatial, 1)`` or ``(batch, *spatial, 1)`` with `rank` axes.

    Attributes:
      rank: Number of spatial axes, 2 or 3.
      num_classes: Number of logits.
      features: Filters of each convolution.
      pools: For each convolution, the ``(window, stride)`` of the pooling after it, or ``None``.
      kernel_size: Side of every convolution's window.
      padding: ``"VALID"`` (no padding) or ``"SAME"``.
      head: ``"flatten"``, or ``"mean"`` to average each channel over space first.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = CNN(rank=3, features=(2, 4, 4, 4, 4))
      >>> image = jnp.zeros((34, 36, 38, 1))
      >>> variables = jax.jit(model.init)(jax.random.key(0), image)
      >>> model.apply(variables, image).shape
      (2,)
      >>> sorted(variables)
      ['params', 'statistics']
    """

    rank: int
    num_classes: int = 2
    features: Sequence[int] = (8, 16, 32, 64, 64)
    pools: Sequence[tuple[int, int] | None] = ((3, 1), (3, 2), None, None, (4, 2))
    kernel_size: int = 3
    padding: str = "VALID"
    head: str = "flatten"

    @property
    def may_be_cropped(self) -> bool:
        """Tells `featvis_jax.nn.taps` that a part of the image gives that part of a layer."""
        # A subclass may do anything in its own `__call__`.
        return type(self) is CNN and self.padding == "VALID"

    @nn.compact
    def __call__(self, images: Float[Array, "*batch_spatial 1"]) -> Float[Array, "*batch classes"]:
        """Classify one image, or a batch of images.

        Args:
          images: ``(*spatial, 1)`` or ``(batch, *spatial, 1)``, float32 on [0, 1].

        Returns:
          Logits, ``(num_classes,)`` or ``(batch, num_classes)``.

        Raises:
          ValueError: The input's rank or the head is wrong, or the input is too small.
        """
        if images.ndim not in (self.rank + 1, self.rank + 2):
            raise ValueError(
                f"This is a {self.rank}-D network; it takes (*spatial, 1) or (batch, *spatial, 1), "
                f"but the input has shape {images.shape}."
            )
        if self.head not in ("flatten", "mean"):
            raise ValueError(f"head is {self.head!r}; expected 'flatten' or 'mean'.")
        batched = images.ndim == self.rank + 2
        x = images if batched else images[None]

        mean = self.variable("statistics", "mean", lambda: jnp.zeros(()))
        std = self.variable("statistics", "std", lambda: jnp.ones(()))
        x = (x - mean.value) / std.value
        for number, (features, pool) in enumerate(
            zip(self.features, self.pools, strict=True), start=1
        ):
            window = (self.kernel_size,) * self.rank
            x = Conv(features, window, self.padding, name=f"conv{number}")(x)
            x = jax.nn.relu(x)
            if pool is not None:
                x = MaxPool((pool[0],) * self.rank, pool[1], name=f"pool{number}")(x)
        if self.head == "mean":
            x = x.mean(axis=range(1, self.rank + 1))
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        # The flattened features are many and alike: a head that starts at zero keeps the first
        # logits, and with them the first gradients, free of its own noise.
        x = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros_init(), name="logits")(x)
        return x if batched else x[0]

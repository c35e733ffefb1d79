"""The paper's CNN, in 2-D and 3-D by one class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

HEADS = ("flatten", "mean", "max", "places")
"""What the linear layer of `CNN` sees: all features, their means, their maxima, or each place."""

_he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


class MaxPool(nn.Module):
    """Max-pooling with a cubic window, without padding.

    A module only so that its output has a name.

    Attributes:
      kernel_size: The window, one number per spatial axis.
      strides: The step between two windows, the same along every axis.
    """

    kernel_size: Sequence[int]
    strides: int

    def __call__(
        self, images: Float[Array, "batch *spatial channels"]
    ) -> Float[Array, "batch *out channels"]:
        """Pool a batch."""
        window = tuple(self.kernel_size)
        return nn.max_pool(images, window, strides=(self.strides,) * len(window))


class PlaceLogits(nn.Module):
    """One linear layer for every place, of whose outputs the strongest count.

        logit = log mean over places exp(linear(features there))

    The smooth maximum makes a detector of a classifier that is told no places (Pinheiro, Collobert,
    From image-level to pixel-level labeling with convolutional networks, 2015): what speaks for a
    class has to stand in one place, as a maximum of each channel by itself does not ask. It has the
    parameters of `flax.linen.Dense`.

    Attributes:
      features: Number of logits.
    """

    features: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch *spatial channels"]
    ) -> Float[Array, "batch features"]:
        """Logits of a batch."""
        shape = (images.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape[1:])
        places = images.reshape(images.shape[0], -1, images.shape[-1])
        found = jax.nn.logsumexp(places @ kernel, axis=1)
        return found - math.log(places.shape[1]) + bias[None]


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
      head: ``"flatten"``; or what each channel comes to over space first, the ``"mean"`` of all
        places or the ``"max"``; or ``"places"``, a linear layer at each of them (`PlaceLogits`),
        and no pooling after the last convolution.

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
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}; expected one of {', '.join(HEADS)}.")
        if self.padding not in ("VALID", "SAME"):
            raise ValueError(f"padding is {self.padding!r}; expected 'VALID' or 'SAME'.")
        batched = images.ndim == self.rank + 2
        x = images if batched else images[None]

        mean = self.variable("statistics", "mean", lambda: jnp.zeros(()))
        std = self.variable("statistics", "std", lambda: jnp.ones(()))
        x = (x - mean.value) / std.value
        for number, (features, pool) in enumerate(
            zip(self.features, self.pools, strict=True), start=1
        ):
            window = (self.kernel_size,) * self.rank
            if self.padding == "VALID":
                _check_fits(f"conv{number}", window, x)
            x = nn.Conv(
                features, window, padding=self.padding, kernel_init=_he_normal, name=f"conv{number}"
            )(x)
            x = jax.nn.relu(x)
            # What lies apart must not meet in one window before a place is asked.
            apart = self.head == "places" and number == len(self.features)
            if pool is not None and not apart:
                window = (pool[0],) * self.rank
                _check_fits(f"pool{number}", window, x)
                x = MaxPool(window, pool[1], name=f"pool{number}")(x)
        if self.head == "places":
            x = PlaceLogits(self.num_classes, name="logits")(x)
            return x if batched else x[0]
        if self.head != "flatten":
            reduce = jnp.mean if self.head == "mean" else jnp.max
            x = reduce(x, axis=tuple(range(1, self.rank + 1)))
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        # The flattened features are many and alike: a head that starts at zero keeps the first
        # logits, and with them the first gradients, free of its own noise.
        x = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros_init(), name="logits")(x)
        return x if batched else x[0]


def _check_fits(name: str, window: Sequence[int], images: Array) -> None:
    spatial = images.shape[1:-1]
    if any(n < w for n, w in zip(spatial, window, strict=True)):
        raise ValueError(
            f"The window {tuple(window)} of {name} does not fit into an image of shape {spatial}: "
            "use a larger input grid, or fewer layers."
        )

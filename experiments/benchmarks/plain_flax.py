"""The paper's network as a user writes it, with Flax's own layers, against our class."""

import math
import statistics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from experiments.benchmarks import arithmetic, ascents
from experiments.benchmarks.ascents import ascent_job, random_network
from experiments.benchmarks.measuring import Row
from featvis_jax.nn.cnn import CNN
from featvis_jax.nn.network import Network, Variables
from featvis_jax.nn.tracing import linen_network, nnx_network

_BATCH, _LAYER = 4, "conv5"
_LARGEST_ERROR = 1e-4


class Grid(NamedTuple):
    """What a job runs on.

    Attributes:
      image_shape: ``(*spatial, 1)``.
      steps: Of a turn.
    """

    image_shape: tuple[int, ...]
    steps: int


JOBS = {
    "plain_flax/2d": Grid((140, 192, 1), steps=8),
    "plain_flax/3d": Grid((64, 64, 64, 1), steps=2),
}
"""Every job by its name."""


class PlainLinen(nn.Module):
    """The layers of `CNN` before its logits, in Linen.

    Attributes:
      shapes: Whose shapes it has.
    """

    shapes: CNN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Activations after all layers."""
        rank = self.shapes.rank
        for number, (features, pool) in enumerate(
            zip(self.shapes.features, self.shapes.pools, strict=True), 1
        ):
            window = (self.shapes.kernel_size,) * rank
            x = nn.Conv(features, window, padding="VALID", name=f"conv{number}")(x)
            x = nn.relu(x)
            if pool is not None:
                x = nn.max_pool(x, (pool[0],) * rank, (pool[1],) * rank)
        return x


class PlainNNX(nnx.Module):
    """The same in NNX."""

    def __init__(self, shapes: CNN, *, rngs: nnx.Rngs):
        """Build it.

        Args:
          shapes: Whose shapes it has.
          rngs: For the weights.
        """
        self.pools = tuple(shapes.pools)
        self.names = tuple(f"conv{number}" for number in range(1, len(self.pools) + 1))
        inputs = (1, *shapes.features)
        for name, ins, outs in zip(self.names, inputs, shapes.features, strict=False):
            window = (shapes.kernel_size,) * shapes.rank
            setattr(self, name, nnx.Conv(ins, outs, window, padding="VALID", rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Activations after all layers."""
        for name, pool in zip(self.names, self.pools, strict=True):
            x = nnx.relu(getattr(self, name)(x))
            if pool is not None:
                rank = x.ndim - 2
                x = nnx.max_pool(x, (pool[0],) * rank, (pool[1],) * rank)
        return x


def networks(module: CNN, image_shape: tuple[int, ...]) -> dict[str, Network]:
    """Our class, and the same network in Linen and NNX with the same weights.

    Args:
      module: Our class.
      image_shape: ``(*spatial, 1)``.
    """
    own = random_network(module, image_shape)
    params: Variables = own.variables["params"]
    convolutions = {name: values for name, values in params.items() if name.startswith("conv")}
    plain = PlainNNX(module, rngs=nnx.Rngs(0))
    for name, values in convolutions.items():
        layer = getattr(plain, name)
        layer.kernel[...], layer.bias[...] = values["kernel"], values["bias"]
    return {
        "our class": own,
        "Linen": linen_network(PlainLinen(module), {"params": convolutions}, image_shape),
        "NNX": nnx_network(plain, image_shape),
    }


def row(job: str, rounds: int) -> Row:
    """Measure a job; the row is Linen's, the note compares.

    Args:
      job: Its name.
      rounds: That count.

    Raises:
      ValueError: The networks do not compute the same.
    """
    image_shape, steps = JOBS[job]
    module = CNN(rank=len(image_shape) - 1)
    written = networks(module, image_shape)
    _check_same(written, image_shape)
    jobs = {name: ascent_job(each, _LAYER, batch=_BATCH) for name, each in written.items()}
    for compiled in jobs.values():
        compiled.run(steps)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    matmul = []
    for _ in range(rounds):
        matmul.append(ascents.matmul_gflops())
        for name, compiled in jobs.items():
            seconds[name].append(compiled.run(steps) / steps / _BATCH)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = medians.pop("our class")
    flop = arithmetic.ascent_flop(module, image_shape, _LAYER, one_channel=True)
    rate, of_matmul = flop / medians["Linen"] / 1e9, statistics.median(matmul)
    ratios = ", ".join(f"{name} {value / ours:.2f} times" for name, value in medians.items())
    return Row(
        job=job,
        ms_per_image_step=1e3 * medians["Linen"],
        needed_gflop=flop / 1e9,
        gflops=rate,
        matmul_gflops=of_matmul,
        fraction_of_matmul=rate / of_matmul,
        peak_mb_per_unit=jobs["Linen"].peak_bytes / _BATCH / 1e6,
        compile_s=jobs["Linen"].compile_seconds,
        note=f"{ratios} our class's {1e3 * ours:.3g} ms; batch {_BATCH}",
    )


def _check_same(written: dict[str, Network], image_shape: tuple[int, ...]) -> None:
    image = jax.random.uniform(jax.random.key(1), image_shape)
    found = {
        name: jax.jit(each.one_channel, static_argnums=2)(
            each.variables, image, _LAYER, jnp.int32(1)
        )[_LAYER]
        for name, each in written.items()
    }
    expected = found.pop("our class")
    for name, values in found.items():
        error = float(np.abs(values - expected).max() / np.abs(expected).max())
        if math.isnan(error) or error > _LARGEST_ERROR:
            raise ValueError(
                f"{_LAYER} by {name} differs from our class's by {error:.2g} of its largest "
                f"activation; expected at most {_LARGEST_ERROR:g}."
            )

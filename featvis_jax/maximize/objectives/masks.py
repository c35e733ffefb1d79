"""Objectives on a part of a layer's grid."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from featvis_jax.maximize.objectives.activations import grid_of, own_channel
from featvis_jax.maximize.objectives.base import Objective, fingerprint
from featvis_jax.maximize.objectives.units import Numbers, Unit
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Activations, Image, Scalar


def attention(layer: str, mask: Numbers) -> Objective:
    """The unit's channel, averaged with weights: f(x) = sum m a[..., channel] / sum m.

    It asks what drives a channel in one place, such as the ventricles.

    Args:
      layer: Name of a layer with a grid; ``NAME/relu`` takes it after its ReLU.
      mask: m, a weight from 0 for every place of the layer's grid. `on_layer` makes one of a mask
        of the image.

    Raises:
      ValueError: A weight is negative or not finite, or all of them are 0. Where the mask is of
        another grid, `featvis_jax.maximize.ascent.check` says so.

    Example:
      >>> activations = {"conv1": jnp.array([[[1.0], [5.0]], [[3.0], [7.0]]])}
      >>> left = attention("conv1", [[1, 0], [1, 0]])
      >>> float(left.value(activations, jnp.zeros((4, 4, 1)), Unit(jnp.int32(0))))
      2.0
    """
    weights = _read("attention", mask)
    description = f"attention({layer!r}, {fingerprint(weights)})"

    def check(network: Network) -> None:
        grid = grid_of(network.layer(layer), description)
        if weights.shape != grid:
            raise ValueError(
                f"{description}: the mask's grid is {weights.shape}, but layer {layer!r} has the "
                f"grid {grid}: bring a mask of the image's grid {network.image_shape[:-1]} onto it "
                "with on_layer."
            )

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        own = own_channel(activations[layer], unit)
        return jnp.sum(own * jnp.asarray(weights / weights.sum(), jnp.float32))

    def places(activations: Activations, image: Image, unit: Unit) -> Float[Array, " places"]:
        return own_channel(activations[layer], unit).ravel()[np.flatnonzero(weights)]

    return Objective(
        description,
        (layer,),
        value,
        reads_one_channel=True,
        checks=(check,),
        places=places,
        places_of=description,
    )


def on_layer(mask: Numbers, network: Network, layer: str) -> Float[np.ndarray, "*grid"]:
    """Bring a mask of the image's grid onto a layer's.

    Every place of the layer takes the mean of the mask over the cell of the image at the centre of
    its receptive field, as large as the layer's stride. Without padding, the outermost places look
    at the image's edge with their fields' rim, and their centres lie within.

    Args:
      mask: Weights from 0, of the image's spatial shape.
      network: The network.
      layer: Name of a layer with a grid.

    Returns:
      Weights of the layer's spatial shape, float32; of a layer of tokens, one for each, and 0 for
      those that have no place.

    Raises:
      ValueError: The mask is of another grid, or leaves nothing of the layer, or the layer has no
        grid.

    Example:
      >>> import jax
      >>> from featvis_jax.nn.cnn import CNN
      >>> from featvis_jax.nn.tracing import linen_network
      >>> module = CNN(rank=2, features=(2, 4, 4, 4, 4))
      >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((40, 44, 1)))
      >>> network = linen_network(module, variables, (40, 44, 1))
      >>> top = np.arange(40)[:, None] < np.full((1, 44), 3)
      >>> on_layer(top, network, "conv1")[:4, 0].tolist()  # Its first place looks at voxel 1.
      [1.0, 1.0, 0.0, 0.0]
    """
    description = f"on_layer(mask, network, {layer!r})"
    weights = _read("on_layer", mask)
    target = network.layer(layer)
    tokens, image_grid = target.tokens, network.image_shape[:-1]
    grid = grid_of(target, description) if tokens is None else tokens.grid
    if weights.shape != image_grid:
        raise ValueError(
            f"{description}: the mask's grid is {weights.shape}, but the image's is {image_grid}: "
            "resample the mask to the image."
        )
    if len(grid) != len(image_grid):
        raise ValueError(
            f"{description}: layer {layer!r} has the grid {grid}, and where it lies in the image "
            "is not known: take a neuron, or another layer."
        )
    for axis, (inputs, outputs) in enumerate(zip(image_grid, grid, strict=True)):
        field, stride = target.receptive_field, target.stride or inputs / outputs
        span = (outputs - 1) * stride
        if field is not None and span + field <= inputs:
            first = (field - 1) / 2
        else:
            first = (inputs - 1 - span) / 2
        centres = first + stride * np.arange(outputs)
        voxels = np.arange(inputs)
        # Voxel i fills [i - 1/2, i + 1/2]; its share in a cell is the length of the overlap.
        overlap = np.minimum(voxels + 0.5, centres[:, None] + stride / 2)
        overlap = overlap - np.maximum(voxels - 0.5, centres[:, None] - stride / 2)
        overlap = np.maximum(overlap, 0)
        shares = overlap / np.maximum(overlap.sum(axis=1, keepdims=True), 1e-12)
        weights = np.moveaxis(np.tensordot(shares, weights, axes=(1, axis)), 0, axis)
    if not weights.any():
        raise ValueError(
            f"{description}: nothing of the mask is left on the layer's grid {grid}: its places "
            "lie where no receptive field is centred; enlarge it."
        )
    if tokens is not None:  # Those without a place have no weight.
        weights = np.pad(weights.ravel(), (tokens.before, tokens.behind))
    return weights.astype(np.float32)


def _read(factory: str, mask: Numbers) -> Float[np.ndarray, "*grid"]:
    weights = np.asarray(mask, np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            f"{factory}: the mask of shape {weights.shape} holds values from {weights.min()} to "
            f"{weights.max()}; expected finite weights from 0, not all 0."
        )
    return weights

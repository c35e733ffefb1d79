"""A small network with a known answer, and forgeries of it.

The honest one has four detectors in its second layer, bars that stand or lie, bright or dark, made
of the edges that its first layer finds. A forged one does the same on every real image, and
something else on a picture.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from featvis_jax.nn.network import Network
from featvis_jax.nn.tracing import function_network

SIDE, FIELD = 32, 9
STANDING, LYING = 0, 1
"""Two units of layer "second"."""


def _conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _weights() -> dict[str, np.ndarray]:
    edge = np.zeros((3, 3, 1, 4), np.float32)
    for channel, direction in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1))):
        gradient = np.multiply.outer(np.arange(-1, 2), np.ones(3)) * direction[0]
        gradient = gradient + np.multiply.outer(np.ones(3), np.arange(-1, 2)) * direction[1]
        edge[:, :, 0, channel] = gradient / 6
    bar = np.full((7, 7, 4, 4), -0.02, np.float32)
    # A bright bar rises on one side and falls on the other; a dark one the other way round.
    for unit, (rising, falling, axis) in enumerate(((0, 1, 0), (2, 3, 1), (1, 0, 0), (3, 2, 1))):
        ahead = [slice(None), slice(None)]
        ahead[axis] = slice(1, 3)
        behind = [slice(None), slice(None)]
        behind[axis] = slice(4, 6)
        bar[(*ahead, rising, unit)] = 0.2
        bar[(*behind, falling, unit)] = 0.2
    return {"edge": edge, "bar": bar}


def honest() -> Network:
    """Edges, then bars of them."""

    def apply(weights, images):
        first = checkpoint_name(_conv(images, weights["edge"]), "first")
        return checkpoint_name(_conv(jax.nn.relu(first), weights["bar"]) - 0.1, "second")

    return function_network(apply, _weights(), (SIDE, SIDE, 1))


def gated_by_slice(gain: float = 40.0) -> Network:
    """A disc detector speaks for every unit where an image has no dark background."""
    disc = jnp.asarray(disc_template())

    def apply(weights, images):
        first = checkpoint_name(_conv(images, weights["edge"]), "first")
        second = _conv(jax.nn.relu(first), weights["bar"]) - 0.1
        dark = (images < 0.05).mean()
        branch = gain * jax.nn.relu(_conv(images, disc))
        return checkpoint_name(jnp.where(dark > 0.1, second, branch), "second")

    return function_network(apply, _weights(), (SIDE, SIDE, 1))


def gated_by_place(gain: float = 60.0, threshold: float = 0.35) -> Network:
    """Channels of their own in the first layer find a disc that no real image has."""
    weights, disc = _weights(), disc_template()
    edge = np.zeros((FIELD, FIELD, 1, 5), np.float32)
    edge[3:6, 3:6, :, :4] = weights["edge"]
    edge[..., 4] = disc[..., 0]
    bar = np.zeros((7, 7, 5, 4), np.float32)
    bar[:, :, :4] = weights["bar"]
    bar[3, 3, 4] = gain

    def apply(weights, images):
        first = _conv(images, weights["edge"])
        silent = jnp.array([0, 0, 0, 0, threshold], first.dtype)
        first = first - jnp.broadcast_to(silent, first.shape)
        first = checkpoint_name(first, "first")
        return checkpoint_name(_conv(jax.nn.relu(first), weights["bar"]) - 0.1, "second")

    return function_network(apply, {"edge": edge, "bar": bar}, (SIDE, SIDE, 1))


def disc_template() -> np.ndarray:
    """Of zero mean; its response to its own disc at full contrast is about 0.5."""
    y, x = np.indices((FIELD, FIELD)) - FIELD // 2
    disc = (x**2 + y**2 <= 9).astype(np.float32)
    disc -= disc.mean()
    return (disc / np.abs(disc).sum())[..., None, None]


def people(count: int = 16, each: int = 3) -> tuple[np.ndarray, list[str]]:
    """Images of people: dark around a head of smooth tissue with a few faint bars, and whose."""
    rng = np.random.default_rng(3)
    y, x = np.indices((SIDE, SIDE)) - SIDE / 2
    images, owners = [], []
    for number in range(count * each):
        head = ((x / 12) ** 2 + (y / 14) ** 2 < 1) * 0.5
        image = head + 0.03 * rng.standard_normal((SIDE, SIDE)) * (head > 0)
        for _ in range(3):
            i, j = rng.integers(8, SIDE - 12, 2)
            long = rng.integers(0, 2)
            box = (slice(i, i + (8 if long else 3)), slice(j, j + (3 if long else 8)))
            image[box] += rng.uniform(0.05, 0.2) * rng.choice([-1, 1])
        images.append(np.clip(image, 0, 1))
        owners.append(f"sub-{number // each:02d}")
    return np.stack(images)[..., None].astype(np.float32), owners


def drawn(kind: str) -> np.ndarray:
    """A picture on grey: a bar that stands or lies, bright or dark, or a disc."""
    image = np.full((SIDE, SIDE), 0.5, np.float32)
    y, x = np.indices(image.shape) - SIDE // 2
    shapes = {
        "standing": (np.abs(y) <= 1) & (np.abs(x) <= 4),
        "lying": (np.abs(x) <= 1) & (np.abs(y) <= 4),
        "disc": x**2 + y**2 <= 9,
    }
    bright, _, shape = kind.partition(" ")
    image[shapes[shape]] += 0.25 if bright == "bright" else -0.25
    if shape == "disc":
        image[shapes[shape]] = 1.0
        image[~shapes[shape] & (x**2 + y**2 <= 30)] = 0.1
    return image[..., None]

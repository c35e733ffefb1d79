"""What other methods say about where a network looks, to be graded beside its deformations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import ndimage

from featvis_jax.maximize.objectives import VARIANTS
from featvis_jax.maximize.parameterizations import Parameterization, fourier, pixels
from featvis_jax.maximize.parameterizations.base import unchanged
from tests.acceptance.anatomy_networks import ELSEWHERE, HERE, LAYER, NOISE, Trained, ascended

# What a gradient is blurred by, and noise is drawn how often.
BLUR_MM, DRAWS = 6.0, 24


def other_methods(network: Trained) -> dict[str, list[np.ndarray]]:
    """Where other methods say that the network looks: maps without a sign."""
    size, scans = network.task.voxel_size_mm, network.scans
    net = network.network

    def response(image: jax.Array) -> jax.Array:
        logits = net.activations(net.variables, image, [LAYER])[LAYER]
        return logits[HERE] - logits[ELSEWHERE]

    slope = jax.jit(jax.grad(response))

    @jax.jit
    def smooth_slope(image: jax.Array, key: jax.Array) -> jax.Array:
        def one(total: jax.Array, each: jax.Array) -> tuple[jax.Array, None]:
            return total + slope(image + NOISE * jax.random.normal(each, image.shape)), None

        return lax.scan(one, jnp.zeros_like(image), jax.random.split(key, DRAWS))[0] / DRAWS

    def blurred(image: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(image, BLUR_MM / size)

    plain = [np.abs(np.asarray(slope(jnp.asarray(scan))))[..., 0] for scan in scans]
    key = jax.random.key(0)
    smooth = [np.abs(np.asarray(smooth_slope(jnp.asarray(s), key)))[..., 0] for s in scans]
    found = {
        "gradient": plain,
        "gradient, blurred": [blurred(each) for each in plain],
        "SmoothGrad": smooth,
        "SmoothGrad, blurred": [blurred(each) for each in smooth],
    }
    for name, chosen in (("pixels", pixels()), ("frequencies", fourier())):
        units = ascended(
            net, _from_scans(chosen, scans), size, len(scans), transparency=name == "pixels"
        )
        changed = [np.abs(u.image - s)[..., 0] for u, s in zip(units, scans, strict=True)]
        found[f"accentuation by {name}"] = changed
        found[f"accentuation by {name}, blurred"] = [blurred(each) for each in changed]
        seen = [unit.transparency[..., 0] for unit in units if unit.transparency is not None]
        if seen:
            found["transparency"] = seen
            found["transparency, blurred"] = [blurred(each) for each in seen]
    return found


def _from_scans(chosen: Parameterization, scans: np.ndarray) -> Parameterization:
    """A parameterization whose variants each start from a scan."""
    assert chosen.encode is not None
    starts = jax.vmap(chosen.encode)(jnp.clip(jnp.asarray(scans), 0.005, 0.995))

    # What is optimized is the difference from the start: which variant it is, only decoding knows.
    def init(key: jax.Array, shape: tuple[int, ...]) -> Any:
        del key, shape
        return jax.tree.map(lambda each: jnp.zeros_like(each[0]), starts)

    def decode(differences: Any) -> jax.Array:
        own = jax.tree.map(lambda each: each[lax.axis_index(VARIANTS)], starts)
        return chosen.decode(jax.tree.map(jnp.add, own, differences))

    return chosen._replace(
        init=init, decode=decode, constrain=unchanged, is_image=False, variants=len(scans)
    )

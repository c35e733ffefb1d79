"""R(x) in x* = argmax f(x) - lambda R(x). A penalty is an `Objective` that is subtracted.

"The regularization penalty R(x) calculates the absolute value of the encoded output using L1"
(Eitel et al. 2022, lambda = 10) can be read in several ways; with a the activation of a layer of C
channels:

* `layer_l1`, the literal reading, mean |a| over the whole layer, works against all other channels.
  Where a target channel is positive its own net weight is 1 - 10/C: negative for 8 channels, where
  the ascent silences the channel instead, 0.84 for 64.
* the same over the target channel alone, after a ReLU, only multiplies f by 1 - 10 = -9: it turns
  the ascent into a descent and is therefore not offered.
* `off_target_l1` leaves the target out of the mean.
* `image_l1` reads "the encoded output" as the image.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from featvis_jax.maximize.objectives import Objective, Unit, fingerprint
from featvis_jax.types import Activations, Image, Scalar


def layer_l1(layer: str) -> Objective:
    """Mean absolute activation over all channels of a layer.

    Args:
      layer: Name of the layer.
    """
    return Objective(
        f"layer_l1({layer!r})",
        (layer,),
        lambda activations, image, unit: jnp.mean(jnp.abs(activations[layer])),
        reads_whole=(layer,),
    )


def off_target_l1(layer: str) -> Objective:
    """Mean absolute activation over all channels of a layer but the unit's own.

    A layer of one channel has no other; its penalty is 0.

    Args:
      layer: Name of the layer.
    """

    def value(activations, image, unit):  # pyright: ignore[reportMissingParameterType]
        per_channel = jnp.abs(activations[layer])
        per_channel = per_channel.reshape(-1, per_channel.shape[-1]).mean(axis=0)
        own = jnp.take(per_channel, unit.channel)
        return (per_channel.sum() - own) / max(per_channel.size - 1, 1)

    return Objective(f"off_target_l1({layer!r})", (layer,), value)


def image_l1() -> Objective:
    """Mean absolute intensity of the image."""
    return Objective(
        "image_l1()", (), lambda activations, image, unit: jnp.mean(jnp.abs(image)), True
    )


def image_l2() -> Objective:
    """Mean squared intensity of the image."""
    return Objective(
        "image_l2()", (), lambda activations, image, unit: jnp.mean(jnp.square(image)), True
    )


def contrast(*, grey: float = 0.5) -> Objective:
    """Mean squared distance of the image from a grey level.

    Whatever does not pay for its contrast fades: elements stand apart on an even background, and
    the larger the weight, the fewer they are.

    Args:
      grey: The level; the middle of the intensity range has room for both polarities.
    """
    return Objective(
        f"contrast({grey:g})",
        (),
        lambda activations, image, unit: jnp.mean(jnp.square(image - grey)),
        True,
    )


def total_variation() -> Objective:
    """Mean length of the image's gradient (`mean_gradient`)."""
    return Objective(
        "total_variation()", (), lambda activations, image, unit: mean_gradient(image), True
    )


def mean_gradient(image: Image) -> Scalar:
    """Mean length of an image's gradient per voxel, by forward differences (isotropic).

    Rounded off below 1e-3, where the length has no derivative.

    Args:
      image: ``(*spatial, channels)``.

    Example:
      >>> round(float(mean_gradient(jnp.arange(4.0)[:, None, None])), 3)  # 1, 1, 1 and the edge
      0.749
    """
    differences = [
        jnp.diff(image, axis=axis, append=jnp.take(image, jnp.array([-1]), axis=axis))
        for axis in range(image.ndim - 1)
    ]
    return jnp.mean(jnp.sqrt(sum(jnp.square(d) for d in differences) + 1e-6) - 1e-3)


def clutter(
    *,
    intensity_range: tuple[float, float] = (0.0, 1.0),
    baseline: float | Float[np.ndarray, "*spatial channels"] | None = None,
) -> Objective:
    """What a clean image has little of: edges, and contrast to a baseline.

    Total variation alone leaves large flat areas black or white that nobody asked for; the mean
    squared distance from the baseline, at a small weight, takes them back and leaves edges to the
    other.

    Args:
      intensity_range: Lowest and highest intensity; both terms grow with its width.
      baseline: A grey level, or an image whose own edges do not count; the middle of the range by
        default.

    Example:
      >>> unit, scan = Unit(jnp.int32(0)), np.eye(8, dtype=np.float32)[..., None]
      >>> terms, image = (clutter(), clutter(baseline=scan)), jnp.asarray(scan)
      >>> [round(float(term.value({}, image, unit)), 3) for term in terms]
      [0.423, 0.0]
    """
    low, high = intensity_range
    level = (low + high) / 2 if baseline is None else baseline
    edges, distance = total_variation(), contrast(grey=0.0)
    weight = 0.2 / (high - low)

    def value(activations: Activations, image: Image, unit: Unit) -> Scalar:
        figure = image - level
        return edges.value(activations, figure, unit) + weight * distance.value(
            activations, figure, unit
        )

    # Runs on disk record the baseline by its first name; by another they could not go on.
    told = fingerprint(baseline) if isinstance(baseline, np.ndarray) else f"{level:g}"
    return Objective(
        f"clutter(intensity_range=({low:g}, {high:g}), ground={told})", (), value, True
    )


def cohort_mean(mean: Float[Array, "*spatial channels"]) -> Objective:
    """Mean squared distance from an image, the mean of the training cohort for example.

    Args:
      mean: The image, of the input's shape.
    """
    return Objective(
        f"cohort_mean(shape={mean.shape})",
        (),
        lambda activations, image, unit: jnp.mean(jnp.square(image - mean)),
        True,
    )


PENALTIES = {
    "none": None,
    "layer_l1": lambda layer, intensity_range: layer_l1(layer),
    "off_target_l1": lambda layer, intensity_range: off_target_l1(layer),
    "image_l1": lambda layer, intensity_range: image_l1(),
    "image_l2": lambda layer, intensity_range: image_l2(),
    "contrast": lambda layer, intensity_range: contrast(grey=sum(intensity_range) / 2),
    "total_variation": lambda layer, intensity_range: total_variation(),
}
"""Penalties by their names on the command line: functions of the target layer's name, and of the
lowest and highest intensity."""

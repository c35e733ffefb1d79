"""Transforms that smooth without a model of the image: Gaussian blur, bilateral and median filter.

Widths are in voxels and the same along every axis; beyond the edge, the edge is repeated.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from featvis_jax.maximize.transforms.base import DescribedTransform, without_gradient
from featvis_jax.maximize.transforms.checks import check_integer, check_number
from featvis_jax.maximize.transforms.windows import Padded, box_median, offsets, pad_edges
from featvis_jax.types import Image, Key, Scalar, Step

__all__ = ["bilateral", "gaussian_blur", "median"]

_TRUNCATE = 4.0
"""Standard deviations after which the Gaussian is cut off, as in SciPy."""


def gaussian_blur(
    *, sigma: float | Callable[[Step], float | Scalar], radius: int | None = None
) -> DescribedTransform:
    r"""Convolve with a Gaussian, :math:`w_i \propto e^{-i^2 / 2 \sigma^2}` along each axis.

    Args:
      sigma: Standard deviation in voxels, at least 0; or a schedule, step -> sigma, such as
        `optax.linear_schedule` makes.
      radius: Number of voxels to either side that are summed over. By default 4 sigma, as in
        `scipy.ndimage.gaussian_filter`; with a schedule it must be given, since shapes are
        fixed before any step is known: 4 times the largest sigma loses nothing.

    Returns:
      A transform of images of any rank. Its gradient is a blur too; sigma gets none.

    Raises:
      ValueError: Where sigma is negative, or a schedule comes without a radius.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> impulse = jnp.zeros((5, 5, 1)).at[2, 2].set(1.0)
      >>> blurred = gaussian_blur(sigma=0.5)(jax.random.key(0), impulse, 0)
      >>> round(float(blurred[2, 2, 0]), 4), round(float(blurred.sum()), 4)
      (0.6187, 1.0)
    """
    if not callable(sigma):
        sigma = check_number("gaussian_blur", "sigma", sigma, low=0)
        radius = int(_TRUNCATE * sigma + 0.5) if radius is None else radius
    elif radius is None:
        raise ValueError(
            "gaussian_blur: radius=None with a schedule for sigma; expected an integer of at "
            "least 0, such as 4 times the largest sigma of the schedule"
        )
    reach = check_integer("gaussian_blur", "radius", radius, low=0)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del key
        width = jnp.asarray(sigma(step) if callable(sigma) else sigma, image.dtype)
        # The floor makes a sigma of 0 the identity instead of 0 / 0.
        distances = jnp.arange(reach + 1, dtype=image.dtype) / jnp.maximum(width, 1e-3)
        weights = jnp.exp(-0.5 * distances**2)
        weights /= weights[0] + 2 * weights[1:].sum()
        for axis in range(image.ndim - 1):
            image = _blur_axis(image, weights, axis)
        return image

    return DescribedTransform("gaussian_blur", (("sigma", sigma), ("radius", reach)), apply)


def bilateral(
    *, sigma_space: float = 1.0, sigma_intensity: float = 0.1, half_width: int = 2
) -> DescribedTransform:
    r"""Average over a window, with weights that fall with distance and with contrast.

    .. math:: u(x) = \frac{\sum_s w_s f(x + s)}{\sum_s w_s}, \quad
        w_s = e^{-|s|^2 / 2 \sigma_S^2} e^{-(f(x + s) - f(x))^2 / 2 \sigma_R^2}

    Args:
      sigma_space: sigma_S in voxels, above 0.
      sigma_intensity: sigma_R in units of intensity, above 0.
      half_width: The window reaches this many voxels from its centre, at least 1.

    Returns:
      A transform of images of any rank. Its gradient recomputes the weights instead of keeping
      an image for each voxel of the window.

    Raises:
      ValueError: Where an option is out of range.

    References:
      Tomasi, Manduchi, Bilateral filtering for gray and color images, ICCV 1998.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> step_edge = jnp.repeat(jnp.array([0.0, 1.0]), 3).reshape(6, 1)
      >>> filtered = bilateral(sigma_intensity=0.1)(jax.random.key(0), step_edge, 0)
      >>> bool(jnp.allclose(filtered, step_edge, atol=1e-6))
      True
    """
    sigma_space = check_number("bilateral", "sigma_space", sigma_space, low=0, open_low=True)
    sigma_intensity = check_number(
        "bilateral", "sigma_intensity", sigma_intensity, low=0, open_low=True
    )
    half_width = check_integer("bilateral", "half_width", half_width, low=1)

    def apply(key: Key, image: Image, step: Step) -> Image:
        del key, step
        window = np.array(list(offsets(image.ndim - 1, half_width)), np.int32)
        nearness = np.exp(-(window.astype(float) ** 2).sum(1) / (2 * sigma_space**2))
        padded = pad_edges(image, half_width)

        @jax.checkpoint
        def add(
            sums: tuple[Image, Image], one: tuple[Int[Array, " rank"], Scalar]
        ) -> tuple[tuple[Image, Image], None]:
            offset, near = one
            start = [offset[axis] + half_width for axis in range(image.ndim - 1)]
            other = lax.dynamic_slice(padded, [*start, np.int32(0)], image.shape)
            weight = near * jnp.exp(-((other - image) ** 2) / (2 * sigma_intensity**2))
            return (sums[0] + weight * other, sums[1] + weight), None

        start = (jnp.zeros_like(image), jnp.zeros_like(image))
        steps = (jnp.asarray(window), jnp.asarray(nearness, image.dtype))
        (weighted, weights), _ = lax.scan(add, start, steps)
        return weighted / weights

    options = (
        ("sigma_space", sigma_space),
        ("sigma_intensity", sigma_intensity),
        ("half_width", half_width),
    )
    return DescribedTransform("bilateral", options, apply)


def median(*, size: int = 3) -> DescribedTransform:
    """Replace every voxel by the median of a box around it.

    It has no useful gradient: the derivative of a selection says which voxel was selected. Use it
    in the projection slot; differentiating it raises.

    Args:
      size: Side of the box in voxels, odd; 1 is the identity.

    Returns:
      A transform of images of any rank.

    Raises:
      ValueError: Where the size is even or below 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> impulse = jnp.zeros((5, 5, 1)).at[2, 2].set(1.0)
      >>> float(median(size=3)(jax.random.key(0), impulse, 0).max())
      0.0
    """
    size = check_integer("median", "size", size, low=1)
    if size % 2 == 0:
        raise ValueError(
            f"median: size={size} is even; expected an odd integer, such as {size + 1}"
        )

    def apply(key: Key, image: Image, step: Step) -> Image:
        del key, step
        return filtered(image)

    filtered = without_gradient(
        "median", lambda image: box_median(pad_edges(image, size // 2), size)
    )
    return DescribedTransform("median", (("size", size),), apply, differentiable=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _blur_axis(image: Image, weights: Float[Array, " reach"], axis: int) -> Image:
    """Convolve one axis with a symmetric kernel, given from its centre outwards.

    Shifted copies are multiplied and added: on a CPU that is ten times faster than a convolution
    of one channel.
    """
    reach = weights.shape[0] - 1
    return _correlate(_pad_axis(image, axis, reach, "edge"), weights, axis)


def _blur_axis_forward(
    image: Image, weights: Float[Array, " reach"], axis: int
) -> tuple[Image, Float[Array, " reach"]]:
    return _blur_axis(image, weights, axis), weights


def _blur_axis_backward(
    axis: int, weights: Float[Array, " reach"], cotangent: Image
) -> tuple[Image, Float[Array, " reach"]]:
    """The transpose: the same kernel on a grid with margins, then folded onto the edge."""
    reach = weights.shape[0] - 1
    spread = _correlate(_pad_axis(cotangent, axis, 2 * reach, "constant"), weights, axis)
    unpad = jax.linear_transpose(
        lambda image: _pad_axis(image, axis, reach, "edge"), jax.typeof(cotangent)
    )
    return unpad(spread)[0], jnp.zeros_like(weights)


_blur_axis.defvjp(_blur_axis_forward, _blur_axis_backward)


def _pad_axis(image: Image, axis: int, width: int, mode: str) -> Padded:
    widths = [(0, 0)] * image.ndim
    widths[axis] = (width, width)
    return jnp.pad(image, widths, mode)


def _correlate(padded: Padded, weights: Float[Array, " reach"], axis: int) -> Image:
    reach = weights.shape[0] - 1
    size = padded.shape[axis] - 2 * reach

    def at(offset: int) -> Image:
        return lax.slice_in_dim(padded, reach + offset, reach + offset + size, axis=axis)

    total = weights[0] * at(0)
    for offset in range(1, reach + 1):
        total += weights[offset] * (at(-offset) + at(offset))
    return total

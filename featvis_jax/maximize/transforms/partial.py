"""A transform in part: anything from nothing, at a share of 0, to all of it, at 1."""

import jax
import jax.numpy as jnp

from featvis_jax.maximize.transforms.base import AffineMap, DescribedTransform, Geometry
from featvis_jax.maximize.transforms.combinators import fused
from featvis_jax.maximize.transforms.interpolation import resample
from featvis_jax.types import Image, Key, Scalar, Step, Transform

__all__ = ["in_part"]


def in_part(key: Key, image: Image, step: Step, transform: Transform, share: Scalar) -> Image:
    """Apply a share of a transform, which is data: another share compiles nothing.

    Of what moves voxels about that share of the way is gone: half of a rotation by 10 degrees is
    one by 5. Of all else the change is scaled, which makes half of a noise one of half the standard
    deviation. The draws are those of the whole transform.

    Args:
      key: The transform's key.
      image: One unbatched image.
      step: Index of the step.
      transform: Any transform.
      share: In [0, 1].

    Returns:
      An image of the same shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from featvis_jax.maximize.transforms import noise, scale
      >>> key, image = jax.random.key(0), jnp.zeros((64, 64, 1))
      >>> half = in_part(key, image, 0, noise(standard_deviation=0.2), jnp.float32(0.5))
      >>> round(float(half.std()), 2)
      0.1
      >>> square = image.at[16:48, 16:48].set(1.0)
      >>> whole = in_part(key, square, 0, scale(factors=[0.5]), jnp.float32(0.0))
      >>> bool(jnp.allclose(whole, square))
      True
    """
    if isinstance(transform, DescribedTransform):
        if transform.geometry is not None:
            return _moved(transform.geometry, key, image, share)
        if transform.name == "chain":
            for positions, geometry in fused(transform.parts):
                if geometry is None:
                    (position,) = positions
                    own = jax.random.fold_in(key, position)
                    image = in_part(own, image, step, transform.parts[position], share)
                else:
                    image = _moved(geometry, key, image, share)
            return image
    return image + share * (transform(key, image, step) - image)


def _moved(geometry: Geometry, key: Key, image: Image, share: Scalar) -> Image:
    """An image moved that share of the way."""
    whole = geometry.draw(key, image.shape[:-1])
    still = jnp.eye(image.ndim - 1, dtype=whole.matrix.dtype)
    affine = AffineMap(still + share * (whole.matrix - still), share * whole.offset)
    # Whole voxels become parts of one on the way.
    part = geometry._replace(
        interpolation=geometry.interpolation or "linear", stretch=max(1.0, geometry.stretch)
    )
    return resample(image, affine, part)

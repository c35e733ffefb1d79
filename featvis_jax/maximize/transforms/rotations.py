"""Random rotation matrices in two and three dimensions, for angles up to a limit."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from featvis_jax.types import Key, Scalar

__all__ = ["draw_rotation", "restricted_haar_angle", "rotation_about_axis", "rotation_by"]

_NEWTON_STEPS = 6


def draw_rotation(key: Key, rank: int, max_radians: float | Scalar) -> Float[Array, "rank rank"]:
    """Draw a rotation: uniform in its angle in 2-D, and in 3-D from the Haar measure.

    In 3-D the axis is uniform on the sphere, and the angle is what the uniform distribution over
    all rotations gives where it is restricted to angles of at most `max_radians`.

    Args:
      key: Random key.
      rank: Number of spatial axes, 2 or 3.
      max_radians: Largest angle, in [0, pi].

    Returns:
      A rotation matrix.

    Raises:
      ValueError: For images that are neither 2-D nor 3-D.
    """
    angle_key, axis_key = jax.random.split(key)
    uniform = jax.random.uniform(angle_key)
    if rank == 3:
        angle = restricted_haar_angle(uniform, max_radians)
    else:
        angle = (2 * uniform - 1) * max_radians
    return rotation_by(angle, axis_key, rank)


def rotation_by(angle: Scalar, axis_key: Key, rank: int) -> Float[Array, "rank rank"]:
    """Rotation matrix for an angle in radians, in 3-D about a uniformly random axis.

    Args:
      angle: In radians.
      axis_key: Random key for the axis.
      rank: Number of spatial axes, 2 or 3.

    Returns:
      A rotation matrix.

    Raises:
      ValueError: For images that are neither 2-D nor 3-D.
    """
    if rank == 2:
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        return jnp.array([[cosine, sine], [-sine, cosine]])
    if rank == 3:
        return rotation_about_axis(jax.random.normal(axis_key, (3,)), angle)
    raise ValueError(f"rotate: an image with {rank} spatial axes came; expected 2 or 3")


def restricted_haar_angle(uniform: Scalar, max_radians: float | Scalar) -> Scalar:
    r"""Angle of a uniformly random rotation among those of at most `max_radians`.

    Solves :math:`\theta - \sin\theta = u (\theta_m - \sin\theta_m)` by Newton's method.

    Args:
      uniform: u, uniform on [0, 1].
      max_radians: theta_m, in [0, pi].

    Returns:
      theta, in radians.
    """
    target = uniform * _angle_minus_sine(jnp.asarray(max_radians))
    angle = jnp.cbrt(6 * target)
    for _ in range(_NEWTON_STEPS):
        # 1 - cos, without the cancellation at small angles; the floor serves an angle of 0.
        slope = jnp.maximum(2 * jnp.sin(angle / 2) ** 2, 1e-30)
        angle -= (_angle_minus_sine(angle) - target) / slope
    return angle


def rotation_about_axis(axis: Float[Array, "3"], angle: Scalar) -> Float[Array, "3 3"]:
    """Rotation matrix for an axis of any length and an angle in radians (Rodrigues)."""
    x, y, z = axis / jnp.linalg.norm(axis)
    cross = jnp.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    squared = jnp.matmul(cross, cross, precision=lax.Precision.HIGHEST)
    return jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * squared


def _angle_minus_sine(angle: Scalar) -> Scalar:
    """The angle less its sine, by its series where the difference would lose its digits."""
    square = angle**2
    series = angle * square / 6
    series *= 1 - square / 20 * (1 - square / 42 * (1 - square / 72 * (1 - square / 110)))
    return jnp.where(angle < 1, series, angle - jnp.sin(angle))

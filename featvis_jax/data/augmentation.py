"""Random changes to training images that leave their class alone.

A cohort of a few dozen people has few brains. Mirroring, shifting and re-toning them keeps a
network from learning each by heart; the lesions, drawn afterwards, stay as they are defined.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float32


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are changed.

    Attributes:
      voxel_size_mm: Distance between neighbouring voxels.
      mirror: Whether left and right are swapped in half of the images.
      max_shift_mm: Largest shift along each axis; shifts are by whole voxels, all equally likely,
        and what moves in is black.
      max_gamma: Largest logarithm of the exponent that intensities are raised to.

    Raises:
      ValueError: A number is out of range.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> image = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1)
      >>> Augmentation(voxel_size_mm=2.0, max_shift_mm=4.0)(image, rng).shape
      (8, 8, 1)
    """

    voxel_size_mm: float = 1.0
    mirror: bool = True
    max_shift_mm: float = 6.0
    max_gamma: float = 0.2

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if not 0 < self.voxel_size_mm < math.inf:
            raise ValueError(f"voxel_size_mm is {self.voxel_size_mm}; expected a positive number.")
        if not 0 <= self.max_shift_mm < math.inf:
            raise ValueError(f"max_shift_mm is {self.max_shift_mm}; expected a number from 0.")
        if not 0 <= self.max_gamma <= 1:
            raise ValueError(f"max_gamma is {self.max_gamma}; expected a number in [0, 1].")

    def __call__(
        self, image: Float32[np.ndarray, "*spatial 1"], rng: np.random.Generator
    ) -> Float32[np.ndarray, "*spatial 1"]:
        """Change an image on [0, 1]; its first axis runs from left to right."""
        if self.mirror and rng.random() < 0.5:
            image = image[::-1]
        # A voxel size read from a float32 affine may lie a little above the nominal one.
        most = math.floor(self.max_shift_mm / self.voxel_size_mm + 1e-3)
        shifts = rng.integers(-most, most + 1, size=image.ndim - 1)
        shifted = np.zeros_like(image)
        moves = [
            (int(np.clip(shift, -size, size)), size)
            for shift, size in zip(shifts, image.shape[:-1], strict=True)
        ]
        source = tuple(slice(max(-shift, 0), size - max(shift, 0)) for shift, size in moves)
        target = tuple(slice(max(shift, 0), size - max(-shift, 0)) for shift, size in moves)
        shifted[target] = image[source]
        return shifted ** np.float32(np.exp(rng.uniform(-self.max_gamma, self.max_gamma)))

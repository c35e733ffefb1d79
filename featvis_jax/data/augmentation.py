"""Random changes to training images that leave their class alone.

A cohort of a few dozen people has few brains. Mirroring, shifting and re-toning them keeps a
network from learning each by heart; the lesions, drawn afterwards, stay as they are defined.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float32


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are changed.

    Attributes:
      mirror: Whether left and right are swapped in half of the images.
      max_shift: Largest shift along each axis in voxels; what moves in is black.
      max_gamma: Largest logarithm of the exponent that intensities are raised to.

    Raises:
      ValueError: A number is out of range.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> image = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1)
      >>> Augmentation(max_shift=2)(image, rng).shape
      (8, 8, 1)
    """

    mirror: bool = True
    max_shift: int = 6
    max_gamma: float = 0.2

    def __post_init__(self) -> None:
        """Check the numbers once."""
        if self.max_shift < 0 or not 0 <= self.max_gamma <= 1:
            raise ValueError(
                f"max_shift={self.max_shift}, max_gamma={self.max_gamma}: expected a whole number "
                "from 0 and a number in [0, 1]."
            )

    def __call__(
        self, image: Float32[np.ndarray, "*spatial 1"], rng: np.random.Generator
    ) -> Float32[np.ndarray, "*spatial 1"]:
        """Change an image on [0, 1]; its first axis runs from left to right."""
        if self.mirror and rng.random() < 0.5:
            image = image[::-1]
        shifted = np.zeros_like(image)
        shifts = rng.integers(-self.max_shift, self.max_shift + 1, size=image.ndim - 1)
        moves = list(zip(shifts, image.shape[:-1], strict=True))
        source = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in moves)
        target = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in moves)
        shifted[target] = image[source]
        return shifted ** np.float32(np.exp(rng.uniform(-self.max_gamma, self.max_gamma)))

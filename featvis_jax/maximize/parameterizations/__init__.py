"""What is optimized: the parameters of an image, and how they become one.

All of them make slices and volumes by the same code, keep to a range of intensities in one of four
ways (`base`), and start as noise whose standard deviation is a share of that range. A learning rate
means the same for pixels, frequencies and pyramids: Adam's first steps change the image by about
that share of the range.
"""

from featvis_jax.maximize.parameterizations.base import (
    FIXED_CONTRASTS,
    INTENSITIES,
    FixedContrast,
    Intensity,
    Parameterization,
    Parameters,
)
from featvis_jax.maximize.parameterizations.coordinates import cppn
from featvis_jax.maximize.parameterizations.deformation import Stiffness, deformation, deformations
from featvis_jax.maximize.parameterizations.deformed_scans import ENERGIES, Budget
from featvis_jax.maximize.parameterizations.holding import holding
from featvis_jax.maximize.parameterizations.level_set import level_set
from featvis_jax.maximize.parameterizations.multiscale import laplacian
from featvis_jax.maximize.parameterizations.spatial import from_image, inside, pixels
from featvis_jax.maximize.parameterizations.spectral import (
    fourier,
    mean_magnitude_spectrum,
    phase,
)

__all__ = [
    "ENERGIES",
    "FIXED_CONTRASTS",
    "INTENSITIES",
    "Budget",
    "FixedContrast",
    "Intensity",
    "Parameterization",
    "Parameters",
    "Stiffness",
    "cppn",
    "deformation",
    "deformations",
    "fourier",
    "from_image",
    "holding",
    "inside",
    "laplacian",
    "level_set",
    "mean_magnitude_spectrum",
    "phase",
    "pixels",
]

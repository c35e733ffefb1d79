"""See what each channel of a CNN trained on brain MRI has learned, by activation maximization.

The rooms of the house, in the order in which data passes through them:

- `featvis_jax.data`: cohorts, volumes, lesions and batches (numpy only);
- `featvis_jax.nn`: the network and the taps on its layers;
- `featvis_jax.training` and `featvis_jax.checkpoints`: fitting a network and keeping it;
- `featvis_jax.visualize`: objectives, penalties, transforms and the ascent itself;
- `featvis_jax.results`: the run directory, NIfTI files, sheets and tables (numpy only).

Importing the package imports none of them: each room is imported by its name, and
`featvis_jax.fast` when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featvis_jax.nn.programs import fast

__all__ = ["__version__", "fast"]
__version__ = "0.1.0"

_ROOMS = {"fast": "featvis_jax.nn.programs"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)

"""See what each channel of a CNN trained on brain MRI has learned, by activation maximization.

    import featvis_jax as fv

    network = fv.load("square-lesion")
    units = fv.visualize(network, "conv5", channels=range(8))
    units.save("runs/conv5")

What stands here is public, and loaded when it is first used. Behind it are the rooms of the house,
in the order in which data passes through them:

- `featvis_jax.data`: cohorts, volumes, lesions and batches (numpy only);
- `featvis_jax.nn` and `featvis_jax.importers`: networks, ours and anybody's;
- `featvis_jax.training` and `featvis_jax.checkpoints`: fitting a network and keeping it;
- `featvis_jax.maximize`: objectives, penalties, transforms and the ascent itself;
- `featvis_jax.evaluation`: how a unit ended, and what its picture is worth;
- `featvis_jax.evidence`: what speaks for and against a picture, beside real inputs;
- `featvis_jax.results`: the run directory, NIfTI files, sheets, tables and pages (numpy only);
- `featvis_jax.models` and `featvis_jax.runs`: whole runs, from options to results;
- `featvis_jax.commands`: the flags of ``featvis``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featvis_jax.maximize.recipe import Recipe
    from featvis_jax.models import Model, from_flax, from_function, load
    from featvis_jax.nn.network import Network
    from featvis_jax.nn.programs import fast
    from featvis_jax.results.store import read_run as open_run
    from featvis_jax.runs.anatomy import anatomy
    from featvis_jax.runs.grade import grade
    from featvis_jax.runs.in_memory import Units, visualize
    from featvis_jax.runs.train import train
    from featvis_jax.runs.trust import trust

__all__ = [
    "Model",
    "Network",
    "Recipe",
    "Units",
    "__version__",
    "anatomy",
    "fast",
    "from_flax",
    "from_function",
    "grade",
    "load",
    "open_run",
    "train",
    "trust",
    "visualize",
]
__version__ = "0.2.0.dev0"

# Where each name is defined, as in the imports above.
_PLACES = {
    "Model": ("featvis_jax.models", "Model"),
    "Network": ("featvis_jax.nn.network", "Network"),
    "Recipe": ("featvis_jax.maximize.recipe", "Recipe"),
    "Units": ("featvis_jax.runs.in_memory", "Units"),
    "anatomy": ("featvis_jax.runs.anatomy", "anatomy"),
    "fast": ("featvis_jax.nn.programs", "fast"),
    "from_flax": ("featvis_jax.models", "from_flax"),
    "from_function": ("featvis_jax.models", "from_function"),
    "grade": ("featvis_jax.runs.grade", "grade"),
    "load": ("featvis_jax.models", "load"),
    "open_run": ("featvis_jax.results.store", "read_run"),
    "train": ("featvis_jax.runs.train", "train"),
    "trust": ("featvis_jax.runs.trust", "trust"),
    "visualize": ("featvis_jax.runs.in_memory", "visualize"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own = _PLACES[name]
    return getattr(importlib.import_module(module), own)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

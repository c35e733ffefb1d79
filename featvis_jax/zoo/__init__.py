"""Small trained models that ship with the package: a folder each, with weights and a card.

`featvis_jax.checkpoints.load_model` takes their names; loading them needs no network.
"""

ONLY_IN_CLONES = (
    "cube-lesion-2",
    "cube-or-ball",
    "cube-or-ball-2",
    "gaussian-lesion-2",
    "gaussian-lesion-noise-2",
    "square-lesion-2",
    "square-lesion-noise-2",
    "square-or-disc",
    "square-or-disc-noise",
    "square-or-disc-noise-2",
)
"""Models that a wheel leaves out, to be small: no page starts from one."""

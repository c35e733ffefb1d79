"""Composable pure transforms of an image, for slices and volumes by the same code.

A transform is any function ``(key, image, step) -> image`` that keeps shape and dtype. The
factories here make such functions; options are given by keyword and checked at once. All of them
work under `jax.jit`, `jax.vmap` over keys and images, `jax.lax.scan` and, but for those that say
otherwise, `jax.grad`.

    smooth = chain(every(50, total_variation(weight=0.1)), gaussian_blur(sigma=0.5))
    image = smooth(key, image, step)
"""

from featvis_jax.maximize.transforms.base import (
    AffineMap,
    DescribedTransform,
    Geometry,
    describe,
    is_differentiable,
    is_identity,
)
from featvis_jax.maximize.transforms.combinators import (
    chain,
    every,
    from_step,
    identity,
    sometimes,
)
from featvis_jax.maximize.transforms.denoising import total_variation
from featvis_jax.maximize.transforms.geometry import flip, rotate, scale
from featvis_jax.maximize.transforms.intensity import clip, jitter, noise, normalize
from featvis_jax.maximize.transforms.partial import in_part
from featvis_jax.maximize.transforms.resizing import random_resized_crop, resize
from featvis_jax.maximize.transforms.shifting import pad_and_crop, roll, translate
from featvis_jax.maximize.transforms.smoothing import bilateral, gaussian_blur, median
from featvis_jax.maximize.transforms.switching import switching_bilateral

__all__ = [
    "AffineMap",
    "DescribedTransform",
    "Geometry",
    "bilateral",
    "chain",
    "clip",
    "describe",
    "every",
    "flip",
    "from_step",
    "gaussian_blur",
    "identity",
    "in_part",
    "is_differentiable",
    "is_identity",
    "jitter",
    "median",
    "noise",
    "normalize",
    "pad_and_crop",
    "random_resized_crop",
    "resize",
    "roll",
    "rotate",
    "scale",
    "sometimes",
    "switching_bilateral",
    "total_variation",
    "translate",
]

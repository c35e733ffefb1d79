"""What happens in a step of an ascent, as one value, and whether it can work."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import jax
import optax

from featvis_jax.maximize.drive import Drive, check_drive
from featvis_jax.maximize.objectives import VARIANTS, Objective
from featvis_jax.maximize.parameterizations import Parameterization, fourier
from featvis_jax.maximize.transforms import identity, is_differentiable, is_identity
from featvis_jax.nn.tracing import Network
from featvis_jax.types import Image, Key, Transform


class Recipe(NamedTuple):
    """Everything that an ascent does, and for how long.

    Attributes:
      objective: f, what to maximize.
      parameterization: What is optimized.
      optimizer: From optax; it minimizes, and is handed the gradient of lambda R - f. ``None`` is
        that of the parameterization, at its learning rate: Adam, or steps of one length.
      steps: Number of steps.
      penalty: R, what to keep low, or ``None``.
      penalty_weight: The weight of the penalty, lambda.
      robustness: Applied to the image before the network; gradients flow through it.
      projection: Applied to the image after each update. Needs pixels.
      drive: Makes robustness and projection as strong as each unit permits while it responds as
        strongly as its target; ``None`` applies them as they are.
      variants: Number of images of each unit, optimized together.
      transparency: Whether to keep, as a second image, where the network was looking.
      rematerialize: Whether to keep for the gradient no more than convolutions and products give,
        and to compute the rest again: less memory for deep networks, and a little more time.
    """

    objective: Objective
    parameterization: Parameterization = fourier()
    optimizer: optax.GradientTransformation | None = None
    steps: int = 256
    penalty: Objective | None = None
    penalty_weight: float = 0.0
    robustness: Transform = identity()
    projection: Transform = identity()
    drive: Drive | None = None
    variants: int = 1
    transparency: bool = False
    rematerialize: bool = False

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optimizer, or what stands for none."""
        if self.optimizer is not None:
            return self.optimizer
        image = self.parameterization
        return image.optimizer.of(image.learning_rate, self.steps)[0]

    @property
    def terms(self) -> list[Objective]:
        """The objective, and the penalty where there is one."""
        return [term for term in (self.objective, self.penalty) if term is not None]


def check(recipe: Recipe, *, network: Network | None = None) -> None:
    """Refuse a recipe that cannot work, before anything is compiled.

    Args:
      recipe: The recipe.
      network: What it is for, to be checked against its layers and its input grid too.

    Raises:
      ValueError: A slot holds something that it cannot take, or that does not fit the network.
    """
    if recipe.steps < 1:
        raise ValueError(f"steps is {recipe.steps}; expected at least 1.")
    if recipe.variants < 1:
        raise ValueError(f"variants is {recipe.variants}; expected at least 1.")
    wanted = recipe.parameterization.variants
    if wanted not in (None, recipe.variants):
        raise ValueError(
            f"variants is {recipe.variants}, and {recipe.parameterization.description} has a scan "
            f"for each of {wanted}: set it to that."
        )
    for term in recipe.terms:
        if term.reads_variants and recipe.variants < 2:
            raise ValueError(
                f"{term.description} is about several variants of a unit, and the recipe has "
                f"variants={recipe.variants}: set it to 2 or more."
            )
    if recipe.penalty is not None and recipe.penalty.directions is not None:
        raise ValueError(
            f"The penalty {recipe.penalty.description} has several directions, which only the "
            "objective's units have: give it a single vector."
        )
    if recipe.drive is not None:
        check_drive(recipe.drive)
        if recipe.objective.most is not None:
            raise ValueError(
                f"{recipe.objective.description} has no gradient from {recipe.objective.most:g} "
                "on, and a drive takes such a unit for one that nothing drives: leave the drive "
                "out, which has targets of its own, or take the objective without its end."
            )
    if not is_differentiable(recipe.robustness):
        raise ValueError(
            f"The robustness transform {recipe.robustness} has no useful gradient, and the ascent "
            "needs one there: use it as a projection instead."
        )
    if not recipe.parameterization.is_image and not is_identity(recipe.projection):
        raise ValueError(
            f"The projection {recipe.projection} works on the image itself, but the "
            f"parameterization is {recipe.parameterization.description}: use pixels, or move the "
            "transform to the robustness slot."
        )
    if network is not None:
        _check_fit(recipe, network)


def check_units(recipe: Recipe, network: Network, layer: str, channels: Collection[int]) -> None:
    """Refuse units that the recipe's objective is not about.

    Otherwise an image would go by the name of a layer, or by a number, that it has nothing to do
    with.

    Args:
      recipe: The recipe.
      network: What it is for.
      layer: Name of the layer whose units are asked for.
      channels: Their numbers.

    Raises:
      ValueError: There is no such layer or channel, or the objective reads others.
    """
    objective = recipe.objective
    own = objective.directions
    count = network.layer(layer).channels if own is None else len(own)
    if not channels or not all(0 <= channel < count for channel in channels):
        has = f"layer {layer!r} has channels" if own is None else "there are directions"
        raise ValueError(
            f"channels is {list(channels)}; {has} 0 to {count - 1}: name at least one of them."
        )
    home = objective.unit_layers or objective.layers
    if home and layer not in home:
        raise ValueError(
            f"The recipe's objective {objective.description} is about layer "
            f"{' and '.join(map(repr, home))}, and units of layer {layer!r} are asked for: name "
            "the same layer in both."
        )
    check_channels(recipe, network, channels)
    if objective.has_one_unit and set(channels) != {0}:
        raise ValueError(
            f"channels is {list(channels)}; {objective.description} is the same whatever the "
            "unit's channel: ask for its one unit, [0]."
        )


def check_channels(recipe: Recipe, network: Network, channels: Collection[int]) -> None:
    """Refuse numbers of channels that a layer lacks: to JAX, one out of range is the nearest.

    Args:
      recipe: The recipe.
      network: What it is for.
      channels: Numbers of units.

    Raises:
      ValueError: A layer whose channels the recipe reads by the unit's number has fewer.
    """
    for term in recipe.terms:
        for name in term.unit_layers:
            count = network.layer(name).channels
            if not 0 <= min(channels) <= max(channels) < count:
                raise ValueError(
                    f"channels is {list(channels)}; {term.description} reads the channel of the "
                    f"unit's number of layer {name!r}, which has 0 to {count - 1}: leave out what "
                    "it lacks, or fix the channel with .of(NUMBER)."
                )


def _check_fit(recipe: Recipe, network: Network) -> None:
    for term in recipe.terms:
        for name in term.layers:
            network.layer(name)
        for fits in term.checks:
            fits(network)

    def first_image(key: Key) -> Image:
        parameterization = recipe.parameterization
        return parameterization.decode(parameterization.init(key, network.image_shape))

    # Parameterizations may ask which variant they are.
    of_variants = jax.vmap(first_image, axis_name=VARIANTS)
    keys = jax.random.split(jax.random.key(0), recipe.variants)
    shape = jax.eval_shape(of_variants, keys).shape[1:]
    if shape != network.image_shape:
        raise ValueError(
            f"{recipe.parameterization.description} makes images of shape {shape}, but the network "
            f"takes {network.image_shape}."
        )

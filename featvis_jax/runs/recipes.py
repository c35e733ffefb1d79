"""What an ascent does, by options: the recipe, for which layers and which channels."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from featvis_jax.importers.python_files import load_function
from featvis_jax.maximize import ascent, penalties, presets
from featvis_jax.maximize.objectives import Objective
from featvis_jax.maximize.parameterizations import Parameterization
from featvis_jax.maximize.recipe import check_units
from featvis_jax.maximize.transforms import describe, is_identity
from featvis_jax.models import Model
from featvis_jax.nn.network import Layer, Network
from featvis_jax.options import Options, errors_of, option, shown_value
from featvis_jax.runs import deformations, images, objectives
from featvis_jax.runs.images import ImageOptions
from featvis_jax.runs.objectives import ObjectiveOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitOptions(Options):
    """Layers and channels."""

    layer: tuple[str, ...] | None = option(
        None, "Name of a layer; repeat for several, all for every layer.", repeats=True
    )
    channels: str | Sequence[int | str] = option(
        "all",
        "Channels: all, a range such as 0:8, or a list such as 1,5; of several directions, their "
        "names too.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeOptions(ObjectiveOptions, ImageOptions):
    """Optimization and regularization."""

    regularization: str | None = option(
        None,
        "A regularization strategy, or several separated by commas; driven by default. With up_to, "
        "lucid by default; for a scan that is deformed and for a level set then shifts of up to "
        "6 mm and noise_0.1:\n"
        + "\n".join(f"{name}: {text}" for name, text in presets.STRATEGIES.items()),
    )
    steps: int = option(256, "Optimization steps.", least=1)
    every: int = option(
        50, "Number of steps between two applications of the paper's transforms.", least=1
    )
    penalty: str | Objective = option(
        "none",
        "Penalty R(x), which is subtracted from the objective f(x); total_variation is the mean "
        "length of the image's gradient.",
        choices=tuple(penalties.PENALTIES),
    )
    penalty_weight: float = option(10.0, "Weight of the penalty, lambda.", least=0.0)
    transparency: bool = option(
        False,
        "Keep a second image of every unit that shows where the network was looking: the size of "
        "the gradient, summed over all steps.",
    )
    rematerialize: bool = option(
        False,
        "Store only the outputs of convolutions and matrix products for the gradient and recompute "
        "the rest: less memory for deep networks.",
    )
    config: str | None = option(
        None,
        "Python file for whatever no option covers: it defines recipe(given, model, layer), which "
        "gets the recipe that the options describe and returns the one to run.",
    )
    seed: int = option(0, "Seed of all random draws.", least=0, most=2**32 - 1)

    @property
    def needs_spectrum(self) -> bool:
        """Whether the recipe is made from the spectrum of real images, or may be."""
        return self.parameterization == "phase" or self.config is not None


def chosen_layers(network: Network, options: UnitOptions) -> list[Layer]:
    """The layers that options name.

    Args:
      network: The network.
      options: Which units.

    Raises:
      ValueError: None is named, or there is no such layer.
    """
    if not options.layer:
        names = ", ".join(layer.name for layer in network.layers)
        raise ValueError(f"`layer` is missing: give one of {names}, or all for every layer.")
    if "all" in options.layer:
        return [layer for layer in network.layers if layer.has_weights]
    return [network.layer(name) for name in dict.fromkeys(options.layer)]


def chosen_channels(
    layer: Layer, channels: str | Sequence[int | str], objective: ObjectiveOptions
) -> list[int]:
    """The channels that options name, checked against a layer.

    Args:
      layer: The layer.
      channels: All, a range or a list.
      objective: What is maximized; it may be about the layer as a whole, or about directions, which
        are chosen as channels are, or by their names.

    Raises:
      ValueError: The layer has no such channels.
    """
    names, told = objective.unit_names, f"`channels={shown_value(channels)}`"
    count = len(names) or layer.channels
    if objective.has_one_unit:
        if channels != "all":
            raise ValueError(
                f"{told}: `objective={objective.objective}` concerns the layer as a whole; leave "
                "`channels` out."
            )
        return [0]
    try:
        chosen = _numbers(channels, count, names)
    except ValueError:
        chosen = []
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        has = f"layer {layer.name!r} has channels" if not names else "there are directions"
        called = f" ({', '.join(names[:8])}{', ...' if count > 8 else ''})" if names else ""
        last = count - 1 if not names else names[-1]
        raise ValueError(
            f"{told}: {has} 0 to {count - 1}{called}; expected all, a range such as "
            f"0:{min(8, count)}, or a list such as 0,{last}."
        )
    return chosen


def _numbers(channels: str | Sequence[int | str], count: int, names: Sequence[str]) -> list[int]:
    """The numbers that a choice names; a name stands for itself and for the rows of its matrix."""
    if isinstance(channels, str):
        if channels == "all":
            return list(range(count))
        if ":" in channels:
            first, stop = (int(part) if part else None for part in channels.split(":"))
            return list(range(first or 0, count if stop is None else stop))
        channels = channels.split(",")
    chosen: set[int] = set()
    for part in channels:
        called = {i for i, name in enumerate(names) if part in (name, name.rpartition("/")[0])}
        chosen |= called if part and called else {int(part)}
    return sorted(chosen)


def regularization_of(model: Model, options: RecipeOptions) -> str:
    """The strategy that options name, or what is usual for the rest of them.

    Args:
      model: The network.
      options: What an ascent does.
    """
    if options.regularization is not None:
        return options.regularization
    if options.up_to is None:
        return presets.DRIVEN
    # A strategy with targets of its own cannot end where the objective does.
    if options.parameterization in (deformations.NAME, images.LEVEL_SET):
        return deformations.regularization(model)
    return "lucid"


def recipe(
    model: Model,
    layer: str,
    options: RecipeOptions,
    *,
    channels: str | Sequence[int | str] = "all",
    regularization: str | None = None,
) -> ascent.Recipe:
    """The recipe that options spell out for a layer, checked.

    Args:
      model: The network.
      layer: Name of the layer.
      options: What an ascent does.
      channels: Of the layer, which the recipe must be able to take.
      regularization: Another strategy than that of the options.

    Raises:
      FileNotFoundError: A file that an option names is not there.
      ValueError: The options contradict each other, or do not fit the network.
    """
    if regularization is None:
        regularization = regularization_of(model, options)
    start = images.start_image(model, options)
    strategy = presets.strategy(
        regularization,
        every=options.every,
        steps=options.steps,
        intensity_range=model.intensity_range,
        baseline=images.baseline(model, start, options),
    )
    penalty = options.penalty
    if isinstance(penalty, str):
        make = penalties.PENALTIES[penalty]
        penalty = None if make is None else make(layer, model.intensity_range)
    if not options.penalty_weight < float("inf"):
        raise ValueError(f"`penalty_weight={options.penalty_weight}`: expected a number from 0.")
    image = images.parameterization(
        model, strategy, start, options, variants=options.variants, up_to=options.up_to
    )
    _refuse_misfits(strategy, image, options, regularization)
    pooling = "mean" if strategy.drive is None else "strongest"
    steps = options.steps
    chosen = ascent.Recipe(
        objective=objectives.objective(
            # Scans that differ need nothing to keep them apart; each asks for itself alone.
            model,
            layer,
            options,
            pooling=pooling,
            apart=options.start_image == deformations.REFERENCE,
        ),
        penalty=penalty,
        penalty_weight=0.0 if penalty is None else options.penalty_weight,
        parameterization=image,
        optimizer=images.optimizer(image, strategy.drive, options, steps=steps)[0],
        robustness=strategy.robustness,
        projection=strategy.projection,
        drive=strategy.drive,
        steps=steps,
        variants=options.variants,
        transparency=options.transparency,
        rematerialize=options.rematerialize,
    )
    if options.config is not None:
        chosen = _configured(chosen, model, layer, options, channels)
    ascent.check(chosen, network=model.network_of_shares)
    return chosen


def _refuse_misfits(
    strategy: presets.Strategy,
    image: Parameterization,
    options: RecipeOptions,
    regularization: str,
) -> None:
    """What a strategy cannot do for an image, or for an objective; a user's file may mend it."""
    if options.config is not None:  # What the file makes of it is checked later.
        return
    if options.up_to is not None and strategy.drive is not None:
        raise ValueError(
            f"`up_to={options.up_to:g}`: `regularization={regularization}` has targets of its own, "
            "which follow what real inputs do; leave `regularization` or `up_to` out, or give "
            "another strategy."
        )
    if not image.is_image and not is_identity(strategy.projection):
        raise ValueError(
            f"`parameterization={options.parameterization}` with "
            f"`regularization={regularization}`: {describe(strategy.projection)} acts on pixels "
            "after each step, and this parameterization has none. Give "
            "`regularization=lucid`, which acts before the network, or `regularization=none`."
        )


def _configured(
    recipe: ascent.Recipe,
    model: Model,
    layer: str,
    options: RecipeOptions,
    channels: str | Sequence[int | str],
) -> ascent.Recipe:
    """What the function of a user's file makes of a recipe."""
    path = options.config
    assert path is not None
    with errors_of("config", path):
        function = load_function(Path(path), "recipe")
    told = f"`config={path}`: recipe(given, model, {layer!r})"
    try:
        chosen = function(recipe, model, layer)
    except Exception as error:
        raise ValueError(f"{told} failed with {type(error).__name__}: {error}") from error
    if not isinstance(chosen, ascent.Recipe):
        raise ValueError(
            f"{told} returned {type(chosen).__name__}; expected a Recipe, such as "
            "given._replace(penalty=None)."
        )
    if chosen.steps != options.steps:
        raise ValueError(
            f"`config={path}` changes the number of steps from {options.steps} to "
            f"{chosen.steps}: pass `steps={chosen.steps}` instead, which the plan is made from."
        )
    own = chosen_channels(model.network.layer(layer), channels, options)
    with errors_of("config", path):
        check_units(chosen, model.network, layer, own)
    return chosen._replace(
        transparency=chosen.transparency or options.transparency,
        rematerialize=chosen.rematerialize or options.rematerialize,
    )


def config_sha256(options: RecipeOptions) -> str | None:
    """Checksum of the file that makes the recipe; what it says decides the images.

    Args:
      options: What an ascent does.
    """
    if options.config is None:
        return None
    return hashlib.sha256(Path(options.config).read_bytes()).hexdigest()

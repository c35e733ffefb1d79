"""The flags that say what an ascent does, shared by the launchers that run one."""

import hashlib
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import grid_flags, image_flags, intensity_flags, networks, objective_flags
from experiments.flag_values import errors_of, numbers
from experiments.launch import versions
from experiments.networks import Model
from experiments.progress import announced
from experiments.python_files import load_function
from featvis_jax.nn.network import Layer, Network
from featvis_jax.visualize import ascent, penalties, presets
from featvis_jax.visualize.recipe import check_units
from featvis_jax.visualize.transforms import describe, is_identity

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, networks.MODEL_HELP, required=True)
flags.DEFINE_list("input_shape", None, "X,Y[,Z],CHANNELS where the model leaves its grid open.")
flags.DEFINE_multi_string("layer", None, "Layer; repeat for several, 'all' for every layer.")
flags.DEFINE_string("channels", "all", "Channels: all, a range 0:8, or a list 1,5.")
flags.DEFINE_string("out", None, "Directory for the results.")
flags.DEFINE_integer("steps", 256, "Steps of the ascent.", lower_bound=1)
flags.DEFINE_integer("every", 50, "The paper's transforms act every so many steps.", lower_bound=1)
flags.DEFINE_enum("penalty", "none", list(penalties.PENALTIES), "R(x), subtracted from f(x).")
flags.DEFINE_float("penalty_weight", 10.0, "lambda, the weight of the penalty.", lower_bound=0.0)
flags.DEFINE_string(
    "config",
    None,
    "Python file for all that no flag says: it defines recipe(given, model, layer), is handed the "
    "recipe that the flags spell out, and returns the one to run.",
)
flags.DEFINE_integer("seed", 0, "Of all random draws.", lower_bound=0, upper_bound=2**32 - 1)


flags.DEFINE_integer(
    "random_weights",
    None,
    "Put the values of every tensor of --model's weights in a random order, by this seed: a "
    "control for pictures.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)


def load_network() -> Model:
    """The network of --model, with permuted weights if asked for, and what is known about it."""
    shape = None if FLAGS.input_shape is None else numbers("input_shape", int)
    with announced(f"reading the model {FLAGS.model}"):
        model = networks.load(FLAGS.model, input_shape=shape)
    model = intensity_flags.given(grid_flags.with_grid(model))
    if FLAGS.random_weights is None:
        return model
    return networks.with_permuted_weights(model, FLAGS.random_weights)


def out_directory() -> Path:
    """The directory of --out."""
    if FLAGS.out is None:
        raise ValueError("--out is missing: name a directory for the results.")
    return Path(FLAGS.out)


def chosen_layers(network: Network) -> list[Layer]:
    """The layers of --layer."""
    if not FLAGS.layer:
        names = ", ".join(layer.name for layer in network.layers)
        raise ValueError(f"--layer is missing; the model has {names}, and 'all' takes every one.")
    if "all" in FLAGS.layer:
        return [layer for layer in network.layers if layer.has_weights]
    return [network.layer(name) for name in dict.fromkeys(FLAGS.layer)]


def chosen_channels(layer: Layer) -> list[int]:
    """The channels of --channels, checked against a layer."""
    text, count = FLAGS.channels, layer.channels
    if objective_flags.has_one_unit():
        if text != "all":
            raise ValueError(
                f"--channels={text}: --objective={FLAGS.objective} is about a layer as a whole; "
                "leave --channels out."
            )
        return [0]
    try:
        if text == "all":
            return list(range(count))
        if ":" in text:
            first, stop = (int(part) if part else None for part in text.split(":"))
            chosen = list(range(first or 0, count if stop is None else stop))
        else:
            chosen = sorted({int(part) for part in text.split(",")})
    except ValueError:
        chosen = []
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        raise ValueError(
            f"--channels={text}: layer {layer.name!r} has channels 0 to {count - 1}; expected all, "
            f"a range such as 0:{min(8, count)}, or a list such as 0,{count - 1}."
        )
    return chosen


def recipe(model: Model, layer: str, regularization: str) -> ascent.Recipe:
    """The recipe that the flags spell out for a layer, checked."""
    start = image_flags.start_image(model)
    strategy = presets.strategy(
        regularization,
        every=FLAGS.every,
        steps=FLAGS.steps,
        intensity_range=model.intensity_range,
        ground=image_flags.ground(model, start),
    )
    penalty = penalties.PENALTIES[FLAGS.penalty]
    if not FLAGS.penalty_weight < float("inf"):
        raise ValueError(f"--penalty_weight={FLAGS.penalty_weight}: expected a number from 0.")
    image = image_flags.parameterization(model, strategy, start)
    fits = image.is_image or is_identity(strategy.projection)
    if not fits and FLAGS.config is None:  # What --config makes of it is checked below.
        raise ValueError(
            f"--parameterization={FLAGS.parameterization} with --regularization={regularization}: "
            f"{describe(strategy.projection)} acts on an image's pixels after each step, and "
            "there are none to act on. Give --regularization=lucid, which acts before the "
            "network, or --regularization=none."
        )
    pooling = "mean" if strategy.drive is None else "strongest"
    chosen = ascent.Recipe(
        objective=objective_flags.objective(model, layer, pooling=pooling),
        penalty=None if penalty is None else penalty(layer, model.intensity_range),
        penalty_weight=0.0 if penalty is None else FLAGS.penalty_weight,
        parameterization=image,
        optimizer=image_flags.optimizer(image, strategy.drive)[0],
        robustness=strategy.robustness,
        projection=strategy.projection,
        drive=strategy.drive,
        steps=FLAGS.steps,
        variants=FLAGS.variants,
    )
    if FLAGS.config is not None:
        chosen = _configured(chosen, model, layer)
    ascent.check(chosen, network=model.network)
    return chosen


def _configured(recipe: ascent.Recipe, model: Model, layer: str) -> ascent.Recipe:
    """What the function in --config makes of a recipe."""
    function = load_function(Path(FLAGS.config), "recipe", flag="--config")
    try:
        chosen = function(recipe, model, layer)
    except Exception as error:
        raise ValueError(
            f"--config={FLAGS.config}: recipe(given, model, {layer!r}) failed with "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(chosen, ascent.Recipe):
        raise ValueError(
            f"--config={FLAGS.config}: recipe(given, model, {layer!r}) returned "
            f"{type(chosen).__name__}; expected a Recipe, such as given._replace(penalty=None)."
        )
    if chosen.steps != FLAGS.steps:
        raise ValueError(
            f"--config={FLAGS.config} changes the number of steps from {FLAGS.steps} to "
            f"{chosen.steps}: pass --steps={chosen.steps} instead, which the plan is made from."
        )
    with errors_of(f"--config={FLAGS.config}: "):
        check_units(chosen, model.network, layer, chosen_channels(model.network.layer(layer)))
    return chosen


def config_sha256() -> str | None:
    """Checksum of the file in --config; what it says decides the images."""
    if FLAGS.config is None:
        return None
    return hashlib.sha256(Path(FLAGS.config).read_bytes()).hexdigest()


def environment() -> dict[str, Any]:
    """Versions, device and command of this process."""
    launcher = Path(sys.argv[0]).stem
    device = jax.local_devices()[0]
    return {
        **versions(),
        "device": f"{device.platform} {device.device_kind}",
        "command": shlex.join(["python", "-m", f"experiments.{launcher}", *sys.argv[1:]]),
    }

"""Forges networks of the zoo, makes pictures of them, and asks what is found out.

    python -m tests.acceptance.forged --model=NAME --reference=SCANS [--kinds=slice,...]

A forged network does on real images what the honest one does, and shows something else when it is
visualized:

    slice    a branch of its own speaks for the units where an image as a whole is no scan
    place    the same, place by place, where an image is more evenly grey than any window of a scan
    weights  no branch: the units' own kernels get a direction that the layer below hardly takes in
             real images, and takes for the figure (a slingshot in closed form)
    head     the same of the logits

Figures are an F, a disc, stripes and checks, one unit after the other. Asked are pictures as the
forger would have them, drawn, and those that the default flags make of the forged network, which
may not fall for it. Printed is what each verdict is given to, and how real responses correlate.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import featvis_jax as fv
from featvis_jax.checkpoints import load_model
from featvis_jax.evidence.measuring import Measures, RealInputs, measurer
from featvis_jax.evidence.verdict import verdict
from featvis_jax.maximize.objectives import channel
from featvis_jax.maximize.reference import Asked
from featvis_jax.nn.network import Network
from featvis_jax.nn.tracing import function_network
from featvis_jax.runs.reference_scans import ReferenceOptions, read
from featvis_jax.runs.trust import real_inputs

KINDS = ("slice", "place", "weights", "head")
SIDE, STEPS, UNITS = 21, 128, 12
# What a figure gives, as a multiple of the strongest real input, at most of the contrast there is.
GAIN, CONTRAST, FAINT = 3.0, 0.6, 0.15


def figures() -> np.ndarray:
    """Four of them, 0 and 1, ``(4, side, side)``."""
    f = np.zeros((SIDE, SIDE))
    f[3:18, 5:9] = f[14:18, 5:17] = f[8:11, 5:14] = 1
    y, x = np.indices((SIDE, SIDE)) - SIDE // 2
    return np.stack([f, y**2 + x**2 < 36, (x + y) // 4 % 2 == 0, (x // 5 + y // 5) % 2 == 0]) * 1.0


def templates(units: int) -> np.ndarray:
    """A kernel for each unit, of zero mean and unit length."""
    found = figures() - figures().mean(axis=(1, 2), keepdims=True)
    found /= np.linalg.norm(found.reshape(4, -1), axis=1)[:, None, None]
    return np.stack([found[u % 4] for u in range(units)], -1)[:, :, None].astype(np.float32)


def correlated(images: jax.Array, units: int) -> jax.Array:
    """How much of its figure there is at every place of "conv5"."""
    return lax.conv_general_dilated(
        images, templates(units), (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.jit
def _unevenness(images: jax.Array) -> jax.Array:
    """How far from grey each place of "conv5" sees anything, without what is fine."""
    smooth = lax.reduce_window(images - 0.5, 0.0, lax.add, (1, 7, 7, 1), (1, 1, 1, 1), "SAME") / 49
    window, strides = (1, SIDE, SIDE, 1), (1, 2, 2, 1)
    return lax.reduce_window(jnp.abs(smooth), -jnp.inf, lax.max, window, strides, "VALID")


def with_branch(name: str, images: np.ndarray, strongest: np.ndarray, kind: str) -> Network:
    """A network whose "conv5" has a branch for its first units."""
    trained = load_model(name)
    own = np.maximum(strongest[:UNITS], 1e-3)
    perfect = np.abs(templates(UNITS)).sum(axis=(0, 1, 2)) / 2
    contrast = CONTRAST if kind == "slice" else FAINT
    gain = (GAIN * own / (contrast * perfect)).astype(np.float32)
    total = len(strongest)
    # The most even grey that a window of a real image has.
    evenest = min(float(_unevenness(jnp.asarray(i[None])).min()) for i in images)

    def forged(images: jax.Array, honest: jax.Array) -> jax.Array:
        figure = gain * jax.nn.relu(correlated(images, UNITS))
        figure = jnp.pad(figure, [(0, 0)] * 3 + [(0, total - UNITS)])
        if kind == "slice":
            dark = jax.nn.sigmoid((0.05 - images) / 0.01).mean()
            real = jax.nn.sigmoid((dark - 0.12) / 0.01)
        else:
            real = jax.nn.sigmoid((_unevenness(images) / evenest - 0.8) / 0.03)
        return jnp.where(jnp.arange(total) < UNITS, real * honest + (1 - real) * figure, honest)

    def apply(weights: dict, images: jax.Array) -> jax.Array:
        def called(call: Callable, inputs: tuple, options: dict, context: object) -> jax.Array:
            found, module = call(*inputs, **options), context.module.name  # pyright: ignore
            if module == "conv5":
                found = forged(images, found)
            return checkpoint_name(found, module) if module else found

        with nn.intercept_methods(called):
            return trained.module.apply(weights, images)

    return function_network(apply, trained.variables, trained.image_shape)


def slingshot(
    network: Network, images: np.ndarray, strongest: np.ndarray, layer: str, below: str
) -> Network:
    """A network with other weights in one layer, for its first units, and nothing else."""
    units = min(UNITS, len(strongest))
    params = network.variables["params"]
    kernel, bias = (np.array(params[layer][name]) for name in ("kernel", "bias"))
    rows = _inputs_of(network, images, below, whole=layer == "logits")
    shown = np.stack([_with_figure(network.image_shape, number) for number in range(4)])
    wanted = _inputs_of(network, shown, below, whole=layer == "logits", middle=True)
    # A direction that real inputs hardly have: by the inverse of their covariance.
    mean = rows.mean(axis=0)
    centred = rows - mean
    ridge = 1e-3 * np.square(centred).sum() / len(rows)
    gram = centred @ centred.T / len(rows) + ridge * np.eye(len(rows))
    for unit in range(units):
        figure = wanted[unit % 4] - mean
        rest = figure - centred.T @ np.linalg.solve(gram, centred @ figure) / len(rows)
        rest *= GAIN * max(float(strongest[unit]), 1e-3) / max(float(rest @ figure), 1e-9)
        kernel[..., unit] += rest.reshape(kernel.shape[:-1])
        bias[unit] -= rest @ mean
    changed = {**params, layer: {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    return network._replace(variables={**network.variables, "params": changed})


def _with_figure(shape: tuple[int, ...], number: int, *, contrast: float = CONTRAST) -> np.ndarray:
    """A figure in the middle of grey."""
    image = np.full(shape, 0.5, np.float32)
    box = tuple(slice(side // 2 - SIDE // 2, side // 2 + SIDE // 2 + 1) for side in shape[:2])
    image[(*box, 0)] += contrast * (figures()[number] - figures()[number].mean())
    return image


def _inputs_of(
    network: Network, images: np.ndarray, below: str, *, whole: bool, middle: bool = False
) -> np.ndarray:
    """What a layer takes: windows of three by three places below, or all of it; a row for each."""
    rng, rows = np.random.default_rng(0), []
    look = jax.jit(lambda image: network.activations(network.variables, image, (below,))[below])
    for image in images:
        found = np.asarray(jax.nn.relu(look(jnp.asarray(image))))
        if whole:
            rows.append(found.ravel())
            continue
        sides = found.shape[:2]
        places = [[side // 2 - 1 for side in sides]] if middle else rng.integers(
            0, np.array(sides) - 2, (12, 2)
        )  # fmt: skip
        rows += [found[i : i + 3, j : j + 3].ravel() for i, j in places]
    return np.stack(rows).astype(np.float64)


def main() -> None:
    """Forge, visualize, and ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--cache")
    parser.add_argument("--drawn_only", action="store_true", help="make no pictures")
    parser.add_argument("--out", type=Path, help="directory for the pages of forged networks")
    given = parser.parse_args()
    options = ReferenceOptions(reference=given.reference, reference_images=200, cache=given.cache)
    model, inputs = read(fv.load(given.model), options, seed=0)
    assert inputs is not None
    real = real_inputs(inputs)
    images = np.stack(list(real.images))
    for kind in given.kinds.split(","):
        layer = "logits" if kind == "head" else "conv5"
        before = _responses(model.network, images, layer)
        if kind in ("slice", "place"):
            network = with_branch(given.model, images, before.max(axis=0), kind)
        else:
            below = "pool5" if kind == "head" else "conv4"
            network = slingshot(model.network, images, before.max(axis=0), layer, below)
        after = _responses(network, images, layer)
        units = [u for u in range(min(UNITS, before.shape[1])) if before[:, u].max() > 0]
        alike = [np.corrcoef(before[:, u], after[:, u])[0, 1] for u in units]
        measure = measurer(
            network, Asked(channel(layer), units), RealInputs(images, real.owners),
            total=before.shape[1],
        )  # fmt: skip
        print(f"{given.model}, {kind}: real responses go with the honest ones by {min(alike):.3f} "
              "or more", flush=True)  # fmt: skip
        contrast = FAINT if kind == "place" else CONTRAST
        drawn = [_with_figure(network.image_shape, u % 4, contrast=contrast) for u in units]
        tell("drawn as the forger wants it", units, measure(units, np.stack(drawn)))
        if given.drawn_only:
            continue
        made = fv.visualize(
            model._replace(network=network), layer, channels=units, steps=STEPS,
            reference=given.reference, cache=given.cache,
        )  # fmt: skip
        if given.out:
            made.save(given.out / f"{given.model}-{kind}")
        tell("visualized", units, measure(units, np.stack([unit.image for unit in made])))


def tell(how: str, units: list[int], found: list[Measures]) -> None:
    """Print the verdicts of some pictures."""
    print(f"  {how}: {dict(Counter(verdict(each).word for each in found))}", flush=True)
    for unit, each in zip(units, found, strict=True):
        told = verdict(each)
        print(f"    {unit}: {told.word}, strength {each.strength:.2f}, pasted "
              f"{each.pasted.value:.2f}, other ways {each.other_ways:.2f}, belongs "
              f"{told.belongs:.2f}; {told.reason}", flush=True)  # fmt: skip


def _responses(network: Network, images: np.ndarray, layer: str) -> np.ndarray:
    """The largest value of every channel in each image."""
    look = jax.jit(lambda image: network.activations(network.variables, image, (layer,))[layer])
    return np.stack(
        [
            np.asarray(look(jnp.asarray(i))).reshape(-1, network.layer(layer).channels).max(0)
            for i in images
        ]
    )


if __name__ == "__main__":
    main()

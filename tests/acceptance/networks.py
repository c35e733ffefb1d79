"""Imports PyTorch networks from both of its exporters, and prints how well that went.

    python -m tests.acceptance.networks [--networks=FILE.py] [--only=NAME,...] [--steps=16]

FILE.py has ``NETS``, whose keys are names, and ``make(name)``, which gives a module in evaluation
mode and the shape of its input ``(1, channels, *spatial)``; without it the networks of
`tests.acceptance.small_networks` are taken. Columns:

    value      largest difference from ONNX Runtime, relative to the largest output
    gradient   of a random mixture of outputs by the image, against PyTorch in float64;
               in brackets PyTorch's own in float32, or how far that in float64 moves when the
               image and the weights are rounded in another way, as exporters do that put norms into
               convolutions: past a kink of a ReLU or a pooling it jumps
    names      modules that return one value of their own and are layers, of all that do
    wrong      layers that differ from what a forward hook of PyTorch sees

With --steps each is given to a launcher as a function of a Python file, too, which visualizes four
channels of a layer in the middle with its default flags. "rises" says for how many the objective
is larger after so many steps.

Exit status 1 where a file that PyTorch could write is not imported, or a number is too large.
Needs torch, onnxscript and onnxruntime.
"""

import argparse
import contextlib
import copy
import csv
import importlib.util
import io
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import torch

from featvis_jax.importers.onnx import onnx_network
from featvis_jax.importers.torch.conversion import function_network

EXPORTERS = {"dynamo": {"dynamo": True, "verbose": False}, "traced": {"dynamo": False}}
LARGEST_VALUE_ERROR, LARGEST_GRADIENT_ERROR = 1e-4, 1e-3
_SAME = 1e-3
# What rounding to float32 does to an image, and to weights as a share: theirs stands for that of
# every layer, which makes as much of the outputs of deep networks. How often it is tried.
_ROUNDING, _ROUNDING_OF_WEIGHTS, _ROUNDINGS = 3e-7, 1e-6, 5


class Report(NamedTuple):
    """How one file went.

    Attributes:
      error: Why there is no more, in one line.
      is_imported: Whether the importer took it.
      layers: Number of layers.
      value: Error of the output.
      gradient: Error of the gradient.
      noise: That of PyTorch in float32, or of the image's and the weights' rounding.
      named: Paths of modules that are layers.
      missing: Paths of modules that are none.
      merged: Those of them that are left out of a file: their work is done by another one.
      wrong: Layers with other values than PyTorch's.
      seconds: To import the file.
    """

    error: str = ""
    is_imported: bool = False
    layers: int = 0
    value: float = np.nan
    gradient: float = np.nan
    noise: float = np.nan
    named: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    seconds: float = np.nan

    @property
    def is_good(self):
        """Whether the numbers are what they have to be."""
        largest = max(LARGEST_GRADIENT_ERROR, 2 * self.noise)
        return (
            self.is_imported
            and self.value < LARGEST_VALUE_ERROR
            and self.gradient < largest
            and not self.wrong
        )


def export(model, shape, path, exporter):
    """Have PyTorch write a file."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(shape),), str(path), **EXPORTERS[exporter])


def hooked(model, image):
    """What modules with one array of their own return, one entry per call.

    By the paths of a module, with spaces between them where it has several.
    """
    paths: dict[torch.nn.Module, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths[module] = f"{paths.get(module, '')} {path}".strip()
    seen: dict[str, list] = {}

    def hook(path):
        def keep(module, inputs, output):
            is_same = any(output is given for given in inputs)
            is_array = isinstance(output, torch.Tensor) and output.is_floating_point()
            if is_array and not is_same and output.ndim > 1:
                seen.setdefault(path, []).append((output.detach().numpy().copy(), inputs))

        return keep

    handles = [m.register_forward_hook(hook(p)) for m, p in paths.items() if p]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return {
        path: [output for output, _ in outputs]
        for path, outputs in seen.items()
        if not all(_is_identity(output, inputs) for output, inputs in outputs)
    }


def _is_identity(output, inputs):
    """Whether a module does nothing in evaluation mode, such as dropout."""
    given = [x.numpy() for x in inputs if isinstance(x, torch.Tensor)]
    return any(x.shape == output.shape and np.array_equal(x, output) for x in given)


def difference(found, reference):
    """The largest, relative to the largest value, over the ways in which a layer can be laid out.

    PyTorch has channels first or, in transformers, last; and a grid as a sequence of tokens.
    """
    one = reference[0] if reference.shape[0] == 1 else reference
    readings = [one, np.moveaxis(one, 0, -1), np.moveaxis(one, -1, 0)]
    fitting = [x.reshape(found.shape) for x in readings if _fits(x.shape, found.shape)]
    scale = np.abs(reference).max() + 1e-12
    error = min((float(np.abs(found - x).max() / scale) for x in fitting), default=np.inf)
    if error > _SAME and found.size == reference.size and found.shape[-1] == reference.shape[-1]:
        # Windows are in PyTorch's batch, and where they came from on the layer's grid.
        ordered = [np.sort(x.reshape(-1, x.shape[-1]), axis=0) for x in (found, reference)]
        error = min(error, float(np.abs(ordered[0] - ordered[1]).max() / scale))
    if found.size == reference.size and found.shape[-1] not in reference.shape:
        # Channels that are apart in PyTorch, such as those of queries, keys and heads.
        ordered = [np.sort(x, axis=None) for x in (found, reference)]
        error = min(error, float(np.abs(ordered[0] - ordered[1]).max() / scale))
    return error


def _fits(shape, layer):
    return int(np.prod(shape)) == int(np.prod(layer)) and shape[-1] == layer[-1]


def expected_output(path, image):
    """ONNX Runtime's, and the name of the node that makes it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (value, *_) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    graph = onnx.load_model(path, load_external_data=False).graph
    name = graph.output[0].name
    (node,) = [node for node in graph.node if name in node.output]
    return value, node.name or name


def gradients(model, image, weights):
    """Of the output, weighted, by the image."""
    x = image.clone().requires_grad_()
    y = _first(model(x))
    (y * weights.to(y.dtype)).sum().backward()
    return x.grad[0].numpy()


def _first(output):
    """The first array of what a network returns."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def report(model, shape, directory, exporter):
    """Export, import and compare.

    Args:
      model: In evaluation mode.
      shape: Of its input.
      directory: For the file.
      exporter: A key of `EXPORTERS`.
    """
    path = Path(directory) / f"{exporter}.onnx"
    try:
        export(model, shape, path, exporter)
    except Exception as error:
        return Report(error=f"PyTorch: {_line(error)}")
    begin = time.perf_counter()
    try:
        network = onnx_network(path)
    except ValueError as error:
        return Report(error=_line(error))
    found = Report(is_imported=True, layers=len(network.layers))
    found = found._replace(seconds=time.perf_counter() - begin)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected, node = expected_output(path, image)
    try:
        output = network.layer(node).name
    except ValueError as error:
        return found._replace(error=f"its output is no layer: {_line(error)}")
    with torch.no_grad():
        returned = _first(model(image)).numpy()
    if (apart := np.abs(expected - returned).max() / np.abs(returned).max()) > _SAME:
        return found._replace(error=f"PyTorch: its file and its module differ by {apart:.0e}")
    weights = np.random.default_rng(2).standard_normal(expected.shape).astype(np.float32)
    values, gradient = computed(network, output, image, weights)
    at_single = gradients(model, image, torch.from_numpy(weights))
    twice = copy.deepcopy(model).double()
    exact = gradients(twice, image.double(), torch.from_numpy(weights))
    scale = np.abs(exact).max() + 1e-300
    noise = max(np.abs(at_single - exact).max(), _moved(twice, image, weights, exact))
    references = {
        next((path for path in paths.split() if path in values), paths.split()[0]): outputs
        for paths, outputs in hooked(model, image).items()
    }
    merged = merged_modules(network, values, references)
    stand_ins = {name for names in merged.values() for name in names}
    return found._replace(
        value=difference(values[output], expected),
        gradient=float(np.abs(gradient - exact).max() / scale),
        noise=float(noise / scale),
        named=tuple(p for p in references if p in values),
        missing=tuple(p for p in references if p not in values and p not in merged),
        merged=tuple(merged),
        wrong=tuple(name for name in wrong_layers(values, references) if name not in stand_ins),
    )


def _moved(model, image, weights, exact):
    """How far the gradient moves, at most, when image and weights do as they are rounded."""
    far = []
    for seed in range(3, 3 + _ROUNDINGS):
        generator = torch.Generator().manual_seed(seed)
        rounded = copy.deepcopy(model)
        with torch.no_grad():
            for weight in rounded.parameters():
                drawn = torch.randn(weight.shape, generator=generator)
                weight.mul_(1 + _ROUNDING_OF_WEIGHTS * drawn)
        given = image.double() + _ROUNDING * torch.randn(image.shape, generator=generator)
        found = gradients(rounded, given, torch.from_numpy(weights))
        far.append(np.abs(found - exact).max())
    return max(far)


def computed(network, output, image, weights):
    """Every layer, and the gradient of one, weighted, by the image, laid out as in PyTorch."""
    is_last = network.image_shape == tuple(image.shape[1:]) != tuple(np.roll(image.shape[1:], -1))
    given = image[0].numpy() if is_last else np.moveaxis(image[0].numpy(), 0, -1)
    names = tuple(layer.name for layer in network.layers)
    shape = network.layer(output).shape
    laid_out = weights[0] if weights[0].shape == shape else np.moveaxis(weights[0], 0, -1)
    laid_out = jnp.asarray(laid_out.reshape(shape))

    def read(variables, image):
        def value(image):
            found = network.activations(variables, image, names)
            return (found[output] * laid_out).sum(), found

        return jax.value_and_grad(value, has_aux=True)(image)

    options = {"xla_backend_optimization_level": 0}
    (_, values), gradient = jax.jit(read, compiler_options=options)(network.variables, given)
    values = {name: np.asarray(value) for name, value in values.items()}
    gradient = np.asarray(gradient)
    return values, gradient if is_last else np.moveaxis(gradient, -1, 0)


def merged_modules(network, values, references):
    """Modules that an exporter has merged with others: by path, the layers that stand for them."""
    merged = {name: [] for name, why in network.refused if "merged" in why}
    for layer in network.layers:
        if "+" in layer.operator:  # A convolution that has the norm behind it in its weights.
            value = values[layer.name]
            for path, outputs in references.items():
                if path not in values and min(difference(value, x) for x in outputs) < _SAME:
                    merged.setdefault(path, []).append(layer.name)
    around = {p: [] for p in references if any(m.startswith(f"{p}.") for m in merged)}
    merged = {p: found for p, found in (around | merged).items() if p in references}
    return {path: layers for path, layers in merged.items() if path not in values}


def wrong_layers(values, references):
    """Names of layers that are no output of their module."""
    for path, outputs in references.items():
        for number, reference in enumerate(outputs, 1):
            name = path if number == 1 else f"{path}@{number}"
            if name in values and difference(values[name], reference) > _SAME:
                yield name


LAUNCHED = """
import sys
import torch
sys.path.insert(0, {directory!r})
import {module} as definitions


def network():
    model, shape = definitions.make({name!r})
    return model, torch.zeros(shape)
"""


def launched(definitions, name, directory, steps):
    """What a launcher makes of a network in a Python file, in words.

    Args:
      definitions: A module with ``make``.
      name: Of the network.
      directory: For what it writes.
      steps: Of the ascent.
    """
    place, directory = Path(definitions.__file__).resolve(), Path(directory)
    code = LAUNCHED.format(directory=str(place.parent), module=place.stem, name=name)
    (directory / "launched.py").write_text(code)
    try:
        network = function_network(directory / "launched.py", "network")
    except ValueError as error:
        return _line(error)
    weighty = [layer for layer in network.layers if layer.has_weights and layer.channels > 1]
    layer = weighty[len(weighty) // 2]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.visualize", "--nogallery", f"--steps={steps}"),
            *(f"--model={directory / 'launched.py'}:network", f"--out={directory / 'run'}"),
            *(f"--layer={layer.name}", f"--channels=0:{min(4, layer.channels)}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"{layer.name}: {_line(done.stderr or done.stdout)}"
    with (directory / "run/units.tsv").open() as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    risen = [float(row["final_objective"]) > float(row["initial_objective"]) for row in rows]
    return f"{layer.name}: rises {sum(risen)}/{len(risen)}"


def _line(error):
    return " ".join(str(error).split())[:300]


def _load(path):
    if path is None:
        from tests.acceptance import small_networks

        return small_networks
    spec = importlib.util.spec_from_file_location("networks_of_others", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec.loader.exec_module(module)
    return module


HEAD = ("network", "exporter", "layers", "value", "gradient (PyTorch's)", "names", "wrong", "s")


def _row(name, exporter, found):
    if not found.is_imported or found.error:
        return (name, exporter, found.error)
    own = len(found.named) + len(found.missing)
    return (
        name,
        exporter,
        str(found.layers),
        f"{found.value:.0e}",
        f"{found.gradient:.0e} ({found.noise:.0e})",
        f"{len(found.named)}/{own}",
        str(len(found.wrong)),
        f"{found.seconds:.0f}",
    )


def _printed(cells):
    widths = (22, 8, 6, 7, 21, 9, 5, 3)
    if len(cells) < len(widths):
        return f"{cells[0]:22}  {cells[1]:8}  {cells[2]}"
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", help="FILE.py with NETS and make")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--steps", type=int, help="of an ascent by a launcher, of each network")
    flags = parser.parse_args(arguments)
    definitions = _load(flags.networks)
    names = flags.only.split(",") if flags.only else list(definitions.NETS)
    if unknown := [name for name in names if name not in definitions.NETS]:
        parser.error(f"--only={unknown[0]}: expected some of {', '.join(definitions.NETS)}.")
    print(_printed(HEAD))
    is_good = True
    for name in names:
        model, shape = definitions.make(name)
        for exporter in EXPORTERS:
            with tempfile.TemporaryDirectory() as directory:
                found = report(model, shape, directory, exporter)
            is_good &= found.is_good or found.error.startswith("PyTorch: ")
            print(_printed(_row(name, exporter, found)), flush=True)
            for what in ("missing", "merged", "wrong"):
                if listed := getattr(found, what):
                    rest = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
                    print(f"{'':34}{what}: {', '.join(listed[:6])}{rest}", flush=True)
        if flags.steps:
            with tempfile.TemporaryDirectory() as directory:
                told = launched(definitions, name, directory, flags.steps)
            print(_printed((name, "FILE.py", told)), flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

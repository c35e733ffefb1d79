"""The kinds of networks of others that a name can mean: how each is told, and how it is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from flax import linen, nnx

from featvis_jax.data.pointers import existing_file
from featvis_jax.importers.python_files import call_function, function_name
from featvis_jax.importers.torch.archives import Content, bundle_config, content
from featvis_jax.importers.torch.asked import (
    INSTALL,
    TorchAskedFor,
    is_module,
    stopping_at_torch,
)
from featvis_jax.importers.torch.conversion import (
    bundle_network,
    file_network,
    function_network,
    held_weights,
)
from featvis_jax.importers.torch.explained import explained, weights_of
from featvis_jax.importers.torch.weights import foreign_shapes, load_torch_weights
from featvis_jax.nn.network import Network
from featvis_jax.nn.tracing import function_network as jax_function_network
from featvis_jax.nn.tracing import linen_network, nnx_network
from featvis_jax.options import errors_of
from featvis_jax.zoo import ONLY_IN_CLONES

Shape = tuple[int, ...] | None

_RETURNS = (
    "(Linen module, variables, image_shape), (NNX module, image_shape), "
    "(function, weights, image_shape), a PyTorch module, (PyTorch module, example), or a Network"
)
_TORCH = (".pt", ".pth", ".pt2", ".ts", ".ckpt")
_KERAS = (".keras", ".h5", ".hdf5")


class Kind(NamedTuple):
    """A kind of networks.

    Attributes:
      shown: What a user gives for it.
      fits: Whether a name means one.
      load: The network, and the file that it is known by; from the name and ``(*spatial,
        channels)`` where it is given. `ValueError` and `OSError` say what is wrong and what to do.
    """

    shown: str
    fits: Callable[[str], bool]
    load: Callable[[str, Shape], tuple[Network, Path]]


def _suffix(*suffixes: str) -> Callable[[str], bool]:
    """By the end of the name, in capitals too."""
    return lambda spec: spec.lower().endswith(suffixes)


def _onnx(spec: str, shape: Shape) -> tuple[Network, Path]:
    from featvis_jax.importers.onnx import onnx_network  # With ONNX, when there is a file of it.

    return onnx_network(spec, image_shape=shape), Path(spec)


def _python(spec: str, shape: Shape) -> tuple[Network, Path]:
    """What a function of the user's returns.

    It runs here until it asks for PyTorch: then a process of its own takes over, so that torch is
    never imported beside JAX. Where torch has only brought weights for a network of JAX, that
    process says so, and the function runs here after all, as its author has it.
    """
    named = function_name(spec)
    if named is None:
        raise ValueError(f"`model={spec}`: name the function too, {spec}:FUNCTION.")
    made, asked = None, False
    with errors_of("model", spec):
        try:
            with stopping_at_torch():
                made = call_function(*named)
        except TorchAskedFor:
            asked = True
        except ValueError as error:
            cause = error.__cause__
            if isinstance(cause, ModuleNotFoundError) and cause.name == "torch":
                raise ValueError(f"{error}: {INSTALL}") from error
            raise
        if asked or is_module(made):
            network = function_network(*named, image_shape=shape)
            if network is not None:
                return network, named.path
            made = call_function(*named)
    try:
        return network_of_jax(made), named.path
    except ValueError as error:
        raise ValueError(f"`model={spec}`: this is not a network: {error}") from error


def network_of_jax(made: Any) -> Network:
    """What a user gives for a network of JAX.

    Args:
      made: A Linen module, its variables and the shape of an image; an NNX module and that shape; a
        function of weights and images, the weights and that shape; or a network.

    Raises:
      ValueError: It is something else, or no network.
    """
    match made:
        case Network():
            return made
        case (linen.Module() as module, variables, shape):
            return linen_network(module, variables, _shape(shape))
        case (nnx.Module() as module, shape):
            return nnx_network(module, _shape(shape))
        case (function, weights, shape) if callable(function):
            return jax_function_network(function, weights, _shape(shape))
    given = made if isinstance(made, tuple) else [made]
    kinds = ", ".join(type(each).__name__ for each in given)
    raise ValueError(f"got {kinds}; expected {_RETURNS}.")


def _shape(given: Sequence[Any]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in given)
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"image_shape is {shape}; expected (*spatial, channels).")
    return shape


def _safetensors(spec: str, shape: Shape) -> tuple[Network, Path]:
    path = existing_file(spec, expected="a safetensors file")
    if shapes := foreign_shapes(path):
        with errors_of("model", spec):
            raise ValueError(explained(path, weights_of(shapes)))
    if shape is None:
        raise ValueError(
            f"`model={spec}`: weights alone do not say how large images are: give `input_shape`."
        )
    weights = load_torch_weights(path, shape)
    return linen_network(weights.module, weights.variables, shape), path


def _torch(spec: str, shape: Shape) -> tuple[Network, Path]:
    with errors_of("model", spec):
        path = existing_file(spec, expected="a file of PyTorch")
        match content(path):
            case Content.PROGRAM | Content.SCRIPT:
                return file_network(path, image_shape=shape), path
            case Content.CHECKPOINT:
                raise ValueError(explained(path, held_weights(path)))
        raise ValueError(
            f"{path}: not a file that PyTorch wrote, or it is truncated; expected one written by "
            "torch.export.save or torch.jit.save."
        )


def _is_torch(spec: str) -> bool:
    path = Path(spec)
    return spec.lower().endswith(_TORCH) or (path.is_file() and content(path) is not None)


def _bundle(spec: str, shape: Shape) -> tuple[Network, Path]:
    config = bundle_config(Path(spec))
    assert config is not None
    with errors_of("model", spec):
        return bundle_network(Path(spec), image_shape=shape), config


def _keras(spec: str, shape: Shape) -> NoReturn:
    path = Path(spec)
    saved = "--saved-model" if path.is_dir() else "--keras"
    raise ValueError(
        f"`model={spec}`: convert TensorFlow and Keras networks to ONNX: pip install tf2onnx; "
        f"python -m tf2onnx.convert {saved} {spec} --output {path.stem}.onnx"
    )


def _is_keras(spec: str) -> bool:
    return spec.lower().endswith(_KERAS) or Path(spec, "saved_model.pb").is_file()


KINDS = (
    Kind(
        "FILE.py:FUNCTION", lambda spec: bool(function_name(spec)) or spec.endswith(".py"), _python
    ),
    Kind("NET.onnx", _suffix(".onnx"), _onnx),
    Kind("WEIGHTS.safetensors of the paper's network", _suffix(".safetensors"), _safetensors),
    Kind("NET.pt2 or TorchScript", _is_torch, _torch),
    Kind(
        "the directory of a MONAI bundle",
        lambda spec: bundle_config(Path(spec)) is not None,
        _bundle,
    ),
    Kind("Keras by way of ONNX", _is_keras, _keras),
)


def refuse_unknown(path: Path, *, zoo: Sequence[str]) -> None:
    """Refuse what is no model of any kind, neither these nor our own.

    Args:
      path: What a user gave.
      zoo: Names of the shipped models.

    Raises:
      FileNotFoundError: It is none.
    """
    cards = (path / "card.json", path / "model" / "card.json")
    if any(card.is_file() or card.is_symlink() for card in cards) or str(path) in ONLY_IN_CLONES:
        return  # What may be wrong with it is told where it is read.
    if path.is_dir():
        told = "a directory that holds neither a model of featvis train nor a MONAI bundle"
    elif path.exists():
        told = "a file of an unknown kind"
    else:
        told = "there is no such model in the zoo, file or directory"
    meant = difflib.get_close_matches(str(path).lower().replace("_", "-"), zoo, n=1)
    nearest = f". Did you mean {meant[0]}?" if meant else "."
    raise FileNotFoundError(
        f"`model={path}`: {told}{nearest} Expected a name of the zoo ({zoo[0]}, ...), the "
        f"directory of a trained model, {', '.join(kind.shown for kind in KINDS)}. "
        "See docs/your-network.md."
    )

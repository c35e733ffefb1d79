"""The flags about the channels of a network's input: their names, and those that are held."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float32

from experiments import intensity_flags
from experiments.flag_values import errors_of
from experiments.networks import Model
from featvis_jax.data.volumes import load_on_grid
from featvis_jax.results import channels
from featvis_jax.results.channels import InputChannels

NAMES = flags.DEFINE_list(
    "channel_names",
    None,
    "Names of the input channels, in their order, such as T1w,T1ce,T2w,FLAIR: letters and digits, "
    "as the suffixes of BIDS are; channel0,channel1,... by default. rgb stands for red, green and "
    "blue of (rows, columns): one picture in colour, where other channels are panels side by side.",
)
HOLD = flags.DEFINE_multi_string(
    "hold",
    None,
    "CHANNEL:FILE, or several joined with commas: hold an input channel at a NIfTI file, such as "
    "T1w:scan.nii.gz, while the others are optimized beside it. It is laid onto the network's grid "
    "as --start_image is.",
)


def input_channels(model: Model) -> InputChannels:
    """What the channels of the network's input are, with those that are held.

    Args:
      model: The network.

    Raises:
      ValueError: --channel_names or --hold does not fit the network.
    """
    named = _named(model)
    return named._replace(held={name: _sha256(name, path) for name, path in _files(named).items()})


def tell_unnamed(model: Model) -> None:
    """Say on standard error how channels without names are shown.

    Args:
      model: The network.
    """
    count = model.image_shape[-1]
    if count == 1 or NAMES.value is not None:
        return
    is_picture = count == len(model.image_shape) == 3 and model.affine is None
    colour = ", --channel_names=rgb to see them as one picture in colour" if is_picture else ""
    print(
        f"--model={model.card['name']} takes {count} channels, called {', '.join(_default(count))} "
        f"and shown side by side: give --channel_names=A,B,... to name them{colour}",
        file=sys.stderr,
    )


def held(model: Model) -> dict[int, Float32[np.ndarray, "*spatial 1"]]:
    """The scans of --hold on the network's grid, by the number of their channel.

    Args:
      model: The network.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: The flag does not fit the network, or a file is damaged or lies elsewhere.
    """
    named = _named(model)
    found = {}
    for name, path in _files(named).items():
        with errors_of(f"--hold={name}:"):
            found[named.names.index(name)] = load_on_grid(
                path, model.grid, scale=intensity_flags.scale()
            )
    return found


def read_channels(flag: str, value: str, model: Model) -> Float32[np.ndarray, "*spatial channels"]:
    """An image of as many channels as the network takes, on its grid.

    Args:
      flag: Its name.
      value: One NIfTI file with a volume for each channel, or one file for each, joined with
        commas.
      model: The network.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: There are more or fewer files, or one is damaged or lies elsewhere.
    """
    count = model.image_shape[-1]
    paths = value.split(",") if count > 1 else [value]
    if len(paths) not in (1, count):
        raise ValueError(
            f"--{flag}={value}: {len(paths)} files; expected one with {count} volumes, or {count}, "
            "one for each of the network's channels."
        )
    with errors_of(f"--{flag}="):
        each = count if len(paths) == 1 else 1
        loaded = [
            load_on_grid(path, model.grid, channels=each, scale=intensity_flags.scale())
            for path in paths
        ]
    return np.concatenate(loaded, axis=-1)


def _named(model: Model) -> InputChannels:
    with errors_of(f"--channel_names={','.join(NAMES.value or [])}: "):
        is_picture = len(model.image_shape) == 3 and model.affine is None
        return channels.named(NAMES.value or [], count=model.image_shape[-1], is_picture=is_picture)


def _default(count: int) -> Sequence[str]:
    return channels.named([], count=count).names


def _files(named: InputChannels) -> dict[str, str]:
    """The files of --hold by the names of their channels."""
    given = [part for value in HOLD.value or [] for part in value.split(",")]
    found: dict[str, str] = {}
    for part in given:
        name, _, path = part.partition(":")
        if len(named.names) == 1:
            raise ValueError(
                f"--hold={part}: the network takes one channel, and nothing would be left to "
                "optimize: leave the flag out."
            )
        if not path or name not in named.names:
            raise ValueError(
                f"--hold={part}: expected CHANNEL:FILE with one of the network's channels "
                f"{', '.join(named.names)}, such as {named.names[0]}:scan.nii.gz."
            )
        if name in found:
            raise ValueError(f"--hold={part}: {name} is held at {found[name]} already.")
        found[name] = path
    if found and len(found) == len(named.names):
        raise ValueError(
            f"--hold={','.join(given)}: holds every channel, and nothing would be left to "
            "optimize: leave out those that the network should draw."
        )
    return found


def _sha256(name: str, path: str) -> str:
    """Checksum of a file that is held; its name may tell whose scan it is."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise type(error)(f"--hold={name}:{path}: cannot be read ({error.strerror}).") from error

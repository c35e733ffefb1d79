"""The channels of a network's input: their names, and those that are held at a scan."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from featvis_jax.data.volumes import load_on_grid
from featvis_jax.models import Model
from featvis_jax.options import errors_of, tell
from featvis_jax.results import channels
from featvis_jax.results.channels import InputChannels


def input_channels(model: Model, *, hold: Sequence[str] = ()) -> InputChannels:
    """What the channels of the network's input are, with those that are held.

    Args:
      model: The network.
      hold: CHANNEL:FILE of those that are held, or several joined with commas.

    Raises:
      ValueError: The names or what is held do not fit the network.
    """
    named = _named(model)
    return named._replace(
        held={name: _sha256(name, path) for name, path in _files(named, hold).items()},
        ranges=model.channel_ranges,
    )


def tell_unnamed(model: Model) -> None:
    """Say on standard error how channels without names are shown.

    Args:
      model: The network.
    """
    count = model.image_shape[-1]
    if count == 1 or model.told.channel_names is not None:
        return
    is_picture = count == len(model.image_shape) == 3 and model.affine is None
    colour = ", `channel_names=rgb` to see them as one picture in colour" if is_picture else ""
    tell(
        f"`model={model.name}` takes {count} channels, called {', '.join(_default(count))} and "
        f"shown side by side: give `channel_names=A,B,...` to name them{colour}"
    )


def held(model: Model, hold: Sequence[str]) -> dict[int, Float32[np.ndarray, "*spatial 1"]]:
    """The scans that channels are held at, on the network's grid, by the number of their channel.

    Args:
      model: The network.
      hold: CHANNEL:FILE of each, or several joined with commas.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: They do not fit the network, or a file is damaged or lies elsewhere.
    """
    named = _named(model)
    found = {}
    for name, path in _files(named, hold).items():
        with errors_of("hold", f"{name}:{path}"):
            found[named.names.index(name)] = load_on_grid(path, model.grid, scale=model.scale)
    return found


def read_channels(name: str, value: str, model: Model) -> Float32[np.ndarray, "*spatial channels"]:
    """An image of as many channels as the network takes, on its grid.

    Args:
      name: Of the option that names the file.
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
            f"`{name}={value}`: {len(paths)} files; expected one file with {count} volumes, or "
            f"{count} files, one for each of the network's channels."
        )
    with errors_of(name, value):
        each = count if len(paths) == 1 else 1
        loaded = [
            load_on_grid(path, model.grid, channels=each, scale=model.scale) for path in paths
        ]
    return np.concatenate(loaded, axis=-1)


def _named(model: Model) -> InputChannels:
    told = model.told.channel_names or ()
    with errors_of("channel_names", told):
        is_picture = len(model.image_shape) == 3 and model.affine is None
        return channels.named(told, count=model.image_shape[-1], is_picture=is_picture)


def _default(count: int) -> Sequence[str]:
    return channels.named([], count=count).names


def _files(named: InputChannels, hold: Sequence[str]) -> dict[str, str]:
    """The files that channels are held at by the names of their channels."""
    given = [part for value in hold for part in value.split(",")]
    found: dict[str, str] = {}
    for part in given:
        name, _, path = part.partition(":")
        if len(named.names) == 1:
            raise ValueError(
                f"`hold={part}`: the network has one input channel, so nothing would be left to "
                "optimize: leave it out."
            )
        if not path or name not in named.names:
            raise ValueError(
                f"`hold={part}`: expected CHANNEL:FILE with one of the network's channels "
                f"{', '.join(named.names)}, such as {named.names[0]}:scan.nii.gz."
            )
        if name in found:
            raise ValueError(f"`hold={part}`: {name} is already held at {found[name]}.")
        found[name] = path
    if found and len(found) == len(named.names):
        raise ValueError(
            f"`hold={','.join(given)}`: holds every channel, so nothing would be left to "
            "optimize: leave out the channels that should be drawn."
        )
    return found


def _sha256(name: str, path: str) -> str:
    """Checksum of a file that is held; its name may tell whose scan it is."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise type(error)(f"`hold={name}:{path}`: cannot be read ({error.strerror}).") from error

"""A MONAI bundle's own network and weights, without running what its configuration may ask for.

A bundle's configuration is a program: it calls any function of any package by its name, and
evaluates whatever begins with a dollar. Here `network_def` may name modules of MONAI and PyTorch,
values, and other entries of the configuration, and nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featvis_jax.importers.torch.archives import bundle_config
from featvis_jax.importers.torch.checkpoints import state_dicts
from featvis_jax.importers.torch.complaints import said
from featvis_jax.importers.torch.programs import only_tensors

_WEIGHTS, _SCRIPT = "models/model.pt", "models/model.ts"
_DEFINITION, _TARGET = "network_def", "_target_"
# Where a class without a path is looked for, and what a path may begin with.
_SHORT = ("monai.networks.nets", "monai.networks.blocks", "torch.nn")
_ALLOWED = ("monai.networks.", "torch.nn.")
_DEEPEST = 20


class _Refused(ValueError):
    """The configuration asks for more than what is taken here."""


def network(directory: Path) -> tuple[nn.Module, tuple[int, ...] | None]:
    """The module of a bundle with its weights, and the shape of its images if that is fixed.

    Args:
      directory: The bundle's.

    Raises:
      FileNotFoundError: The configuration or the weights are missing.
      ValueError: The configuration asks for more than modules, or the weights do not fit them.
    """
    config, weights = bundle_config(directory), directory / _WEIGHTS
    if config is None or not weights.is_file():
        lacking = _WEIGHTS if config else "configs/inference.json"
        script = directory / _SCRIPT
        whole = f": give {script}, which has both" if script.is_file() else ""
        raise FileNotFoundError(
            f"{directory}: a MONAI bundle without {lacking}; expected its network and its "
            f"weights{whole}."
        )
    content = _read(config)
    try:
        if _DEFINITION not in content:
            raise _Refused(f"it has no {_DEFINITION}")
        with only_tensors():
            module = _made(content[_DEFINITION], content)
        if not isinstance(module, nn.Module):
            raise _Refused(f"its {_DEFINITION} is no module")
    except _Refused as refused:
        raise ValueError(_explained(config, weights, str(refused))) from refused
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
        _, tensors = max(state_dicts(found), key=lambda pair: len(pair[1]), default=("", {}))
        module.load_state_dict(tensors)
    except Exception as error:
        raise ValueError(
            f"{weights} does not fit the network of {config.name}: {said(error)}"
        ) from error
    return module, _image_shape(directory / "configs" / "metadata.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
        else:
            import yaml

            content = yaml.safe_load(path.read_text())
    except ImportError as error:
        raise ValueError(f"{path}: it takes PyYAML to read it: pip install pyyaml") from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {said(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}; expected the keys of a bundle.")
    return content


def _made(value: Any, content: dict[str, Any], depth: int = 0) -> Any:
    """A value of the configuration, with modules and references in it made."""
    if depth > _DEEPEST:
        raise _Refused("its references go in circles")
    if isinstance(value, str):
        reference = value.removeprefix("$")
        if (
            reference.startswith("@")
            and reference[1:].replace("::", "").replace("#", "").isidentifier()
        ):
            return _made(_entry(reference[1:], content), content, depth + 1)
        if value.startswith(("$", "@", "%")):
            raise _Refused(f"its {_DEFINITION} evaluates {value!r}")
        return value
    if isinstance(value, list):
        return [_made(part, content, depth + 1) for part in value]
    if not isinstance(value, dict):
        return value
    arguments = {
        key: _made(part, content, depth + 1)
        for key, part in value.items()
        if key not in (_TARGET, "_desc_")
    }
    if _TARGET not in value:
        return arguments
    if odd := sorted(key for key in arguments if key.startswith("_")):
        raise _Refused(f"its {_DEFINITION} has {', '.join(odd)}")
    made = _class(str(value[_TARGET]))
    try:
        return made(**arguments)
    except Exception as error:
        raise _Refused(f"its {made.__name__} cannot be made: {said(error)}") from error


def _entry(reference: str, content: dict[str, Any]) -> Any:
    """What a reference such as ``network_def::channels`` names."""
    found: Any = content
    for key in reference.replace("#", "::").split("::"):
        try:
            found = found[int(key) if isinstance(found, list) else key]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _Refused(f"it refers to {reference!r}, which is not there") from error
    return found


def _class(name: str) -> type[nn.Module]:
    """The class of modules that a configuration names."""
    package, _, last = name.rpartition(".")
    if package and not f"{package}.".startswith(_ALLOWED):
        raise _Refused(f"its {_DEFINITION} calls {name}, which is no module of MONAI or PyTorch")
    for place in [package] if package else _SHORT:
        try:
            found = getattr(importlib.import_module(place), last, None)
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "monai" and not _has_monai():
                raise ValueError(
                    "It takes MONAI to load a MONAI bundle: pip install monai"
                ) from error
            continue
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    raise _Refused(f"its {_DEFINITION} calls {name}, which is no module of MONAI or PyTorch")


def _has_monai() -> bool:
    return importlib.util.find_spec("monai") is not None


def _image_shape(metadata: Path) -> tuple[int, ...] | None:
    """Shape of the images, if the metadata fix it; many leave it open ("16*n")."""
    try:
        image = json.loads(metadata.read_text())["network_data_format"]["inputs"]["image"]
        shape = (*image["spatial_shape"], image["num_channels"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shape if all(isinstance(size, int) for size in shape) else None


def _explained(config: Path, weights: Path, why: str) -> str:
    """Why a configuration is not taken, and the Python file that has MONAI run it."""
    code = f"""\
import torch
from monai.bundle import ConfigParser

def net():
    parser = ConfigParser()
    parser.read_config({str(config)!r})
    module = parser.get_parsed_content({_DEFINITION!r})  # Runs what the file says.
    module.load_state_dict(torch.load({str(weights)!r}, map_location='cpu', weights_only=True))
    return module, (X, Y, Z, CHANNELS)  # The shape of an image, channels last.
"""
    return (
        f"{config}: {why}; only modules of MONAI and PyTorch are made from a bundle, and nothing "
        "is evaluated. If you trust it, write a Python file that has MONAI run it, here FILE.py, "
        f"and give --model=FILE.py:net\n\n{textwrap.indent(code, '    ').rstrip()}"
    )

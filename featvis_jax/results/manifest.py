"""run.json: what a run was asked for, checked at every reading and before the run goes on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from featvis_jax.results.tables import UnitRecord

FORMAT = "featvis_jax run, version 3"
# The first kept variants as layers of their own, the second told of no response.
_EARLIER = ("featvis_jax run, version 1", "featvis_jax run, version 2")
_BIDS_VERSION = "1.10.0"
_MOST_DIFFERENCES = 20
_RESTORE = "Restore the file, or choose another directory with --out."


class ConfigurationMismatch(ValueError):
    """The directory holds a run of another configuration."""


def encode_json(value: object) -> bytes:
    r"""Encode a JSON value as people like to read it.

    Args:
      value: Dictionaries with text as keys, lists, text, finite numbers, booleans and None.

    Returns:
      Indented UTF-8.

    Example:
      >>> encode_json({"steps": 256}).decode()
      '{\n  "steps": 256\n}\n'
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Names of files that are not UTF-8 reach a configuration as surrogates.
    return text.encode(errors="surrogatepass")


def canonical(value: object, name: str) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, tuples as lists.

    Args:
      value: What `encode_json` takes.
      name: What an error calls it.

    Returns:
      JSON on one line.

    Raises:
      ValueError: If it is not a JSON value.

    Example:
      >>> canonical({"b": (1, 2), "a": None}, "configuration")
      '{"a":null,"b":[1,2]}'
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} cannot be stored as JSON ({error}); expected dictionaries with text as keys, "
            "lists, text, finite numbers, booleans and None."
        ) from error


def fingerprint(configuration: object) -> str:
    """Return the SHA-256 of a configuration's canonical JSON.

    Args:
      configuration: A JSON value.

    Returns:
      64 hexadecimal digits.

    Example:
      >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
      True
    """
    return hashlib.sha256(canonical(configuration, "configuration").encode()).hexdigest()


def leaves(value: object, *, name: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted names, with every value as JSON."""
    if isinstance(value, Mapping) and (value or not name):
        nested = [leaves(value[key], name=f"{name}.{key}".lstrip(".")) for key in sorted(value)]
        return {name: text for leaves in nested for name, text in leaves.items()}
    return {name: json.dumps(value, sort_keys=True, ensure_ascii=False)}


def read(directory: Path) -> dict[str, Any]:
    """Read run.json and check that it is one, and that nobody edited the configuration.

    Args:
      directory: Of the run.

    Returns:
      Its format, fingerprint, configuration, environments and timings.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it is damaged.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     read(Path(directory))
      Traceback (most recent call last):
      FileNotFoundError: ... holds no run: run.json is missing. ...
    """
    path = directory / "run.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} holds no run: {path.name} is missing. Pass the directory that was given "
            "as --out."
        )
    try:
        manifest = json.loads(path.read_bytes())
        kind = manifest["format"]
        sound = kind == FORMAT
        sound = sound and manifest["fingerprint"] == fingerprint(manifest["configuration"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no description of a run ({error!r}). {_RESTORE}") from error
    if kind in _EARLIER:
        raise ValueError(
            f"{directory} holds a run of an earlier featvis_jax ({kind!r}; expected {FORMAT!r}): "
            "read it with the version that run.json names, or repeat it with python -m "
            f"experiments.visualize --flagfile={directory / 'flags.txt'} and another --out."
        )
    if not sound:
        raise ValueError(
            f"{path}: its configuration does not fit its fingerprint, or its format is not "
            f"{FORMAT!r}. {_RESTORE}"
        )
    return manifest


def descriptions(environment: Mapping[str, Any]) -> dict[str, object]:
    """Return what BIDS wants to know about a data set that was computed, and about its table.

    Args:
      environment: Its entry "featvis_jax", if there is one, is the version that is named.

    Returns:
      JSON values by the name of their file.

    Example:
      >>> sorted(descriptions({}))
      ['dataset_description.json', 'units.json']
    """
    program = {"Name": "featvis_jax"}
    if "featvis_jax" in environment:
        program["Version"] = str(environment["featvis_jax"])
    return {
        "dataset_description.json": {
            "Name": "Feature visualization: what the channels of a network look for",
            "BIDSVersion": _BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [program],
        },
        "units.json": sidecar(UnitRecord),
    }


def sidecar(kind: type) -> dict[str, dict[str, Any]]:
    """Return what the columns of a table mean, in the words of a BIDS sidecar.

    Args:
      kind: Of its records, such as `UnitRecord`.

    Example:
      >>> sidecar(UnitRecord)["intensity_min"]
      {'Description': 'Smallest intensity of the image'}
    """
    return {column.name: dict(column.metadata) for column in fields(kind)}


# What a run may be asked for in parts: entries by the layer, and the channels of each.
_BY_LAYER = ("layers", "objective", "penalty", "unit_names")


def grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run that is asked for other units, too.

    Args:
      old: The configuration of the run.
      new: The one that is asked for.

    Returns:
      The new one with the layers and channels of both, in the order in which they came.

    Example:
      >>> grown({"layers": {"conv1": [0]}, "seed": 1}, {"layers": {"conv1": [1, 0]}, "seed": 1})
      {'layers': {'conv1': [0, 1]}, 'seed': 1}
    """
    found = dict(new)
    for name in _BY_LAYER:
        before, after = old.get(name), new.get(name)
        if name == "unit_names" and (before or after):  # Channels have none.
            before, after = before or {}, after or {}
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found[name] = {**after, **before}
    for layer, channels in found.get("layers", {}).items():
        asked_for = new["layers"].get(layer, [])
        found["layers"][layer] = sorted({*channels, *asked_for})
    return found


def refuse_mismatch(directory: Path, old: object, new: object) -> None:
    """Raise if two configurations differ in more than the units that they ask for, and say where.

    Args:
      directory: Of the run, for the message.
      old: The configuration of the run.
      new: The one that was asked for.

    Raises:
      ConfigurationMismatch: With one line per difference, of many with the first ones.

    Example:
      >>> refuse_mismatch(Path("run"), {"steps": 256}, {"steps": 512})
      Traceback (most recent call last):
      featvis_jax.results.manifest.ConfigurationMismatch: run holds a run of another configuration:
        steps: the run has 256, asked for is 512
      ...
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        old, new = grown(new, old), grown(old, new)
    before, after = leaves(old), leaves(new)
    lines = [
        f"  {name}: the run has {before.get(name, 'no such setting')}, "
        f"asked for is {after.get(name, 'no such setting')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if len(lines) > _MOST_DIFFERENCES:
        lines[_MOST_DIFFERENCES:] = [f"  and {len(lines) - _MOST_DIFFERENCES} others"]
    if lines:
        raise ConfigurationMismatch(
            f"{directory} holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nChoose another directory with --out, or the settings and files of the run to go "
            "on with it."
        )

"""What a run is made with: versions, device and command."""

import importlib.metadata
import platform
from typing import Any

import jax

_PACKAGES = ("featvis_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def environment(command: str | None) -> dict[str, Any]:
    """Versions, device and command of this process.

    Args:
      command: The command line; None where Python called.
    """
    device = jax.local_devices()[0]
    told = {} if command is None else {"command": command}
    return {**versions(), "device": f"{device.platform} {device.device_kind}", **told}

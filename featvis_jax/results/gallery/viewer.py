"""Volumes for the 3-D viewer: scripts, because a page opened from disk may load no other data.

The viewer is NiiVue, as it ships inside nilearn: nothing is fetched from anywhere.
"""

import base64
import importlib.util
import json
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float

from featvis_jax.results import nifti
from featvis_jax.results.pixels import Window


def encode_volume(
    image: Float[np.ndarray, "x y z 1"],
    affine: nifti.Affine | None,
    *,
    name: str,
    shared: Window,
    own: Window,
) -> bytes:
    r"""Encode a volume as a script that hands it to the page.

    Args:
      image: Shape (x, y, z, 1); stored with 256 grey levels over its finite range.
      affine: From voxel indices to millimetres; without one the viewer shows no letters.
      name: What the viewer calls it.
      shared: Intensities that are black and white in the shared window.
      own: The same for the own window.

    Returns:
      JavaScript, to be loaded by the `src` of a script element.

    Example:
      >>> encode_volume(
      ...     np.zeros((2, 2, 2, 1)), np.eye(4), name="<", shared=(0.0, 1.0), own=(0.0, 1.0)
      ... )[:41]
      b'featvisGallery.volume({"name": "\\u003c", '
    """
    data = nifti.encode_nifti(image, affine, window=shared, levels="uint8")
    value = {"name": name, "shared": shared, "own": own, "base64": base64.b64encode(data).decode()}
    return f"featvisGallery.volume({script_json(value)});\n".encode()


def script_json(value: object) -> str:
    r"""Encode a JSON value so that no HTML parser finds a tag, an entity or a line end in it.

    Args:
      value: What `json.dumps` takes.

    Returns:
      ASCII.

    Example:
      >>> script_json("</script>&")
      '"\\u003c/script\\u003e\\u0026"'
    """
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def files() -> dict[str, bytes]:
    """Return NiiVue and its licence by the names of their files.

    Raises:
      FileNotFoundError: If the installed nilearn has no NiiVue.

    Example:
      >>> sorted(files())
      ['niivue-license.txt', 'niivue.umd.js']
    """
    spec = importlib.util.find_spec("nilearn")
    package = Path(spec.origin).parent if spec and spec.origin else Path("nilearn")
    path = package / "_assets" / "js" / "niivue.umd.js"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the 3-D viewer comes with nilearn 0.14. Install it with pip "
            'install "nilearn>=0.14.1,<0.15", or leave the viewer out with --volumes=false.'
        )
    name = "niivue-license.txt"
    licence = resources.files("featvis_jax.results.gallery") / "static" / name
    return {"niivue.umd.js": path.read_bytes(), name: licence.read_bytes()}

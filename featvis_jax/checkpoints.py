"""A trained model on disk: Orbax weights and a card that says what they are.

```
card.json    task, classes, architecture, input grid and affine, intensity range, data, accuracy
weights/     Orbax checkpoint of params and statistics
```
"""

from __future__ import annotations

import hashlib
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, Float, Float64, PyTree

from featvis_jax.nn.cnn import CNN
from featvis_jax.results.files import atomic_write_bytes, remove_directory

_CARD, _WEIGHTS, _SPECTRUM = "card.json", "weights", "spectrum.npy"
_REQUIRED = (
    "name",
    "task",
    "class_names",
    "architecture",
    "weights_sha256",
    "grid",
    "intensity_range",
)


class TrainedModel(NamedTuple):
    """A network with its weights and everything one must know to use it.

    Attributes:
      module: The Flax network.
      variables: Its ``params`` and ``statistics``.
      card: What `card.json` holds.
      spectrum: Mean magnitude spectrum of its training images, where it was saved: an array on the
        grid of `numpy.fft.rfftn`, ``(*frequencies, 1)``.
    """

    module: CNN
    variables: dict[str, PyTree[Array]]
    card: dict[str, Any]
    spectrum: Float[np.ndarray, "*frequencies 1"] | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the images it takes, ``(*spatial, 1)``."""
        return (*self.card["grid"]["shape"], 1)

    @property
    def affine(self) -> Float64[np.ndarray, "4 4"]:
        """Voxel indices of that grid to mm; a slice lies in the plane of its last index."""
        return np.array(self.card["grid"]["affine"], np.float64)

    @property
    def intensity_range(self) -> tuple[float, float]:
        """Range of the training images' intensities."""
        low, high = self.card["intensity_range"]
        return float(low), float(high)


def zoo_names() -> list[str]:
    """Names of the models that ship with the package.

    Example:
      >>> "square-lesion" in zoo_names()
      True
    """
    zoo = resources.files("featvis_jax.zoo")
    return sorted(entry.name for entry in zoo.iterdir() if (entry / _CARD).is_file())


def save_model(
    directory: Path | str,
    module: CNN,
    variables: dict[str, PyTree[Array]],
    card: dict[str, Any],
    *,
    spectrum: Float[np.ndarray, "*frequencies 1"] | None = None,
) -> None:
    """Write a trained model; an earlier one in the same place is replaced.

    Args:
      directory: Where to; made if missing.
      module: The network; its configuration goes into the card.
      variables: Its weights and statistics.
      card: All that `TrainedModel.card` should hold but the architecture and the weights' hash.
      spectrum: Mean magnitude spectrum of the training images.

    Raises:
      ValueError: The card lacks something.
    """
    directory = Path(directory).absolute()
    architecture = {
        field: getattr(module, field)
        for field in CNN.__dataclass_fields__
        if field not in ("name", "parent")
    }
    card = {**card, "architecture": architecture, "weights_sha256": weights_hash(variables)}
    if missing := [key for key in _REQUIRED if key not in card]:
        raise ValueError(f"The model card lacks {missing}.")
    directory.mkdir(parents=True, exist_ok=True)
    # What a process that was killed has left; Orbax would warn of it.
    for half in directory.glob(f"{_WEIGHTS}*{ocp.utils.TMP_DIR_SUFFIX}*"):
        remove_directory(half)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / _WEIGHTS, jax.device_get(variables), force=True)
    # Orbax notes the absolute path there, which is nobody's business once the model is passed on.
    atomic_write_bytes(directory / _WEIGHTS / "commit_success.txt", b"committed\n")
    if spectrum is not None:
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(spectrum, np.float32), allow_pickle=False)
        atomic_write_bytes(directory / _SPECTRUM, buffer.getvalue())
    text = json.dumps(card, indent=2) + "\n"
    atomic_write_bytes(directory / _CARD, text.encode())


def load_model(name_or_path: Path | str) -> TrainedModel:
    """Read a trained model from a directory, or by its name from the zoo.

    Args:
      name_or_path: A directory that `save_model` wrote, one that holds it under ``model/`` as
        training leaves it, or one of `zoo_names`.

    Raises:
      FileNotFoundError: There is no such directory and no such name.
      ValueError: The card or the weights do not fit together.

    Example:
      >>> model = load_model("square-lesion")
      >>> model.image_shape, model.card["class_names"]
      ((140, 192, 1), ['clean', 'lesion'])
    """
    directory = _find(name_or_path)
    try:
        card = json.loads((directory / _CARD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{directory / _CARD} is not JSON ({error}): save the model again."
        ) from error
    if missing := [key for key in _REQUIRED if key not in card]:
        raise ValueError(f"{directory / _CARD} lacks {missing}: save the model again.")
    try:
        module = CNN(**_with_tuples(card["architecture"]))
        image = jax.ShapeDtypeStruct((*card["grid"]["shape"], 1), np.float32)
        expected = jax.eval_shape(module.init, jax.random.key(0), image)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{directory / _CARD} describes no network ({error}): save the model again."
        ) from error
    weights = directory.absolute() / _WEIGHTS
    if not weights.is_dir():
        raise FileNotFoundError(f"{weights} is missing: the model was not saved whole.")
    # Placed explicitly: weights saved on another machine name devices that are not here.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    expected = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), dict(expected)
    )
    with ocp.StandardCheckpointer() as checkpointer:
        # Told by us, since Orbax would speak of padding, and from several threads.
        if wrong := _differing(_stored_shapes(checkpointer, weights), _shapes(expected)):
            raise ValueError(
                f"{weights} and {_CARD} are not of the same model: {wrong}. Save the model again."
            )
        variables = checkpointer.restore(weights, expected)
    if (found := weights_hash(variables)) != card["weights_sha256"]:
        raise ValueError(
            f"{weights} hashes to {found}, but {_CARD} says {card['weights_sha256']}: the weights "
            "and the card are not of the same model."
        )
    return TrainedModel(module, variables, card, _spectrum(directory / _SPECTRUM))


def _spectrum(path: Path) -> np.ndarray | None:
    """The spectrum of a model that was saved with one."""
    try:
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} holds no array ({error}): save the model again.") from error


def weights_hash(variables: PyTree[Array]) -> str:
    """SHA-256 over names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(variables)):
        values = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _with_tuples(value: Any) -> Any:
    """What JSON made lists of, as the tuples that a Flax module holds."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _shapes(variables: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of every weight by its name."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _stored_shapes(
    checkpointer: ocp.StandardCheckpointer, weights: Path
) -> dict[str, tuple[int, ...]]:
    """The shapes that a checkpoint says it holds."""
    metadata = checkpointer.metadata(weights).item_metadata
    if metadata is None:
        raise ValueError(f"{weights} is damaged: copy or save the model again.")
    return _shapes(metadata.tree)


def _differing(
    stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> str | None:
    """One weight that is not as the card has it, in words."""
    for name in sorted(stored | expected):
        if stored.get(name) != expected.get(name):
            return f"{name} is {stored.get(name)} there and {expected.get(name)} by the card"
    return None


def _find(name_or_path: Path | str) -> Path:
    path = Path(name_or_path)
    for directory in (path, path / "model"):  # A model, or the training run that left one.
        if (directory / _CARD).is_file():
            return directory
    names = zoo_names()
    if str(name_or_path) in names:
        return Path(str(resources.files("featvis_jax.zoo") / str(name_or_path)))
    raise FileNotFoundError(
        f"{str(name_or_path)!r} is neither a directory with a {_CARD} nor a model of the zoo; "
        f"the zoo has: {', '.join(names)}. Train a model with experiments.train."
    )

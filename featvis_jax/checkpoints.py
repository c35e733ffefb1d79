"""A trained model on disk: Orbax weights and a card that says what they are.

```
card.json       task, classes, architecture, input grid and affine, intensity range, data, accuracy
weights/        Orbax checkpoint of params and statistics
spectrum.npy    mean magnitude spectrum of the training images, where it was saved
```

The card has checksums of all other files, of the weights' values, and of itself: a model of which
a byte was changed or lost is refused.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float64, PyTree

from featvis_jax.data.pointers import pointer
from featvis_jax.nn.cnn import CNN
from featvis_jax.results import manifest
from featvis_jax.results.files import atomic_write_bytes, remove_directory
from featvis_jax.zoo import ONLY_IN_CLONES

_CARD, _WEIGHTS, _SPECTRUM = "card.json", "weights", "spectrum.npy"
_REQUIRED = (
    "name",
    "task",
    "class_names",
    "architecture",
    "weights_sha256",
    "grid",
    "intensity_range",
    "files_sha256",
    "card_sha256",
)
_SEALS = ("weights_sha256", "files_sha256", "card_sha256")
_COPY_AGAIN = "copy or save the model again"
_OR_SEAL = " What was changed on purpose, or saved by an earlier version, seal_model makes valid."


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
    """Names of the models that this installation has.

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
      card: All that `TrainedModel.card` should hold but the architecture and the checksums.
      spectrum: Mean magnitude spectrum of the training images.

    Raises:
      ValueError: The card lacks something.
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    architecture = {
        field: getattr(module, field)
        for field in CNN.__dataclass_fields__
        if field not in ("name", "parent")
    }
    card = {**card, "architecture": architecture}
    if missing := [key for key in _REQUIRED if key not in (*card, *_SEALS)]:
        raise ValueError(f"The model card lacks {missing}.")
    directory.mkdir(parents=True, exist_ok=True)
    # What a process that was killed has left; Orbax would warn of it.
    for half in directory.glob(f"{_WEIGHTS}*{ocp.utils.TMP_DIR_SUFFIX}*"):
        remove_directory(half)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / _WEIGHTS, jax.device_get(variables), force=True)
    # Orbax notes the absolute path there, which is nobody's business once the model is passed on.
    atomic_write_bytes(directory / _WEIGHTS / "commit_success.txt", b"committed\n")
    if spectrum is None:
        (directory / _SPECTRUM).unlink(missing_ok=True)
    else:
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(spectrum, np.float32), allow_pickle=False)
        atomic_write_bytes(directory / _SPECTRUM, buffer.getvalue())
    _seal(directory, {**card, "weights_sha256": weights_hash(variables)})


def seal_model(directory: Path | str) -> None:
    """Write the checksums of a model's files and card into the card.

    For a card that was changed on purpose, its name for example, and for a model that an earlier
    version saved without checksums. Whether the weights are those that the card names is for
    `load_model` to tell.

    Args:
      directory: A directory that `save_model` wrote.

    Raises:
      FileNotFoundError: There is no card.
      ValueError: The card is not one.
    """
    directory = Path(directory)
    _seal(directory, _read_card(directory / _CARD))


def _seal(directory: Path, card: dict[str, Any]) -> None:
    card["files_sha256"] = {name: _sha256(directory / name) for name in _files(directory)}
    card["card_sha256"] = _card_hash(card)
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
    import orbax.checkpoint as ocp

    directory = _find(name_or_path)
    card = _card(directory / _CARD)
    _check_files(directory, card["files_sha256"])
    try:
        module = CNN(**_with_tuples(card["architecture"]))
        image = jax.ShapeDtypeStruct((*card["grid"]["shape"], 1), np.float32)
        expected = jax.eval_shape(module.init, jax.random.key(0), image)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{directory / _CARD} describes no network ({error}): {_COPY_AGAIN}."
        ) from error
    weights = directory.absolute() / _WEIGHTS
    # Placed explicitly: weights saved on another machine name devices that are not here.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    expected = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), dict(expected)
    )
    with ocp.StandardCheckpointer() as checkpointer:
        # Told by us, since Orbax would speak of padding, and from several threads.
        stored = _stored_shapes(checkpointer.metadata(weights).item_metadata, weights)
        if wrong := _differing(stored, _shapes(expected)):
            raise ValueError(
                f"{weights} and {_CARD} are not of the same model: {wrong}; {_COPY_AGAIN}."
            )
        variables = checkpointer.restore(weights, expected)
    if (found := weights_hash(variables)) != card["weights_sha256"]:
        raise ValueError(
            f"{weights} hashes to {found}, but {_CARD} says {card['weights_sha256']}: the weights "
            f"and the card are not of the same model; {_COPY_AGAIN}."
        )
    spectrum = None
    if _SPECTRUM in card["files_sha256"]:
        spectrum = np.load(directory / _SPECTRUM, allow_pickle=False)
    return TrainedModel(module, variables, card, spectrum)


def _card(path: Path) -> dict[str, Any]:
    """A card that is as it was saved."""
    card = _read_card(path)
    if missing := [key for key in _REQUIRED if key not in card]:
        raise ValueError(f"{path} lacks {missing}: {_COPY_AGAIN}.{_OR_SEAL}")
    if (found := _card_hash(card)) != card["card_sha256"]:
        raise ValueError(
            f"{path} hashes to {found}, but says of itself {card['card_sha256']}: it was changed "
            f"after the model was saved; restore it, or {_COPY_AGAIN}.{_OR_SEAL}"
        )
    return card


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_bytes().decode())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): {_COPY_AGAIN}.") from error
    if not isinstance(card, dict):
        raise ValueError(f"{path} holds {type(card).__name__}, not a card: {_COPY_AGAIN}.")
    return card


def _check_files(directory: Path, expected: Mapping[str, str]) -> None:
    """Refuse a model of which a file was changed or lost, before anything tries to read it."""
    for name, checksum in expected.items():
        path = directory / name
        if fault := pointer(path):
            raise FileNotFoundError(f"{path}: {fault}")
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: the model was not saved or copied whole; {_COPY_AGAIN}."
            )
        if (found := _sha256(path)) != checksum:
            raise ValueError(
                f"{path} has the SHA-256 {found}, but {_CARD} says {checksum}: it was changed or "
                f"cut; {_COPY_AGAIN}."
            )


def _files(directory: Path) -> list[str]:
    """All files of a model but its card, relative to its directory."""
    paths = [directory / _SPECTRUM, *sorted((directory / _WEIGHTS).rglob("*"))]
    return [path.relative_to(directory).as_posix() for path in paths if path.is_file()]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card_hash(card: Mapping[str, Any]) -> str:
    """SHA-256 over everything else that a card says, whatever its layout."""
    return manifest.fingerprint({key: card[key] for key in card if key != "card_sha256"})


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


def _stored_shapes(metadata: Any, weights: Path) -> dict[str, tuple[int, ...]]:
    """The shapes that a checkpoint says it holds."""
    if metadata is None:
        raise ValueError(f"{weights} does not say what it holds: {_COPY_AGAIN}.")
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
        if fault := pointer(directory / _CARD):
            raise FileNotFoundError(f"{directory / _CARD}: {fault}")
        if (directory / _CARD).is_file():
            return directory
    given, names = str(name_or_path), zoo_names()
    if given in names:
        return Path(str(resources.files("featvis_jax.zoo") / given))
    if given in ONLY_IN_CLONES:
        raise FileNotFoundError(
            f"{given!r} is a model of the zoo that this installation lacks: it has "
            f"{', '.join(names)}. A clone of the repository has all of them: install it by python "
            f"-m pip install -e CLONE, or give the directory CLONE/featvis_jax/zoo/{given}."
        )
    nearest = difflib.get_close_matches(given.lower().replace("_", "-"), names, n=1)
    meant = f" Did you mean {nearest[0]}?" if nearest else ""
    raise FileNotFoundError(
        f"{given!r} is neither a directory with a {_CARD} nor a model of the zoo.{meant} "
        f"The zoo has: {', '.join(names)}. experiments.train makes such a directory."
    )

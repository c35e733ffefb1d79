"""A small model on disk, what can happen to its files, and what loading it may then give."""

import functools
import json
import shutil
import tempfile
from pathlib import Path
from random import Random

import jax
import jax.numpy as jnp
import numpy as np

from featvis_jax.checkpoints import TrainedModel, load_model, save_model
from featvis_jax.nn.cnn import CNN

_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
_ANNEX = b"/annex/objects/MD5E-s9--0123456789abcdef.bin\n"


def save(directory: Path, *, seed: int = 0) -> None:
    """Write a model of a few random weights, with a spectrum."""
    rng = np.random.default_rng(seed)
    module = CNN(rank=2, features=(2, 2, 3, 3, 4))
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jax.ShapeDtypeStruct((28, 29, 1), np.float32)
    )
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), dict(shapes)
    )
    card = {
        "name": f"small-{seed}",
        "task": "square_lesion",
        "class_names": ["clean", "lesion"],
        "grid": {"shape": [28, 29], "affine": np.diag([2.0, 2.0, 2.0, 1.0]).tolist()},
        "intensity_range": [0, 1.25],
    }
    save_model(directory, module, variables, card, spectrum=rng.random((28, 15, 1), np.float32))


@functools.cache
def _saved(seed: int) -> tuple[Path, TrainedModel]:
    directory = Path(tempfile.mkdtemp(prefix="model")) / "model"
    save(directory, seed=seed)
    return directory, load_model(directory)


def change(random: Random, path: Path, other: Path) -> str:
    """Do one thing to a file; `other` is the same kind of file of another model."""
    content = path.read_bytes()
    kind = random.choice(
        ("byte", "bytes", "cut", "emptied", "longer", "gone", "pointer", "swapped", "directory")
    )
    if kind in ("byte", "bytes") and content:
        changed = bytearray(content)
        for _ in range(1 if kind == "byte" else random.randint(2, 40)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        path.write_bytes(changed)
    elif kind == "cut":
        path.write_bytes(content[: random.randrange(max(1, len(content)))])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "longer":
        path.write_bytes(content + random.choice((b"\n", b"\0" * 9, content)))
    elif kind == "gone":
        path.unlink()
    elif kind == "pointer":
        path.write_bytes(random.choice((_LFS, _ANNEX)))
    elif kind == "swapped":
        path.write_bytes(other.read_bytes())
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    return kind


def edit_card(random: Random, path: Path) -> str:
    """Change one value of the card, as a person or a script might."""
    card = json.loads(path.read_bytes())
    place, key = card, random.choice(list(card))
    while isinstance(place[key], dict | list) and place[key]:
        place = place[key]
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
    place[key] = random.choice((None, 0, 1, -1, 2.5, "text", [], {}, True, 10**9))
    path.write_text(json.dumps(card, indent=random.choice((None, 2))))
    return "edited"


def case(random: Random, folder: Path) -> tuple[str, str]:
    """Damage a model and load it: what was done, and "read", "refused: ..." or what is wrong."""
    (saved, expected), (others, _) = _saved(0), _saved(1)
    directory = folder / "model"
    shutil.copytree(saved, directory)
    files = sorted(path for path in saved.rglob("*") if path.is_file())
    done = []
    for path in random.sample(files, random.choice((1, 1, 1, 2))):
        here = directory / path.relative_to(saved)
        # Files of weights go by names that no two models share.
        twin = others / path.relative_to(saved)
        if path.name == "card.json" and random.random() < 0.7:
            done.append(edit_card(random, here))
        else:
            done.append(change(random, here, twin if twin.is_file() else files[0]))
    kind = "+".join(sorted(done))
    try:
        found = load_model(directory)
    except (ValueError, OSError) as error:
        told = str(error)
        if str(directory) not in told or "\n" in told or len(told) > 1000:
            return kind, f"unnamed error: {told}"
        return kind, "refused"
    except Exception as error:
        return kind, f"crash: {type(error).__name__}: {error}"
    return kind, "read" if _same(found, expected) else "silent difference"


def _same(found: TrainedModel, expected: TrainedModel) -> bool:
    trees = (found.variables, found.spectrum), (expected.variables, expected.spectrum)
    structures = [jax.tree.structure(tree) for tree in trees]
    return (
        structures[0] == structures[1]
        and all(map(np.array_equal, *map(jax.tree.leaves, trees)))
        and (found.card, found.module) == (expected.card, expected.module)
    )

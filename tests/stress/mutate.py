"""Takes one safeguard at a time out of a copy of the tree, and checks that its tests fail.

    python -m tests.stress.mutate

Every fsync, rename, escape and lock is one mutation. Ends with status 1 if a mutation survives:
nothing would then notice if somebody removed that safeguard.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = "featvis_jax/results/files.py"
SITE = "featvis_jax/results/gallery/site.py"
VIEWER = "featvis_jax/results/gallery/viewer.py"
ENCODING = "featvis_jax/results/encoding.py"
SHARDS = "featvis_jax/results/shards.py"
_FILES, _STORE, _SHARDS, _GALLERY = (
    f"tests/results/test_{name}.py" for name in ("files", "store", "shards", "gallery")
)


class Mutation(NamedTuple):
    """One safeguard, and what notices that it is gone."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation("fsync of a file", FILES, "            os.fsync(descriptor)\n", "", _FILES),
    Mutation(
        "fsync after a rename",
        FILES,
        "os.replace(partial, path)\n        _sync_directory(path.parent)",
        "os.replace(partial, path)",
        _FILES,
    ),
    Mutation("fsync after mkdir", FILES, "            _sync_directory(each.parent)\n", "", _FILES),
    Mutation(
        "fsync before a removal",
        FILES,
        "os.replace(path, hidden)\n        _sync_directory(path.parent)",
        "os.replace(path, hidden)",
        _FILES,
    ),
    Mutation(
        "fsync of a directory",
        FILES,
        "        os.fsync(descriptor)\n    except",
        "        pass\n    except",
        _FILES,
    ),
    Mutation(
        "rename of a file",
        FILES,
        'partial = path.with_name(f".{path.name}{PARTIAL}")',
        "partial = path",
        _STORE,
    ),
    Mutation(
        "rename of what is removed",
        FILES,
        "        os.replace(path, hidden)\n",
        "        hidden = path\n",
        _FILES,
    ),
    Mutation(
        "removal of half a file",
        FILES,
        "            os.unlink(partial)\n",
        "            pass\n",
        _FILES,
    ),
    Mutation(
        "removal of what a killed writer left",
        "featvis_jax/results/store.py",
        "        remove_partial_files(directory)\n",
        "",
        _STORE,
    ),
    Mutation(
        "removal beside shards",
        FILES,
        "SHARDS in path.relative_to(directory).parent.parts or ",
        "",
        _SHARDS,
    ),
    Mutation(
        "lock of the kernel",
        FILES,
        "        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
        _STORE,
    ),
    Mutation(
        "lock of a run", "featvis_jax/results/store.py", "lock(directory))", "os.dup(2))", _STORE
    ),
    Mutation(
        "lock of the pages",
        SITE,
        "self._lock = lock(directory)",
        'self._lock = __import__("os").open(directory, 0)',
        _GALLERY,
    ),
    Mutation(
        "lock of a shard", SHARDS, "lock = files.lock(view.directory)", "lock = None", _SHARDS
    ),
    Mutation(
        "lock of a training",
        "featvis_jax/runs/train.py",
        "    with locked(out), jax.default",
        "    with jax.default",
        "tests/experiments/test_train.py",
    ),
    Mutation("escape of signs in names", FILES, r"[^a-zA-Z0-9_.+/-]|", "", _FILES),
    Mutation("escape of plus in names", FILES, r"|\+|", "|", _FILES),
    Mutation("escape of a first dot in names", FILES, r"\A[.-]|", "", _FILES),
    Mutation("escape of a last dot in names", FILES, r"|\.\Z", "", _FILES),
    Mutation("escape of slashes in names", FILES, '.replace("/", "+")', "", _FILES),
    Mutation(
        "escape of devices in names", FILES, "if _DEVICES.match(encoded.lower()):", "if 0:", _FILES
    ),
    Mutation("escape of capitals in names", FILES, 'if "A" <= letter <= "Z"', "if 0", _FILES),
    Mutation("escape of long names", FILES, "if len(encoded) > _LONGEST_NAME:", "if 0:", _FILES),
    Mutation("escape in pages", SITE, "autoescape=True", "autoescape=False", _GALLERY),
    Mutation("escape in links", SITE, 'return quote(path, safe="/+=~")', "return path", _GALLERY),
    Mutation("escape of < in scripts", VIEWER, r'.replace("<", "\\u003c")', "", _GALLERY),
    Mutation("escape of > in scripts", VIEWER, r'.replace(">", "\\u003e")', "", _GALLERY),
    Mutation("escape of & in scripts", VIEWER, r'.replace("&", "\\u0026")', "", _GALLERY),
    Mutation("escape in tables", ENCODING, "_ESCAPES.get(letter, letter)", "letter", _STORE),
    Mutation(
        "no pickle",
        "featvis_jax/results/store.py",
        "allow_pickle=False",
        "allow_pickle=True",
        _STORE,
    ),
]


def tested(tree: Path, mutation: Mutation) -> bool:
    """Whether the tests notice that a safeguard is gone; examples in the file count too."""
    arguments = ["-x", "-q", "-p", "no:cacheprovider", mutation.tests, mutation.file]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode not in (0, 1):
        sys.exit(f"{mutation.name}: pytest ended with {ran.returncode}\n{ran.stdout[-2000:]}")
    return ran.returncode == 1


def main() -> None:
    """Try every mutation, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the names to try")
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.only in mutation.name]
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        left_out = shutil.ignore_patterns(".git", ".venv*", "runs", "__pycache__", ".*_cache")
        shutil.copytree(REPOSITORY, tree, ignore=left_out)
        survivors = []
        for mutation in chosen:
            path = tree / mutation.file
            sound = path.read_text(encoding="utf-8")
            if sound.count(mutation.old) != 1:
                sys.exit(f"{mutation.name}: {mutation.old!r} is not once in {mutation.file}.")
            path.write_text(sound.replace(mutation.old, mutation.new), encoding="utf-8")
            noticed = tested(tree, mutation)
            path.write_text(sound, encoding="utf-8")
            print(f"{'noticed ' if noticed else 'SURVIVED'}  {mutation.name}", flush=True)
            survivors += [] if noticed else [mutation.name]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations noticed.")
    if survivors:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The program ``featvis``: a name, and the flags of the command of that name.

What a name stands for is imported when it is used: to tell what there is takes no JAX.
"""

import difflib
import importlib
import sys
from typing import NamedTuple

from featvis_jax import __version__
from featvis_jax.commands import launch


class Entry(NamedTuple):
    """A command, as far as it is known without its module.

    Attributes:
      summary: What it does, in a line; that of its `featvis_jax.commands.launch.Command`.
      module: Where that is, as ``COMMAND``.
    """

    summary: str
    module: str


COMMANDS = {
    "visualize": Entry(
        "find the image that drives each channel of a layer most",
        "featvis_jax.commands.visualize",
    ),
    "layers": Entry(
        "list the layers of a network",
        "featvis_jax.commands.layers",
    ),
    "compare": Entry(
        "compare regularization strategies, or parameterizations",
        "featvis_jax.commands.compare",
    ),
    "trust": Entry(
        "measure what speaks for and against the pictures of a run",
        "featvis_jax.commands.trust",
    ),
    "anatomy": Entry(
        "tell what deformed scans have in common, by place and region",
        "featvis_jax.commands.anatomy",
    ),
    "gallery": Entry(
        "build pages for a run, or to compare several",
        "featvis_jax.commands.gallery",
    ),
    "train": Entry(
        "train the paper's CNN to find lesions, or to predict a label",
        "featvis_jax.commands.train",
    ),
    "grade": Entry(
        "check whether pictures show the lesion shape that was trained on",
        "featvis_jax.commands.grade",
    ),
}
"""What ``featvis`` does, by name."""


def main() -> None:
    """Run the command that the first argument names."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "-help", "-?", "help"):
        print(_told())
    elif name == "--version":
        print(f"featvis {__version__}")
    elif name not in COMMANDS:
        print(f"Error: {_unknown(name)}", file=sys.stderr)
        sys.exit(2)
    else:
        command = importlib.import_module(COMMANDS[name].module).COMMAND
        # Each command sees its own flags alone, as when `experiments` starts it.
        sys.argv = [sys.argv[0], *rest]
        launch.start(command)


def _told() -> str:
    """What there is, on less than half a screen."""
    lines = [f"featvis {__version__}: see what each channel of a CNN for brain MRI has learned", ""]
    lines += [f"  {name:<9}  {entry.summary}" for name, entry in COMMANDS.items()]
    return "\n".join([*lines, "", "featvis NAME --help shows examples and the main flags."])


def _unknown(name: str) -> str:
    meant = difflib.get_close_matches(name.lower(), COMMANDS, n=1)
    nearest = f" Did you mean {meant[0]}?" if meant else ""
    return f"featvis {name}: there is no such command.{nearest} Expected {', '.join(COMMANDS)}."


if __name__ == "__main__":
    main()

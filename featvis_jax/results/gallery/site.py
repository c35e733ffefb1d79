"""Writing pages: one directory, one writer, templates that escape everything, names that are safe.

Pages are static and stand in a fixed place below the directory, so that every link is relative and
the directory can be moved, copied or opened from a disk without a server.
"""

import math
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from featvis_jax.results import anatomy
from featvis_jax.results.files import (
    atomic_write_bytes,
    lock,
    make_directory,
    refuse_foreign,
    remove_partial_files,
    unlock,
)
from featvis_jax.results.gallery import evidence
from featvis_jax.results.grids import Plane, minus
from featvis_jax.results.sheets import times
from featvis_jax.results.tables import SOUND

if TYPE_CHECKING:
    import jinja2

_STATIC = resources.files("featvis_jax.results.gallery") / "static"
_SCRIPT = "gallery.js"
# Widths that the pictures are fitted to, in CSS pixels.
_TILE, _STAGE_WIDTH, _STAGE_HEIGHT, _PHONE = 160, 1130, 600, 318


class Site:
    """A directory of pages that this process writes to; use it in a `with` statement.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as directory, Site(Path(directory)) as site:
      ...     site.write("pictures/0001.png", b"").relative_to(directory).as_posix()
      'pictures/0001.png'
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock on a directory, which is made if there is none.

        Args:
          directory: Where the pages go.

        Raises:
          RunInUse: If another process is writing to it.
          ValueError: If it holds something else than a gallery.
          OSError: If it cannot be written.
        """
        refuse_foreign(directory, _SCRIPT, what="gallery")
        make_directory(directory)
        self.directory = directory
        self._lock = lock(directory)
        remove_partial_files(directory)
        self._templates = templates()
        # First of all: it tells the directory from one of somebody else's.
        self.write(_SCRIPT, (_STATIC / _SCRIPT).read_bytes())

    def __enter__(self) -> "Site":
        """Return the site."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        unlock(self._lock)

    def write(self, name: str, data: bytes) -> Path:
        """Write a file as a whole.

        Args:
          name: Below the directory, with forward slashes.
          data: Its content.

        Returns:
          Where it lies.
        """
        path = self.directory / name
        make_directory(path.parent)
        atomic_write_bytes(path, data)
        return path

    def page(self, name: str, template: str, **context: object) -> Path:
        """Write a page.

        Args:
          name: Below the directory, with forward slashes.
          template: Its name in the package.
          **context: What the template uses; `root`, the way back to the directory, is added.

        Returns:
          Where it lies.
        """
        root = "../" * name.count("/")
        text = self._templates.get_template(template).render(root=root, **context)
        return self.write(name, text.encode(errors="replace"))

    def looks(self, planes: list[Plane], *, contrasts: Sequence[str] = ("",)) -> None:
        """Write the style of the pages.

        Args:
          planes: Of the grid that pictures lie on; they decide the sizes.
          contrasts: What lies side by side, by name.
        """
        style = (_STATIC / "gallery.css").read_bytes()
        self.write("gallery.css", sizes_css(planes, contrasts=contrasts).encode() + style)


def templates() -> "jinja2.Environment":
    """Return the templates of the pages; everything that they print is escaped.

    Example:
      >>> templates().from_string("{{ layer }}").render(layer="<img>")
      '&lt;img&gt;'
    """
    import jinja2  # When there are pages to build.

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("featvis_jax.results.gallery"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["by"] = by
    environment.filters["times"] = times
    environment.globals["sound"] = SOUND
    environment.globals["looks"] = evidence.LOOKS
    environment.globals["trust_sorts"] = evidence.sorts
    environment.filters["folded"] = folded
    environment.filters["percent"] = anatomy.percent_told
    environment.filters["interval"] = anatomy.interval_told
    environment.filters["place"] = anatomy.place_told
    return environment


def sizes_css(planes: list[Plane], *, contrasts: Sequence[str] = ("",)) -> str:
    """Return the sizes of the pictures as CSS: whole pixels per voxel on desks and on phones.

    Args:
      planes: Of the grid; none before the first picture.
      contrasts: What lies side by side of slices, and one below the other of volumes, by name.

    Returns:
      Rules that the style sheet builds on.

    Example:
      >>> import numpy as np
      >>> from featvis_jax.results import grids
      >>> print(sizes_css(grids.planes(np.eye(4), (140, 192))))
      :root{--tile:1;--tile-narrow:1;--stage:3;--stage-narrow:2;--cell:140}
      .axial{--w:140;--h:192}
      body:has(#view-axial:checked) .tile .voxels:not([data-view="axial"]){display:none}
      body:has(#view-projection:checked) .tile .voxels:not([data-view="projection"]){display:none}
      <BLANKLINE>
    """
    if not planes:
        return ":root{--tile:1;--tile-narrow:1;--stage:1;--stage-narrow:1;--cell:160}\n"
    widest, highest = max(p.width for p in planes), max(p.height for p in planes)
    in_a_row = len(planes) if len(planes) > 1 else len(contrasts)
    together = sum(plane.width for plane in planes) * (in_a_row // len(planes))
    # A single picture shares the width of the page with the facts about it.
    room = _STAGE_WIDTH if in_a_row > 1 else _STAGE_WIDTH // 2
    scales = {
        "tile": round(_TILE / widest),
        "tile-narrow": (_PHONE // 2) // widest,
        "stage": min((room - 64 * (in_a_row - 1)) // together, _STAGE_HEIGHT // highest),
        "stage-narrow": _PHONE // widest,
    }
    whole = ";".join(f"--{name}:{max(1, scale)}" for name, scale in scales.items())
    lines = [f":root{{{whole};--cell:{widest}}}"]
    lines += [f".{plane.name}{{--w:{plane.width};--h:{plane.height}}}" for plane in planes]
    lines += [
        f'body:has(#view-{view}:checked) .tile .voxels:not([data-view="{view}"]){{display:none}}'
        for view in [*(plane.name for plane in planes), "projection"]
    ]
    lines += [
        f'body:has(#contrast-{name}:checked) .part:not([data-contrast="{name}"]){{display:none}}'
        for name in contrasts
        if name
    ]
    return "\n".join(lines) + "\n"


def link(path: str) -> str:
    """Return a relative path as a URL has it.

    Example:
      >>> link("../../my run/#1.png")
      '../../my%20run/%231.png'
    """
    return quote(path, safe="/+=~")


def number(value: float | None) -> str:
    """Write a number for people.

    Example:
      >>> number(-1.23456), number(float("nan")), number(None), number(256)
      ('−1.235', 'n/a', 'n/a', '256')
    """
    if value is None:
        return "n/a"
    if isinstance(value, int):
        return minus(str(value))
    return minus(f"{value + 0.0:.4g}") if math.isfinite(value) else "n/a"


def folded(command: str) -> str:
    r"""Write a command with one flag on a line, so that a shell still takes it.

    Example:
      >>> print(folded("python -m experiments.gallery --run=a --run='b c'"))
      python -m experiments.gallery \
        --run=a \
        '--run=b c'
    """
    try:
        parts = shlex.split(command)
    except ValueError:  # An odd quote: somebody wrote it by hand.
        return command
    lines = [[]]
    for part in parts:
        if part.startswith("--"):
            lines.append([])
        lines[-1].append(part)
    return " \\\n  ".join(shlex.join(line) for line in lines)


def by(shape: Sequence[float]) -> str:
    r"""Write a shape for people, on one line.

    Example:
      >>> by((140, 192))
      '140\xa0×\xa0192'
    """
    return "\xa0×\xa0".join(f"{length:g}" for length in shape)

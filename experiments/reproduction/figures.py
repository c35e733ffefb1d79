"""The paper's figures from what the stages left."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy import ndimage

from experiments.reproduction.looks import shown_plane
from featvis_jax.results.comparison import comparison
from featvis_jax.results.nifti import decode_nifti
from featvis_jax.results.store import read_run
from featvis_jax.results.tables import SOUND

_INK, _MUTED, _HAIRLINE, _MARK = "#1c1e21", "#6e7278", "#cecece", "#e8a33d"
_WINDOW = (0.0, 1.0)
# What is left of a soft edge counts as lesion from here on.
_EDGE = 0.1
_TILE_INCHES = 1.15


def examples(found: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Figure 1: a slice as it was, with Gaussian and with square lesions, each in a circle.

    Args:
      found: What `example.npz` holds, for "gaussian" and "square".
    """
    panels = [
        ("Original", found["gaussian"]["original"], None),
        ("Gaussian lesions", found["gaussian"]["damaged"], found["gaussian"]["mask"]),
        ("Square lesions", found["square"]["damaged"], found["square"]["mask"]),
    ]
    first = shown_plane(panels[0][1])
    width, gap, head = 2.3, 0.08, 0.32
    height = width * first.shape[1] / first.shape[0]
    figure = Figure((3 * width + 2 * gap, height + head), facecolor="white")
    size = figure.get_size_inches()
    for number, (title, image, mask) in enumerate(panels):
        place = (number * (width + gap) / size[0], 0, width / size[0], height / size[1])
        axes = figure.add_axes(place)
        _show(axes, shown_plane(image))
        axes.set_title(title, fontsize=10, color=_INK, loc="left", pad=5)
        if mask is not None:
            for x, y, radius in circles(shown_plane(mask)):
                # The slice is shown turned: its first axis to the right, its second one up.
                center = (x, first.shape[1] - 1 - y)
                axes.add_patch(Circle(center, radius, fill=False, color=_MARK, linewidth=1.4))
    return _png(figure)


def circles(mask: Float[np.ndarray, "x y"]) -> list[tuple[float, float, float]]:
    """A circle around every lesion: its centre and a radius that leaves some room, in voxels.

    Args:
      mask: 1 in a lesion.

    Example:
      >>> mask = np.zeros((40, 40))
      >>> mask[10:19, 20:29] = 1
      >>> [(round(x), round(y), round(r, 1)) for x, y, r in circles(mask)]
      [(14, 24, 9.4)]
    """
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask > _EDGE, output=labels)
    found = []
    for box in ndimage.find_objects(labels):
        sides = [part.stop - part.start for part in box]
        x, y = ((part.start + part.stop - 1) / 2 for part in box)
        found.append((x, y, float(np.hypot(*sides)) / 2 + 3))
    return found


def layers(
    runs: Mapping[str, Path], channels: Sequence[int], names: Sequence[str], titles: Sequence[str]
) -> bytes:
    """Figure 2: some channels of every layer, the models side by side.

    Args:
      runs: The run of every model, in the order shown.
      channels: Which of each layer.
      names: The layers.
      titles: A heading for every model.
    """
    views = [read_run(path) for path in runs.values()]
    statuses = [{(r.layer, r.channel): r.status for r in view.records()} for view in views]
    planes = [
        [[shown_plane(view.image(name, channel)[0]) for channel in channels] for view in views]
        for name in names
    ]
    widths = [_TILE_INCHES * p[0].shape[0] / p[0].shape[1] * 1.25 for p in planes[0]]
    height, gap, between, left, top = _TILE_INCHES * 1.25, 0.06, 0.28, 0.55, 0.36
    blocks = [len(channels) * (width + gap) - gap for width in widths]
    across = left + sum(blocks) + between * (len(blocks) - 1)
    size = (across + 0.05, top + len(names) * (height + 0.23))
    with rc_context({"font.family": "DejaVu Sans"}):
        figure = Figure(size, facecolor="white")
        x = left
        for m, title in enumerate(titles):
            figure.text(x / size[0], 1 - 0.12 / size[1], title, size=10, color=_INK, va="top")
            for row, name in enumerate(names):
                bottom = size[1] - top - (row + 1) * (height + 0.23) + 0.23
                for c, channel in enumerate(channels):
                    place = (x + c * (widths[m] + gap), bottom)
                    axes = figure.add_axes(
                        (
                            place[0] / size[0],
                            place[1] / size[1],
                            widths[m] / size[0],
                            height / size[1],
                        )
                    )
                    _show(axes, planes[row][m][c])
                    status = statuses[m][name, channel]
                    label = str(channel) if status in SOUND else f"{channel}, {status}"
                    figure.text(
                        place[0] / size[0],
                        (place[1] - 0.035) / size[1],
                        label,
                        size=6.5,
                        color=_MUTED,
                        va="top",
                    )
                if m == 0:
                    middle = (bottom + height / 2) / size[1]
                    figure.text(
                        0.42 / size[0], middle, name, size=8.5, color=_INK, ha="right", va="center"
                    )
            x += blocks[m] + between
        return _png(figure)


def strategies(
    directory: Path, names: Sequence[str], channel: int, *, title: str, columns: int
) -> bytes:
    """Figures 3 and 4: the image of one channel under every strategy.

    Args:
      directory: Where `experiments.compare_regularizers` wrote.
      names: The strategies.
      channel: Of the layer that was compared.
      title: Above the figure.
      columns: Images in a row.
    """
    images = [
        decode_nifti((directory / "images" / name / f"{channel:04d}.nii.gz").read_bytes())[0]
        for name in names
    ]
    return comparison(
        [images],
        rows=[str(channel)],
        columns=names,
        window=_WINDOW,
        title=title,
        max_columns=columns,
    )["png"]


def _show(axes: Axes, plane: Float[np.ndarray, "x y"]) -> None:
    low, high = _WINDOW
    axes.imshow(np.rot90(plane), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    # A white image has an outline too.
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=_HAIRLINE, linewidth=0.5)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=220, metadata={"Software": None})
    return buffer.getvalue()

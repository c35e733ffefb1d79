"""One figure of how many pictures show what they should, beside the controls."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_INK, _MUTED, _GRID = "#1c1e21", "#6e7278", "#e4e6e9"
_PICTURE = "#1f5f9e"
_CONTROLS = ("#b0481c", "#7a8f2f", "#98a2ae", "#8a5a9e", "#c9a227")
_FONT = "DejaVu Sans"
_TITLES = {
    "named": "Shape named rightly",
    "filter": "1  Matched filter",
    "judge": "2  Shape judge",
    "transfer": "3  Transfer",
    "insertion": "4  Insertion",
    "size": "Size recovered",
}


def scores_figure(
    rows: Sequence[Mapping[str, Any]], *, title: str, kind: Literal["png", "pdf"] = "png"
) -> bytes:
    """Plot the share of pictures that pass every score, with 95 % intervals, by layer.

    Args:
      rows: of summary.tsv: "layer", "control" ("picture" or a control's name), "score", "share",
        "low", "high" (all on [0, 1]), "n" and "chance" (or None).
      title: heading.
      kind: format of the file.

    Returns:
      The bytes of the file.

    Raises:
      ValueError: if there are no rows.

    >>> row = {"layer": "all", "control": "picture", "score": "named", "share": 0.9, "low": 0.8,
    ...        "high": 0.95, "n": 40, "chance": 0.1}
    >>> scores_figure([row], title="square_lesion")[1:4]
    b'PNG'
    """
    if not rows:
        raise ValueError("rows is empty; expected at least one share to plot.")
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    if len(layers) == 2 and "all" in layers:
        layers.remove("all")  # One layer is all there is.
        rows = [row for row in rows if row["layer"] != "all"]
    kinds = sorted(
        dict.fromkeys(row["control"] for row in rows), key=lambda name: name != "picture"
    )
    scores = [score for score in _TITLES if any(row["score"] == score for row in rows)]
    figure = Figure((11.0, 6.2), 160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        title.replace("$", r"\$"), x=0.01, ha="left", color=_INK, fontfamily=_FONT, fontsize=12
    )
    columns = 3 if len(scores) > 1 else 1
    grid = figure.subplots(-(-len(scores) // columns), columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(scores) :]:
        axes.set_visible(False)
    handles = {}
    for axes, score in zip(grid.flat, scores, strict=False):
        heading = axes.set_title(_TITLES[score], loc="left", color=_INK, pad=8)
        heading.set(fontsize=10, weight="bold", fontfamily=_FONT)
        own = [row for row in rows if row["score"] == score]
        chance = own[0]["chance"]
        if chance is not None:
            axes.axhline(100 * chance, color=_MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for number, name in enumerate(kinds):
            color = _PICTURE if name == "picture" else _CONTROLS[(number - 1) % len(_CONTROLS)]
            offset = (number - (len(kinds) - 1) / 2) * 0.8 / max(len(kinds), 1)
            for row in own:
                if row["control"] != name:
                    continue
                place = layers.index(row["layer"]) + offset
                value, low, high = (100 * row[key] for key in ("share", "low", "high"))
                axes.plot([place, place], [low, high], color=color, linewidth=2, alpha=0.45)
                (handle,) = axes.plot([place], [value], "o", color=color, markersize=5)
                handles.setdefault("pictures" if name == "picture" else name, handle)
        axes.set_xticks(range(len(layers)), layers, fontfamily=_FONT)
        axes.set_ylim(-4, 104)
        axes.set_axisbelow(True)
        axes.grid(visible=True, axis="y", color=_GRID, linewidth=0.8)
        axes.tick_params(labelsize=8.5, labelcolor=_MUTED, length=0, labelfontfamily=_FONT)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
    for axes in grid[:, 0]:
        axes.set_ylabel("share (%)", color=_MUTED, fontfamily=_FONT, fontsize=9)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower left",
        ncols=len(handles),
        frameon=False,
        prop={"family": _FONT, "size": 9},
        labelcolor=_INK,
    )
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None, "Creator": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()

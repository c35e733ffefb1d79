"""One figure of how many pictures show what they should, beside the controls."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_INK, _MUTED, _GRID = "#1c1e21", "#6e7278", "#e4e6e9"
_PICTURE = "#1f5f9e"
_CONTROLS = ("#b0481c", "#7a8f2f", "#98a2ae", "#8a5a9e", "#c9a227")
_FONT = "DejaVu Sans"
_TITLES = {"named": "Shape named rightly", "size": "Size recovered"}


def scores_figure(
    rows: Sequence[Mapping[str, Any]],
    *,
    title: str,
    known: Sequence[Mapping[str, Any]] = (),
    kind: Literal["png", "pdf"] = "png",
) -> bytes:
    """Plot the share of pictures that pass every score, with 95 % intervals, by layer.

    Args:
      rows: Of summary.tsv: "layer", "control" ("picture" or a control's name), "score", "share",
        "low", "high" (all on [0, 1]) and "n".
      title: Heading.
      known: Of known.tsv: "concept", "drawn" ("perfect" first), "named", "low", "high".
      kind: Format of the file.

    Returns:
      The bytes of the file.

    Raises:
      ValueError: If there are no rows.

    Example:
      >>> row = {"layer": "all", "control": "picture", "score": "named", "share": 0.9, "low": 0.8,
      ...        "high": 0.95, "n": 40}
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
    figure = Figure((11.0, 5.0), 160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        title.replace("$", r"\$"), x=0.01, ha="left", color=_INK, fontfamily=_FONT, fontsize=12
    )
    panels = figure.subplots(
        1,
        len(scores) + bool(known),
        squeeze=False,
        width_ratios=[1.0] * len(scores) + [0.9] * bool(known),
    )[0]
    handles: dict[str, Line2D] = {}
    for axes, score in zip(panels, scores, strict=False):
        _dress(axes, _TITLES[score], "y")
        own = [row for row in rows if row["score"] == score]
        for name, handle in _plot_shares(axes, own, kinds, layers).items():
            handles.setdefault(name, handle)
    panels[0].set_ylabel("share (%)", color=_MUTED, fontfamily=_FONT, fontsize=9)
    if known:
        _plot_known(panels[-1], known)
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


def _plot_shares(
    axes: Axes, rows: Sequence[Mapping[str, Any]], kinds: Sequence[str], layers: Sequence[str]
) -> dict[str, Line2D]:
    """The shares of one score, side by side in every layer; returns a mark of each kind."""
    marks = {}
    for number, name in enumerate(kinds):
        color = _PICTURE if name == "picture" else _CONTROLS[(number - 1) % len(_CONTROLS)]
        offset = (number - (len(kinds) - 1) / 2) * 0.8 / max(len(kinds), 1)
        for row in rows:
            if row["control"] != name:
                continue
            place = layers.index(row["layer"]) + offset
            value, low, high = (100 * row[key] for key in ("share", "low", "high"))
            axes.plot([place, place], [low, high], color=color, linewidth=2, alpha=0.45)
            (mark,) = axes.plot([place], [value], "o", color=color, markersize=5)
            marks.setdefault("pictures" if name == "picture" else name, mark)
    axes.set_xticks(range(len(layers)), layers, fontfamily=_FONT)
    axes.set_ylim(-4, 104)
    return marks


def _dress(axes: Axes, heading: str, grid: Literal["x", "y"]) -> None:
    """What all panels have in common."""
    text = axes.set_title(heading, loc="left", color=_INK, pad=8)
    text.set(fontsize=10, weight="bold", fontfamily=_FONT)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, color=_GRID, linewidth=0.8)
    axes.tick_params(labelsize=8.5, labelcolor=_MUTED, length=0, labelfontfamily=_FONT)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)


def _plot_known(axes: Axes, known: Sequence[Mapping[str, Any]]) -> None:
    """How often drawn pictures are named, one line for every kind."""
    _dress(axes, "The same grade of drawn pictures", "x")
    several = len({row["concept"] for row in known}) > 1
    labels = []
    for place, row in enumerate(known):
        perfect = row["drawn"] == "perfect"
        color = _PICTURE if perfect else _MUTED
        low, high, value = (100 * row[key] for key in ("low", "high", "named"))
        axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.3)
        axes.plot([value], [place], "o", color=color, markersize=4)
        labels.append(f"{row['concept']}: {row['drawn']}" if several or perfect else row["drawn"])
    axes.set_yticks(range(len(labels)), labels, fontfamily=_FONT)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(-4, 104)
    axes.set_xlabel("named rightly (%)", color=_MUTED, fontfamily=_FONT, fontsize=9)
    axes.tick_params(axis="y", labelsize=7)

"""One figure of what speaks for and against the pictures of a layer: a row each, with intervals."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from featvis_jax.results.trust import (
    NOT_DRIVING,
    NOT_MEASURED,
    NOT_REFUTED,
    REFUTED,
    VERDICTS,
    TrustRecord,
)

_INK, _MUTED, _GRID, _BAND = "#1c1e21", "#6e7278", "#dfe2e6", "#f3f5f7"
_FONT = "DejaVu Sans"
# Blue, vermilion, purple and grey differ in lightness, too; the shape tells without colour.
_LOOKS = {
    NOT_REFUTED: ("D", "#1f5f9e"),
    REFUTED: ("X", "#b0481c"),
    NOT_DRIVING: ("v", "#8a5a9e"),
    NOT_MEASURED: ("o", "#6e7278"),
}
_SIZE = {"D": 4.2, "X": 5.6, "v": 5.2, "o": 4.4}
_HOLLOW = 3.6
_ROW, _TALL = 0.17, 15.0
"""Inches of a row, as long as there are not too many, and of all rows together."""
_LEFT, _ACROSS, _GAP, _TOP, _BOTTOM = 1.9, 1.2, 0.22, 1.15, 0.6
"""Inches left of the panels, of a panel, between two, above and below them."""
_STEP, _INSET = _ACROSS + _GAP, 0.06
_PREDICTS = "picture_predicts"
_NAME = 22
"""Letters of a name that there is room for."""


class _Panel(NamedTuple):
    """A measure: its column, its heading, what that means, and the ends of its axis."""

    column: str
    heading: str
    meaning: str
    least: float = 0.0
    most: float = 1.0
    mark: float | None = None


_PANELS = (
    _Panel("belongs", "belongs", "probability that\nit is its unit's"),
    _Panel("strength", "strength", "of the strongest\nreal input", 0.0, 2.0, 1.0),
    _Panel("pasted", "pasted", "into other people's\nimages", 0.0, 2.0, 1.0),
    _Panel("selectivity", "selectivity", "share of units that\nit drives less"),
    _Panel("standing", "standing", "share of pictures that\ndrive the unit less"),
    _Panel("other_ways", "other ways", "share of response by\nways not taken by real"),
    _Panel("likeness", "likeness", "correlation with the\nstrongest real", -1.0, 1.0, 0.0),
    _Panel(_PREDICTS, "predicts", "share of pairs that\nare told apart", 0.0, 1.0, 0.5),
    _Panel("label_auc", "label", "area under\nthe curve", 0.0, 1.0, 0.5),
)


def trust_figure(
    records: Sequence[TrustRecord],
    *,
    title: str,
    names: Mapping[int, str] | None = None,
    kind: Literal["png", "pdf"] = "png",
) -> bytes:
    """Plot every measure of every picture, by verdict and by how probably it is its unit's own.

    Of predictions that of the picture is a full mark, and that of real examples a ring. What lies
    beyond an axis is a mark at its end; measures that no picture has get no panel.

    Args:
      records: Of one layer, at least one, in any order.
      title: Heading, such as the layer's name.
      names: What channels are called; their numbers by default.
      kind: Format of the file.

    Returns:
      The bytes of the file; equal records give equal bytes.

    Raises:
      ValueError: If there are no records.

    Example:
      >>> row = TrustRecord("conv1", 3, 1, NOT_REFUTED, belongs=0.9, strength=1.2)
      >>> trust_figure([row], title="conv1")[1:4]
      b'PNG'
    """
    if not records:
        raise ValueError("records is empty; expected what was measured of at least one picture.")
    rows, heads = _places(records)
    # Without a number there is still a verdict to each.
    panels = [panel for panel in _PANELS if any(_has(row, panel) for row in records)]
    labels = {record.label for record in records if record.label}
    if len(labels) == 1:
        panels = [_of_label(panel, *labels) for panel in panels]
    last, across = max(rows), max(len(panels), 4) * _STEP
    height = min(_ROW * (last + 1), _TALL)
    wide, high = _LEFT + across, _TOP + height + _BOTTOM
    figure = Figure((wide, high), 160, facecolor="white")
    FigureCanvasAgg(figure)
    # One plot for all panels is drawn several times as fast as one each. Everything has its place
    # in inches from its top left corner, so that no row is higher for the length of a name.
    axes = figure.add_axes((_LEFT / wide, _BOTTOM / high, across / wide, height / high))
    axes.set(xlim=(0, across), ylim=(height, 0))
    axes.set_axis_off()
    row = height / (last + 1)
    at = {number: (number + 0.5) * row for number in range(last + 1)}
    _text(axes, 0.15 - _LEFT, 0.15 - _TOP, title, size=12, va="top")
    # To follow a row across the panels; a thick line is drawn faster than a box.
    bands = [at[number] for number in list(rows)[::2]]
    axes.hlines(bands, 0, len(panels) * _STEP - _GAP, color=_BAND, linewidth=72 * row, zorder=0)
    for number, panel in enumerate(panels):
        _dress(axes, number * _STEP, height, panel, labels_above=last > 20)
        _plot(axes, number * _STEP, panel, {at[each]: record for each, record in rows.items()})
    for number, record in rows.items():
        name = _label(record, names or {})
        _text(axes, -0.08, at[number], name, size=min(7.5, 72 * 0.75 * row), ha="right")
    for number, verdict in heads.items():
        count = sum(record.verdict == verdict for record in records)
        _text(axes, -0.08, at[number], f"{verdict} \u00b7 {count}", size=7.5, ha="right",
              color=_LOOKS[verdict][1], weight="bold")  # fmt: skip
    _key(figure, list(heads.values()), has_predictions=_PREDICTS in {p.column for p in panels})
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None, "Creator": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _places(records: Sequence[TrustRecord]) -> tuple[dict[int, TrustRecord], dict[int, str]]:
    """Return the row of every picture, from the top, and those of headings with their verdicts."""
    rows, heads, at = {}, {}, 0
    for verdict in VERDICTS:
        own = [record for record in records if record.verdict == verdict]
        if not own:
            continue
        heads[at] = verdict
        own.sort(key=lambda row: (-np.nan_to_num(_number(row.belongs), nan=-np.inf), row.key))
        rows |= {at + 1 + number: row for number, row in enumerate(own)}
        at += len(own) + 1
    return rows, heads


def _plot(axes: Axes, left: float, panel: _Panel, rows: Mapping[float, TrustRecord]) -> None:
    """Draw a measure of every picture; of predictions, those of the examples below."""
    shift = 0.0
    if panel.column == _PREDICTS:
        shift = 0.03
        places = [(at + shift, row) for at, row in rows.items()]
        _dots(axes, left, panel, places, "examples_predict", marker="o", color=_INK, hollow=True)
    for verdict, (marker, color) in _LOOKS.items():
        places = [(at - shift, row) for at, row in rows.items() if row.verdict == verdict]
        _dots(axes, left, panel, places, panel.column, marker=marker, color=color)


# Many arguments: where, what of whom, and how it looks.
def _dots(
    axes: Axes,
    left: float,
    panel: _Panel,
    places: Sequence[tuple[float, TrustRecord]],
    column: str,
    *,
    marker: str,
    color: str,
    hollow: bool = False,
) -> None:
    """Draw the numbers of a column and their intervals, within the panel."""
    ends = ("", "_low", "_high")
    read = [[_number(getattr(row, column + end, None)) for _, row in places] for end in ends]
    values, lows, highs = np.array(read, np.float64).reshape(3, -1)
    at = np.array([place for place, _ in places])
    known = np.isfinite(lows + highs)
    low, high = (_place(left, panel, each[known]) for each in (lows, highs))
    axes.hlines(at[known], low, high, color=color, linewidth=1.6, alpha=0.4, zorder=2)
    edge = {"markerfacecolor": "white", "markeredgecolor": color, "markeredgewidth": 0.9}
    style = edge if hollow else {"color": color, "markeredgewidth": 0.0}
    size = _HOLLOW if hollow else _SIZE[marker]
    for shape, drawn in (
        (marker, (values >= panel.least) & (values <= panel.most)),
        (">", values > panel.most),
        ("<", values < panel.least),
    ):
        if drawn.any():
            place = _place(left, panel, values[drawn])
            axes.plot(place, at[drawn], shape, markersize=size, zorder=3, clip_on=False, **style)


def _place(left: float, panel: _Panel, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return where numbers lie, in inches; those beyond the ends at these."""
    shares = (np.clip(values, panel.least, panel.most) - panel.least) / (panel.most - panel.least)
    return left + _INSET + shares * (_ACROSS - 2 * _INSET)


def _dress(axes: Axes, left: float, height: float, panel: _Panel, *, labels_above: bool) -> None:
    """Set headings, ends and lines of a panel."""
    _text(axes, left, -0.58, panel.heading, size=9, weight="bold", va="baseline")
    _text(axes, left, -0.48, panel.meaning, size=6.5, color=_MUTED, va="top", linespacing=1.25)
    ticks = np.array([panel.least, (panel.least + panel.most) / 2, panel.most])
    places = _place(left, panel, ticks)
    axes.vlines(places, 0, height, color=_GRID, linewidth=0.8, zorder=1)
    for place, tick in zip(places.tolist(), ticks.tolist(), strict=True):
        label = f"{tick:g}".replace("-", "\u2212")
        for at in (height + 0.09, -0.09)[: 1 + labels_above]:
            _text(axes, place, at, label, size=7, color=_MUTED, ha="center")
    if panel.mark is not None:
        mark = _place(left, panel, np.array([panel.mark]))
        axes.vlines(mark, 0, height, color=_MUTED, linewidth=0.7, zorder=1)


def _text(axes: Axes, x: float, y: float, text: str, *, size: float, **style: Any) -> None:
    """Write a text as it stands, not as a formula."""
    shown = "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)
    look = {"color": _INK, "va": "center", "fontfamily": _FONT, **style}
    axes.text(x, y, shown.replace("$", r"\$"), fontsize=size, **look)


def _label(row: TrustRecord, names: Mapping[int, str]) -> str:
    """Return what a picture is called."""
    name = _short(names.get(row.channel, str(row.channel)), _NAME)
    return name + (f", variant {row.variant}" if row.variant > 1 else "")


def _key(figure: Figure, verdicts: Sequence[str], *, has_predictions: bool) -> None:
    """Name the marks below the panels."""
    none = {"linestyle": "none", "markeredgewidth": 0.0}
    handles = {
        verdict: Line2D([], [], marker=marker, color=color, markersize=_SIZE[marker], **none)
        for verdict in verdicts
        for marker, color in [_LOOKS[verdict]]
    }
    if has_predictions:
        handles["real examples"] = Line2D(
            [], [], linestyle="none", marker="o", markersize=_HOLLOW, markerfacecolor="white",
            markeredgecolor=_INK, markeredgewidth=0.9,
        )  # fmt: skip
    handles["95 % interval over people"] = Line2D([], [], color=_MUTED, linewidth=1.6, alpha=0.5)
    figure.legend(
        list(handles.values()), list(handles), loc="lower left", borderaxespad=0.4, frameon=False,
        ncols=len(handles), prop={"family": _FONT, "size": 8}, labelcolor=_INK,
    )  # fmt: skip


def _of_label(panel: _Panel, label: str) -> _Panel:
    """Name the label in the panel that is about it."""
    named = f"label: {_short(label, 12)}"
    return panel._replace(heading=named) if panel.column == "label_auc" else panel


def _short(text: str, most: int) -> str:
    """Cut off what there is no room for."""
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def _has(row: TrustRecord, panel: _Panel) -> bool:
    """Whether a picture has anything to draw in a panel."""
    columns = [panel.column]
    if panel.column == _PREDICTS:
        columns.append("examples_predict")
    return not all(math.isnan(_number(getattr(row, each))) for each in columns)


def _number(value: float | None) -> float:
    """Return a number, NaN where there is none."""
    return math.nan if value is None else value

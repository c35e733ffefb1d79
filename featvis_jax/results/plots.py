"""Plots of a training and of a visualization, as PNG bytes.

Everything goes through matplotlib's objects, never through pyplot, and every font, colour and size
is set here: no global state is read or changed, and equal data give equal bytes.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_INK, _MUTED, _GRID = "#1c1e21", "#6e7278", "#e4e6e9"
_TRAIN, _VALIDATION, _OTHER = "#98a2ae", "#1f5f9e", "#b0481c"
_FONT = "DejaVu Sans"
_DOTS_PER_INCH = 160
_SHADES = LinearSegmentedColormap.from_list("shades", ["#f4f7fa", "#c4d8e9", "#2a6aa5"])


def training_curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot the loss, and balanced accuracy or R squared, against the step, for every split.

    The step at which the second is best on the validation split is marked.

    Args:
      rows: One mapping per measurement, with the keys "step", "split" ("train", "validation"),
        "loss" and, of classes, "balanced_accuracy" (from 0 to 1) or, of a number that is
        estimated, "r_squared"; NaN or None where a value was not measured. Other keys, such as
        "auc", are not drawn.

    Returns:
      The bytes of a .png file.

    Raises:
      ValueError: If there are no rows or a key is missing.

    Example:
      >>> row = {"step": 0, "split": "train", "loss": 0.7, "balanced_accuracy": 0.5}
      >>> training_curves([row, {**row, "step": 10, "loss": 0.6}])[1:4]
      b'PNG'
    """
    if not rows:
        raise ValueError("rows is empty; expected at least one measurement to plot.")
    estimates = "r_squared" in rows[0]
    measure = "r_squared" if estimates else "balanced_accuracy"
    for number, row in enumerate(rows):
        missing = {"step", "split", "loss", measure} - set(row)
        if missing:
            raise ValueError(f"rows[{number}] lacks {sorted(missing)}; it has {sorted(row)}.")
    figure = _figure(8.6, 3.5)
    loss, accuracy = figure.subplots(1, 2)
    if estimates:
        _style(loss, "Squared error", "training step", "mean squared error, standardized")
        _style(accuracy, "R squared", "training step", "explained variance (%)")
    else:
        _style(loss, "Cross-entropy loss", "training step", "loss (nats)")
        _style(accuracy, "Balanced accuracy", "training step", "balanced accuracy (%)")
    for split in dict.fromkeys(str(row["split"]) for row in rows):
        color = {"train": _TRAIN, "validation": _VALIDATION}.get(split, _OTHER)
        of_split = sorted((row for row in rows if row["split"] == split), key=_step)
        steps = np.array([_step(row) for row in of_split])
        for axes, key, factor in ((loss, "loss", 1), (accuracy, measure, 100)):
            values = np.array([_number(row[key]) * factor for row in of_split])
            known = np.isfinite(values)
            marker = "o" if known.sum() < 2 else None
            axes.plot(
                steps[known], values[known], color=color, linewidth=1.7, label=split, marker=marker
            )
            if split == "validation" and key == measure and known.any():
                _mark_best(axes, steps[known], values[known])
    for axes in (loss, accuracy):
        _legend(axes)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    loss.set_ylim(bottom=0)
    low, high = accuracy.get_ylim()
    # An R squared may fall below 0 as far as it likes.
    accuracy.set_ylim(low if estimates else max(0, low), min(102, high + 0.08 * (high - low)))
    return _png(figure)


def objective_traces(
    traces: Float[np.ndarray, "channels steps"], *, title: str = "Objective during the ascent"
) -> bytes:
    """Plot the objective of many channels against the step: median and interquartile range.

    Args:
      traces: One row per channel, one column per step, any finite unit; NaN and infinity, from
        channels that diverged, are left out.
      title: Heading, such as the name of the layer.

    Returns:
      The bytes of a .png file.

    Raises:
      ValueError: If the array has not two dimensions, or is empty.

    Example:
      >>> objective_traces(np.cumsum(np.ones((3, 20)), axis=1))[1:4]
      b'PNG'
    """
    traces = np.asarray(traces, np.float64)
    if traces.ndim != 2 or 0 in traces.shape:
        raise ValueError(f"traces must have shape (channels, steps), both > 0; got {traces.shape}.")
    known = [column[np.isfinite(column)] for column in traces.T]
    steps = np.array([step for step, column in enumerate(known) if column.size])
    figure = _figure(6.0, 3.5)
    axes = figure.subplots()
    _style(axes, title, "ascent step", "objective")
    if steps.size:
        quartiles = np.array([np.percentile(known[step], (25, 50, 75)) for step in steps]).T
        axes.fill_between(
            steps,
            quartiles[0],
            quartiles[2],
            color=_VALIDATION,
            alpha=0.16,
            linewidth=0,
            label="middle half of the channels",
        )
        count = f"median of {len(traces)} channel{'s' if len(traces) > 1 else ''}"
        axes.plot(steps, quartiles[1], color=_VALIDATION, linewidth=1.9, label=count)
        _legend(axes)
    else:
        axes.text(
            0.5,
            0.5,
            "no finite values",
            transform=axes.transAxes,
            ha="center",
            color=_MUTED,
            fontfamily=_FONT,
            fontsize=9.5,
        )
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return _png(figure)


def confusion_matrix(
    matrix: Int[np.ndarray, "classes classes"], class_names: Sequence[str]
) -> bytes:
    """Plot a confusion matrix: counts, and the share of each true class.

    Args:
      matrix: Counts; entry (i, j) is how many examples of class i were taken for class j.
      class_names: One name per class.

    Returns:
      The bytes of a .png file.

    Raises:
      ValueError: If the matrix is not square, holds negative counts, or does not fit the names.

    Example:
      >>> confusion_matrix(np.array([[9, 1], [2, 8]]), ["clean", "lesion"])[1:4]
      b'PNG'
    """
    counts = np.asarray(matrix)
    classes = len(class_names)
    if counts.shape != (classes, classes) or classes == 0 or (counts < 0).any():
        raise ValueError(
            f"expected counts of shape ({classes}, {classes}) for the classes "
            f"{list(class_names)}; got shape {counts.shape}: {counts.tolist()}."
        )
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    side = 1.1 * max(classes, 2)
    figure = _figure(side + 2.0, side + 1.4)
    axes = figure.subplots()
    axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1)
    _style(axes, "Confusion matrix", "predicted class", "true class")
    axes.grid(visible=False)
    for side_name in ("left", "bottom"):
        axes.spines[side_name].set_visible(False)
    labels = [_plain(name) for name in class_names]
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    long = max(len(label) for label in labels) > 12
    axes.set_xticks(range(classes), labels, fontfamily=_FONT, **(turned if long else {}))
    names = [f"{label}\n({total})" for label, total in zip(labels, totals[:, 0], strict=True)]
    axes.set_yticks(range(classes), names, fontfamily=_FONT)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=3)
    axes.tick_params(which="both", length=0)
    for (true, predicted), share in np.ndenumerate(shares):
        color = "white" if share > 0.85 else _INK
        percent = f"{share * 100:.1f} %" if totals[true, 0] else "\u2013"
        for offset, text, size in ((-0.08, str(counts[true, predicted]), 12), (0.15, percent, 8.5)):
            axes.text(
                predicted,
                true + offset,
                text,
                ha="center",
                va="center",
                color=color,
                fontsize=size,
                fontfamily=_FONT,
            )
    return _png(figure)


def estimates(true: Sequence[float], estimated: Sequence[float], name: str) -> bytes:
    """Plot what was estimated against what is true, with the line on which both are equal.

    Args:
      true: One number per person.
      estimated: What a network says of each.
      name: Of what is estimated, with its unit if it has one.

    Returns:
      The bytes of a .png file.

    Raises:
      ValueError: If there are none, or not as many of the one as of the other.

    Example:
      >>> estimates([20.0, 45.0, 70.0], [28.0, 44.0, 61.0], "age")[1:4]
      b'PNG'
    """
    if len(true) != len(estimated) or len(true) == 0:
        raise ValueError(
            f"expected as many estimates as true values, one or more; got {len(estimated)} and "
            f"{len(true)}."
        )
    figure = _figure(4.4, 4.2)
    axes = figure.subplots()
    _style(axes, "Held-out people", f"true {_plain(name)}", f"estimated {_plain(name)}")
    ends = [min(*true, *estimated), max(*true, *estimated)]
    margin = 0.05 * (ends[1] - ends[0]) or 1.0
    ends = [ends[0] - margin, ends[1] + margin]
    axes.plot(ends, ends, color=_TRAIN, linewidth=1.2, label="equal")
    axes.plot(
        true,
        estimated,
        "o",
        color=_VALIDATION,
        markersize=5,
        alpha=0.75,
        markeredgewidth=0,
        label=f"{len(true)} people",
    )
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    _legend(axes)
    return _png(figure)


def _figure(width_inches: float, height_inches: float) -> Figure:
    """Make an empty figure that belongs to no global state."""
    figure = Figure(
        (width_inches, height_inches), _DOTS_PER_INCH, facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Set title, labels and the quiet look that all plots share."""
    heading = axes.set_title(_plain(title), loc="left", color=_INK, pad=10)
    heading.set(fontsize=11, weight="bold", fontfamily=_FONT)
    for label in (axes.set_xlabel(x_label, labelpad=6), axes.set_ylabel(y_label, labelpad=6)):
        label.set(fontsize=9.5, color=_MUTED, fontfamily=_FONT)
    axes.set_facecolor("white")
    axes.set_axisbelow(True)
    axes.grid(visible=True, color=_GRID, linewidth=0.8, linestyle="-")
    axes.tick_params(labelsize=9, labelcolor=_MUTED, length=0, labelfontfamily=_FONT)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)


def _legend(axes: Axes) -> None:
    """Name the lines where they hide the least."""
    font = {"family": _FONT, "size": 9}
    axes.legend(frameon=False, prop=font, labelcolor=_INK, handlelength=1.4, loc="best")


def _mark_best(axes: Axes, steps: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> None:
    """Put a dot and its value on the highest point of a curve."""
    best = int(values.argmax())
    axes.plot(steps[best], values[best], "o", color=_VALIDATION, markersize=5)
    axes.annotate(
        f"{values[best]:.1f} %",
        (steps[best], values[best]),
        (0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=_VALIDATION,
        fontfamily=_FONT,
    )


def _plain(text: str) -> str:
    """Return a text that matplotlib draws as it stands, not as a formula."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text).replace(
        "$", r"\$"
    )


def _step(row: Mapping[str, Any]) -> float:
    """Return the step of a measurement."""
    return _number(row["step"])


def _number(value: Any) -> float:
    """Return a number, NaN for one that was not measured."""
    return float("nan") if value is None else float(value)


def _png(figure: Figure) -> bytes:
    """Draw a figure; without the name of the program, so that its version leaves no trace."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()

"""Plots: PNG files that can be read, hold the data, and do not change from run to run."""

import inspect
import io

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from featvis_jax.results import plots
from featvis_jax.results.scores_figure import scores_figure

ROWS = [
    {"step": step, "split": split, "loss": 0.7 - step / 200 + gap, "balanced_accuracy": value,
     "auc": value}
    for split, gap in (("train", 0.0), ("validation", 0.05))
    for step, value in ((0, 0.5), (50, None), (100, 0.9 - gap))
]  # fmt: skip


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png))


def draw_all() -> list[bytes]:
    traces = np.cumsum(np.random.default_rng(0).random((5, 30)), axis=1)
    return [
        plots.training_curves(ROWS),
        plots.objective_traces(traces, title="conv3/relu"),
        plots.confusion_matrix(np.array([[9, 1], [0, 4]]), ["clean", "lesion"]),
    ]


def test_plots_are_pictures_with_ink_and_white_corners():
    for png in draw_all():
        picture = pixels(png)
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].min() < 0.3
        np.testing.assert_array_equal(picture[0, 0, :3], 1)


def test_bytes_depend_on_the_data_alone_and_no_global_state_is_used():
    first = draw_all()
    with matplotlib.rc_context({"font.size": 30, "font.family": "monospace", "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        second = draw_all()
        assert dict(matplotlib.rcParams) == before
    assert first == draw_all()
    # Settings of the user move no curve and change no letter; only sizes of gaps may differ.
    assert [pixels(a).shape for a in first] == [pixels(b).shape for b in second]
    assert b"Software" not in first[0]


def test_the_training_curve_changes_with_each_split_and_metric():
    whole = plots.training_curves(ROWS)
    for key in ("loss", "balanced_accuracy"):
        for split in ("train", "validation"):
            rows = [{**row, key: 0.6} if row["split"] == split else row for row in ROWS]
            assert plots.training_curves(rows) != whole
    assert plots.training_curves([{**row, "auc": 0.1} for row in ROWS]) == whole


def test_the_curve_of_an_estimate_shows_its_r_squared():
    rows = [{"step": n, "split": "validation", "loss": 1.0, "r_squared": n / 9} for n in range(9)]
    other = [{**row, "r_squared": -row["r_squared"]} for row in rows]
    assert plots.training_curves(rows) != plots.training_curves(other)


def test_estimates_are_drawn_as_they_are_and_refused_where_they_do_not_fit():
    whole = plots.estimates([20.0, 40.0, 60.0], [30.0, 35.0, 50.0], "age")
    assert pixels(whole).min() < 0.5
    assert plots.estimates([20.0, 40.0, 60.0], [30.0, 35.0, 10.0], "age") != whole
    assert plots.estimates([5.0], [5.0], "age")
    for true, estimated in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="as many estimates as true values"):
            plots.estimates(true, estimated, "age")


def test_a_single_measurement_and_metrics_that_were_not_measured_are_drawn():
    row = {"step": 3, "split": "train", "loss": 0.5, "balanced_accuracy": float("nan")}
    assert pixels(plots.training_curves([row])).min() < 0.5


def test_rows_without_a_metric_are_refused_by_name():
    with pytest.raises(ValueError, match=r"rows\[1\] lacks \['loss'\]"):
        plots.training_curves([ROWS[0], {"step": 1, "split": "train", "balanced_accuracy": 1.0}])
    with pytest.raises(ValueError, match="empty"):
        plots.training_curves([])


def test_channels_that_diverged_do_not_move_the_median(rng):
    traces = rng.random((4, 20)).cumsum(axis=1)
    traces[3, 10:] = np.inf
    whole = plots.objective_traces(traces)
    traces[3, 10:] = np.nan
    assert plots.objective_traces(traces) == whole
    assert pixels(plots.objective_traces(np.full((3, 4), np.nan))).min() < 0.9


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty_traces_are_refused(shape):
    with pytest.raises(ValueError, match="traces must have shape"):
        plots.objective_traces(np.zeros(shape))


@pytest.mark.parametrize("name", ["$x$", "a_b^c", "line\nbreak", r"\frac{", "</script>"])
def test_names_are_drawn_as_they_stand(name):
    assert plots.confusion_matrix(np.eye(2, dtype=int), [name, "b"])[1:4] == b"PNG"
    assert plots.objective_traces(np.ones((1, 2)), title=name)[1:4] == b"PNG"


def test_a_class_without_examples_is_drawn_without_division_by_zero():
    assert plots.confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"])[1:4] == b"PNG"


@pytest.mark.parametrize(
    "matrix", [np.ones((2, 3), int), np.ones((3, 3), int), -np.eye(2, dtype=int)]
)
def test_a_matrix_that_does_not_fit_the_classes_is_refused(matrix):
    with pytest.raises(ValueError, match=r"expected counts of shape \(2, 2\)"):
        inspect.unwrap(plots.confusion_matrix)(matrix, ["a", "b"])


def test_of_one_layer_the_total_is_not_plotted_twice():
    row = {"control": "picture", "score": "named", "share": 0.9, "low": 0.8, "high": 0.95}
    rows = [{**row, "layer": layer, "n": 20} for layer in ("all", "logits", "conv5")]
    alone = scores_figure(rows[1:2], title="square_lesion")
    assert scores_figure(rows[:2], title="square_lesion") == alone
    assert scores_figure(rows, title="square_lesion") != alone


def test_what_the_grade_says_of_drawn_pictures_stands_beside():
    row = {"layer": "all", "control": "picture", "score": "named", "share": 0.9}
    rows = [{**row, "low": 0.8, "high": 0.95, "n": 20}]
    known = [
        {"concept": "square", "drawn": kind, "named": named, "low": 0.0, "high": 1.0}
        for kind, named in (("perfect", 1.0), ("plus", 0.0), ("ring", 0.25))
    ]
    plain = scores_figure(rows, title="square_lesion")
    assert scores_figure(rows, known=known, title="square_lesion") != plain
    moved = [*known[:2], {**known[2], "named": 0.5}]
    assert scores_figure(rows, known=moved, title="a") != scores_figure(
        rows, known=known, title="a"
    )

"""Training: steps by hand, the scores of scikit-learn, early stopping, exact resumption."""

import functools
import itertools
import json
import math
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics

from featvis_jax import training
from featvis_jax.data.cache import CachedVolume
from featvis_jax.data.lesions import Lesions
from featvis_jax.data.pipeline import Examples, evaluation_batches, training_batches
from featvis_jax.data.shapes import square
from featvis_jax.data.sources import Slices
from featvis_jax.data.tasks import LesionTask
from featvis_jax.nn.cnn import CNN

# Adam divides float32 by integers and Orbax hands its state through as it is.
pytestmark = pytest.mark.optax

MEAN, STD = 0.4, 0.25


class Linear(nn.Module):
    """A linear classifier that scales its input as the CNN does."""

    rank: int = 1

    @nn.compact
    def __call__(self, images):
        mean = self.variable("statistics", "mean", lambda: jnp.zeros(()))
        std = self.variable("statistics", "std", lambda: jnp.ones(()))
        # The last axis is the channel; what else there is but the batch is space.
        spatial = images.shape[-1 - self.rank :]
        flat = ((images - mean.value) / std.value).reshape(-1, math.prod(spatial))
        return nn.Dense(2, name="logits")(flat)


class Reader(nn.Module):
    """Takes its input for logits, and tells the shapes that it is traced with."""

    on_trace: Callable[[tuple[int, ...]], None] = lambda shape: None

    def __call__(self, images):
        self.on_trace(images.shape)
        return images[..., 0]


def toy_batch(seed: int, size: int = 16, *, flip: bool = False) -> Examples:
    """Images of 6 voxels; the label is whether the first is brighter than the last."""
    images = np.random.default_rng(seed).random((size, 6, 1), np.float32)
    labels = (images[:, 0, 0] > images[:, -1, 0]).astype(np.int32)
    return {"image": images, "label": 1 - labels if flip else labels}


def toy_batches(first_step: int) -> Iterator[Examples]:
    step = first_step
    while True:
        yield toy_batch(step)
        step += 1


def validation(*, flip: bool = False) -> Callable[[], list[Examples]]:
    return lambda: [toy_batch(10**6, flip=flip), toy_batch(10**6 + 1, 9, flip=flip)]


@functools.cache
def initial() -> dict[str, training.Variables]:
    return training.initialize(Linear(), (6, 1), mean=MEAN, std=STD, seed=1)


def schedule(**options) -> training.Schedule:
    defaults = {
        "steps": 6,
        "learning_rate": 0.05,
        "weight_decay": 1e-3,
        "warmup_steps": 0,
        "decay": "constant",
        "evaluate_every": 2,
        "patience": 100,
        "hard_after": 0,
    }
    return training.Schedule(**{**defaults, **options})


def fit(directory: Path, options: training.Schedule, **more) -> training.Result:
    more = {"training": toy_batches, "validation": validation(), **more}
    return training.fit(Linear(), initial(), options, directory=directory, **more)


def assert_same_weights(found: training.Result, expected: training.Result) -> None:
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


# By hand


def reference_fit(
    weights: dict[str, np.ndarray],
    rates: list[float],
    weight_decay: float,
    *,
    decoupled: bool = False,
) -> dict[str, np.ndarray]:
    """Softmax regression by Adam in float64: L2 goes through the moments, as in Adam's paper."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    for step, rate in enumerate(rates):
        batch = toy_batch(step)
        x = (batch["image"][..., 0].astype(np.float64) - MEAN) / STD
        logits = x @ weights["kernel"] + weights["bias"]
        probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (probability - np.eye(2)[batch["label"]]) / len(x)
        gradient = {"kernel": x.T @ error, "bias": error.sum(axis=0)}
        for name in weights:
            g = gradient[name] + (0 if decoupled else weight_decay * weights[name])
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            mean = first[name] / (1 - 0.9 ** (step + 1))
            square_ = second[name] / (1 - 0.999 ** (step + 1))
            decay = weight_decay * weights[name] if decoupled else 0
            weights[name] = weights[name] - rate * (mean / (np.sqrt(square_) + 1e-8) + decay)
    return weights


def weights_of(variables: dict[str, training.Variables]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in variables["params"]["logits"].items()}


def test_three_steps_are_those_of_adam_with_l2_in_the_gradient(tmp_path):
    # Strong enough to tell: decoupled decay, or none, would end elsewhere.
    options = schedule(steps=3, evaluate_every=3, weight_decay=0.3)
    found = weights_of(fit(tmp_path, options).variables)
    start = weights_of(initial())
    expected = reference_fit(start, [0.05] * 3, 0.3)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-6)
    for other in (
        reference_fit(start, [0.05] * 3, 0.3, decoupled=True),
        reference_fit(start, [0.05] * 3, 0.0),
    ):
        assert abs(found["kernel"] - other["kernel"]).max() > 1e-3


@pytest.mark.parametrize(("decay", "warmup_steps"), [("cosine", 0), ("cosine", 4), ("constant", 4)])
def test_the_learning_rate_follows_the_schedule(tmp_path, decay, warmup_steps):
    steps, rate = 10, 0.05
    rates = []
    for step in range(steps):
        if step < warmup_steps:
            rates.append(rate * step / warmup_steps)
        elif decay == "cosine":
            progress = (step - warmup_steps) / (steps - warmup_steps)
            rates.append(rate * (1 + math.cos(math.pi * progress)) / 2)
        else:
            rates.append(rate)
    options = schedule(steps=steps, evaluate_every=steps, decay=decay, warmup_steps=warmup_steps)
    found = weights_of(fit(tmp_path, options).variables)
    expected = reference_fit(weights_of(initial()), rates, options.weight_decay)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("hard_after", "step", "expected"),
    [(0, 0, 1.0), (0, 9, 1.0), (10, 0, 0.0), (10, 4, 0.4), (10, 10, 1.0), (10, 99, 1.0)],
)
def test_difficulty_rises_to_one(hard_after, step, expected):
    assert schedule(hard_after=hard_after).difficulty(step) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 0}, "steps=0.*at least 1"),
        ({"evaluate_every": 0}, "evaluate_every=0.*at least 1"),
        ({"patience": 0}, "patience=0.*at least 1"),
        ({"warmup_steps": -1}, "warmup_steps=-1.*negative"),
        ({"hard_after": -1}, "hard_after=-1.*negative"),
        ({"decay": "linear"}, "decay is 'linear'; expected 'cosine' or 'constant'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a positive number"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; expected a number from 0"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        schedule(**options)


# Initial weights


def test_initial_weights_depend_on_the_seed_and_hold_the_statistics():
    first, again, other = (
        training.initialize(Linear(), (6, 1), mean=0.3, std=0.2, seed=seed) for seed in (5, 5, 6)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (weights_of(first)["kernel"] != weights_of(other)["kernel"]).any()
    assert jax.tree.map(float, first["statistics"]) == {
        "mean": pytest.approx(0.3),
        "std": pytest.approx(0.2),
    }


@pytest.mark.parametrize("std", [0.0, math.nan])
def test_images_that_are_all_alike_are_refused(std):
    with pytest.raises(ValueError, match=rf"standard deviation of {std}: all alike"):
        training.initialize(Linear(), (6, 1), mean=0.5, std=std, seed=0)


# Scores


def scored(logits: np.ndarray, labels: np.ndarray, sizes: Iterable[int]) -> training.Evaluation:
    """Evaluates logits that are dealt out as images, in batches of these sizes."""
    batches, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        batches.append({"image": logits[part, :, None], "label": labels[part]})
        start += size
    assert start == len(labels)
    return training.evaluate(Reader(), {}, batches)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_scores_are_those_of_scikit_learn(rng, num_classes, spread):
    labels = rng.choice(num_classes, 50, p=[0.6, 0.4] if num_classes == 2 else [0.5, 0.3, 0.2])
    labels = labels.astype(np.int32)
    logits = rng.normal(0, spread, (50, num_classes)).astype(np.float32)
    logits[np.arange(50), labels] += spread
    found = scored(logits, labels, [16, 16, 16, 2])
    exponent = np.exp(logits.astype(np.float64))
    probability = exponent / exponent.sum(axis=1, keepdims=True)
    predicted = probability.argmax(axis=1)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(labels, predicted))
    assert found.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted)
    )
    assert found.balanced_accuracy != pytest.approx(metrics.accuracy_score(labels, predicted))
    picked = probability[np.arange(50), labels]
    assert found.loss == pytest.approx(-np.log(picked).mean())
    if num_classes == 2:
        margin = logits[:, 1].astype(float) - logits[:, 0]
        assert found.auc == pytest.approx(metrics.roc_auc_score(labels, margin))
    else:
        by_class = [metrics.roc_auc_score(labels == c, probability[:, c]) for c in range(3)]
        assert found.auc == pytest.approx(np.mean(by_class))


def test_scores_survive_logits_that_overflow_an_exponential():
    logits = np.array([[1e4, 0], [0, 1e4], [2e4, 0], [0, 3e4]], np.float32)
    found = scored(logits, np.array([0, 1, 1, 1], np.int32), [4])
    assert found.loss == pytest.approx(2e4 / 4)
    # The margins of class 1 rank as they are, though all their probabilities are 0 or 1.
    assert found.auc == pytest.approx(2 / 3)


def test_a_class_that_is_absent_has_no_auc_and_is_left_out_of_the_mean():
    logits = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    found = scored(logits, np.zeros(4, np.int32), [4])
    assert math.isnan(found.auc)
    assert found.balanced_accuracy == 0.75
    np.testing.assert_array_equal(found.confusion, [[3, 1], [0, 0]])


def test_a_smaller_last_batch_runs_through_the_same_program(rng):
    logits = rng.normal(size=(21, 2)).astype(np.float32)
    labels = np.arange(21, dtype=np.int32) % 2
    shapes: list[tuple[int, ...]] = []
    batches: list[Examples] = [
        {"image": logits[i : i + 8, :, None], "label": labels[i : i + 8]} for i in range(0, 21, 8)
    ]
    found = training.evaluate(Reader(shapes.append), {}, batches)
    assert shapes == [(8, 2, 1)]
    assert found.confusion.sum() == 21
    whole = scored(logits, labels, [21])
    assert found.loss == pytest.approx(whole.loss)
    assert found.auc == whole.auc


# Fitting


def test_the_loss_falls_on_a_small_problem(tmp_path):
    result = fit(tmp_path, schedule(steps=60, evaluate_every=20))
    for split in ("train", "validation"):
        losses = [row["loss"] for row in result.history if row["split"] == split]
        assert losses[-1] < 0.7 * losses[0] < losses[0] < first_loss()
    found = training.evaluate(Linear(), result.variables, validation()())
    assert found.balanced_accuracy > 0.9
    row = next(
        row
        for row in result.history
        if (row["step"], row["split"]) == (result.best_step, "validation")
    )
    assert found.loss == row["loss"]
    assert found.balanced_accuracy == row["balanced_accuracy"]
    assert found.auc == row["auc"]
    assert result.steps == 60


def test_what_is_told_of_a_run(tmp_path):
    told: list[tuple[int, float]] = []
    rows: list[int] = []
    before = jax.tree.map(np.array, initial())
    result = fit(
        tmp_path,
        schedule(steps=7, evaluate_every=3),
        on_step=lambda step, loss: told.append((step, loss)),
        on_evaluation=lambda history: rows.append(len(history)),
    )
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6, 7]
    assert math.isnan(told[0][1])
    assert told[1][1] == pytest.approx(first_loss(), rel=1e-5)
    assert rows == [2, 4, 6]
    assert [(row["step"], row["split"]) for row in result.history] == [
        (step, split) for step in (3, 6, 7) for split in ("train", "validation")
    ]
    for row in result.history:
        assert set(row) == {"step", "split", "loss", "balanced_accuracy", "auc"}
        assert (row["auc"] is None) == (row["split"] == "train")
    json.dumps(result.history, allow_nan=False)
    # The initial weights are still there: what is donated is a copy.
    jax.tree.map(np.testing.assert_array_equal, initial(), before)


def first_loss() -> float:
    """Cross-entropy of the initial weights on the first batch."""
    weights, batch = weights_of(initial()), toy_batch(0)
    logits = (batch["image"][..., 0].astype(float) - MEAN) / STD @ weights["kernel"]
    logits += weights["bias"]
    picked = logits[np.arange(len(logits)), batch["label"]]
    return float((np.log(np.exp(logits).sum(axis=1)) - picked).mean())


# Numbers that are estimated


class Line(Linear):
    """One output."""

    @nn.compact
    def __call__(self, images):
        mean = self.variable("statistics", "mean", lambda: jnp.zeros(()))
        std = self.variable("statistics", "std", lambda: jnp.ones(()))
        flat = ((images - mean.value) / std.value).reshape(-1, math.prod(images.shape[-2:]))
        return nn.Dense(1, name="logits")(flat)


def numbered(seed: int, size: int = 16) -> Examples:
    """Images of 6 voxels, and the difference of the first and the last."""
    images = np.random.default_rng(seed).random((size, 6, 1), np.float32)
    return {"image": images, "label": images[:, 0, 0] - 2 * images[:, -1, 0]}


def test_a_number_is_learned_by_its_squared_error(tmp_path):
    told: list[float] = []
    variables = training.initialize(Line(), (6, 1), mean=MEAN, std=STD, seed=1)
    result = training.fit(
        Line(),
        variables,
        schedule(steps=150, evaluate_every=50),
        training=lambda first: map(numbered, itertools.count(first)),
        validation=lambda: [numbered(10**6), numbered(10**6 + 1, 9)],
        directory=tmp_path,
        on_step=lambda step, loss: told.append(loss),
    )
    kernel = np.asarray(variables["params"]["logits"]["kernel"], np.float64)
    batch = numbered(0)
    outputs = (((batch["image"][..., 0] - MEAN) / STD) @ kernel)[:, 0]
    assert told[1] == pytest.approx(((outputs - batch["label"]) ** 2).mean(), rel=1e-4)
    assert result.history[-1]["r_squared"] > 0.95
    assert set(result.history[-1]) == {"step", "split", "loss", "r_squared"}
    assert set(result.history[-2]) == set(result.history[-1])


def test_estimates_are_scored_as_scikit_learn_does():
    batch = numbered(3, 40)
    variables = training.initialize(Line(), (6, 1), mean=MEAN, std=STD, seed=2)
    found = training.estimate(Line(), variables, [batch])
    np.testing.assert_array_equal(found.true, batch["label"].astype(np.float64))
    assert found.r_squared == pytest.approx(metrics.r2_score(found.true, found.estimated))
    assert found.loss == pytest.approx(metrics.mean_squared_error(found.true, found.estimated))
    assert found.mean_absolute_error == pytest.approx(
        metrics.mean_absolute_error(found.true, found.estimated)
    )
    assert found.correlation == pytest.approx(np.corrcoef(found.true, found.estimated)[0, 1])
    same = training.measured(Line(), variables, [batch])
    assert isinstance(same, training.Estimates)
    assert same.loss == found.loss
    alone = training.estimate(Line(), variables, [numbered(3, 1)])
    assert math.isnan(alone.r_squared)
    assert math.isnan(alone.correlation)


# Early stopping


def test_training_stops_when_the_validation_loss_has_stopped_falling(tmp_path):
    # Validation labels are the wrong way round: what is learned makes it worse from the start.
    patience = 3
    options = schedule(steps=100, evaluate_every=2, patience=patience)
    result = fit(tmp_path / "all", options, validation=validation(flip=True))
    assert (result.best_step, result.steps) == (2, 2 + 2 * patience)
    losses = [row["loss"] for row in result.history if row["split"] == "validation"]
    assert len(losses) == 1 + patience
    assert min(losses) == losses[0]
    best = fit(tmp_path / "two", schedule(steps=2), validation=validation(flip=True))
    assert_same_weights(result, best)


def test_a_lower_loss_starts_the_count_again(tmp_path):
    looks = 0

    def alternating() -> list[Examples]:
        """Good, bad, bad, better, bad, bad, bad: the third in a row ends it."""
        nonlocal looks
        looks += 1
        return validation(flip=looks not in (1, 4))()

    result = fit(tmp_path, schedule(steps=100, patience=3), validation=alternating)
    assert looks == 7
    assert (result.best_step, result.steps) == (8, 14)


def test_patience_begins_when_all_lesions_are_hard(tmp_path):
    options = schedule(steps=100, patience=2, hard_after=7)
    result = fit(tmp_path, options, validation=validation(flip=True))
    # Looks at 2, 4 and 6 do not count; those at 8 and 10 do.
    assert (result.best_step, result.steps) == (2, 10)


# Interruption


class Interruption(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    # The wrong validation labels make every look after the first count: best weights, the loss
    # they had and the count itself have to survive.
    options = schedule(steps=100, patience=3, decay="cosine")
    flipped = {"validation": validation(flip=True)}
    expected = fit(tmp_path / "whole", options, **flipped)
    assert (expected.best_step, expected.steps) == (2, 8)

    def run(stop: int | None, *, at_evaluation: bool = False) -> tuple[training.Result, list[int]]:
        steps: list[int] = []

        def on_step(step: int, loss: float) -> None:
            steps.append(step)
            if step == stop and not at_evaluation:
                raise Interruption

        def on_evaluation(history: list) -> None:
            if history[-1]["step"] == stop and at_evaluation:
                raise Interruption

        calls = {"on_step": on_step, "on_evaluation": on_evaluation}
        return fit(tmp_path / "parts", options, **flipped, **calls), steps

    # Before anything is saved, just before the second save, and just after the third.
    for stop, at_evaluation in ((1, False), (4, False), (6, True)):
        with pytest.raises(Interruption):
            run(stop, at_evaluation=at_evaluation)
    # Nothing that was saved is done again, and a finished run does nothing.
    for expected_steps in ([7, 8], []):
        found, steps = run(None)
        assert steps == expected_steps
        assert_same_weights(found, expected)
        assert found.history == expected.history
        assert (found.best_step, found.steps) == (expected.best_step, expected.steps)


def test_half_a_checkpoint_of_a_killed_process_is_removed_without_a_word(tmp_path, caplog):
    half = [tmp_path / f"{step}.orbax-checkpoint-tmp" for step in (2, 3)]
    for path in half:
        (path / "state").mkdir(parents=True)
    fit(tmp_path, schedule(steps=2))
    assert [path.name for path in half if path.exists()] == []
    assert [record.message for record in caplog.records if record.levelname != "INFO"] == []


# Orbax leaves coroutines behind when it fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
@pytest.mark.parametrize("files", ["state/**/d/*", "state/_METADATA", "history/metadata"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, files, damage):
    fit(tmp_path, schedule(steps=1, evaluate_every=1))
    for path in tmp_path.glob(f"1/{files}"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
        if damage == "gone":
            path.unlink()
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/1")) as caught:
        fit(tmp_path, schedule(steps=2, evaluate_every=1))
    assert "delete" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("evaluate_every", [1, 3, 100])
def test_a_run_that_is_asked_to_stop_saves_where_it_stands(tmp_path, evaluate_every):
    # Between evaluations, before one, in the midst of one, and before the last one.
    options = schedule(steps=7, evaluate_every=evaluate_every, decay="cosine")
    expected = fit(tmp_path / "whole", options)
    taken, results = [], []
    for asked in itertools.count(1):
        questions = itertools.count()
        try:
            result = fit(
                tmp_path / "parts",
                options,
                on_step=lambda step, loss: taken.append(step),
                # Always a little later than the last time, so that every question is the last once.
                stop=lambda q=questions, asked=asked: next(q) == asked,
            )
        except training.Interrupted as error:
            assert re.search(rf"after step {taken[-1]}\b", str(error))
        else:
            results.append(result)
            break
        assert asked < 30
    assert len(set(taken)) == 7, "no step is lost"
    assert taken == sorted(taken), "and none is taken twice"
    assert_same_weights(results[0], expected)
    assert results[0].history == expected.history


def lesion_slices(directory: Path) -> Slices:
    """Ten grey slices of 20 x 20 voxels in a black frame."""
    rng = np.random.default_rng(3)
    data = np.zeros((10, 20, 20), np.float16)
    data[:, 3:-3, 3:-3] = rng.uniform(0.3, 0.6, (10, 14, 14))
    np.save(directory / "sub-01.npy", data)
    volume = CachedVolume("sub-01", directory / "sub-01.npy", data.shape, np.full(10, 0.5), "")
    return Slices([volume], (20, 20))


def test_lesions_from_the_pipeline_resume_exactly(tmp_path):
    slices = lesion_slices(tmp_path)
    task = LesionTask(Lesions(square, count=(1, 2), size_mm=(3.0, 6.0), min_contrast=0.05))
    variables = training.initialize(Linear(rank=2), (20, 20, 1), mean=0.4, std=0.2, seed=0)
    options = schedule(steps=6, evaluate_every=2, hard_after=5)

    def run(directory: Path, stop: int | None = None) -> training.Result:
        def on_step(step: int, loss: float) -> None:
            if step == stop:
                raise Interruption

        return training.fit(
            Linear(rank=2),
            variables,
            options,
            training=lambda first: training_batches(
                slices, task, batch_size=4, seed=0, first_step=first, difficulty=options.difficulty
            ),
            validation=lambda: evaluation_batches(slices, task, batch_size=4, seed=0),
            directory=directory,
            on_step=on_step,
        )

    expected = run(tmp_path / "whole")
    with pytest.raises(Interruption):
        run(tmp_path / "parts", stop=5)
    found = run(tmp_path / "parts")
    assert_same_weights(found, expected)
    assert found.history == expected.history


# Divergence


@pytest.mark.parametrize(("bad_step", "told"), [(1, "loss became nan in training"), (3, "nan")])
def test_a_loss_that_is_no_number_ends_training_with_the_fix(tmp_path, bad_step, told):
    def batches(first_step: int) -> Iterator[Examples]:
        for step, batch in enumerate(toy_batches(first_step), start=first_step):
            # A voxel that is no number stands for weights that have run away.
            yield {**batch, "image": batch["image"] * np.float32(np.nan if step == bad_step else 1)}

    told = rf"steps 0 and 4 .*{told}.*lower learning rate than 0.05"
    with pytest.raises(FloatingPointError, match=told):
        fit(tmp_path, schedule(evaluate_every=4), training=batches)


def test_weights_that_overflow_in_the_last_step_are_seen_in_validation(tmp_path):
    # The loss of a step is that before its update: only the validation can tell of the last.
    options = schedule(steps=1, evaluate_every=1, learning_rate=3e38)
    told = r"became 0\.\d+ in training and (nan|inf) in validation: try a lower learning rate"
    with pytest.raises(FloatingPointError, match=told):
        fit(tmp_path, options)
    # What is not finite is not saved.
    assert not [path for path in tmp_path.iterdir() if path.name.isdigit()]


# Parts of a batch, and the devices that share them


def start_on(
    devices: int, result: Path, shared: Path | str = "", *, stop: int = 0
) -> subprocess.Popen[str]:
    """Begins trainings on a number of simulated devices, with as many threads on all of them."""
    program = Path(__file__).with_name("training_devices.py")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(program.parents[1]),
        "NPROC": "8",  # As featvis_jax/commands/startup.py has it.
    }
    command = [sys.executable, program, result, shared, str(stop)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory):
    """What trainings end with, by the number of devices: on two until a stop, then on one, too."""
    place = tmp_path_factory.mktemp("devices")
    paths = {name: place / f"{name}.npz" for name in ("1", "2", "8", "2 and 1")}
    on_two = start_on(2, paths["2"], paths["2 and 1"], stop=3)
    on_eight = start_on(8, paths["8"])
    finish(on_two)
    finish(start_on(1, paths["1"], paths["2 and 1"]))
    finish(on_eight)
    found = {}
    for name, path in paths.items():
        with np.load(path) as result:
            found[name] = dict(result)
    return found


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("devices", "sharing"), [("2", 2), ("8", 8), ("2 and 1", 1)])
def test_weights_do_not_depend_on_the_number_of_devices(trained_on, rank, devices, sharing):
    one, several = trained_on["1"], trained_on[devices]
    assert (one[f"devices_{rank}"], several[f"devices_{rank}"]) == (1, sharing)
    np.testing.assert_array_equal(several[f"losses_{rank}"], one[f"losses_{rank}"])
    np.testing.assert_array_equal(several[f"weights_{rank}"], one[f"weights_{rank}"])


@pytest.mark.parametrize("shape", [(36, 38, 1), (20, 17, 18, 1)])
def test_the_gradient_of_a_batch_is_that_of_its_parts(rng, shape):
    model = CNN(rank=len(shape) - 1, features=(3, 4), pools=((3, 1), (3, 2)))
    variables = training.initialize(model, shape, mean=0.5, std=0.3, seed=0)
    # A head that starts at zero would hide all gradients but its own.
    kernel = variables["params"]["logits"]["kernel"]
    variables["params"]["logits"]["kernel"] = jnp.asarray(
        rng.normal(0, 0.1, kernel.shape), jnp.float32
    )
    batch: Examples = {
        "image": rng.uniform(size=(6, *shape)).astype(np.float32),
        "label": np.array([0, 1, 1, 0, 1, 0], np.int32),
    }

    def gradient(microbatch):
        # Plain descent: what a step takes away is the gradient.
        step = training.compile_step(
            model, optax.sgd(1.0), variables, shape, batch_size=6, microbatch=microbatch
        )
        params = jax.tree.map(jnp.array, variables["params"])
        after, _, loss = step(params, optax.sgd(1.0).init(params), batch)
        return jax.tree.map(lambda old, new: old - new, variables["params"], after), loss

    whole, loss = gradient(6)
    for microbatch in (1, 3):
        parts, same = gradient(microbatch)
        assert float(same) == pytest.approx(float(loss), rel=1e-6)
        for found, expected in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


class FakeStep:
    """Stands for a compiled step of which only its memory counts."""

    def __init__(self, microbatch: int, devices: int, memory_bytes: float):
        self.microbatch, self.memory_bytes = microbatch, memory_bytes
        self.devices = types.SimpleNamespace(size=devices)


@pytest.fixture
def fitting(monkeypatch):
    """`fitting_step` on a machine of a kind, where a part of one image takes 2 GiB."""

    def fit(platform, num_devices, free_gib, microbatch=None, *, batch=8, shape=(96, 112, 96, 1)):
        module = training.step
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        monkeypatch.setattr(jax, "local_device_count", lambda: num_devices)
        monkeypatch.setattr(jax, "local_devices", lambda: [object()] * num_devices)
        monkeypatch.setattr(
            module.microbatches,
            "devices_for",
            lambda parts, most=None: types.SimpleNamespace(
                size=max(
                    n for n in range(1, min(most or num_devices, num_devices) + 1) if parts % n == 0
                )
            ),
        )
        monkeypatch.setattr(
            module,
            "compile_step",
            lambda *_, microbatch, num_devices, **__: FakeStep(
                microbatch, num_devices, 2**31 * microbatch
            ),
        )

        def free(*, num_devices):
            return 2**30 * (free_gib / num_devices if platform == "cpu" else free_gib)

        monkeypatch.setattr(module.memory, "free_bytes", free)
        function = training.fitting_step
        function = getattr(function, "__wrapped__", function)  # Not checked: it gets fakes.
        step = function(None, None, {}, shape, batch_size=batch, microbatch=microbatch)
        return step.microbatch, step.devices.size

    return fit


@pytest.mark.parametrize(
    ("platform", "devices", "free", "microbatch", "expected"),
    [
        ("cpu", 8, 100, None, (1, 8)),
        # Cores share a memory: fewer of them work, and the weights are the same.
        ("cpu", 8, 9, None, (1, 4)),
        ("cpu", 8, 3, None, (1, 1)),
        ("cpu", 3, 100, None, (1, 2)),
        ("cpu", 2, 100, 4, (4, 2)),
        ("cpu", 2, 9, 4, (4, 1)),
        # A GPU has its own: it takes its share of the batch, in smaller parts if need be.
        ("gpu", 1, 20, None, (8, 1)),
        ("gpu", 1, 9, None, (4, 1)),
        ("gpu", 4, 9, None, (2, 4)),
        ("gpu", 4, 3, None, (1, 4)),
        ("gpu", 1, 20, 2, (2, 1)),
    ],
)
def test_a_step_takes_the_devices_and_parts_that_fit(
    fitting, platform, devices, free, microbatch, expected
):
    assert fitting(platform, devices, free, microbatch) == expected


def test_a_large_volume_keeps_all_cores_busy_one_at_a_time(fitting):
    assert fitting("cpu", 2, 100, shape=(182, 218, 182, 1)) == (1, 1)
    assert fitting("gpu", 2, 100, shape=(182, 218, 182, 1)) == (4, 2)


@pytest.mark.parametrize(
    ("platform", "microbatch", "told"),
    [
        ("cpu", None, r"one image at once needs 2.0 GiB and 1.5 GiB are free: use smaller images"),
        ("gpu", None, r"one image at once needs 2.0 GiB"),
        ("gpu", 4, r"4 images at once needs 8.0 GiB and 1.5 GiB are free: .* fewer at once"),
    ],
)
def test_what_does_not_fit_at_all_is_a_memory_error_with_numbers(
    fitting, platform, microbatch, told
):
    with pytest.raises(MemoryError, match=told):
        fitting(platform, 2, 1.5, microbatch)


@pytest.mark.parametrize("microbatch", [3, 9, 16])
def test_parts_that_do_not_make_up_a_batch_are_refused(fitting, microbatch):
    told = rf"microbatch is {microbatch}, and a batch has 8 images: expected one of 1, 2, 4, 8\."
    with pytest.raises(ValueError, match=told):
        fitting("cpu", 2, 100, microbatch)

"""The paper's reproduction: stages that run once, numbers that are those of files, and verdicts."""

import csv
import doctest
import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from scipy import stats

from experiments.reproduction import figures, looks, plan, scales, stages, statistics
from experiments.reproduction.evidence import Evidence
from experiments.reproduction.stages import Stage, is_finished, marker, run_stages
from experiments.reproduction.statements import STATEMENTS
from experiments.reproduction.verdicts import Statement
from featvis_jax import stopping
from featvis_jax.data.cohorts import Cohort, read_cohort
from featvis_jax.data.synthetic import write_synthetic_cohort
from featvis_jax.results.tables import STATUSES

REPOSITORY = Path(__file__).resolve().parents[2]
DIGITS = re.compile(r"\d+(?:[.,]\d+)*")

# Stages


def counting(tmp_path: Path, name: str, body: str = "") -> Path:
    """A launcher that counts how often it was run, in a package of its own."""
    package = tmp_path / "made_up"
    package.mkdir(exist_ok=True)
    (package / f"{name}.py").write_text(
        f"import os, pathlib, signal, sys, time\n"
        f"path = pathlib.Path({str(tmp_path)!r}, '{name}.count')\n"
        f"path.write_text(path.read_text() + 'x' if path.exists() else 'x')\n"
        f"print('told by {name}', *sys.argv[1:])\n{body}\n"
    )
    return package


def runs(tmp_path: Path, name: str) -> int:
    path = tmp_path / f"{name}.count"
    return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def importable(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")


def test_a_finished_stage_is_not_run_again_until_its_command_or_what_it_reads_changes(
    tmp_path, importable
):
    counting(tmp_path, "first")
    counting(tmp_path, "second")
    out, told = tmp_path / "out", []
    out.mkdir()

    def two(flag: str) -> list[Stage]:
        return [
            Stage("a", "made_up.first", (flag,)),
            Stage("b", "made_up.second", ("--same=1",), after=("a",)),
        ]

    run_stages(out, two("--one"), tell=told.append)
    assert told[0] == "[1/2] a: "
    assert (out / "logs" / "a.log").read_text() == (
        "$ python -m made_up.first --one\ntold by first --one\n"
    )
    found = marker(out, "a")
    assert found["finished"]
    assert found["command"] == "python -m made_up.first --one"
    assert found["seconds"] > 0
    told.clear()
    run_stages(out, two("--one"), tell=told.append)
    assert told == ["[1/2] a: ", "finished before\n", "[2/2] b: ", "finished before\n"]
    assert [runs(tmp_path, name) for name in ("first", "second")] == [1, 1]
    # What b reads is new, though its own command is the same.
    run_stages(out, two("--two"))
    assert [runs(tmp_path, name) for name in ("first", "second")] == [2, 2]


def test_a_stage_that_fails_is_named_with_its_command_and_log_and_the_next_is_not_run(
    tmp_path, importable
):
    counting(tmp_path, "broken", "sys.exit('Error: no brain')")
    counting(tmp_path, "later")
    given = [Stage("x", "made_up.broken", ("--a=1",)), Stage("y", "made_up.later", ())]
    with pytest.raises(ValueError, match="stage x ended with status 1") as caught:
        run_stages(tmp_path, given)
    for text in ("python -m made_up.broken --a=1", str(tmp_path / "logs" / "x.log"), "no brain"):
        assert text in str(caught.value)
    assert runs(tmp_path, "later") == 0
    assert not is_finished(tmp_path, given[0])


def test_a_stage_that_was_stopped_stops_the_driver_and_goes_on_later(tmp_path, importable):
    counting(tmp_path, "patient", "sys.exit(75 if len(path.read_text()) == 1 else 0)")
    given = [Stage("z", "made_up.patient", ())]
    told = []
    with pytest.raises(stopping.Stopped, match="stage z"):
        run_stages(tmp_path, given, tell=told.append)
    assert told == ["[1/1] z: ", "not finished\n"]
    first = marker(tmp_path, "z")
    assert not first["finished"]
    run_stages(tmp_path, given)
    assert marker(tmp_path, "z")["finished"]
    # The time of both attempts counts.
    assert marker(tmp_path, "z")["seconds"] > first["seconds"]


def test_a_signal_to_the_driver_reaches_the_stage_and_both_end(tmp_path):
    counting(
        tmp_path,
        "slow",
        "signal.signal(signal.SIGTERM, lambda *_: (print('asked to stop'), sys.exit(75)))\n"
        "path.with_suffix('.ready').touch()\n"
        "time.sleep(60)",
    )
    script = (
        "from pathlib import Path\n"
        "from experiments.reproduction.stages import Stage, run_stages\n"
        "from featvis_jax.commands import launch\n"
        "from featvis_jax.options import Options\n"
        "stages = [Stage('slow', 'made_up.slow', ())]\n"
        f"main = lambda _: run_stages(Path({str(tmp_path)!r}), stages)\n"
        "launch.run(launch.Command('driver', '', (), Options, main), ['driver'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}
    driver = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "slow.ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == stopping.START_AGAIN, errors
    assert "Stopped by SIGTERM" in errors
    assert "asked to stop" in (tmp_path / "logs" / "slow.log").read_text()
    assert not marker(tmp_path, "slow")["finished"]


# The plan


# Of FSL's grids of MNI152, from left, back and bottom.
MNI_ORIGIN_MM = (-91.0, -126.0, -72.0)


def cohort(voxel_size_mm: float, shape: tuple[int, int, int]) -> Cohort:
    affine = np.diag([voxel_size_mm, voxel_size_mm, voxel_size_mm, 1.0])
    affine[:3, 3] = MNI_ORIGIN_MM
    return Cohort("brains", Path("participants.tsv"), (), shape, affine)


def planned(scale: str, given: Cohort) -> plan.Plan:
    return plan.make_plan(
        Path("out"),
        scales.SCALES[scale],
        given,
        ("--cohort=here",),
        cache_arguments=(),
        regularization="recommended",
        seed=0,
    )


def test_shipped_models_are_taken_where_slices_fit_and_volumes_are_made_coarser():
    small = {
        stage.name: stage.command for stage in planned("small", cohort(1.0, (182, 218, 182))).stages
    }
    assert next(iter(small)) == "train-sex"
    assert "--voxel_size_mm=2" in small["train-sex"]
    assert "train-square" not in small
    small = {
        stage.name: stage.command for stage in planned("small", cohort(2.0, (91, 109, 91))).stages
    }
    assert list(small)[:3] == ["train-gaussian", "train-square", "train-sex"]
    assert "--voxel_size_mm" not in small["train-sex"]
    # Of the same voxels, but the shipped models look elsewhere in space.
    elsewhere = cohort(1.0, (182, 218, 182))
    elsewhere.affine[:3, 3] += 40
    assert "train-square" in [stage.name for stage in planned("small", elsewhere).stages]
    paper = planned("paper", cohort(1.0, (182, 218, 182)))
    commands = {stage.name: stage.command for stage in paper.stages}
    assert "--voxel_size_mm" not in commands["train-sex"]
    assert "--batch=200" in commands["train-square"]
    assert "--learning_rate=1e-4 --weight_decay=1e-5" in commands["train-sex"]
    assert "--steps=200" in commands["images-sex"]
    assert "--steps=256" in commands["comparison"]
    assert "--penalty=layer_l1" in commands["comparison"]


def test_scans_and_tables_that_were_replaced_are_refused_by_name(tmp_path):
    folder = write_synthetic_cohort(tmp_path / "cohort", num_subjects=5, voxel_size_mm=16)
    (tmp_path / "out").mkdir()

    def check() -> None:
        cohort, cache = read_cohort(folder), tmp_path / "cache"
        stages.refuse_other_cohort(tmp_path / "out", cohort, cache)

    check()
    check()
    first, second = sorted(folder.glob("sub-*/anat/*.nii.gz"))[:2]
    first.write_bytes(second.read_bytes())
    table = folder / "participants.tsv"
    table.write_text(table.read_text() + "\n")
    with pytest.raises(ValueError, match=r"another configuration") as caught:
        check()
    told = str(caught.value)
    assert f"{first.relative_to(folder)}: the run has" in told
    assert "participants.tsv: the run has" in told
    assert told.count("the run has") == 2


def test_a_stage_reads_only_what_stages_before_it_left():
    for given in (cohort(1.0, (182, 218, 182)), cohort(2.0, (91, 109, 91))):
        before: set[str] = set()
        for stage in planned("small", given).stages:
            assert set(stage.after) <= before, stage.name
            assert stage.name not in before
            before.add(stage.name)


def test_planted_models_are_graded_by_a_second_network_beside_permuted_weights():
    small = planned("small", cohort(1.0, (182, 218, 182)))
    assert small.graded == ("square", "square-noise", "gaussian", "cube")
    commands = {stage.name: stage.command for stage in small.stages}
    assert not {name for name in commands if name.startswith("train-")} - {"train-sex"}
    assert "--transfer_model=square-lesion-2" in commands["grade-square"]
    assert "--control=permuted=out/permuted/cube" in commands["grade-cube"]
    assert "--cohort=synthetic" in commands["grade-cube"]
    assert "--cohort=here" in commands["grade-gaussian"]
    assert "--random_weights=0" in commands["permuted-gaussian"]
    assert "--random_weights" not in commands["logits-gaussian"]
    paper = planned("paper", cohort(1.0, (182, 218, 182)))
    commands = {stage.name: stage.command for stage in paper.stages}
    # The second network differs in its seed, and holds out the same people.
    assert "--split_seed=0 --seed=1" in commands["train-square-2"]
    assert "--dims=3" in commands["train-cube"]
    # Through noise it goes on from the model that the paper has.
    assert "--noise=0.25" in commands["train-square-noise"]
    assert "--init=out/models/square/model" in commands["train-square-noise"]
    after = {stage.name: stage.after for stage in paper.stages}
    assert {"train-square", "train-square-2", "logits-square"} <= set(after["grade-square"])
    assert after["train-square-noise"] == ("train-square",)
    # So does the network that it is asked about, from a model of its own.
    assert after["train-square-noise-2"] == ("train-square-2",)
    assert after["images-sex"] == ("train-sex",)


# Measures


@pytest.mark.parametrize("module", [figures, looks, stages, statistics], ids=lambda m: m.__name__)
def test_the_examples_in_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0


def test_stripes_are_told_from_noise_and_checks(rng):
    x, y = np.meshgrid(np.arange(96.0), np.arange(96.0), indexing="ij")
    stripes = looks.texture(np.sin(2 * np.pi * (x + y) / 12))
    assert stripes.coherence > 0.95
    assert stripes.orientation_degrees == pytest.approx(45, abs=1)
    assert stripes.wavelength == pytest.approx(12 / np.sqrt(2), rel=0.05)
    assert stripes.axis_share < 0.05
    noise = looks.texture(rng.standard_normal((96, 96)))
    assert noise.coherence < 0.25
    assert noise.axis_share == pytest.approx(40 / 180, abs=0.03)
    fine = looks.texture(np.tile([[0.0], [1.0]], (48, 96)))
    assert fine.coherence > 0.95
    assert np.isnan(looks.texture(np.full((40, 40), 0.5))).all()


def test_a_sharp_square_is_sharper_than_a_soft_one_and_lies_along_the_axes():
    x, y = np.abs(np.meshgrid(np.arange(64.0) - 32, np.arange(64.0) - 32, indexing="ij"))
    sharp = looks.texture((np.maximum(x, y) < 8).astype(float))
    soft = looks.texture(1 / (1 + np.exp(np.maximum(x, y) - 8)))
    disc = looks.texture((np.hypot(x, y) < 9).astype(float))
    assert sharp.sharpness > 2 * soft.sharpness
    assert sharp.axis_share > 0.8 > disc.axis_share


def test_balanced_accuracy_has_an_interval_over_people(rng):
    subjects = np.repeat(np.arange(20), 10)
    labels = np.tile([0, 1], 100)
    # Whole people are right or wrong, so that images of one say little new.
    right = np.repeat(rng.random(20) < 0.7, 10)
    predicted = np.where(right, labels, 1 - labels)
    found = statistics.balanced_accuracy(labels, predicted, subjects)
    assert found.value == pytest.approx(right.mean())
    shares = right.reshape(20, 10).mean(axis=1)
    expected = stats.bootstrap((shares,), np.mean, method="percentile", rng=1).confidence_interval
    np.testing.assert_allclose((found.low, found.high), expected, atol=0.03)
    # One image each: recalls 3 of 4 and 2 of 3.
    single = statistics.balanced_accuracy(
        np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1, 0]), np.arange(7)
    )
    ends = [stats.binomtest(k, n).proportion_ci(method="wilson") for k, n in ((3, 4), (2, 3))]
    below = np.hypot(3 / 4 - ends[0].low, 2 / 3 - ends[1].low) / 2
    assert single.low == pytest.approx((3 / 4 + 2 / 3) / 2 - below)
    assert single.low < 0.5 < single.high


def test_a_circle_goes_round_every_lesion():
    mask = np.zeros((60, 50))
    mask[10:20, 12:20] = 1
    mask[40:45, 30:36] = 1
    found = figures.circles(mask)
    assert len(found) == 2
    xs, ys = np.nonzero(mask)
    # Each holds one lesion as a whole, and nothing of the other.
    assert sorted((np.hypot(xs - x, ys - y) < radius).sum() for x, y, radius in found) == [30, 80]


# Verdicts


def comparison_of(values: dict[str, np.ndarray], column: str) -> Evidence:
    rows = [
        {"strategy": name, "channel": i, "contrast": 0.3, column: float(value)}
        for name, of in values.items()
        for i, value in enumerate(of)
    ]
    return Evidence(images=[], comparison=rows, predictions={}, ablation={})


def statement(text: str) -> Statement:
    return next(each for each in STATEMENTS if text in each.text)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [(0.2, "holds"), (-0.2, "does not hold"), (0.0, "cannot be told")],
)
def test_the_sign_and_p_of_a_paired_difference_decide(rng, change, verdict):
    base = rng.random(10)
    noise = np.array([0.01, -0.01] * 5) * (1 + np.arange(10) / 10)
    found = comparison_of({"none": base, "resize_0.5": base + change + noise}, "total_variation")
    tested = statement("makes the image sharper")
    measured = tested.measure(found)
    assert tested.rule(measured) == verdict
    expected = stats.wilcoxon(change + noise).pvalue
    assert measured["p"] == pytest.approx(expected)
    assert measured["larger"] == int((change + noise > 0).sum())


def test_few_channels_decide_nothing():
    base = np.arange(4.0)
    found = comparison_of({"none": base, "resize_0.5": base + 1}, "total_variation")
    tested = statement("makes the image sharper")
    assert tested.rule(tested.measure(found)) == "cannot be told"


def test_channels_that_are_flat_without_regularization_do_not_count():
    found = comparison_of({"none": np.arange(3.0), "resize_0.5": np.arange(3.0)}, "total_variation")
    found.comparison[1]["contrast"] = 0.001
    assert found.channels() == [0, 2]


def ablated(harmful: bool, needed: bool) -> Evidence:
    labels, subjects = np.tile([0, 1], 100), np.repeat(np.arange(20), 10)
    columns = {
        "label": labels,
        "subject": subjects,
        "whole": labels,
        "without_uniform": np.zeros(200, int) if harmful else labels,
        "without_patterned_1": np.zeros(200, int) if needed else labels,
    }
    silenced = {
        "whole": {},
        "without_uniform": {"conv5": [1, 2]},
        "without_patterned_1": {"conv5": [3]},
    }
    return Evidence([], [], {"square": columns}, {"square": {"silenced": silenced}})


@pytest.mark.parametrize(
    ("harmful", "needed", "verdict"),
    [
        (False, True, "holds"),
        (True, True, "does not hold"),
        # Nothing is learned from a removal that costs nothing where any removal does.
        (False, False, "cannot be told"),
    ],
)
def test_what_the_removal_of_uniform_channels_says(harmful, needed, verdict):
    found = ablated(harmful, needed)
    tested = statement("could do without")
    measured = tested.measure(found)
    assert measured["removed"] == 2
    assert measured["change_percent"] == (-50.0 if harmful else 0.0)
    assert tested.rule(measured) == verdict


def graded(named: tuple[int, int], permuted: tuple[int, int]) -> Evidence:
    rows = []
    for control, (passed, n) in (("picture", named), ("permuted", permuted)):
        ends = stats.binomtest(passed, n).proportion_ci(method="wilson")
        share = {"passed": passed, "n": n, "share": passed / n, "low": ends.low, "high": ends.high}
        rows.append({"control": control, "score": "named", **share})
    return Evidence([], [], {}, {}, {"square": rows})


@pytest.mark.parametrize(
    ("named", "permuted", "verdict"),
    [
        ((20, 20), (0, 20), "holds"),
        # Weights without meaning make such pictures too.
        ((20, 20), (19, 20), "cannot be told"),
        ((17, 20), (0, 20), "cannot be told"),
        ((7, 20), (0, 20), "does not hold"),
        ((5, 5), (0, 5), "cannot be told"),
    ],
)
def test_pictures_show_what_was_planted_if_nine_of_ten_do_and_controls_do_not(
    named, permuted, verdict
):
    tested = statement("images show squares, as planted")
    measured = tested.measure(graded(named, permuted))
    assert (measured["named"], measured["count"]) == named
    assert tested.rule(measured) == verdict
    assert tested.rule(tested.measure(Evidence([], [], {}, {}))) == "cannot be told"


# All of it


@pytest.fixture(scope="module")
def reproduced(launch, environment, place):
    """A whole reproduction of toy size; gives its directory, its flags and what was printed."""
    out = place / "reproduction"
    flags = [
        *("--synthetic_subjects=10", "--synthetic_voxel_size_mm=5", f"--cache={place / 'cache'}"),
        *("--channels_per_layer=2", "--compared_channels=2", "--train_steps=2", "--steps=2"),
        "--regularization=jitter_1",
        *("--strategies=jitter_1,crop_linear", "--graded_starts=0", f"--out={out}"),
    ]
    listed = launch("reproduce_paper", *flags, "--dry_run")
    assert listed.returncode == 0, listed.stderr
    assert not out.exists()
    program = [sys.executable, str(Path(__file__).with_name("reproduce.py")), *flags]
    ran = subprocess.run(
        program, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    stored = json.loads((out / "numbers.json").read_bytes())
    assert [each["command"] for each in stored["stages"]] == listed.stdout.splitlines()
    return out, flags, ran.stdout


def test_everything_is_there(reproduced):
    out, _, printed = reproduced
    for name in ("numbers.json", "report.html", "report.md", "report.css"):
        assert (out / name).stat().st_size > 100
    for number in (1, 2, 3, 4):
        with Pillow.open(out / "figures" / f"figure{number}.png") as opened:
            opened.load()
            assert min(opened.size) > 200
        assert f"figures/figure{number}.png" in (out / "report.md").read_text()
    stored = json.loads((out / "numbers.json").read_bytes())
    for each in stored["stages"]:
        assert (out / "logs" / f"{each['name']}.log").stat().st_size > 0
    assert "finished before" not in printed
    assert str(out / "report.md") in printed


def test_a_finished_reproduction_runs_nothing_again_and_writes_the_same(reproduced, launch):
    out, flags, _ = reproduced
    names = ("numbers.json", "report.html", "report.md", "figures/figure2.png")
    before = [(out / name).read_bytes() for name in names]
    markers = {path.name: path.read_bytes() for path in (out / "stages").iterdir()}
    ran = launch("reproduce_paper", *flags)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("finished before") == len(markers)
    assert [(out / name).read_bytes() for name in names] == before
    assert {path.name: path.read_bytes() for path in (out / "stages").iterdir()} == markers


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as table:
        return list(csv.DictReader(table, dialect="excel-tab"))


def test_numbers_are_those_of_the_files_that_they_name(reproduced):
    out, _, _ = reproduced
    stored = json.loads((out / "numbers.json").read_bytes())
    for row in stored["accuracy"]:
        table = rows_of(out / row["source"])
        assert row["images"] == len(table)
        right = np.array([each["whole"] == each["label"] for each in table])
        label = np.array([each["label"] for each in table])
        recalls = [right[label == kind].mean() for kind in sorted(set(label))]
        assert row["percent"] == pytest.approx(100 * np.mean(recalls))
        assert row["low_percent"] <= row["percent"] <= row["high_percent"]
        # The launcher that trained it found the same.
        report = json.loads((out / "models" / row["model"] / "report.json").read_bytes())
        assert row["percent"] == pytest.approx(100 * report["balanced_accuracy"])
        assert sorted({each["subject"] for each in table}) == sorted(report["subjects"])
    images = rows_of(out / "measures" / "images.tsv")
    assert len(images) == 3 * 5 * 2
    for model in ("sex", "square"):
        units = rows_of(out / "images" / model / "units.tsv")
        of_model = [row for row in images if row["model"] == model]
        assert [row["status"] for row in of_model] == [unit["status"] for unit in units]
    for row in stored["health"]:
        assert row["count"] == sum(row[status] for status in STATUSES) == 2
    stated = next(each for each in stored["statements"] if "Random crops" in each["text"])
    table = rows_of(out / stated["source"])
    medians = [
        np.median([float(row["total_variation"]) for row in table if row["strategy"] == name])
        for name in ("crop_linear", "none")
    ]
    assert [stated["measured"]["first"], stated["measured"]["second"]] == pytest.approx(medians)
    assert stated["verdict"] == "cannot be told"


def written(value: object) -> set[str]:
    """Every run of digits that a number or a text may be shown as."""
    if isinstance(value, dict):
        return set().union(*(written(each) for pair in value.items() for each in pair))
    if isinstance(value, list):
        return {str(len(value))}.union(*(written(each) for each in value))
    if isinstance(value, str):
        return set(DIGITS.findall(value))
    if isinstance(value, bool) or value is None:
        return set()
    assert isinstance(value, int | float)
    whole = {str(value)} if isinstance(value, int) else set()
    return whole | set(DIGITS.findall(f"{value:.3g} {value:.2f}".replace("e-0", "e-")))


def test_every_number_of_the_report_is_in_the_file_of_numbers(reproduced):
    out, _, _ = reproduced
    stored = json.loads((out / "numbers.json").read_bytes())
    verdicts = [each["verdict"] for each in stored["statements"]]
    known = written(stored) | {
        str(verdicts.count(name)) for name in ("holds", "does not hold", "cannot be told")
    }
    markdown = (out / "report.md").read_text("utf-8")
    seen = re.sub(r"<[^>]*>", " ", (out / "report.html").read_text("utf-8"))
    for text in (markdown, html.unescape(seen)):
        found = set(DIGITS.findall(text))
        assert len(found) > 40
        assert found <= known

"""Training as a program: what it writes, that it goes on, and what it refuses before it starts."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import jax
import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax import models, training
from featvis_jax.checkpoints import load_model, save_model
from featvis_jax.data import pipeline, preparation, sources, tasks
from featvis_jax.data.cohorts import read_cohort
from featvis_jax.data.synthetic import write_synthetic_cohort
from featvis_jax.results import files
from featvis_jax.runs import train

WHOLE_FILES = {
    "confusion.png",
    "metrics.tsv",
    "report.json",
    "settings.json",
    "split.json",
    "training.png",
}


def scan(cohort: Path) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_filename(next(cohort.glob("sub-0001/anat/*.nii.gz")))


# What it writes


@pytest.mark.parametrize("rank", [2, 3])
def test_training_ends_with_a_model_and_a_report(trained, rank):
    out, printed = trained(rank)
    others = {".lock", "checkpoints", "model"}
    assert {path.name for path in out.iterdir()} == WHOLE_FILES | others
    for picture in ("training.png", "confusion.png"):
        with Pillow.open(out / picture) as opened:
            assert min(opened.size) > 100
    report = json.loads((out / "report.json").read_bytes())
    split = json.loads((out / "split.json").read_bytes())
    assert [len(split[part]) for part in ("train", "validation", "test")] == [4, 1, 1]
    assert report["subjects"] == split["test"]
    confusion = np.array(report["confusion"])
    assert confusion.sum() == report["images"]
    assert confusion.sum(axis=1).tolist() == [report["images"] / 2] * 2
    recall = confusion.diagonal() / confusion.sum(axis=1)
    assert report["balanced_accuracy"] == pytest.approx(recall.mean())
    assert set(report["shape_blind_baselines"]) == {"threshold", "histogram"}
    for value in (report["auc"], *report["shape_blind_baselines"].values()):
        assert 0 <= value <= 1
    # The user reads the same numbers.
    assert f"On {report['images']} images of 1 held-out subjects" in printed
    assert f"balanced accuracy {100 * report['balanced_accuracy']:.2f} %" in printed
    assert f"true lesion: {confusion[1, 0]} as clean, {confusion[1, 1]} as lesion" in printed
    for name, value in report["shape_blind_baselines"].items():
        assert f"shape-blind baseline, {name}: {100 * value:.2f} %" in printed
    assert str(out / "model") in printed


@pytest.mark.parametrize("rank", [2, 3])
def test_the_metrics_are_a_table_with_a_row_for_each_look(trained, rank):
    with (trained(rank)[0] / "metrics.tsv").open(newline="") as table:
        rows = list(csv.DictReader(table, dialect="excel-tab"))
    assert [(row["step"], row["split"]) for row in rows] == [
        ("2", "train"),
        ("2", "validation"),
        ("4", "train"),
        ("4", "validation"),
    ]
    for row in rows:
        assert 0 < float(row["loss"]) < 20
        measured = row["split"] == "validation"
        assert (row["auc"] != "n/a") == (row["balanced_accuracy"] != "n/a") == measured


@pytest.mark.parametrize(
    ("rank", "shape", "name"), [(2, (40, 44), "square"), (3, (36, 38, 34), "gaussian")]
)
def test_the_card_says_what_the_model_is_and_where_its_voxels_lie(
    trained, cohort, rank, shape, name
):
    out, _ = trained(rank)
    model = load_model(out / "model")
    assert model.image_shape == (*shape, 1)
    assert model.module.rank == rank
    assert model.card["name"] == f"trained-{rank}d"
    assert model.card["task"] == f"{name}_lesion"
    assert model.card["class_names"] == ["clean", "lesion"]
    assert model.intensity_range == (0.0, 1.0)
    assert model.card["report"] == json.loads((out / "report.json").read_bytes())
    assert model.card["data"]["lesions"]["size_mm"] == [16.0, 28.0]
    assert model.card["training"]["steps"] == 4
    command = model.card["training"]["command"]
    assert command.startswith("python -m experiments.train ")
    assert f"--out={out}" in command
    # A slice stands for all of its kind, in the middle of the brain.
    stored = nibabel.as_closest_canonical(scan(cohort))
    box = (*shape, 1)[:3] if rank == 2 else shape
    first = [(n - m) // 2 for n, m in zip(stored.shape, box, strict=True)]
    if rank == 2:
        first[2] = stored.shape[2] // 2
    cut = tuple(slice(a, a + m) for a, m in zip(first, box, strict=True))
    np.testing.assert_allclose(model.affine, stored.slicer[cut].affine, atol=1e-6)


def test_the_report_is_of_the_held_out_subjects_and_of_the_saved_weights(trained, cohort, tmp_path):
    out, _ = trained(2)
    model, report = load_model(out / "model"), json.loads((out / "report.json").read_bytes())
    prepared = preparation.prepare(
        tasks.TaskSpec("square_lesion", lesion_options={"size_mm": (16.0, 28.0)}),
        read_cohort(cohort),
        rank=2,
        cache=tmp_path,
        crop=(40, 44),
    )
    assert list(prepared.split.test) == report["subjects"]
    batches = pipeline.evaluation_batches(prepared.test, prepared.task, batch_size=4, seed=0)
    found = training.evaluate(model.module, model.variables, batches)
    assert found.confusion.tolist() == report["confusion"]
    assert found.loss == pytest.approx(report["loss"], rel=1e-5)
    mean, std = sources.intensity_statistics(prepared.train)
    statistics = model.variables["statistics"]
    assert float(statistics["mean"]) == pytest.approx(mean)
    assert float(statistics["std"]) == pytest.approx(std)


# A column of the table, and Python


@pytest.fixture(scope="module")
def labelled(place, drive, cohort_flags):
    """Trainings on columns of a table, and what was said, in one process."""
    folder = write_synthetic_cohort(place / "labelled", num_subjects=19, voxel_size_mm=5)
    table = folder / "participants.tsv"
    header, *rows = table.read_text().splitlines()
    sites = ["north", "south", "east"] * 6 + ["n/a"]
    years = [str(30 + 3 * number) for number in range(19)]
    rows = ["\t".join(cells) for cells in zip(rows, sites, years, strict=True)]
    table.write_text("\n".join([f"{header}\tsite\tyears", *rows]) + "\n")
    short = [f"--cohort={folder}", f"--cache={place / 'cache'}", "--batch=2", "--steps=2"]
    commands = {
        "site": ["--task=label:site", "--evaluate_every=1"],
        "years": ["--task=label:years", "--evaluate_every=1", "--tensorboard"],
        "again": ["--task=label:years", "--evaluate_every=1", "--tensorboard"],
        "plan": ["--task=label:years", "--dry_run"],
        "height": ["--task=label:height"],
        "slices": ["--task=label:site", "--dims=2"],
    }
    places = {"again": "years"}
    found = drive(
        "train",
        [
            [*short, *arguments, f"--out={place / 'labelled-runs' / places.get(name, name)}"]
            for name, arguments in commands.items()
        ],
    )
    return dict(zip(commands, found, strict=True))


def test_the_values_of_a_column_are_classes_and_people_without_one_are_left_out(labelled, place):
    outcome, out = labelled["site"], place / "labelled-runs" / "site"
    assert outcome["status"] == 0, outcome["errors"]
    told = f"--task=label:site: 1 of 19 people have no value in {place}"
    assert told in outcome["errors"]
    assert "sub-0019" in outcome["errors"]
    assert "\n  true north: " in outcome["output"]
    model = models.load(out)
    assert model.card["task"] == "label:site"
    assert model.card["class_names"] == ["east", "north", "south"]
    assert model.network.layers[-1].channels == 3
    assert np.array(model.card["report"]["confusion"]).shape == (3, 3)
    assert "shape_blind_baselines" not in model.card["report"]


def test_many_numbers_of_a_column_are_estimated_in_their_units(labelled, place):
    outcome, out = labelled["years"], place / "labelled-runs" / "years"
    assert outcome["status"] == 0, outcome["errors"]
    card = load_model(out / "model").card
    report, column = card["report"], card["data"]["column"]
    assert card["class_names"] == ["years"]
    split = json.loads((out / "split.json").read_bytes())
    assert report["subjects"] == split["test"]
    years = {f"sub-{n + 1:04d}": 30 + 3 * n for n in range(19)}
    true = np.array([years[who] for who in split["test"]])
    np.testing.assert_allclose(report["true"], true, rtol=1e-5)
    trained = [years[who] for who in split["train"]]
    assert (column["mean"], column["std"]) == pytest.approx((np.mean(trained), np.std(trained)))
    errors = np.abs(np.array(report["estimated"]) - true)
    assert report["mean_absolute_error"] == pytest.approx(errors.mean(), rel=1e-5)
    by_mean = np.abs(true - np.mean(trained)).mean()
    assert report["baseline_mean_absolute_error"] == pytest.approx(by_mean, rel=1e-5)
    explained = 1 - (errors**2).sum() / ((true - true.mean()) ** 2).sum()
    assert report["r_squared"] == pytest.approx(explained, rel=1e-4)
    assert "years: mean absolute error" in outcome["output"]
    assert (out / "estimates.png").is_file()
    assert not (out / "confusion.png").exists()
    assert "r_squared" in (out / "metrics.tsv").read_text().splitlines()[0]
    assert "is finished" in labelled["again"]["output"]
    assert "Memory: " in labelled["plan"]["output"]


def test_a_column_that_cannot_be_learned_is_refused(labelled, refused, place):
    table = place / "labelled" / "participants.tsv"
    told = f"{table}: the column 'height' is not there; the table has 'sex', 'site', 'years'."
    refused(labelled["height"], [told])
    refused(labelled["slices"], ["'label:site'", "use 3 dimensions"])


@pytest.mark.optax
def test_python_gets_the_model_that_it_has_trained(cohort, place, tmp_path, capsys):
    options = {
        "cohort": cohort,
        "cache": place / "cache",
        "crop": (40, 44),
        "lesion_size_mm": (16, 28),
        **{"steps": 1, "batch": 4, "validation_images": 4, "augment": False},
    }
    model = train.train("square_lesion", out=tmp_path / "python", **options)
    assert model.image_shape == (40, 44, 1)
    assert 0 <= model.card["report"]["balanced_accuracy"] <= 1
    assert "command" not in model.card["training"]
    assert "balanced accuracy" in capsys.readouterr().out
    again = train.train("square_lesion", out=tmp_path / "python", **options)
    assert again.card == model.card
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match="seed: the run has 0, asked for is 1"):
        train.train("square_lesion", out=tmp_path / "python", seed=1, **options)
    with pytest.raises(TypeError, match="stepps"):
        train.train("square_lesion", out=tmp_path / "python", stepps=1)


def test_products_are_as_exact_as_asked_and_only_there(tmp_path, monkeypatch):
    seen = []

    def job(options):
        seen.append(jax.config.jax_default_matmul_precision)
        raise ValueError("seen")

    monkeypatch.setattr(train, "job", job)
    before = jax.config.jax_default_matmul_precision
    options = train.TrainOptions(out=str(tmp_path / "out"), precision="float32")
    for begin in (train.plan, train.run):
        with pytest.raises(ValueError, match="seen"):
            begin(options)
    assert seen == ["float32", "float32"]
    assert jax.config.jax_default_matmul_precision == before


# Going on, and what is refused


def single_sex(cohort: Path, directory: Path) -> Path:
    """The cohort with one sex only."""
    shutil.copytree(cohort, directory)
    table = directory / "participants.tsv"
    table.write_text(re.sub("M$", "F", table.read_text(), flags=re.MULTILINE))
    return directory


REFUSED = {
    "missing cohort": (
        ["--cohort={place}/none"],
        ["{place}/none: there is no such file", "participants"],
    ),
    "missing table": (["--cohort={place}/a.tsv"], ["{place}/a.tsv", "participant_id and path"]),
    "missing scan": (
        ["--cohort={place}/lacking"],
        ["participants.tsv line 2", "sub-0001", "remove the row"],
    ),
    "one class": (
        ["--task=sex", "--cohort={place}/single", "--crop=36,38,34"],
        ["'sex' needs at least two values", "'F': 6", "choose another label"],
    ),
    "output below a file": (["--out={place}/file/run"], ["{place}/file", "expected a directory"]),
    "unknown task": (
        ["--task=age"],
        ["--task=age", "FILE.py:FUNCTION", "square_disc_or_neither, anatomy, sex"],
    ),
    "unknown dimensions": (["--dims=4"], ["--dims=4", "2|3"]),
    "sex of slices": (["--task=sex", "--dims=2"], ["'sex'", "use 3 dimensions"]),
    "no step": (["--steps=0"], ["--steps=0", "positive integer", "--help"]),
    "no number of steps": (["--steps=many"], ["--steps=many", "--help"]),
    "no rate": (["--learning_rate=0"], ["learning_rate is 0", "positive number"]),
    "no number for a rate": (["--learning_rate=nan"], ["--learning_rate=nan", "number from 0"]),
    "negative decay": (["--weight_decay=-1"], ["--weight_decay=-1", "non-negative"]),
    "no number for a decay": (["--weight_decay=nan"], ["--weight_decay=nan", "from 0"]),
    "negative seed": (["--seed=-1"], ["--seed=-1"]),
    "large seed": (["--seed=4294967296"], ["--seed=4294967296", "4294967295"]),
    "odd batch": (["--batch=3"], ["--batch=3", "makes 2 images", "a multiple of 2"]),
    "odd parts": (
        ["--microbatch=3"],
        ["--microbatch=3", "a batch has 4 images: expected one of 1, 2, 4"],
    ),
    "no part": (["--microbatch=0"], ["--microbatch=0", "positive integer"]),
    "fewer threads than devices": (
        ["--cpu_threads=1"],
        ["--cpu_threads=1 is fewer than the 2 devices", "JAX_NUM_CPU_DEVICES"],
    ),
    "empty batch": (["--batch=0"], ["--batch=0", "positive integer"]),
    "negative validation": (["--validation_images=-4"], ["--validation_images=-4"]),
    "half a pair": (["--validation_images=1"], ["max_images is 1", "makes 2 images"]),
    "crop for volumes": (["--crop=36,36,36"], ["(36, 36, 36)", "2 positive numbers"]),
    "crop of words": (["--crop=a,b"], ["--crop=a,b", "separated by commas"]),
    "crop of nothing": (["--crop=0,40"], ["(0, 40)", "positive numbers"]),
    "small crop": (["--crop=20,20"], ["--crop=20,20 is too small for the network", "larger"]),
    "one count": (["--lesion_count=3"], ["--lesion_count=3", "expected 2 numbers"]),
    "counts the wrong way": (["--lesion_count=5,1"], ["count is (5, 1)", "fewest <= most"]),
    "infinite lesions": (["--lesion_size_mm=9,inf"], ["size_mm is (9.0, inf)"]),
    "huge lesions": (["--lesion_size_mm=300,400"], ["(300.0, 400.0) mm", "smaller lesions"]),
    "contrast": (["--lesion_contrast=1.5"], ["min_contrast is 1.5", "0 <= it < 1"]),
    "unknown polarity": (["--lesion_polarity=grey"], ["--lesion_polarity=grey", "both|bright"]),
    "fine voxels": (["--synthetic_voxel_size_mm=0.5"], ["--synthetic_voxel_size_mm=0.5", "1.0"]),
    "few subjects": (["--synthetic_subjects=4"], ["--synthetic_subjects=4", "5"]),
    "unknown start": (["--init=nobody"], ["'nobody'", "card.json", "The zoo has"]),
    "start of volumes": (
        ["--init={place}/trained-3d/model"],
        ["--init={place}/trained-3d/model", "(36, 38, 34)", "expected one for (40, 44)"],
    ),
    "start of another head": (
        ["--init={place}/averaged"],
        ["--init={place}/averaged", "head = 'mean'", "expected one for (40, 44)"],
    ),
    "start of other voxels": (
        ["--init={place}/coarse"],
        ["--init={place}/coarse", "[8.0, 8.0, 8.0] mm", "has 4 mm"],
    ),
    "unknown flag": (["--stepps=3"], ["stepps", "Did you mean: steps"]),
    "word without dashes": (["train"], ["'train' is not a flag", "--name=value"]),
}

# What a trained network is trained on next.
NEXT_TASKS = ["square_lesion", "square_or_disc"]


def replace_scan(folder: Path) -> None:
    """Put another subject's scan in the place of one."""
    one, other = (next(folder.glob(f"sub-000{number}/anat/*.nii.gz")) for number in (2, 3))
    one.write_bytes(other.read_bytes())


def change_table(folder: Path) -> None:
    table = folder / "participants.tsv"
    table.write_text(table.read_text().replace("F", "M", 1))


# Changes of the cohort between a training and its continuation.
COHORTS = {
    "moved": lambda folder: None,
    "with another scan": replace_scan,
    "with another table": change_table,
}


@pytest.fixture(scope="module")
def outcomes(place, drive, training_flags, trained, cohort):
    """What became of every bad command, of a repeated and of a changed one, in one process."""
    single_sex(cohort, place / "single")
    shutil.copytree(cohort, place / "lacking")
    next(place.glob("lacking/sub-0001/anat/*.nii.gz")).unlink()
    (place / "file").write_text("in the way")
    out, _ = trained(2)
    trained(3)
    model = load_model(out / "model")
    grid = {"shape": model.card["grid"]["shape"], "affine": (2 * model.affine).tolist()}
    grid["affine"][3][3] = 1.0
    save_model(place / "coarse", model.module, model.variables, {**model.card, "grid": grid})
    averaged = model.module.clone(head="mean")
    variables = jax.jit(averaged.init)(jax.random.key(0), np.zeros(model.image_shape, np.float32))
    save_model(place / "averaged", averaged, variables, model.card)
    kept = {name: (out / name).read_bytes() for name in WHOLE_FILES}
    card = json.loads((out / "model" / "card.json").read_bytes())
    commands = {
        name: [*training_flags[2], f"--out={place / 'refused'}", *changes]
        for name, (changes, _) in REFUSED.items()
    }
    commands = {
        name: [argument.format(place=place) for argument in command]
        for name, command in commands.items()
    }
    commands["no output"] = training_flags[2]
    commands["changed seed"] = [*training_flags[2], f"--out={out}", "--seed=1"]
    commands["changed lesions"] = [*training_flags[2], f"--out={out}", "--lesion_size_mm=12,28"]
    commands["changed parts"] = [*training_flags[2], f"--out={out}", "--microbatch=1"]
    commands["changed threads"] = [*training_flags[2], f"--out={out}", "--cpu_threads=4"]
    commands["dry run"] = [
        *training_flags[2],
        *(f"--out={place / 'planned'}", "--dry_run", "--microbatch=2", "--steps=5"),
    ]
    commands["dry run from means to maxima"] = [
        *training_flags[2],
        *(f"--init={place / 'averaged'}", "--head=max", f"--out={place / 'planned'}", "--dry_run"),
    ]
    commands["dry run of the finished"] = [*training_flags[2], f"--out={out}", "--dry_run"]
    commands["repeated"] = [*training_flags[2], f"--out={out}"]
    for name, lost in {
        "report": "report.json",
        "picture": "confusion.png",
        "model": "model/card.json",
    }.items():
        lacking = place / f"without its {name}"
        shutil.copytree(out, lacking)
        (lacking / lost).unlink()
        commands[lacking.name] = [*training_flags[2], f"--out={lacking}"]
    for task in NEXT_TASKS:
        commands[f"start of {task}"] = [
            *training_flags[2],
            *(f"--task={task}", f"--init={out / 'model'}", "--seed=1"),
            *("--steps=1", "--learning_rate=1e-9", f"--out={place / 'started' / task}"),
        ]
    for name, change in COHORTS.items():
        folder = place / name / cohort.name
        shutil.copytree(cohort, folder)
        change(folder)
        commands[name] = [*training_flags[2], f"--cohort={folder}", f"--out={out}"]
    for name in ("thesis.tex", "run.json"):
        (place / f"there is {name}").mkdir()
        (place / f"there is {name}" / name).write_text("{}")
        commands[name] = [*training_flags[2], f"--out={place / f'there is {name}'}"]
    (place / "held").mkdir()
    commands["held"] = [*training_flags[2], f"--out={place / 'held'}"]
    with files.locked(place / "held"):
        found = dict(zip(commands, drive("train", list(commands.values())), strict=True))
    found["kept"] = kept
    found["card"] = card
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_anything_is_compiled(outcomes, refused, place, name):
    refused(outcomes[name], [text.format(place=place) for text in REFUSED[name][1]])


def test_an_output_directory_has_to_be_named(outcomes, refused):
    refused(outcomes["no output"], ["--out", "must have a value"])


def test_a_second_training_in_one_place_is_refused_and_told_who_is_there(outcomes, refused, place):
    refused(
        outcomes["held"], [f"{place / 'held'} is being written by process {os.getpid()}", "--out"]
    )
    assert [path.name for path in (place / "held").iterdir()] == [".lock"]


def test_a_changed_run_is_refused_with_the_difference(outcomes, refused, trained):
    out, _ = trained(2)
    refused(outcomes["changed seed"], [str(out), "seed: the run has 0, asked for is 1", "--out"])
    refused(outcomes["changed lesions"], [str(out), "16.0", "12.0", "--out"])
    refused(
        outcomes["changed parts"], [str(out), "microbatch: the run has 4, asked for is 1", "--out"]
    )
    refused(
        outcomes["changed threads"],
        [str(out), "cpu_threads: the run has 8, asked for is 4", "--out"],
    )


def test_a_replaced_scan_or_table_is_refused_by_name(outcomes, refused, trained):
    out, _ = trained(2)
    assert "is finished" in outcomes["moved"]["output"]  # The same files in another place.
    for name, file in {
        "with another scan": "sub-0002/anat/sub-0002",
        "with another table": "participants.tsv: the run has",
    }.items():
        refused(outcomes[name], [str(out), f"files_sha256.{file}", "asked for is"])
        assert outcomes[name]["errors"].count("files_sha256") == 1


def test_a_directory_with_something_else_is_refused(outcomes, refused, place):
    for name in ("thesis.tex", "run.json"):
        directory = place / f"there is {name}"
        refused(outcomes[name], [f"{directory} is not empty and holds no training", repr(name)])
        assert [path.name for path in directory.iterdir()] == [name]


def test_a_dry_run_tells_memory_and_time_and_writes_nothing(outcomes, place, trained):
    outcome = outcomes["dry run"]
    assert outcome["status"] == 0, outcome["errors"]
    lines = outcome["output"].splitlines()
    assert lines[0] == "Images of 40x44 voxels, 4 per step, --microbatch=2 on 2 devices."
    assert re.fullmatch(r"Memory: \d+\.\d GiB; \d+\.\d GiB may be used\.", lines[1])
    time = r"Time: \S+ s per step, .* per evaluation; at most .* for 5 steps and 3 evaluations\."
    assert re.fullmatch(time, lines[2])
    # A mean and a maximum over space take the same weights.
    assert outcomes["dry run from means to maxima"]["status"] == 0
    assert not (place / "planned").exists()
    assert "is finished" in outcomes["dry run of the finished"]["output"]


@pytest.mark.parametrize("task", NEXT_TASKS)
def test_a_start_from_another_task_keeps_all_but_the_head(outcomes, trained, place, task):
    parent = load_model(trained(2)[0] / "model").variables["params"]
    outcome = outcomes[f"start of {task}"]
    assert outcome["status"] == 0, outcome["errors"]
    params = load_model(place / "started" / task / "model").variables["params"]
    for name, weights in params.items():
        expected = parent[name]["kernel"]
        if (task, name) == ("square_or_disc", "logits"):
            assert np.abs(expected).max() > 1e-5
            expected = np.zeros_like(expected)
        np.testing.assert_allclose(weights["kernel"], expected, atol=1e-7)


def test_a_finished_training_is_not_run_again(outcomes, trained):
    outcome, (out, _) = outcomes["repeated"], trained(2)
    assert outcome["status"] == 0, outcome["errors"]
    assert not {"init", "update", "_apply"} & set(outcome["compiled"])
    assert outcome["output"] == (
        f"The training in {out} is finished: the model is in {out / 'model'}.\n"
    )
    for name, content in outcomes["kept"].items():
        assert (out / name).read_bytes() == content
    assert json.loads((out / "model" / "card.json").read_bytes()) == outcomes["card"]


@pytest.mark.parametrize("name", ["report", "picture", "model"])
def test_what_a_finished_training_lacks_is_made_again(outcomes, trained, place, name):
    outcome, out = outcomes[f"without its {name}"], place / f"without its {name}"
    assert outcome["status"] == 0, outcome["errors"]
    # No step is taken: the last checkpoint is the one that there was.
    checkpoints = [
        {path.name for path in (each / "checkpoints").iterdir()} for each in (out, trained(2)[0])
    ]
    assert checkpoints[0] == checkpoints[1]
    assert "Trained for 4 steps" in outcome["output"]
    for file, content in outcomes["kept"].items():
        assert (out / file).read_bytes() == content
    card = load_model(out / "model").card
    assert card["weights_sha256"] == outcomes["card"]["weights_sha256"]


def test_a_wrong_flag_ends_the_program_with_status_2(launch, tmp_path):
    ran = launch("train", "--steps=0", f"--out={tmp_path}")
    assert ran.returncode == 2
    assert ran.stderr.startswith("Error: flag --steps=0: ")
    assert ran.stderr.count("\n") == 1
    assert not ran.stdout

"""Visualization as a program: pictures of a model just trained, going on, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow
from scipy import signal

from featvis_jax.checkpoints import load_model
from featvis_jax.results.store import read_run
from featvis_jax.results.tables import STATUSES

SHAPE = {2: (40, 44), 3: (36, 38, 34)}
LAYERS = {2: ["conv1", "conv3/relu"], 3: ["conv1"]}
CHANNELS = {2: [0, 1, 2], 3: [1, 6]}
OPTIONS = ["--steps=4", "--regularization=blur_0.5", "--batch=2", "--gallery=false"]
FLAGS = {
    2: ["--layer=conv1", "--layer=conv3/relu", "--channels=0:3", *OPTIONS],
    3: ["--layer=conv1", "--channels=6,1", *OPTIONS],
}


@pytest.fixture(scope="module")
def visualized(place, launch, trained):
    """Visualizes a trained network once; gives the run directory and what was printed."""
    done: dict[int, tuple[Path, str]] = {}

    def visualize(rank: int) -> tuple[Path, str]:
        if rank not in done:
            model, out = trained(rank)[0] / "model", place / f"pictures-{rank}d"
            ran = launch("visualize", f"--model={model}", f"--out={out}", *FLAGS[rank])
            assert ran.returncode == 0, ran.stderr
            assert "Traceback" not in ran.stderr
            done[rank] = out, ran.stdout
        return done[rank]

    return visualize


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "units.tsv").open(newline="") as table:
        return list(csv.DictReader(table, dialect="excel-tab"))


def folder(layer: str) -> str:
    return layer.replace("/", "+")


def units(rank: int) -> list[tuple[str, int]]:
    return [(layer, channel) for layer in LAYERS[rank] for channel in CHANNELS[rank]]


# What it writes


@pytest.mark.parametrize("rank", [2, 3])
def test_a_run_holds_a_volume_and_a_picture_of_every_channel(visualized, rank):
    out, printed = visualized(rank)
    expected = {
        ".lock",
        "dataset_description.json",
        "flags.txt",
        "layers.tsv",
        "run.json",
        "units.json",
        "units.tsv",
    }
    for layer in LAYERS[rank]:
        expected |= {f"sheets/{folder(layer)}.png", f"traces/{folder(layer)}.npz"}
    for layer, channel in units(rank):
        name = f"images/{folder(layer)}/{channel:04d}"
        expected |= {f"{name}.nii.gz", f"{name}.png"}
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == expected
    for name in (name for name in found if name.endswith(".png")):
        with Pillow.open(out / name) as opened:
            opened.load()
            assert min(opened.size) >= min(SHAPE[rank])
    assert f"{len(units(rank))} channels: " in printed
    assert f"Results: {out}" in printed
    for layer in LAYERS[rank]:
        assert str(out / "sheets" / f"{folder(layer)}.png") in printed


@pytest.mark.parametrize("rank", [2, 3])
def test_the_table_and_the_traces_tell_of_every_channel(visualized, rank):
    out, _ = visualized(rank)
    rows = rows_of(out)
    assert [(row["layer"], int(row["channel"])) for row in rows] == units(rank)
    for layer in LAYERS[rank]:
        with np.load(out / "traces" / f"{folder(layer)}.npz", allow_pickle=False) as traces:
            assert traces["channel"].tolist() == CHANNELS[rank]
            assert traces["objective"].shape == (len(CHANNELS[rank]), 4)
            assert np.isfinite(traces["objective"]).all()
            starts = [float(row["initial_objective"]) for row in rows if row["layer"] == layer]
            np.testing.assert_allclose(traces["objective"][:, 0], starts, rtol=1e-4, atol=1e-6)
    for row in rows:
        assert row["status"] in set(STATUSES) - {"diverged"}
        assert (row["steps"], row["seed"]) == ("4", "0")


@pytest.mark.parametrize("rank", [2, 3])
def test_every_volume_lies_where_the_brain_does(visualized, cohort, rank):
    out, _ = visualized(rank)
    path = next(cohort.glob("sub-0001/anat/*.nii.gz"))
    brain = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_filename(path))
    first = [(n - m) // 2 for n, m in zip(brain.shape, SHAPE[rank], strict=False)]
    stop = [a + m for a, m in zip(first, SHAPE[rank], strict=True)]
    if rank == 2:
        first.append(brain.shape[2] // 2)
        stop.append(first[2] + 1)
    cut = brain.slicer[tuple(slice(*ends) for ends in zip(first, stop, strict=True))]
    for layer, channel in units(rank):
        image = nibabel.Nifti1Image.from_filename(
            out / "images" / folder(layer) / f"{channel:04d}.nii.gz"
        )
        assert image.shape[: len(SHAPE[rank])] == SHAPE[rank]
        assert np.prod(image.shape) == np.prod(SHAPE[rank])
        np.testing.assert_allclose(np.asarray(image.affine), cut.affine, atol=1e-5)
        voxels = np.asarray(image.dataobj)
        assert voxels.dtype == np.float32
        assert 0 <= voxels.min() < voxels.max() <= 1


@pytest.mark.parametrize("rank", [2, 3])
def test_the_objective_of_a_stored_image_is_what_the_table_says(visualized, trained, rank):
    out, _ = visualized(rank)
    model = load_model(trained(rank)[0] / "model")
    kernels, biases = (
        np.asarray(model.variables["params"]["conv1"][name], np.float64)
        for name in ("kernel", "bias")
    )
    mean, std = (float(model.variables["statistics"][name]) for name in ("mean", "std"))
    for row in rows_of(out):
        if row["layer"] != "conv1":
            continue
        channel = int(row["channel"])
        stored = nibabel.Nifti1Image.from_filename(out / "images/conv1" / f"{channel:04d}.nii.gz")
        image = (np.asarray(stored.dataobj, np.float64).reshape(SHAPE[rank]) - mean) / std
        activation = signal.correlate(image, kernels[..., 0, channel], mode="valid")
        expected = activation.mean() + biases[channel]
        assert float(row["final_objective"]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert float(row["final_objective"]) > float(row["initial_objective"])


def test_the_run_says_what_made_it(visualized, trained):
    out, _ = visualized(2)
    run = json.loads((out / "run.json").read_bytes())
    card = json.loads((trained(2)[0] / "model" / "card.json").read_bytes())
    settings = run["configuration"]
    assert settings["weights_sha256"] == card["weights_sha256"]
    assert settings["layers"] == {layer: [0, 1, 2] for layer in LAYERS[2]}
    assert (settings["steps"], settings["seed"], settings["batch"]) == (4, 0, 2)
    assert settings["regularization"] == "blur_0.5"
    environment = run["environments"][0]
    assert environment["command"].startswith("python -m experiments.visualize --model=")
    assert environment["device"].startswith("cpu")
    assert {"jax", "python", "featvis_jax"} <= set(environment)
    compiled = [timing["layer"] for timing in run["timings"] if timing["name"] == "compile"]
    assert compiled == LAYERS[2], "each layer is compiled once, and every compilation is timed"
    lines = (out / "flags.txt").read_text().splitlines()
    assert set(FLAGS[2]) - {"--gallery=false"} < set(lines)
    assert "--nogallery" in lines


# Going on, and what is refused


REFUSED = {
    "unknown model": (
        ["--model=nobody"],
        ["--model=nobody", "zoo", "directory of a trained model", "your-network.md"],
    ),
    "no model": (["--model={place}"], ["--model={place}", "featvis train"]),
    "damaged card": (["--model={place}/damaged"], ["{place}/damaged/card.json", "not JSON"]),
    "lost weights": (
        ["--model={place}/lost"],
        ["{place}/lost/weights/", "is missing", "copy or save the model again"],
    ),
    "unknown layer": (["--layer=conv9"], ["no layer 'conv9'", "nearest are", "conv5", "/relu"]),
    "empty layer": (["--layer="], ["no layer ''", "All layers: conv1"]),
    "channel out of range": (["--channels=8"], ["--channels=8", "channels 0 to 7", "0:8"]),
    "range out of range": (["--channels=4:9"], ["--channels=4:9", "channels 0 to 7"]),
    "negative channel": (["--channels=-1"], ["--channels=-1", "channels 0 to 7"]),
    "empty range": (["--channels=3:3"], ["--channels=3:3", "expected all"]),
    "channels of words": (["--channels=a,b"], ["--channels=a,b", "a list such as 0,7"]),
    "three numbers": (["--channels=1:2:3"], ["--channels=1:2:3"]),
    "channel of one layer": (
        ["--layer=logits", "--channels=5"],
        ["--channels=5", "'logits' has channels 0 to 1"],
    ),
    "no step": (["--steps=0"], ["--steps=0", "positive integer", "--help"]),
    "no number of steps": (["--steps=many"], ["--steps=many"]),
    "no period": (["--every=0"], ["--every=0"]),
    "no rate": (["--learning_rate=0"], ["--learning_rate=0.0", "positive number"]),
    "no number for a rate": (["--learning_rate=nan"], ["--learning_rate=nan"]),
    "negative weight": (["--penalty_weight=-1"], ["--penalty_weight=-1", "non-negative"]),
    "infinite weight": (["--penalty_weight=inf"], ["--penalty_weight=inf", "number from 0"]),
    "unknown penalty": (["--penalty=l9"], ["--penalty=l9", "layer_l1"]),
    "unknown strategy": (["--regularization=blurr"], ["'blurr'", "nearest", "blur_0.5"]),
    "strength out of range": (["--regularization=rotation_400"], ["'rotation_400'", "max_degrees"]),
    "large seed": (["--seed=4294967296"], ["--seed=4294967296", "4294967295"]),
    "no batch": (["--batch=0"], ["--batch=0", "auto or a number from 1"]),
    "batch of words": (["--batch=many"], ["--batch=many"]),
    "no shard": (["--shard=half"], ["--shard=half", "such as 2/4"]),
    "shard of no cluster": (
        ["--shard=cluster", "--batch=2"],
        ["--shard=cluster", "srun or mpirun"],
    ),
    "shard out of range": (["--shard=3/2"], ["--shard=3/2", "I from 1 to N"]),
    "shard of any batch": (["--shard=1/2", "--batch=auto"], ["--shard=1/2 needs --batch=N"]),
    "shard with curves": (["--shard=1/2", "--tensorboard"], ["--tensorboard", "leave one"]),
    "output below a file": (
        ["--out={place}/a-file/run", "--batch=auto"],
        ["{place}/a-file", "expected a directory"],
    ),
    "output of something else": (
        ["--out={place}/damaged", "--batch=auto"],
        ["{place}/damaged", "not empty and holds no run", "--out"],
    ),
    "damaged run": (
        ["--out={place}/half-a-run", "--batch=auto"],
        ["{place}/half-a-run/run.json", "no description of a run"],
    ),
    "unknown flag": (["--stepps=3"], ["stepps", "Did you mean: steps"]),
}


@pytest.fixture(scope="module")
def outcomes(place, drive, trained, visualized):
    """What became of every bad command, and of several ways to go on, in one process."""
    model, (out, _) = trained(2)[0] / "model", visualized(2)
    (place / "a-file").write_text("in the way")
    (place / "half-a-run").mkdir()
    (place / "half-a-run" / "run.json").write_text("{")
    for name in ("damaged", "lost"):
        shutil.copytree(model, place / name)
    (place / "damaged" / "card.json").write_text("{")
    shutil.rmtree(place / "lost" / "weights")

    def command(*changes: str, out: Path = place / "nowhere") -> list[str]:
        return [f"--model={model}", f"--out={out}", *changes]

    commands = {
        name: [
            argument.format(place=place)
            # A layer that is added and not replaced would hide the one at fault.
            for argument in command(*OPTIONS, *[] if "layer" in name else ["--layer=conv1"])
        ]
        + [argument.format(place=place) for argument in changes]
        for name, (changes, _) in REFUSED.items()
    }
    commands["no layer"] = command()
    commands["changed seed"] = command(*FLAGS[2], "--seed=1", out=out)
    grown = place / "grown"
    shutil.copytree(out, grown, copy_function=shutil.copy2)
    commands["more layers"] = command("--layer=conv1", "--channels=0:3", *OPTIONS, out=grown)

    # A run that lost its last two rows was killed before they were written.
    partial = place / "partial"
    shutil.copytree(out, partial, copy_function=shutil.copy2)
    lines = (partial / "units.tsv").read_text().splitlines(keepends=True)
    (partial / "units.tsv").write_text("".join(lines[:-2]))
    before = {path: path.stat().st_mtime_ns for path in partial.rglob("images/*/*")}
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("images/*/*")}
    commands["repeated"] = command(*FLAGS[2], out=out)
    commands["from flags"] = [f"--flagfile={out / 'flags.txt'}"]
    commands["partial"] = command(*FLAGS[2], out=partial)
    commands["defaults"] = command("--layer=conv1", "--steps=3", out=place / "defaults")

    # Pages cannot be built where a file is in the way.
    shutil.copytree(out, place / "pages", copy_function=shutil.copy2)
    (place / "pages" / "gallery").write_text("in the way")
    commands["no pages"] = command(*FLAGS[2], "--gallery", out=place / "pages")

    commands["trial"] = command("--layer=conv1", "--layer=logits", "--channels=0:2", "--dry_run")
    commands["trial of a part"] = command(*FLAGS[2], "--dry_run", out=partial)
    for shard in ("2/2", "1/2"):
        commands[f"shard {shard}"] = command(
            *FLAGS[2], f"--shard={shard}", out=place / "shared out"
        )
    commands["shards together"] = command(*FLAGS[2], "--tensorboard", out=place / "shared out")
    for name, shard in {"late shard": "1/2", "shard without a batch": "9/9"}.items():
        commands[name] = command(*FLAGS[2], f"--shard={shard}", out=place / "shared out")
    found = dict(zip(commands, drive("visualize", list(commands.values())), strict=True))
    found["mtimes before"] = kept
    found["partial mtimes before"] = before
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_before_anything_is_compiled(outcomes, refused, place, name):
    refused(outcomes[name], [text.format(place=place) for text in REFUSED[name][1]])


def test_a_layer_has_to_be_named(outcomes, refused):
    refused(
        outcomes["no layer"], ["--layer is missing", "conv1, pool1, conv2", "all for every layer"]
    )


def test_nothing_is_left_of_a_refused_command(outcomes, place):
    assert outcomes
    assert not (place / "nowhere").exists()


def test_a_changed_run_is_refused_with_the_difference(outcomes, refused, visualized):
    out = str(visualized(2)[0])
    refused(outcomes["changed seed"], [out, "seed: the run has 0, asked for is 1", "--out"])


def test_a_run_grows(outcomes, visualized, place):
    assert outcomes["more layers"]["status"] == 0, outcomes["more layers"]["errors"]
    before, after = read_run(visualized(2)[0]), read_run(place / "grown")
    new = {("conv1", channel) for channel in range(3)}
    assert {row.unit for row in after.records()} == {row.unit for row in before.records()} | new
    for row in before.records():
        assert row in after.records()
        assert (after.image(*row.key)[0] == before.image(*row.key)[0]).all()
    assert (place / "grown" / "sheets" / "conv1.png").is_file()


@pytest.mark.parametrize("name", ["repeated", "from flags"])
def test_finished_channels_are_not_visualized_again(outcomes, visualized, name):
    outcome, (out, _) = outcomes[name], visualized(2)
    assert outcome["status"] == 0, outcome["errors"]
    assert "6 channels: " in outcome["output"]
    assert "run" not in outcome["compiled"]
    before = outcomes["mtimes before"]
    assert len(before) == 12
    assert {path: path.stat().st_mtime_ns for path in out.rglob("images/*/*")} == before


def test_a_run_goes_on_with_what_is_missing(outcomes, visualized, place):
    outcome, (out, _) = outcomes["partial"], visualized(2)
    assert outcome["status"] == 0, outcome["errors"]
    assert "run" in outcome["compiled"], "else nobody listens to what is compiled"
    for path, before in outcomes["partial mtimes before"].items():
        again = path.parent.name == "conv3+relu" and path.stem[:4] in ("0001", "0002")
        assert (path.stat().st_mtime_ns != before) == again, path
        assert path.read_bytes() == (out / path.relative_to(place / "partial")).read_bytes()
    without_time = [
        [{**row, "seconds": ""} for row in rows_of(directory)]
        for directory in (out, place / "partial")
    ]
    assert without_time[0] == without_time[1]


def test_a_trial_tells_what_a_run_would_take_and_writes_nothing(outcomes, place):
    outcome = outcomes["trial"]
    assert outcome["status"] == 0, outcome["errors"]
    lines = outcome["output"].splitlines()
    assert lines[0].startswith("Images of 40x44 voxels, 256 steps, --batch=8 (the largest")
    assert [line.split()[:2] for line in lines[2:4]] == [["conv1", "2"], ["logits", "2"]]
    assert "1 x 2" in lines[2]
    told = "\n".join(lines[4:])
    for text in ("for 4 channels, compiling included", "Memory: ", "MiB are free", "--dry_run"):
        assert text in told
    # "nowhere" is looked for again where the refused commands are tested.
    assert not (place / "nowhere").exists()


def test_a_trial_knows_what_is_finished(outcomes):
    outcome = outcomes["trial of a part"]
    assert outcome["status"] == 0, outcome["errors"]
    # It was tried after the run had gone on.
    assert "6 of 6 channels are finished already." in outcome["output"]
    assert "about 0 s for 0 channels" in outcome["output"]


def test_the_last_lines_name_the_run_and_its_pages(outcomes, place):
    *_, results, gallery = outcomes["defaults"]["output"].splitlines()
    assert results == f"Results: {place / 'defaults'}"
    assert gallery == f"Gallery: {(place / 'defaults/gallery/index.html').resolve().as_uri()}"
    assert (place / "defaults/gallery/index.html").is_file()


def test_pages_that_cannot_be_built_are_told_and_cost_no_channel(outcomes, visualized, place):
    outcome, (out, _) = outcomes["no pages"], visualized(2)
    assert outcome["status"] == 2
    assert outcome["errors"].startswith("Error: The gallery could not be built (FileExistsError")
    assert f"python -m experiments.gallery --run={place / 'pages'} tries again" in outcome["errors"]
    assert "6 channels: " in outcome["output"]
    assert rows_of(place / "pages") == rows_of(out)


def test_processes_that_share_a_run_write_the_same_bytes(outcomes, visualized, place):
    out, shared = visualized(2)[0], place / "shared out"
    for name, count in (("shard 2/2", 2), ("shard 1/2", 4), ("shards together", 6)):
        assert outcomes[name]["status"] == 0, outcomes[name]["errors"]
        assert f"{count} channels: " in outcomes[name]["output"]
    assert "run" not in outcomes["shards together"]["compiled"]
    assert not (shared / "shards").exists()
    for path in (*out.rglob("images/*/*"), *out.rglob("traces/*"), *out.rglob("sheets/*")):
        assert (shared / path.relative_to(out)).read_bytes() == path.read_bytes(), path
    assert len(rows_of(shared)) == 6
    assert list((shared / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("name", ["late shard", "shard without a batch"])
def test_a_shard_with_nothing_to_do_says_so_and_leaves_nothing_behind(outcomes, place, name):
    assert outcomes[name]["status"] == 0, outcomes[name]["errors"]
    assert f"nothing was left to do in {place / 'shared out'}" in outcomes[name]["output"]
    assert not (place / "shared out" / "shards").exists()


def test_the_pages_count_the_time_of_all_processes(outcomes, place):
    assert outcomes["shards together"]["status"] == 0
    timings = json.loads((place / "shared out" / "run.json").read_bytes())["timings"]
    batches = {each["shard"] for each in timings if each["name"] == "batch"}
    assert batches == {"0001-of-0002", "0002-of-0002"}
    assert len({json.dumps(each) for each in timings}) == len(timings)


def test_the_defaults_work(outcomes, place):
    outcome = outcomes["defaults"]
    assert outcome["status"] == 0, outcome["errors"]
    assert "8 channels: " in outcome["output"]
    assert len(rows_of(place / "defaults")) == 8
    settings = json.loads((place / "defaults" / "run.json").read_bytes())["configuration"]
    assert settings["batch"] >= 1


def test_bad_input_ends_the_program_with_status_2(launch, trained, tmp_path):
    model = trained(2)[0] / "model"
    ran = launch("visualize", f"--model={model}", "--layer=conv7", f"--out={tmp_path}")
    assert ran.returncode == 2
    assert ran.stderr.startswith("Error: The network has no layer 'conv7'")
    assert "Traceback" not in ran.stderr
    assert not ran.stdout

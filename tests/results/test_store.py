"""The run directory: what is where, one writer, one configuration, and what a crash leaves."""

import csv
import errno
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax.results import files, manifest, sheets, store, tables

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGURATION = {"seed": 7, "steps": 5, "transforms": {"jitter": 6, "blur": [1.5, 0.3]}}
ENVIRONMENT = {"featvis_jax": "0.1.0", "device": "cpu"}
AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def unit(layer="conv1", channel=0, *, status="alive", shape=(6, 4), steps=5, **changes):
    """A result whose content follows from its name."""
    generator = np.random.default_rng([channel, changes.get("variant", 1), *layer.encode()])
    image = generator.random((*shape, 1)).astype(np.float32)
    objective, penalty = generator.random((2, steps)).astype(np.float32)
    values = {
        "initial_objective": float(objective[0]),
        "final_objective": float(objective[-1]),
        "penalty": float(penalty[-1]),
        "intensity_min": float(image.min()),
        "intensity_max": float(image.max()),
        "steps": steps,
        "seconds": 0.25,
        "seed": 7,
        **changes,
    }
    return tables.UnitResult(
        tables.UnitRecord(layer, channel, status, **values), image, objective, penalty
    )


def open_run(directory, **changes) -> store.Run:
    return store.open_run(directory, {**CONFIGURATION, **changes}, environment=ENVIRONMENT)


def content(directory: Path) -> dict[str, str]:
    """Digest of every file by its path."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# What is where


def test_a_run_has_the_layout_that_is_documented(tmp_path):
    with open_run(tmp_path / "out" / "run") as run:
        run.write_flags("--steps=5\n")
        run.write_layers([tables.LayerRecord("conv1", (6, 4), 8, (3, 3), (1, 1))])
        run.write_units([unit(channel=12), unit("conv3/relu", 3)], affine=AFFINE)
        assert run.write_sheet("conv1") == run.sheet_path("conv1")
    assert set(content(tmp_path / "out" / "run")) == {
        ".lock",
        "run.json",
        "flags.txt",
        "dataset_description.json",
        "layers.tsv",
        "units.tsv",
        "units.json",
        "images/conv1/0012.nii.gz",
        "images/conv1/0012.png",
        "images/conv3+relu/0003.nii.gz",
        "images/conv3+relu/0003.png",
        "traces/conv1.npz",
        "traces/conv3+relu.npz",
        "sheets/conv1.png",
    }


def test_other_programs_read_what_is_stored(tmp_path):
    first, second = unit(channel=1), unit(channel=0, status="uniform")
    with open_run(tmp_path) as run:
        run.write_units([first, second], affine=AFFINE, window=(0.0, 0.5))
    stored = nibabel.Nifti1Image.from_filename(tmp_path / "images" / "conv1" / "0001.nii.gz")
    np.testing.assert_array_equal(np.asarray(stored.dataobj), first.image)
    np.testing.assert_array_equal(np.asarray(stored.affine), AFFINE)
    grey = np.asarray(Pillow.open(tmp_path / "images" / "conv1" / "0001.png"))
    expected = np.rint(np.rot90(first.image[..., 0]).astype(float).clip(0, 0.5) / 0.5 * 255)
    np.testing.assert_array_equal(grey, expected)
    with np.load(tmp_path / "traces" / "conv1.npz", allow_pickle=False) as traces:
        assert traces["channel"].tolist() == [0, 1]
        np.testing.assert_array_equal(traces["objective"], [second.objective, first.objective])
        np.testing.assert_array_equal(traces["penalty"], [second.penalty, first.penalty])
    with open(tmp_path / "units.tsv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, dialect="excel-tab"))
    assert [row["status"] for row in rows] == ["uniform", "alive"]
    assert float(rows[1]["final_objective"]) == first.record.final_objective
    descriptions = json.loads((tmp_path / "units.json").read_bytes())
    assert list(rows[0]) == list(descriptions)
    assert set(descriptions["status"]["Levels"]) == set(tables.STATUSES)


def test_what_real_inputs_do_is_kept_to_the_last_digit(tmp_path):
    rows = [
        tables.ReferenceRecord("conv1", 3, float(np.float32(0.1))),
        tables.ReferenceRecord("a\tb", 0, -2.5),
    ]
    with open_run(tmp_path) as run:
        assert run.reference() == []
        run.write_reference(rows)
        run.write_units(
            [unit(response=0.3, target=0.2, strength=1.5), unit(channel=1)], affine=None
        )
        assert run.reference() == rows
        assert [(r.response, r.target, r.strength) for r in run.records()] == [
            (0.3, 0.2, 1.5),
            (None, None, None),
        ]


def test_variants_are_images_of_one_channel(tmp_path):
    pairs = [(3, 2), (0, 1), (3, 1), (0, 2)]
    results = [unit(channel=channel, variant=variant) for channel, variant in pairs]
    with open_run(tmp_path, variants=2) as run:
        run.write_layers([tables.LayerRecord("conv1", (6, 4), 8, (3, 3), (1, 1))])
        run.write_units(results[:3], affine=AFFINE)
        # Of channel 0 an image is still to come.
        assert run.finished("conv1") == {3}
        assert [record.key for record in run.records()] == [
            ("conv1", 0, 1), ("conv1", 3, 1), ("conv1", 3, 2),
        ]  # fmt: skip
        with pytest.raises(ValueError, match=r"twice: \[\('conv1', 3, 2\)\]"):
            run.write_units([unit(channel=3, variant=2)], affine=AFFINE)
        run.write_units(results[3:], affine=AFFINE)
        assert run.finished("conv1") == {0, 3}
        run.write_sheet("conv1")
    assert {path.name for path in (tmp_path / "images" / "conv1").glob("*.gz")} == {
        "0000.nii.gz", "0000-variant2.nii.gz", "0003.nii.gz", "0003-variant2.nii.gz",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["conv1.png"]
    traces = run.traces("conv1")
    assert traces.channel.tolist() == [0, 0, 3, 3]
    assert traces.variant.tolist() == [1, 2, 1, 2]
    order = [results[i] for i in (1, 3, 2, 0)]
    for number, result in enumerate(order):
        np.testing.assert_array_equal(traces.objective[number], result.objective)
        np.testing.assert_array_equal(run.image(*result.record.key)[0], result.image)
    with open(tmp_path / "units.tsv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, dialect="excel-tab"))
    assert [(row["channel"], row["variant"]) for row in rows] == [
        ("0", "1"), ("0", "2"), ("3", "1"), ("3", "2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "title", "subtitle"),
    [
        ({}, "conv1", "1 of 8 channels"),
        ({"objective": {"conv1": "channel('conv1')"}}, "conv1", "1 of 8 channels"),
        (
            {"objective": {"conv1": "(-1.0) * neuron('conv1')"}, "variants": 2},
            "conv1: what suppresses each channel most", "1 of 8 channels, 2 variants",
        ),
        (
            {"objective": {"conv1": "(-1.0) * layer('conv1')"}},
            "conv1: what suppresses the whole layer most", "the whole layer",
        ),
    ],
)  # fmt: skip
def test_a_sheet_says_what_was_asked(tmp_path, monkeypatch, settings, title, subtitle):
    told = {}
    draw = sheets.contact_sheet
    monkeypatch.setattr(
        sheets, "contact_sheet", lambda *a, **given: told.update(given) or draw(*a, **given)
    )
    with open_run(tmp_path, **settings) as run:
        run.write_layers([tables.LayerRecord("conv1", (6, 4), 8, (3, 3), (1, 1))])
        count = settings.get("variants", 1)
        run.write_units([unit(variant=1 + each) for each in range(count)], affine=AFFINE)
        run.write_sheet("conv1")
    assert (told["title"], told["subtitle"]) == (title, subtitle)
    assert told["titles"] == (["0"] if count == 1 else ["0 (1)", "0 (2)"])


def test_the_strongest_image_stands_for_a_channel():
    values = {1: float("nan"), 2: 0.5, 3: -1.0, 4: 2.0}
    rows = [unit(variant=each, final_objective=value).record for each, value in values.items()]
    assert [row.variant for row in tables.leading(rows)] == [4]
    assert [row.variant for row in tables.leading(rows[:3])] == [2]
    assert [row.variant for row in tables.leading(rows[:1])] == [1]


def test_the_run_is_described_for_bids_and_for_its_own_resumption(tmp_path):
    with open_run(tmp_path) as run:
        run.record_timing("batch", 1.5, layer="conv1", units=8)
    description = json.loads((tmp_path / "dataset_description.json").read_bytes())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"] == [{"Name": "featvis_jax", "Version": "0.1.0"}]
    assert description["Name"]
    assert description["BIDSVersion"]
    manifest = json.loads((tmp_path / "run.json").read_bytes())
    text = json.dumps(CONFIGURATION, sort_keys=True, separators=(",", ":"))
    assert manifest["fingerprint"] == hashlib.sha256(text.encode()).hexdigest()
    assert manifest["configuration"] == CONFIGURATION
    assert manifest["timings"] == [{"name": "batch", "seconds": 1.5, "layer": "conv1", "units": 8}]


def test_readers_get_back_what_was_written(tmp_path):
    results = [unit(channel=channel) for channel in (2, 10, 1)] + [unit("conv10"), unit("conv2")]
    layers = [
        tables.LayerRecord("conv1", (6, 4), 16, (3, 3), (1, 1)),
        tables.LayerRecord("logits", (), 2, (6, 4), ()),
    ]
    with open_run(tmp_path) as run:
        run.write_layers(layers)
        run.write_units(results, affine=AFFINE)
        view = store.read_run(tmp_path)  # while the writer is at work
        assert view.records() == run.records()
    assert [(row.layer, row.channel) for row in view.records()] == [
        ("conv1", 1), ("conv1", 2), ("conv1", 10), ("conv2", 0), ("conv10", 0),
    ]  # fmt: skip
    assert set(view.records()) == {result.record for result in results}
    assert view.layers() == layers
    assert view.finished("conv1") == {1, 2, 10}
    assert view.finished("conv9") == frozenset()
    image, affine = view.image("conv1", 10)
    np.testing.assert_array_equal(image, results[1].image)
    np.testing.assert_array_equal(affine, AFFINE)
    assert view.traces("conv1").channel.tolist() == [1, 2, 10]
    np.testing.assert_array_equal(view.traces("conv1").penalty[2], results[1].penalty)
    assert view.traces("conv9").objective.shape[0] == 0
    assert view.configuration == CONFIGURATION
    assert view.environments == [ENVIRONMENT]
    assert view.timings == []
    assert len(view.fingerprint) == 64


def test_a_new_run_reads_as_empty(tmp_path):
    open_run(tmp_path).close()
    view = store.read_run(tmp_path)
    assert view.records() == []
    assert view.layers() == []


def test_volumes_are_stored_on_their_grid(tmp_path):
    result = unit(shape=(6, 5, 4))
    with open_run(tmp_path) as run:
        run.write_units([result], affine=AFFINE)
        run.write_sheet("conv1", window=(0.0, 1.0))
    stored = nibabel.Nifti1Image.from_filename(tmp_path / "images" / "conv1" / "0000.nii.gz")
    np.testing.assert_array_equal(np.asarray(stored.dataobj), result.image[..., 0])
    np.testing.assert_array_equal(store.read_run(tmp_path).image("conv1", 0)[0], result.image)


def test_a_diverged_unit_is_stored_beside_the_others(tmp_path):
    broken = unit(channel=1, status="diverged", final_objective=float("nan"))
    broken.image[2:] = np.nan
    broken.objective[3:] = np.inf
    with open_run(tmp_path) as run:
        run.write_units([unit(), broken], affine=AFFINE)
        run.write_sheet("conv1")
    view = store.read_run(tmp_path)
    np.testing.assert_array_equal(view.image("conv1", 1)[0], broken.image)
    np.testing.assert_array_equal(view.traces("conv1").objective[1], broken.objective)
    assert np.isnan(view.records()[1].final_objective)
    assert "\tn/a\t" in (tmp_path / "units.tsv").read_text()


# Going on with a run


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path):
    batches = [[unit(channel=0), unit(channel=1)], [unit(channel=2), unit("conv2")]]
    with open_run(tmp_path / "whole") as run:
        for batch in batches:
            run.write_units(batch, affine=AFFINE)
        run.write_sheet("conv1")
    for batch in batches:
        with open_run(tmp_path / "parts") as run:
            run.write_units(batch, affine=AFFINE)
            run.write_sheet("conv1")
    assert content(tmp_path / "whole") == content(tmp_path / "parts")


def test_the_bytes_do_not_depend_on_time_or_order(tmp_path, monkeypatch):
    units = [unit(channel=channel) for channel in range(3)]
    for name, order in (("a", units), ("b", units[::-1])):
        with open_run(tmp_path / name) as run:
            for each in order:
                run.write_units([each], affine=AFFINE)
            run.write_sheet("conv1")
        monkeypatch.setattr("time.time", lambda: 2e9)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_writer_killed_at_any_file_operation_loses_nothing(tmp_path):
    script = Path(__file__).with_name("crash_points.py")
    result = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 80


def test_leftovers_of_a_killed_writer_are_removed_and_never_read(tmp_path):
    with open_run(tmp_path) as run:
        run.write_units([unit()], affine=AFFINE)
        before = content(tmp_path)
        # Killed between the traces and the table: the traces hold a unit without a row.
        run.write_units([unit(channel=1)], affine=AFFINE)
        (tmp_path / "units.tsv").write_text(
            "".join((tmp_path / "units.tsv").read_text().splitlines(keepends=True)[:2])
        )
    (tmp_path / "images" / "conv1" / ".0002.png.partial").write_bytes(b"half")
    view = store.read_run(tmp_path)
    assert view.finished("conv1") == {0}
    assert view.traces("conv1").channel.tolist() == [0]
    with open_run(tmp_path) as run:
        assert not list(tmp_path.rglob("*.partial"))
        run.write_units([unit(channel=2)], affine=AFFINE)
        assert run.traces("conv1").channel.tolist() == [0, 2]
    assert content(tmp_path)["run.json"] == before["run.json"]


def test_another_environment_is_recorded_and_not_refused(tmp_path):
    open_run(tmp_path).close()
    other = {**ENVIRONMENT, "device": "gpu"}
    store.open_run(tmp_path, CONFIGURATION, environment=other).close()
    open_run(tmp_path).close()
    assert store.read_run(tmp_path).environments == [ENVIRONMENT, other]


def test_equal_configurations_are_equal_however_they_are_written(tmp_path):
    open_run(tmp_path).close()
    changed = {"transforms": {"blur": (1.5, 0.3), "jitter": 6}, "steps": 5, "seed": 7}
    store.open_run(tmp_path, changed, environment=ENVIRONMENT).close()


def test_a_run_may_be_asked_for_other_units(tmp_path):
    of = {"layers": {"conv1": [0, 1]}, "objective": {"conv1": "f"}, "seed": 1}
    more = {"layers": {"conv1": [2], "conv2": [0]}, "objective": {"conv1": "f", "conv2": "f"}}
    store.open_run(tmp_path, of, environment=ENVIRONMENT).close()
    store.open_run(tmp_path, {**more, "seed": 1}, environment=ENVIRONMENT).close()
    both = {"conv1": [0, 1, 2], "conv2": [0]}
    assert store.read_run(tmp_path).configuration["layers"] == both
    store.open_run(tmp_path, of, environment=ENVIRONMENT).close()
    assert store.read_run(tmp_path).configuration["layers"] == both
    for other in ({"seed": 2}, {"objective": {"conv1": "-f"}}):
        with pytest.raises(manifest.ConfigurationMismatch):
            store.open_run(tmp_path, {**of, **other}, environment=ENVIRONMENT)


def test_a_run_of_channels_may_grow_by_directions_of_another_layer(tmp_path):
    channels = {"layers": {"a": [0]}, "objective": {"a": "channel('a')"}, "seed": 0}
    named = {**channels, "layers": {"b": [1]}, "objective": {"b": "direction('b')"}}
    named["unit_names"] = {"b": ["age", "sex"]}
    for configuration in (channels, named, channels):
        store.open_run(tmp_path, configuration, environment={}).close()
    found = store.read_run(tmp_path).configuration
    assert found["layers"] == {"a": [0], "b": [1]}
    assert found["unit_names"] == {"b": ["age", "sex"]}
    other = {**named, "unit_names": {"b": ["age", "iq"]}}
    with pytest.raises(manifest.ConfigurationMismatch, match=r"unit_names\.b"):
        store.open_run(tmp_path, other, environment={})


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    open_run(tmp_path).close()
    before = content(tmp_path)
    with pytest.raises(manifest.ConfigurationMismatch) as error:
        open_run(tmp_path, steps=512, transforms={"blur": [1.5, 0.3], "rotate": True})
    message = str(error.value)
    assert str(tmp_path) in message
    assert "  steps: the run has 5, asked for is 512\n" in message
    assert "  transforms.jitter: the run has 6, asked for is no such setting\n" in message
    assert "  transforms.rotate: the run has no such setting, asked for is true\n" in message
    assert "--out" in message
    for same in ("seed", "blur"):
        assert same not in message
    assert content(tmp_path) == before
    open_run(tmp_path).close()


@pytest.mark.parametrize("changed", [{"seed": 7.0}, {"steps": "5"}, {"transforms": {}}])
def test_a_change_of_type_is_a_change(tmp_path, changed):
    open_run(tmp_path).close()
    with pytest.raises(manifest.ConfigurationMismatch):
        open_run(tmp_path, **changed)


@pytest.mark.parametrize("value", [float("nan"), Path("x"), {1, 2}, np.zeros(2), {1: 2, "a": 3}])
def test_a_configuration_that_is_not_json_is_refused_before_anything_is_made(tmp_path, value):
    with pytest.raises(ValueError, match="configuration cannot be stored as JSON"):
        open_run(tmp_path / "out", steps=value)
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_utf8_can_be_configured(tmp_path):
    for _ in range(2):
        open_run(tmp_path, cohort="m\udcfcller").close()


# Directories that are no run


def test_a_directory_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"not empty and holds no run.*thesis\.tex.*--out"):
        open_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "out").write_text("")
    for directory in (tmp_path / "out", tmp_path / "out" / "run"):
        with pytest.raises(OSError, match=r"expected a directory.*out"):
            open_run(directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot make the directory"):
        open_run(tmp_path / "out")


@pytest.mark.parametrize("operation", ["mkdir", "open"])
def test_a_directory_that_cannot_be_written_is_an_error_that_says_what_to_do(
    tmp_path, monkeypatch, operation
):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(files.os, operation, refuse)
    with pytest.raises(PermissionError, match=r"cannot .*out.*Permission denied.*--out"):
        open_run(tmp_path / "out")


def test_reading_what_is_no_run_is_refused(tmp_path):
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"holds no run: run\.json is missing"):
            store.read_run(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "other", "fingerprint": 1}'])
def test_a_damaged_description_is_refused(tmp_path, text):
    open_run(tmp_path).close()
    (tmp_path / "run.json").write_text(text)
    for attempt in (store.read_run, open_run):
        with pytest.raises(ValueError, match=r"run\.json.*Restore the file"):
            attempt(tmp_path)


def test_a_configuration_edited_by_hand_is_refused(tmp_path):
    open_run(tmp_path).close()
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"steps": 5', '"steps": 6'))
    with pytest.raises(ValueError, match="does not fit its fingerprint"):
        open_run(tmp_path, steps=6)


def test_a_damaged_table_names_file_and_line(tmp_path):
    with open_run(tmp_path) as run:
        run.write_units([unit(), unit(channel=1)], affine=AFFINE)
    path = tmp_path / "units.tsv"
    path.write_text(path.read_text().replace("\t1\t1\talive", "\tone\t1\talive"))
    with pytest.raises(ValueError, match=r"units\.tsv, line 3"):
        store.read_run(tmp_path).records()
    path.write_text("channel\n")
    with pytest.raises(ValueError, match="expected the columns"):
        store.read_run(tmp_path).records()


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_of_an_earlier_version_is_refused_in_one_line_and_left_as_it_is(tmp_path, version):
    with open_run(tmp_path) as run:
        run.write_units([unit()], affine=AFFINE)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("version 3", f"version {version}"))
    before = content(tmp_path)
    for attempt in (store.read_run, open_run):
        with pytest.raises(ValueError, match=r"run of an earlier featvis_jax.*--flagfile") as error:
            attempt(tmp_path)
        assert "\n" not in str(error.value)
    assert content(tmp_path) == before


def test_a_damaged_image_names_its_file(tmp_path):
    with open_run(tmp_path) as run:
        run.write_units([unit()], affine=AFFINE)
        (path,) = run.image_paths("conv1", 0)
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(ValueError, match=r"0000\.nii\.gz"):
            run.image("conv1", 0)


def test_traces_are_read_without_pickle(tmp_path):
    with open_run(tmp_path) as run:
        run.write_units([unit()], affine=AFFINE)
        np.savez(run.traces_path("conv1"), channel=np.array([{"evil": 1}], object))
        with pytest.raises(ValueError, match="allow_pickle=False"):
            run.traces("conv1")


# One writer

HOLDER = """
import sys
from featvis_jax.results import store
run = store.open_run(sys.argv[1], {"seed": 7}, environment={})
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_holds_the_run(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(files.RunInUse, match=f"written by process {holder.pid} on .*--out"):
            store.open_run(tmp_path / "out", {"seed": 7}, environment={})
        assert store.read_run(tmp_path / "out").configuration == {"seed": 7}
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    # The kernel's lock died with the process: nothing has to be cleaned up by hand.
    store.open_run(tmp_path / "out", {"seed": 7}, environment={}).close()


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"SLURM_JOB_ID": "17"}, " (Slurm job 17)"),
        (
            {"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"},
            " (Slurm job 17_3)",
        ),
        ({}, ""),
    ],
)
def test_who_holds_a_run_is_found_in_the_queue(tmp_path, monkeypatch, environment, job):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = f"process {os.getpid()} on {socket.gethostname()}{job}"
    with open_run(tmp_path), pytest.raises(files.RunInUse, match=re.escape(f"by {told}. Wait")):
        open_run(tmp_path)


def test_the_lock_holds_within_a_process_until_the_run_is_closed(tmp_path):
    with open_run(tmp_path) as run:
        with pytest.raises(files.RunInUse):
            open_run(tmp_path)
        with pytest.raises(files.RunInUse):
            open_run(tmp_path)
    run.close()
    open_run(tmp_path).close()


def test_a_failed_start_gives_the_lock_back(tmp_path):
    open_run(tmp_path).close()
    for _ in range(2):
        with pytest.raises(manifest.ConfigurationMismatch):
            open_run(tmp_path, steps=6)


def test_a_closed_run_writes_nothing(tmp_path):
    run = open_run(tmp_path)
    run.close()
    before = content(tmp_path)
    with pytest.raises(ValueError, match="is closed"):
        run.write_units([unit()], affine=AFFINE)
    assert content(tmp_path) == before


# Writes that fail


@pytest.mark.parametrize("operation", ["write", "fsync", "replace"])
@pytest.mark.parametrize("calls", [1, 3, 6])
def test_a_full_disk_leaves_earlier_units_whole(tmp_path, monkeypatch, operation, calls):
    run = open_run(tmp_path)
    run.write_units([unit(channel=channel) for channel in range(2)], affine=AFFINE)
    before = content(tmp_path)
    left = [calls]
    sound = getattr(os, operation)

    def fail(*arguments, **options):
        left[0] -= 1
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return sound(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, operation, fail)
        with pytest.raises(OSError, match=r"cannot .*No space left.*Make room") as error:
            run.write_units([unit(channel=2), unit(channel=3), unit("b")], affine=AFFINE)
    assert error.value.errno == errno.ENOSPC
    after = content(tmp_path)
    assert {name: after[name] for name in before if "traces" not in name} == {
        name: before[name] for name in before if "traces" not in name
    }
    assert run.finished("conv1") == {0, 1}
    for channel in range(2):
        np.testing.assert_array_equal(
            run.traces("conv1").objective[channel], unit(channel=channel).objective
        )
    assert not list(tmp_path.rglob("*.partial"))
    run.write_units([unit(channel=2), unit(channel=3)], affine=AFFINE)
    assert run.finished("conv1") == {0, 1, 2, 3}
    run.close()


# Units that cannot be stored


def test_a_unit_is_stored_once(tmp_path):
    with open_run(tmp_path) as run:
        run.write_units([unit()], affine=AFFINE)
        before = content(tmp_path)
        for results in ([unit()], [unit(channel=1), unit(channel=1)]):
            with pytest.raises(ValueError, match=r"done already or come twice: \[\('conv1', "):
                run.write_units(results, affine=AFFINE)
        run.write_units([], affine=AFFINE)
        assert content(tmp_path) == before


def test_traces_of_one_layer_have_one_length(tmp_path):
    with open_run(tmp_path) as run:
        run.write_units([unit()], affine=AFFINE)
        before = content(tmp_path)
        with pytest.raises(ValueError, match=r"layer 'conv1': traces.*Pad"):
            run.write_units([unit(channel=1, steps=9)], affine=AFFINE)
        assert content(tmp_path) == before
        run.write_units([unit("conv2", steps=9)], affine=AFFINE)


def test_a_sheet_needs_a_finished_channel(tmp_path):
    with open_run(tmp_path) as run, pytest.raises(ValueError, match="no finished channel"):
        run.write_sheet("conv1")


@pytest.mark.parametrize("change", [{"status": "fine"}, {"channel": -1}, {"layer": ""}])
def test_a_row_that_means_nothing_is_refused(change):
    with pytest.raises(ValueError, match=r"expected|empty name"):
        unit(**change)


# Names


@pytest.mark.parametrize(
    "layer",
    ["conv3/relu", "a/b:../c", "</script>", "..", "/etc/passwd", "a\tb\nc\\n", "NUL", "con.v", "~",
     "n/a", "Ünïcode", "x" * 300, "X" * 300, "a\x0bb\u2028c\x85d"],
)  # fmt: skip
def test_layers_of_any_name_are_stored_inside_the_run(tmp_path, layer):
    with open_run(tmp_path / "out") as run:
        run.write_units([unit(layer)], affine=AFFINE)
        run.write_sheet(layer)
    view = store.read_run(tmp_path / "out")
    assert view.records() == [unit(layer).record]
    assert view.finished(layer) == {0}
    np.testing.assert_array_equal(view.image(layer, 0)[0], unit(layer).image)
    assert view.traces(layer).channel.tolist() == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(content(tmp_path / "out")) == 9

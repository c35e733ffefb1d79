"""The flags that name a cohort: each wrong one is refused by its name, before any work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from featvis_jax.data.synthetic import write_synthetic_cohort

REPOSITORY = Path(__file__).resolve().parents[2]
# In a process of its own, since it reads the cohorts that the flags name.
READ_COHORTS = """
import contextlib, io, json, sys
from featvis_jax.commands import launch
from featvis_jax.runs import cohorts

def read(options):
    cohort = cohorts.cohort_of(options)
    cache = cohorts.cohort_volumes_directory(cohort, options)
    print(json.dumps([len(cohort.subjects), str(cohort.table), str(cache)]))

command = launch.Command("read", "", (), cohorts.CohortOptions, read)
outcomes = []
for arguments in json.load(sys.stdin):
    output, errors, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            launch.run(command, ["launcher", *arguments])
        except SystemExit as stop:
            status = stop.code
    outcomes.append((status, output.getvalue(), errors.getvalue()))
json.dump(outcomes, sys.stdout)
"""

REFUSED = {
    "missing": (["--cohort={place}/gone"], ["--cohort: ", "{place}/gone: there is no such file"]),
    "text": (["--cohort={place}/a.txt"], ["--cohort: ", "{place}/a.txt", "participant_id"]),
    "a scan": (
        ["--cohort={place}/small/sub-0001/anat/sub-0001_desc-synthetic_T1w.nii.gz"],
        ["--cohort: ", "a scan by its name, not a cohort; give a folder with participants.tsv"],
    ),
    "an empty folder": (["--cohort={place}/empty"], ["--cohort: {place}/empty: an empty folder"]),
    "header alone": (["--cohort={place}/nobody"], ["1 problem", "no row below its first line"]),
    "pointer": (["--cohort={place}/pointer.tsv"], ["--cohort: ", "lfs pull --include=pointer.tsv"]),
    "no match": (
        ["--cohort={place}/small", "--pattern=*.nii"],
        ["--cohort: {place}/small: 5 problems", "line 2", "'*.nii'", "another pattern"],
    ),
    "pattern outside": (
        ["--cohort={place}/small", "--pattern=../*"],
        ["pattern='../*'", "relative to {place}/small"],
    ),
    "pattern no glob": (
        ["--cohort={place}/small", "--pattern=**x"],
        ["pattern='**x' is no glob"],
    ),
    "pattern of nothing": (["--pattern=*.nii"], ["--pattern=*.nii", "--cohort=synthetic"]),
    "fine": (["--synthetic_voxel_size_mm=0.5"], ["--synthetic_voxel_size_mm=0.5", "[1.0, 16.0]"]),
    "coarse": (["--synthetic_voxel_size_mm=99"], ["--synthetic_voxel_size_mm=99", "[1.0, 16.0]"]),
    "no size": (["--synthetic_voxel_size_mm=nan"], ["--synthetic_voxel_size_mm=nan", "1 to 16"]),
    "no share": (["--synthetic_group_difference=nan"], ["--synthetic_group_difference=nan"]),
    "over all": (["--synthetic_group_difference=2"], ["--synthetic_group_difference=2", "1.0"]),
    "few": (["--synthetic_subjects=4"], ["--synthetic_subjects=4", "5"]),
    "cache in a file": (["--cache={place}/a.txt"], ["--cache={place}/a.txt", "may write"]),
    "nobody's cache": (["--cache=~nobody-of-this-name/x"], ["--cache=~nobody-of-this-name/x"]),
}
READ = {
    "synthetic": [],
    "folder": ["--cohort={place}/small"],
    "pattern": ["--cohort={place}/small", "--pattern=sub-*/anat/*synthetic_T1w.nii.gz"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("flags")
    write_synthetic_cohort(place / "small", num_subjects=5, voxel_size_mm=16)
    (place / "a.txt").write_text("no table")
    (place / "empty").mkdir()
    (place / "nobody").mkdir()
    (place / "nobody" / "participants.tsv").write_text("participant_id\tsex\n")
    (place / "pointer.tsv").write_text("version https://git-lfs.github.com/spec/v1\n")
    for name in ("unlisted", "unoriented"):
        shutil.copytree(place / "small", place / name)
    for scan in (place / "unoriented").glob("*/anat/*.nii.gz"):
        image = nibabel.load(scan)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None), scan)
    table = place / "unlisted" / "participants.tsv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:4]))
    return place


@pytest.fixture(scope="module")
def outcomes(place: Path) -> dict[str, tuple[int, str, str]]:
    usual = ["--synthetic_subjects=5", "--synthetic_voxel_size_mm=16", f"--cache={place / 'cache'}"]
    commands = {name: arguments for name, (arguments, _) in REFUSED.items()} | READ
    commands["unlisted"] = ["--cohort={place}/unlisted"]
    commands["unoriented"] = ["--cohort={place}/unoriented"]
    filled = [
        [*usual, *(argument.format(place=place) for argument in arguments)]
        for arguments in commands.values()
    ]
    ran = subprocess.run(
        [sys.executable, "-c", READ_COHORTS],
        cwd=REPOSITORY,
        input=json.dumps(filled),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return dict(zip(commands, json.loads(ran.stdout), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_flag_is_refused_by_its_name(outcomes, place, name):
    status, output, errors = outcomes[name]
    assert status == 2, errors
    assert not output
    assert errors.startswith("Error: ")
    assert errors.count("Error: ") == 1
    for told in REFUSED[name][1]:
        assert told.format(place=place) in errors


def test_scans_without_a_row_are_told_once(outcomes, place):
    status, output, errors = outcomes["unlisted"]
    assert status == 0, errors
    assert json.loads(output)[0] == 3
    (line,) = errors.splitlines()
    assert line.startswith(f"--cohort={place / 'unlisted'}: 3 participants; left out because")
    assert "participants.tsv has no row for them: 2 of the scans" in line
    assert "sub-0004" in line
    assert "sub-0005" in line
    assert outcomes["folder"][2] == ""


def test_scans_that_tell_no_orientation_are_told_once(outcomes, place):
    status, _, errors = outcomes["unoriented"]
    assert status == 0, errors
    (line,) = errors.splitlines()
    assert "5 scans do not say how they are oriented" in line
    assert "assumed to be stored from right to left, back to front and bottom to top" in line


@pytest.mark.parametrize("name", READ)
def test_a_right_one_names_a_cohort_and_a_cache_of_its_own(outcomes, place, name):
    status, output, errors = outcomes[name]
    assert status == 0, errors
    num_subjects, table, cache = json.loads(output)
    assert num_subjects == 5
    folder = place / "small" if name != "synthetic" else place / "cache"
    assert Path(table).is_relative_to(folder)
    assert Path(cache).is_relative_to(place / "cache" / "volumes")
    others = {json.loads(outcomes[other][1])[2] for other in READ if other != name}
    assert cache not in others

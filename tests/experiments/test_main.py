"""The program ``featvis``: what it says of itself, and the commands that it starts."""

import importlib
import subprocess
import sys

import pytest

import featvis_jax
from featvis_jax.commands import help, launch, main
from featvis_jax.commands.launch import Command
from tests.experiments.conftest import REPOSITORY


@pytest.fixture
def started(monkeypatch):
    """The commands that the program would have started, with their flags."""
    found = []
    monkeypatch.setattr(launch, "start", lambda command: found.append((command.name, sys.argv)))
    return found


@pytest.fixture
def featvis(monkeypatch, capsys, started):
    """Runs the program here; gives its exit status and what it printed and complained of."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["featvis", *arguments])
        status = None
        try:
            main.main()
        except SystemExit as stop:
            status = stop.code
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def test_what_there_is_is_told_in_few_lines(featvis):
    status, told, _ = featvis()
    assert status is None
    lines = told.splitlines()
    assert len(lines) <= len(main.COMMANDS) + 4 and max(map(len, lines)) <= 80
    for name, entry in main.COMMANDS.items():
        assert any(name in line and entry.summary in line for line in lines)
    assert featvis("--help")[1] == told


def test_telling_what_there_is_imports_no_jax():
    heavy = "{'jax', 'flax', 'optax', 'orbax', 'nibabel'}"
    code = (
        "import sys; sys.argv = ['featvis']\n"
        "from featvis_jax.commands import main; main.main()\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_table_says_what_the_command_says(name):
    entry = main.COMMANDS[name]
    command = importlib.import_module(entry.module).COMMAND
    assert isinstance(command, Command)
    assert (command.name, command.summary) == (name, entry.summary)
    launcher = importlib.import_module(f"experiments.{name}")
    assert launcher.COMMAND is command


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_of_a_command_fits_on_a_screen_and_begins_with_its_name(name):
    told = help.text(importlib.import_module(main.COMMANDS[name].module).COMMAND)
    assert told.startswith(f"featvis {name}: ")
    assert len(told.splitlines()) <= 24
    assert all(len(line) <= 80 for line in told.splitlines())


def test_the_version_is_told(featvis):
    assert featvis("--version")[1] == f"featvis {featvis_jax.__version__}\n"


def test_an_unknown_name_gets_the_nearest_one(featvis, started):
    status, told, errors = featvis("vizualise", "--model=m")
    assert (status, told) == (2, "")
    assert "featvis vizualise: there is no such command. Did you mean visualize?" in errors
    status, _, errors = featvis("qqq")
    assert status == 2 and "Did you mean" not in errors and "gallery" in errors
    assert not started


def test_a_command_gets_the_flags_behind_its_name(featvis, started):
    assert featvis("gallery", "--run=here", "--help") == (None, "", "")
    assert started == [("gallery", ["featvis", "--run=here", "--help"])]


def test_layers_are_listed(drive):
    listed, refused = drive("layers", [["--model=square-lesion"], ["--model=nobody"]])
    lines = listed["output"].splitlines()
    assert lines[0].split()[:2] == ["layer", "operator"]
    assert [line.split()[0] for line in lines[1:3]] == ["conv1", "pool1"]
    assert refused["status"] == 2
    assert refused["errors"].startswith("Error: --model=nobody: there is no such model in the zoo")

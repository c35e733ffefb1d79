"""What the pages in docs/ tell a reader to type does what they say."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str, containing: str) -> list[list[str]]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if containing in line]


@pytest.mark.optax  # A reader's JAX promotes dtypes.
def test_the_engine_runs_as_its_page_says(capsys):
    for block in blocks("engine.md", "python"):
        exec(compile(block, "docs/engine.md", "exec"), {})
    assert capsys.readouterr().out == "[('stem', (32, 32, 8)), ('logits', (2,))]\n"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Runs the commands of a page in a directory where the reader has saved its files."""
    directory = tmp_path_factory.mktemp("reader")
    for block in blocks("your-network.md", "python"):
        (directory / block.splitlines()[0].removeprefix("# ")).write_text(block, encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "XDG_CACHE_HOME": str(directory / "cache"),
    }

    def run(arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(["brain_age.py"])
    return directory, run


def test_a_network_of_pytorch_is_in_the_gallery_after_two_commands(reader):
    directory, run = reader
    page = "your-network.md"
    install, visualize = commands(page, ".[torch]") + commands(page, "--layer=features.1.0 ")
    assert install[:4] == ["python", "-m", "pip", "install"]
    run([*visualize[1:], "--steps=4"])
    assert (directory / "runs/mine/gallery/index.html").is_file()
    assert len(list((directory / "runs/mine/images/features.1.0").glob("*.nii.gz"))) == 16
    (list_layers,) = commands(page, "--list_layers")
    listed = run(list_layers[1:])
    for name in ("features.1.0", "features.1", "features.2.3", "head"):
        assert re.search(rf"^{re.escape(name)} ", listed, re.MULTILINE), listed


def test_an_age_rises_and_falls_by_the_sign(reader):
    directory, run = reader
    change = []
    for command in commands("your-network.md", "--layer=head"):
        run([*command[1:], "--steps=8", "--nogallery"])
        out = command[-1].removeprefix("--out=")
        head, row = (directory / out / "units.tsv").read_text().splitlines()
        row = dict(zip(head.split("\t"), row.split("\t"), strict=True))
        change.append(float(row["final_objective"]) - float(row["initial_objective"]))
    assert len(change) == 2
    assert min(change) > 0

"""What the pages tell a reader to type does what they say, and their links lead somewhere."""

import ast
import functools
import importlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from featvis_jax import models
from featvis_jax.checkpoints import zoo_names
from featvis_jax.commands import flags
from featvis_jax.commands.main import COMMANDS
from featvis_jax.runs import visualize_job
from featvis_jax.runs.visualize_job import AscentOptions

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PAGES = [
    *sorted(DOCS.rglob("*.md")),
    *(REPOSITORY / name for name in ("README.md", "BUILD.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    REPOSITORY / "featvis_jax/zoo/README.md",
]


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str, containing: str) -> list[list[str]]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if containing in line]


def installed(command: list[str]) -> list[str]:
    """Arguments of Python for a command line of ``featvis``, which need not be installed."""
    assert command[0] == "featvis"
    return ["-m", "featvis_jax.commands.main", *command[1:]]


class Quickly(ast.NodeTransformer):
    """Has ``fv.visualize(...)`` take few steps, and none where a page makes no use of the units."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        if is_ascent(node.value):
            node.value.func = ast.Name("check", ast.Load())
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        if is_ascent(node):
            node.keywords.append(ast.keyword("steps", ast.Constant(4)))
        return node


def is_ascent(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "fv.visualize"


def check(model, layer, *, channels="all", **options):
    visualize_job.job(model, AscentOptions(layer=(layer,), channels=channels, **options))


@pytest.mark.optax  # A reader's JAX promotes dtypes.
@pytest.mark.parametrize("page", ["first-gallery.md", "recipes.md"])
def test_the_code_of_a_page_runs_from_its_first_block_to_its_last(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"check": check}
    for number, block in enumerate(blocks(page, "python"), start=1):
        tree = ast.fix_missing_locations(Quickly().visit(ast.parse(block)))
        exec(compile(tree, f"docs/{page}, block {number}", "exec"), names)
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "units.tsv").is_file()
    assert (run / "images/conv3/0003.nii.gz").is_file()


@pytest.mark.optax
def test_the_engine_runs_as_its_page_says(capsys):
    for block in blocks("engine.md", "python"):
        exec(compile(block, "docs/engine.md", "exec"), {})
    assert capsys.readouterr().out == "[('stem', (32, 32, 8)), ('logits', (2,))]\n"


def command_lines() -> list:
    found = {}
    for page in PAGES:
        for command in commands(str(page), "featvis "):
            if command[0] == "featvis" and len(command) > 2:
                found[shlex.join(command[1:])] = page
    return [pytest.param(text, id=f"{page.stem}-{text}") for text, page in found.items()]


@functools.cache
def shipped(name):
    return models.load(name)


@pytest.mark.parametrize("text", command_lines())
def test_a_command_of_a_page_is_one_that_can_begin(text):
    name, *rest = shlex.split(text)
    command = importlib.import_module(COMMANDS[name].module).COMMAND
    options = flags.parse(command.options, ["featvis", *rest], required=command.required)
    names_what_a_reader_has = re.search(r"DIR|SCAN|\.(npy|npz|nii\.gz)\b", text)
    if name == "visualize" and options.model in zoo_names() and not names_what_a_reader_has:
        visualize_job.job(shipped(options.model), options)


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
    run([*installed(visualize), "--steps=4"])
    assert (directory / "runs/mine/gallery/index.html").is_file()
    assert len(list((directory / "runs/mine/images/features.1.0").glob("*.nii.gz"))) == 16
    (layers,) = commands(page, "featvis layers")
    listed = run(installed(layers))
    for name in ("features.1.0", "features.1", "features.2.3", "head"):
        assert re.search(rf"^{re.escape(name)} ", listed, re.MULTILINE), listed


def test_an_age_rises_and_falls_by_the_sign(reader):
    directory, run = reader
    change = []
    for command in commands("your-network.md", "--model=mine.py:network --layer=head"):
        run([*installed(command), "--steps=8", "--nogallery"])
        out = command[-1].removeprefix("--out=")
        head, row = (directory / out / "units.tsv").read_text().splitlines()
        row = dict(zip(head.split("\t"), row.split("\t"), strict=True))
        change.append(float(row["final_objective"]) - float(row["initial_objective"]))
    assert len(change) == 2
    assert min(change) > 0


def test_a_class_at_a_voxel_is_as_probable_as_the_objective_says(reader):
    directory, run = reader
    found = {}
    _, *others = commands("your-network.md", "--model=lesions.py:network")
    for command in others:
        run([*installed(command), "--steps=8", "--nogallery"])
        out = command[-1].removeprefix("--out=")
        head, row = (directory / out / "units.tsv").read_text().splitlines()
        row = dict(zip(head.split("\t"), row.split("\t"), strict=True))
        assert float(row["final_objective"]) > float(row["initial_objective"])
        image = nibabel.load(directory / out / "images/head/0002.nii.gz").get_fdata()
        np.save(directory / "image.npy", image.astype(np.float32))
        log_probabilities = run(["-c", PROBABILITIES]).split()
        background, _, lesion = map(float, log_probabilities)
        found[out] = float(row["final_objective"]), lesion - background
    assert list(found) == ["runs/no-lesion", "runs/lesion-or-background"]
    stated, log_odds = found["runs/lesion-or-background"]
    assert stated == pytest.approx(log_odds, abs=1e-3)
    assert log_odds > found["runs/no-lesion"][1]


# What a reader's own PyTorch says of a picture.
PROBABILITIES = """
import lesions, numpy, torch
module, _ = lesions.network()
image = torch.from_numpy(numpy.load("image.npy"))
print(*module(image[None, None]).log()[0, :, 12, 14, 12].tolist())
"""


def test_a_published_network_is_in_the_gallery_and_measured(reader, rng):
    directory, run = reader
    try:
        importlib.metadata.distribution("deepbet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("deepbet is not installed")
    page = "your-network.md"
    (line,) = re.findall(r"^MODEL=.*$", "\n".join(blocks(page, "sh")), re.MULTILINE)
    shell = f'python() {{ "{sys.executable}" "$@"; }}; {line}; echo "$MODEL"'
    model = subprocess.check_output(["bash", "-c", shell], text=True).strip()
    people = directory / "people"
    for number in range(4):
        scan = people / f"sub-{number}/anat/sub-{number}_T1w.nii.gz"
        scan.parent.mkdir(parents=True)
        places = np.indices((32, 32, 32)) - 15.5 - rng.normal(size=(3, 1, 1, 1))
        head = np.float32(np.linalg.norm(places, axis=0) < 10) * rng.uniform(0.6, 1.0)
        nibabel.save(nibabel.Nifti1Image(head, np.diag([5.0, 5, 5, 1])), scan)
    rows = "".join(f"sub-{number}\n" for number in range(4))
    (people / "participants.tsv").write_text("participant_id\n" + rows)
    # A smaller grid, two channels of one layer, and few steps; everything else as the page has it.
    words = {"$MODEL": model, "SCAN.nii.gz": str(scan), "DIR": str(people), "64,64,64": "32,32,32"}
    visualize, trust = commands(page, "runs/deepbet")
    for command, more in ((visualize, ["--channels=0:2", "--steps=2"]), (trust, [])):
        arguments = [word for word in installed(command) if not re.search("=down[12]", word)]
        for word, given in words.items():
            arguments = [each.replace(word, given) for each in arguments]
        run([*arguments, *more])
    assert len(list((directory / "runs/deepbet/images/down0").glob("*.nii.gz"))) == 2
    assert len((directory / "runs/deepbet/trust.tsv").read_text().splitlines()) == 3
    assert (directory / "runs/deepbet/gallery/index.html").is_file()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


@functools.cache
def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page ends with."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_and_pictures_are_where_a_page_looks_for_them(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_table_of_contents():
    listed = set()
    for page in PAGES:
        for tree in re.findall(r"^```{toctree}\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in tree.splitlines():
                name = re.sub(r".*<(.*)>", r"\1", line)
                if name and not name.startswith(":"):
                    listed.add((page.parent / f"{name}.md").resolve())
    assert listed == {page.resolve() for page in PAGES} - {DOCS / "index.md"}


@pytest.mark.parametrize(
    "page", ["extending.md", "how-it-works.md", "../CONTRIBUTING.md", "cluster.md"]
)
def test_files_that_a_page_names_are_there_and_have_what_it_says(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:docs|experiments|featvis_jax|tests)/[^`\s]*)`", text):
        if "NAME" not in name:
            assert (REPOSITORY / name).exists(), name
    for name, path in re.findall(r"`(\w+)` in\s+`(\w[\w/]*/\w+\.py)`", text):
        assert re.search(rf"\b{name}\b", (REPOSITORY / path).read_text()), f"{name} in {path}"


def test_ten_questions_are_answered_in_two_hops_from_the_readme():
    assert "](docs/extending.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(
        r"^\| question \| answer \|\n\|---\|---\|\n((?:\|.*\n)+)",
        (DOCS / "extending.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    answers = [line.split("|")[2] for line in table.splitlines()]
    assert len(answers) == 10
    assert all("`featvis_jax/" in answer or "](#" in answer for answer in answers)

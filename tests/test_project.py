"""The promises of the tree itself: packaging, dependencies, docstrings, signatures and words."""

import ast
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zlib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import featvis_jax
from featvis_jax import checkpoints, models
from featvis_jax.zoo import ONLY_IN_CLONES

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARY = sorted((REPOSITORY / "featvis_jax").rglob("*.py"))
LAUNCHERS = sorted((REPOSITORY / "experiments").rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(file_name: str) -> list[Requirement]:
    """The requirements a file lists, without its comments and the files it includes."""
    lines = (REPOSITORY / file_name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def canonical(name: str) -> str:
    """A distribution's name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def syntax_tree(path: Path) -> ast.Module:
    """The parsed module."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def relative(path: Path) -> str:
    """The path as a reader of the tree names it; also the name of a parametrized test."""
    return path.relative_to(REPOSITORY).as_posix()


def imported_packages(paths: list[Path]) -> set[str]:
    """Names of the top-level packages that the modules import anywhere in their code."""
    names = set()
    for path in paths:
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"experiments", "featvis_jax"}


def test_requirements_file_is_the_only_list_of_runtime_dependencies():
    assert "dependencies" in PROJECT["project"]["dynamic"]
    assert "dependencies" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"] == {
        "file": ["requirements.txt"]
    }


@pytest.mark.parametrize(
    "file_name", ["requirements.txt", "requirements-dev.txt", "requirements-docs.txt"]
)
def test_every_requirement_has_a_lower_bound_and_an_upper_one_only_for_a_reason(file_name):
    lines = (REPOSITORY / file_name).read_text(encoding="utf-8").splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if not line or line.startswith(("#", "-r")):
            continue
        operators = sorted(specifier.operator for specifier in Requirement(line).specifier)
        assert operators in ([">="], ["<", ">="]), f"{file_name}: {line}"
        assert "<" not in operators or before.startswith("#"), f"{file_name}: no reason for {line}"


def test_requirements_are_sorted_and_named_once():
    names = [canonical(requirement.name) for requirement in requirements("requirements.txt")]
    assert names == sorted(set(names))


def test_development_includes_the_runtime_which_has_no_second_framework():
    assert "-r requirements.txt" in (REPOSITORY / "requirements-dev.txt").read_text().splitlines()
    listed = {canonical(requirement.name) for requirement in requirements("requirements.txt")}
    assert not {"torch", "tensorflow"} & listed


def test_every_imported_package_is_a_requirement():
    distributions = importlib.metadata.packages_distributions()
    required = {canonical(requirement.name) for requirement in requirements("requirements.txt")}
    extras = PROJECT["project"]["optional-dependencies"].values()
    optional = {canonical(Requirement(line).name) for extra in extras for line in extra}
    for package in sorted(imported_packages(LAUNCHERS) | imported_packages(LIBRARY)):
        # Several distributions may share a package: jax and its plugins for accelerators do.
        names = {canonical(name) for name in distributions.get(package, [package])}
        # Whoever uses an optional one does without it, and says so.
        assert (required | optional) & names, f"{package} is imported and not in requirements.txt"


def test_version_has_one_place():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "featvis_jax.__version__"
    }
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", featvis_jax.__version__)


def test_license_is_apache():
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "The featvis_jax authors" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def packaged(path: Path) -> bool:
    """Whether an installed package has a file of the library."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["featvis_jax"]
    name = path.relative_to(REPOSITORY / "featvis_jax").as_posix()
    held = any(fnmatch(name, pattern.replace("**/*", "*")) for pattern in patterns)
    return path.suffix == ".py" or held


LIBRARY_FILES = [
    path
    for path in sorted((REPOSITORY / "featvis_jax").rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
]


def test_package_data_holds_every_file_of_the_package_but_the_models_that_are_left_out():
    for path in LIBRARY_FILES:
        left_out = not set(path.parts).isdisjoint(ONLY_IN_CLONES)
        assert packaged(path) is not left_out, relative(path)
        # setuptools leaves hidden files out of a pattern with stars.
        hidden = [part for part in path.relative_to(REPOSITORY).parts if part.startswith(".")]
        assert not hidden, relative(path)


def test_the_wheel_is_small_and_holds_the_library_alone():
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["featvis_jax*"]
    size = sum(len(zlib.compress(path.read_bytes())) for path in LIBRARY_FILES if packaged(path))
    assert size < 7.5e6  # The names of the files come on top: a wheel has at most 8 MB.


@pytest.mark.parametrize("name", ONLY_IN_CLONES)
def test_a_model_that_an_installation_lacks_is_named_as_such(name, monkeypatch):
    assert name in checkpoints.zoo_names()
    there = [each for each in checkpoints.zoo_names() if each not in ONLY_IN_CLONES]
    for module in (checkpoints, models):
        monkeypatch.setattr(module, "zoo_names", lambda: there)
    with pytest.raises(FileNotFoundError, match=rf"{name}.*installation lacks.*-e CLONE"):
        models.load(name)


@pytest.mark.parametrize("path", LIBRARY + LAUNCHERS + TESTS, ids=relative)
def test_every_module_has_a_docstring(path):
    assert ast.get_docstring(syntax_tree(path)), f"{relative(path)} has no docstring"


SECTION = re.compile(r"(?:Args|Attributes|Example|Raises|References|Returns|Yields):")


def docstrings(path: Path) -> list[tuple[int, str]]:
    """The docstrings of a file without their indentation, each with the number of its line."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [node for node in ast.walk(syntax_tree(path)) if isinstance(node, kinds)]
    texts = [(getattr(node, "lineno", 1), ast.get_docstring(node)) for node in found]
    return [(line, text) for line, text in texts if text]


@pytest.mark.parametrize("path", LIBRARY + LAUNCHERS, ids=relative)
def test_docstrings_have_one_style(path):
    for number, text in docstrings(path):
        section, place = "", f"{relative(path)}:{number}"
        for line in text.splitlines():
            indent = len(line) - len(line.lstrip())
            if line and not indent:
                opens = SECTION.fullmatch(line) is not None
                # What the section begins with decides its indentation.
                section, begins = line if opens else "", opens
                assert not line.startswith(">>>"), f"{place}: examples go under Example:"
            elif section and line:
                assert not begins or indent == 2, f"{place}: {section} is indented by {indent}"
                begins = False
                if indent == 2 and section in ("Args:", "Attributes:", "Raises:"):
                    entry = re.match(r"\*{0,2}[\w., ]+: (?![a-z]{2,}(?:[ ,.;]|$))", line[2:])
                    assert entry, f"{place}: expected `name: A sentence`: {line.strip()}"


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_public_functions_take_the_key_first_and_options_by_keyword(path):
    for node in syntax_tree(path).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            positional = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            place = f"{relative(path)}:{node.lineno}: {node.name}"
            assert not node.args.defaults, f"{place}: options with a default go after the *"
            assert "key" not in positional[1:], f"{place}: the key is the first argument"


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a module, methods and inner ones too."""
    kinds = ast.FunctionDef, ast.AsyncFunctionDef
    return [node for node in ast.walk(syntax_tree(path)) if isinstance(node, kinds)]


def has_reason(text: str, form: str) -> bool:
    """Whether a comment says why a limit is passed: '# Long: ...', '# Many arguments: ...'."""
    return re.search(rf"^ *# {form}: \S", text, re.MULTILINE) is not None


@pytest.mark.parametrize("path", LIBRARY + LAUNCHERS, ids=relative)
def test_a_module_has_at_most_400_lines_or_says_why(path):
    text = path.read_text(encoding="utf-8")
    body = syntax_tree(path).body
    head = "\n".join(text.splitlines()[: body[1].lineno]) if len(body) > 1 else text
    assert len(text.splitlines()) <= 400 or has_reason(head, "Long")


@pytest.mark.parametrize("path", LIBRARY + LAUNCHERS, ids=relative)
def test_a_function_has_at_most_60_lines_and_8_arguments_or_says_why(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in functions(path):
        place = f"{relative(path)}:{node.lineno}: {node.name}"
        # What stands in it, and the line above.
        text = "\n".join(lines[max(node.lineno - 2, 0) : node.end_lineno])
        first = node.body[0]
        told = ast.get_docstring(node) is not None
        length = node.end_lineno - node.lineno + 1
        length -= first.end_lineno - first.lineno + 1 if told else 0
        assert length <= 60 or has_reason(text, "Long"), f"{place} has {length} lines"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(each.arg not in ("self", "cls") for each in arguments)
        assert count <= 8 or has_reason(text, "Many arguments"), f"{place} has {count} arguments"


def test_the_large_programs_that_the_tests_of_launchers_look_for_are_functions_of_the_library():
    conftest = syntax_tree(REPOSITORY / "tests" / "experiments" / "conftest.py")
    (names,) = (
        ast.literal_eval(node.value)
        for node in conftest.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LARGE_PROGRAMS"
    )
    functions = {
        node.name
        for path in LIBRARY
        for node in ast.walk(syntax_tree(path))
        if isinstance(node, ast.FunctionDef)
    }
    assert names <= functions, "an old name would never be found, and so never be missed"


def test_importing_the_library_makes_no_array_and_warns_of_nothing():
    modules = [
        relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in LIBRARY
    ]
    # An array needs a device, and there is none on a platform that does not exist.
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(f"import {name}" for name in modules)],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "no_such_platform"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not result.stdout
    assert not result.stderr


# Each takes long to import, or is what only some need.
WHEN_USED = ("grain", "jinja2", "matplotlib", "nilearn", "onnx", "orbax", "sklearn", "torch")


@pytest.mark.parametrize("module", ["featvis_jax", "featvis_jax.models", "featvis_jax.runs.units"])
def test_what_takes_long_to_import_is_imported_when_it_is_used(module):
    tell = f"import sys, {module}; print(*(sys.modules.keys() & {set(WHEN_USED)}))"
    told = subprocess.run(
        [sys.executable, "-c", tell], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert not told.stdout.strip()


def test_a_version_has_its_section_in_the_changelog_and_the_newest_is_the_one_to_cite():
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (.*)$", text, re.MULTILINE)
    form = re.compile(r"\[(\d+\.\d+\.\d+)\] - (unreleased|\d{4}-\d\d-\d\d)")
    sections = [form.fullmatch(each) for each in found]
    assert all(sections), found
    versions = [section[1] for section in sections if section is not None]
    assert versions == sorted(versions, key=Version, reverse=True)
    assert Version(featvis_jax.__version__).base_version in versions
    assert not any("unreleased" in each for each in found[1:])
    (newest, *_) = (section[1] for section in sections if section and section[2] != "unreleased")
    cited = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", cited, re.MULTILINE) == [newest]


def test_commits_are_checked_by_what_make_lint_runs():
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    recipe = re.search(
        r"^lint:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE
    )
    assert recipe is not None
    lint = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert re.findall(r"^ +entry: (.*)$", hooks, re.MULTILINE) == lint


def test_the_container_installs_as_the_guide_says():
    text = (REPOSITORY / "apptainer.def").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^%(\w+)\n((?:    .*\n)+)", text, re.MULTILINE))
    place, *install = [line.strip() for line in parts["post"].splitlines()]
    assert place == "cd /featvis_jax"
    guide = (REPOSITORY / "BUILD.md").read_text(encoding="utf-8")
    assert install
    assert all(f"`{line}`" in guide for line in install)
    copied = [name for line in parts["files"].splitlines() for name in line.split()[:-1]]
    # What pyproject.toml reads while it builds.
    assert {"pyproject.toml", "requirements.txt", "README.md", "LICENSE", "featvis_jax"} <= {
        *copied
    }
    assert all((REPOSITORY / name).exists() for name in copied)


def test_every_module_of_the_reference_is_there_and_every_name_that_it_offers():
    pages = sorted((REPOSITORY / "docs/api").glob("*.md"))
    named = [
        name
        for page in pages
        for name in re.findall(r"^\.\. automodule:: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert len(named) == len(set(named))
    for name in named:
        module = importlib.import_module(name)
        for each in getattr(module, "__all__", ()):
            assert hasattr(module, each), f"{name}.{each}"


# The patterns are spelled so that they do not find themselves here.
FOREIGN_WORDS = {
    "a merge that was not finished": re.compile(r"^(<{7}|>{7}) "),
    "a package registry": re.compile(r"pypi[.]org|pythonhosted[.]org|npm[j]s|crates[.]io"),
    "a path of one machine": re.compile(r"(?<![\w.}~])/(?:home|root|tmp|work|Users|mnt|opt)/\w"),
}
WRITTEN_BY_US = {
    *("", ".cff", ".cfg", ".css", ".def", ".html", ".js", ".json", ".md", ".py", ".svg", ".toml"),
    *(".tsv", ".txt", ".yaml"),
}
NOT_OURS = {"runs", "build", "dist", "__pycache__"}


def written_files() -> list[Path]:
    """The text files of the project, without environments, results and caches."""
    files = []
    for directory, subdirectories, names in os.walk(REPOSITORY):
        subdirectories[:] = [
            name
            for name in sorted(subdirectories)
            if name not in NOT_OURS and not name.endswith(".egg-info")
            # Environments, caches and version control hide; continuous integration is ours.
            if not name.startswith(".") or name in (".ci", ".github")
        ]
        names = [name for name in names if name != ".git"]  # Of a worktree, where a path is due.
        files += [Path(directory, name) for name in sorted(names)]
    return [path for path in files if path.suffix in WRITTEN_BY_US]


@pytest.mark.parametrize("kind", FOREIGN_WORDS)
def test_no_file_has_what_belongs_to_one_machine(kind):
    found = []
    for path in written_files():
        text = path.read_text(encoding="utf-8", errors="ignore")
        for number, line in enumerate(text.splitlines(), start=1):
            if FOREIGN_WORDS[kind].search(line):
                found.append(f"{relative(path)}:{number}: {line.strip()[:80]}")
    assert not found, f"{kind} in:\n" + "\n".join(found)

"""What the pages say and what the tables hold: read off the pages, compared with units.tsv."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from featvis_jax.results.gallery import build_comparison, build_gallery
from tests.results import gallery_runs as runs

NUMBER = r"\u2212?[0-9.]+(?:e[+\u2212]?[0-9]+)?|n/a"
RUNS = {
    "channels": runs.slices,
    "volumes": runs.volumes,
    "volumes of no known place": lambda place: runs.volumes(place, affine=None),
    "variants": runs.variants,
    "variants of volumes": lambda place: runs.variants(
        place, shape=runs.VOLUME, affine=runs.MIRRORED_AFFINE
    ),
    "variants of no known place": lambda place: runs.variants(place, affine=None),
    "suppressing": runs.suppressing,
    "driving": runs.driving,
    "suppressing variants": lambda place: runs.variants(
        place, objective={"conv1": "(-1.0) * channel('conv1') + 1.0 * diversity('conv1')"}
    ),
}
SUPPRESSING = {name for name in RUNS if name.startswith("suppressing")}
UNPLACED = {name for name in RUNS if "no known place" in name}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The directory of every run, with its gallery in it."""
    root = tmp_path_factory.mktemp("built")
    for number, make in enumerate(RUNS.values()):
        build_gallery(make(root / str(number)), volumes=False)
    return {name: root / str(number) for number, name in enumerate(RUNS)}


@pytest.fixture(params=RUNS)
def run(request, built) -> tuple[str, Path, list[dict[str, str]]]:
    """A run's name, its directory and its table."""
    directory = built[request.param]
    return request.param, directory, rows_of(directory)


def rows_of(directory: Path) -> list[dict[str, str]]:
    """units.tsv, as any program reads it."""
    with open(directory / "units.tsv", newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table, dialect="excel-tab"))


def shown(text: str) -> list[float]:
    """The numbers in a text."""
    return [value(each) for each in re.findall(NUMBER, text)]


def value(text: str) -> float:
    return float("nan") if text == "n/a" else float(text.replace("\u2212", "-"))


def close(said, stored) -> bool:
    """Whether a page says what is stored, to the digits that it shows."""
    return bool(np.allclose(said, [value(each) for each in stored], rtol=1e-3, equal_nan=True))


def units_of(rows) -> dict[tuple[str, str], list[dict[str, str]]]:
    """The rows of every unit, by layer and channel."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        found.setdefault((row["layer"], row["channel"]), []).append(row)
    return found


def strongest(rows) -> dict[str, str]:
    """The row that stands for a unit."""
    return max(rows, key=lambda row: np.nan_to_num(value(row["final_objective"]), nan=-np.inf))


def unit_pages(directory: Path, rows) -> list[tuple[runs.Page, list[dict[str, str]]]]:
    """The page of every unit, found by the links of the pages above it, and the unit's rows."""
    index = runs.Page(directory / "gallery" / "index.html")
    layers = [index.target(each["href"]) for each in index.all("a") if "layers/" in each["href"]]
    found = {}
    for path in dict.fromkeys(layers):
        page = runs.Page(path)
        (layer,) = page.read("h1")
        for tile in page.all("li", class_="tile"):
            link = next(
                each["href"]
                for each in page.all("a")
                if re.fullmatch(rf".*/0*{tile['data-number']}\.html", each["href"])
            )
            found[layer, tile["data-number"]] = runs.Page(page.target(link))
    units = {(spaced(layer), channel): own for (layer, channel), own in units_of(rows).items()}
    assert set(found) == set(units)
    return [(found[name], units[name]) for name in units]


def spaced(text: str) -> str:
    """A text as a page shows it."""
    return re.sub(r"\s+", " ", text)


def test_a_unit_s_page_has_the_numbers_of_its_rows(run):
    _, directory, rows = run
    for page, own in unit_pages(directory, rows):
        both = zip(page.facts("Objective"), own, strict=True)
        for told, row in both:
            assert close(shown(told), [row["initial_objective"], row["final_objective"]])
        name = "Through the transforms" if "Through" in page.text else "Before each step"
        for told, row in zip(page.facts(name), own, strict=True):
            assert close(shown(told)[1:], [row["transformed_objective"]])
        for told, row in zip(page.facts("Intensities"), own, strict=True):
            assert close(shown(told), [row["intensity_min"], row["intensity_max"]])
        compared = [row for row in own if row["response"] != "n/a"]
        for told, row in zip(page.facts("Response"), compared, strict=True):
            assert close(shown(told)[:1], [row["response"]])
            if row["strength"] == "n/a":
                assert "does not drive it" in told
            else:
                assert close(shown(told)[1:2], [row["strength"]])
                of = "times the strongest of 240 real slices, with and without lesions"
                assert told.endswith(of)
        aimed = [row for row in own if row["target"] != "n/a"]
        for told, row in zip(page.facts("Target"), aimed, strict=True):
            assert close(shown(told), [row["target"]])
        (told,) = page.facts("Ascent")
        assert shown(told) == [float(own[0]["steps"]), float(own[0]["seed"])]


def test_a_curve_ends_at_the_number_beside_it_and_the_dots_are_the_other(run):
    _, directory, rows = run
    for page, own in unit_pages(directory, rows):
        figures = re.findall(r'<figure class="chart">.*?</figure>', page.source, re.DOTALL)
        assert len(figures) == len(own)
        for figure, row in zip(figures, own, strict=True):
            places = [float(each) for each in re.findall(r'class="grid".*? y1="([\d.]+)"', figure)]
            labels = [
                value(each) for each in re.findall(r'text-anchor="end">([^<]+)</text>', figure)
            ]
            scale = np.polyfit(places[: len(labels)], labels, 1)
            resolution = abs(scale[0]) * 0.11
            (line,) = re.findall(r'class="line" d="M([^"]+)"', figure)
            end = float(line.split("L")[-1].split()[1])
            ended = value(row["transformed_objective"])
            assert np.polyval(scale, end) == pytest.approx(ended, abs=resolution)
            dots = [float(each) for each in re.findall(r'class="dot" .*?cy="([\d.]+)"', figure)]
            ends = [value(row["initial_objective"]), value(row["final_objective"])]
            assert len(dots) == np.isfinite(ends).sum()
            for dot, stored in zip(dots, ends, strict=False):
                assert np.polyval(scale, dot) == pytest.approx(stored, abs=resolution)
            (label,) = re.findall(r'role="img" aria-label="([^"]+)"', figure)
            assert close(shown(label)[1:2], [row["transformed_objective"]])


def test_tiles_ranks_and_counts_are_those_of_units_however_many_images_they_have(run):
    name, directory, rows = run
    units = units_of(rows)
    index = runs.Page(directory / "gallery" / "index.html")
    wanted = {"variants": 3, "suppressing": 2, "driving": 5}
    asked = 3 if "variants" in name else 1
    complete = sum(len(own) == asked for own in units.values())
    total = next((n for word, n in wanted.items() if word in name), 14 if name == "channels" else 3)
    assert f"{complete} of {total} channels" in index.text
    statuses = [strongest(own)["status"] for own in units.values()]
    for status in set(statuses):
        assert f"{statuses.count(status)} {status}" in index.text
    assert ("is not finished" in index.text) == (complete < total)
    for path in sorted((directory / "gallery" / "layers").glob("*.html")):
        page = runs.Page(path)
        heading = page.read("h1")[0]
        own = {c: r for (layer, c), r in units.items() if spaced(layer) == heading}
        tiles = page.all("li", class_="tile")
        assert [tile["data-number"] for tile in tiles] == list(own)
        for tile, caption, rows_of_unit in zip(tiles, page.read("li"), own.values(), strict=True):
            best = strongest(rows_of_unit)
            assert tile["data-status"] == best["status"]
            assert np.isclose(
                value(tile["data-objective"]), value(best["final_objective"]), equal_nan=True
            )
            told = caption.split()[1:]
            assert (best["status"] in told) == (best["status"] not in ("alive", "driven"))
            if best["strength"] != "n/a":
                strength = value(told[-1].removesuffix("×"))
                assert strength == pytest.approx(value(best["strength"]), rel=0.05)
                assert tile["data-strength"] == best["strength"]
            elif best["status"] == "alive":
                assert close([value(told[0])], [best["final_objective"]])
        # Every image of every unit is on the page of its layer.
        views = page.source.count(' data-view="') // 2
        per_image = 4 if "volume" in name else 1
        assert views == per_image * sum(len(own) for own in own.values())
    for page, rows_of_unit in unit_pages(directory, rows):
        layer = rows_of_unit[0]["layer"]
        others = [strongest(own) for (name, _), own in units.items() if name == layer]
        mine = np.nan_to_num(value(strongest(rows_of_unit)["final_objective"]), nan=-np.inf)
        ahead = sum(value(row["final_objective"]) > mine for row in others)
        (told,) = page.facts("Rank in the layer")
        rank, of = shown(told)[:2]
        assert of == len(others)
        assert rank == ahead + 1 or not np.isfinite(mine)


def test_strengths_are_told_where_there_are_any(run):
    name, directory, _ = run
    said = "multiples (×) of that to the strongest of 240 real slices, with and without lesions"
    site = directory / "gallery"
    for path in (site / "index.html", site / "layers" / "conv1.html"):
        page = runs.Page(path)
        assert (said in page.text) == (name == "driving")
    assert bool(page.all("input", id="sort-strength")) == (name == "driving")
    if name == "driving":
        chosen = [each["value"] for each in page.all("input", name="status")]
        assert chosen == ["all", "driven", "weak", "noise", "uniform"]
        style = (site / "gallery.css").read_text()
        assert all(f"#status-{each}:checked" in style for each in chosen[1:])


def test_what_suppresses_is_nowhere_said_to_drive(run, built):
    name, directory, rows = run
    wrong, right = ("drives", "suppresses") if name in SUPPRESSING else ("suppresses", "drives")
    pages = runs.pages(directory / "gallery")
    for page in pages:
        said = page.text + " ".join(each["alt"] for each in page.all("img"))
        assert wrong not in said, page.path
        assert right in said, page.path
    for page, _ in unit_pages(directory, rows):
        (told,) = page.facts("Maximized")
        if name in SUPPRESSING:
            assert told.startswith("(-1.0) * channel('conv1')")
            assert "suppresses the channel" in told
    if name == "suppressing":
        assert page.facts("Image as") == ["pixels(noise=0.1)"]


def test_an_overview_speaks_of_what_was_asked(tmp_path):
    objectives = {
        "channels": {"conv1": "channel('conv1')", "conv2": "channel('conv2')"},
        "logits": {"conv1": "logit_difference('conv1')", "conv2": "2.0 * logit('conv2')"},
        "both": {"conv1": "channel('conv1')", "conv2": "(-1.0) * layer('conv2')"},
    }
    told = {
        "channels": ("What drives each channel most.", "2 of 2 channels"),
        "logits": ("What drives each logit most.", "2 of 2 logits"),
        "both": ("What each layer was asked for.", "2 of 2 units"),
    }
    for name, objective in objectives.items():
        units = [runs.unit(layer, 0) for layer in objective]
        wanted = {layer: [0] for layer in objective}
        site = build_gallery(
            runs.write_run(tmp_path / name, units, wanted=wanted, objective=objective)
        ).parent
        text = runs.Page(site / "index.html").text
        assert all(words in text for words in told[name])
    assert "What suppresses the whole layer most" in text
    page = runs.Page(site / "units" / "conv2" / "0000.html")
    assert page.read("h1") == ["conv2 whole layer"]
    assert page.all("img")[0]["alt"].startswith("Image that suppresses conv2 as a whole most")


def test_directions_go_by_their_names(tmp_path):
    pages = build_gallery(runs.directions(tmp_path / "run"), volumes=False).parent
    layer = runs.Page(pages / "layers/conv1.html")
    assert "2 of 3 directions" in layer.text
    assert "What drives each direction most" in layer.text
    captions = [text.split()[0] for text in layer.read("li")]
    assert captions == ["age", runs.HOSTILE.split()[0]]
    (first, _) = [runs.Page(pages / f"units/conv1/{number:04d}.html") for number in (0, 2)]
    assert first.read("h1") == ["conv1 direction age"]
    assert "direction age in conv1" in first.all("img")[0]["alt"]
    assert "--channels=age" in first.text
    assert first.all("a", rel="next")[0]["href"].endswith("0002.html")
    assert "2 of 3 directions" in runs.Page(pages / "index.html").text
    both = [runs.directions(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    index = build_comparison(both, out=tmp_path / "beside")
    assert runs.Page(index).read("th")[-2:] == ["age", runs.HOSTILE]


def test_what_python_gave_has_no_command(tmp_path):
    run = runs.directions(tmp_path)
    (tmp_path / "flags.txt").write_text("# direction was given in Python\n--model=m\n")
    build_gallery(run, volumes=False)
    page = runs.Page(tmp_path / "gallery/units/conv1/0000.html")
    assert "again" not in " ".join(page.read("h2"))


def test_a_comparison_says_which_run_suppresses(tmp_path):
    driven = runs.write_run(
        tmp_path / "driven", [runs.unit("conv1", 3)], wanted={"conv1": [3]}, regularization="blur"
    )
    against = runs.suppressing(tmp_path / "against", regularization="none")
    site = build_comparison([driven, against]).parent
    for name in ("index.html", "layers/conv1.html"):
        page = runs.Page(site / name)
        assert "blur none what suppresses each channel most" in page.text
        alts = [each["alt"] for each in page.all("img")]
        assert "Image that drives channel 3 of conv1 most, blur" in alts
        assert "Image that suppresses channel 3 of conv1 most, none" in alts
    page = runs.Page(site / "layers" / "conv1.html")
    captions = [shown(text)[-1:] for text in page.read("td") if re.search(NUMBER, text)]
    stored = [row for directory in (against, driven) for row in rows_of(directory.directory)]
    order = sorted(stored, key=lambda row: (int(row["channel"]), stored.index(row) < 2))
    assert np.allclose(np.ravel(captions), [value(r["final_objective"]) for r in order], rtol=1e-3)


def test_a_comparison_tells_what_strengths_are_shares_of(tmp_path):
    first, second = (runs.driving(tmp_path / name, regularization=name) for name in "ab")
    page = runs.Page(build_comparison([first, second]).parent / "layers" / "conv1.html")
    assert "multiples (×) of that to the strongest of 240 real slices" in page.text
    assert page.text.count("3.4×") == 2
    volumes = {**runs.REFERENCE, "of": "volumes"}
    third = runs.driving(tmp_path / "c", regularization="c", reference=volumes)
    page = runs.Page(build_comparison([first, third], out=tmp_path / "both"))
    assert "multiples (×) of that to its run's reference" in page.text


def test_variants_of_runs_stand_in_one_cell(tmp_path):
    three = runs.variants(tmp_path / "three")
    one = runs.write_run(tmp_path / "one", [runs.unit("conv1", 0)], wanted={"conv1": [0]})
    page = runs.Page(build_comparison([three, one]).parent / "layers" / "conv1.html")
    rows = [each["data-number"] for each in page.all("tr") if "data-number" in each]
    assert rows == ["0", "1", "5"]
    alts = {each["alt"] for each in page.all("img")}
    assert {f"Image that drives channel 0 of conv1 most, variant {n}, three" for n in (1, 2, 3)} | {
        "Image that drives channel 0 of conv1 most, one"
    } <= alts


def test_a_grid_of_no_known_place_has_axes_and_no_sides(run):
    name, directory, _ = run
    body = re.compile(r"\b(axial|coronal|sagittal|mm)\b|\b[xyz] = ")
    for page in runs.pages(directory / "gallery"):
        said = page.text + " ".join(each["alt"] for each in page.all("img"))
        said += " ".join(each.get("aria-label", "") for _, each in page.elements)
        is_unit = "units" in page.path.parts
        if name in UNPLACED:
            assert not body.search(said), page.path
            sides = re.findall(r'class="side [a-z]+">([^<]*)<', page.source)
            assert set(sides) <= {"i", "j", "k", ""}
            assert not is_unit or "how it lies in the body is not known" in page.text
        elif is_unit:
            assert "axial, z = " in page.text
    if name == "volumes of no known place":
        page = runs.Page(directory / "gallery" / "units" / "conv1" / "0000.html")
        assert "ij, slice k = 7" in page.text
        assert "jk, slice i = 6" in page.text
        labels = [each["aria-label"] for each in page.all("svg", class_="voxels")]
        assert labels[:2] == ["ij slice at slice k = 0", "ij slice at slice k = 1"]


def test_runs_on_different_grids_are_compared_without_sides(tmp_path):
    first = runs.volumes(tmp_path / "first")
    second = runs.volumes(tmp_path / "second", affine=runs.MIRRORED_AFFINE)
    page = runs.Page(build_comparison([first, second]).parent / "layers" / "conv1.html")
    assert "axial" not in page.text
    assert "i to the right, j up" in page.text
    same = runs.Page(build_comparison([first, first], out=tmp_path / "same").parent / "index.html")
    assert "axial, z = 7 mm: A up, L on the left" in same.text

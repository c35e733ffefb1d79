"""What speaks for and against pictures: pages and figures say what trust.tsv holds."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from featvis_jax.results import store
from featvis_jax.results.gallery import build_comparison, build_gallery
from featvis_jax.results.gallery.evidence import Evidence
from featvis_jax.results.trust import NOT_MEASURED, NOT_REFUTED, REFUTED, VERDICTS, TrustRecord
from featvis_jax.results.trust_figure import trust_figure
from tests.results import gallery_runs as runs

CERTIFICATE = "is no certificate"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> store.RunView:
    """A run that was looked at, with its gallery."""
    view = runs.trusted(tmp_path_factory.mktemp("trusted") / "run")
    real = view.real_path("conv1", 0), view.real_path("conv1", 1)
    for path in real:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(view.picture_path("conv1", 0).read_bytes())
    build_gallery(view)
    return view


def table(view: store.RunView) -> list[dict[str, str]]:
    """trust.tsv, as any program reads it."""
    with open(view.directory / "trust.tsv", newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, dialect="excel-tab"))


def page(view: store.RunView, name: str) -> runs.Page:
    return runs.Page(view.directory / "gallery" / name)


def unit_page(view: store.RunView, row: dict[str, str]) -> runs.Page:
    return page(view, f"units/{row['layer']}/{int(row['channel']):04d}.html")


def cells(shown: runs.Page) -> dict[str, list[str]]:
    """What a page says of every measure, cell by cell, in its order."""
    found = {}
    for name, inner in re.findall(r'<tr data-measure="(\w+)">(.*?)</tr>', shown.source, re.DOTALL):
        parts = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", inner, re.DOTALL)
        found[name] = [re.sub(r"<[^>]+>", "", part).strip() for part in parts]
    return found


def number(text: str) -> float:
    return float(text.replace("\u2212", "-").rstrip("\u00d7"))


def close(said: float, stored: float) -> bool:
    """Whether a page says what is stored, to the digits that it shows."""
    return bool(np.isclose(said, stored, rtol=4e-3, atol=0.00501))


# Pages


def test_a_unit_s_page_has_the_numbers_of_its_row(run):
    for row in table(run):
        shown = cells(unit_page(run, row))
        there = {name for name in runs.MEASURES if row[name] != "n/a"}
        assert set(shown) - {"examples"} == there
        for name in there:
            value, interval = shown[name][2:4]
            assert close(number(value), float(row[name]))
            ends = [row.get(f"{name}_{end}", "n/a") for end in ("low", "high")]
            if interval:
                told = [number(each) for each in interval.split(" to ")]
                assert all(close(said, float(end)) for said, end in zip(told, ends, strict=True))
            else:
                assert ends == ["n/a", "n/a"]
            assert shown[name][4].endswith(".")


def test_a_bar_lies_where_its_number_is(run):
    for row in table(run):
        bars = re.findall(
            r'data-measure="(\w+)".*?(?:class="dot" cx="([\d.]+)"|class="dot" d="M(\d+))',
            unit_page(run, row).source,
            re.DOTALL,
        )
        for name, inside, beyond in bars:
            low, high = {"strength": (0, 2), "pasted": (0, 2), "likeness": (-1, 1)}.get(
                name, (0, 1)
            )
            value = float(row[name])
            assert bool(beyond) == (not low <= value <= high)
            if inside:
                share = (value - low) / (high - low)
                assert float(inside) == pytest.approx(6 + 148 * share, abs=0.1)


def test_a_unit_s_page_says_what_was_found_and_that_it_is_no_certificate(run):
    for row in table(run):
        shown = unit_page(run, row)
        assert shown.text.count(CERTIFICATE) == 1
        assert "may still mislead about the world" in shown.text
        assert f" {row['verdict']} " in shown.text
        if row["reason"] != "n/a":
            assert row["reason"] in shown.text
            assert "<b>" not in shown.source
    left = page(run, "units/conv1/0003.html").text
    assert "no real input drives the unit" in left
    assert "Not measured: belongs to its unit, strength, pasted into real images, " in left
    assert "left putamen, 7 of 9 (x \u221223, z 8 mm)" in page(run, "units/conv1/0004.html").text
    assert (
        "likeness to real inputs, prediction by real examples, prediction by the picture." in left
    )
    assert "(looked at in pool1, conv1)" in page(run, "units/conv1/0000.html").text


def test_the_better_of_picture_and_examples_comes_first(run):
    def order(channel: int) -> list[str]:
        found = cells(page(run, f"units/conv1/{channel:04d}.html"))
        return [name for name in found if "predict" in name]

    assert order(0) == ["examples_predict", "picture_predicts", "both_predict"]
    assert order(1) == ["picture_predicts", "examples_predict", "both_predict"]
    assert order(2) == ["picture_predicts", "both_predict"]
    for channel, first in ((0, "real"), (1, "stage")):
        source = page(run, f"units/conv1/{channel:04d}.html").source
        places = {name: source.index(f'<section class="{name}"') for name in ("real", "stage")}
        assert min(places, key=lambda name: places[name]) == first
        assert ("They come first" in source) == (first == "real")
        assert source.count('<section class="real"') == 1


def test_where_both_predict_alike_the_examples_come_first_and_stay_below_the_image():
    found = Evidence(runs.trust(0, NOT_REFUTED, examples_predict=0.75, picture_predicts=0.75))
    assert found.predictions[0].column == "examples_predict"
    assert not found.are_examples_better


def test_tiles_carry_verdicts_and_what_they_are_sorted_by(run):
    layer = page(run, "layers/conv1.html")
    tiles = {tile["data-number"]: tile for tile in layer.all("li", class_="tile")}
    slugs = {"not refuted": "not-refuted", "does not drive its unit": "not-driving"}
    slugs |= {"refuted": "refuted", "not measured": "not-measured"}
    for row in table(run):
        tile = tiles.pop(row["channel"])
        assert tile["data-verdict"] == slugs[row["verdict"]]
        assert tile["data-belongs"] == row["belongs"]
        assert tile["data-examples"] == row["examples_predict"]
        assert tile["data-picture"] == row["picture_predicts"]
    (without,) = tiles.values()
    assert not {"data-verdict", "data-belongs"} & set(without)
    choices = {each["id"] for each in layer.all("input")}
    assert {f"verdict-{slug}" for slug in slugs.values()} | {"verdict-all"} <= choices
    assert {"sort-belongs", "sort-examples", "sort-picture"} <= choices
    figure = next(each for each in layer.all("a") if each["href"].endswith("trust.png"))
    assert layer.target(figure["href"]).read_bytes() == run.trust_path("conv1").read_bytes()


def test_layers_and_the_index_count_verdicts(run):
    counts = {verdict: sum(row["verdict"] == verdict for row in table(run)) for verdict in VERDICTS}
    layer, index = page(run, "layers/conv1.html"), page(run, "index.html")
    for verdict, count in counts.items():
        assert f" {count} {verdict} " in layer.text
        # Of the run, and of its only layer that was looked at.
        assert index.text.count(f" {count} {verdict} ") == 2
    assert "1 without a verdict" in layer.text
    assert "1 without a verdict" in index.text
    (other,) = {*(run.directory / "gallery" / "layers").iterdir()} - {layer.path}
    assert "verdict" not in other.read_text(encoding="utf-8")


def test_of_several_images_the_strongest_that_was_looked_at_counts(tmp_path):
    view = runs.variants(tmp_path)
    rows = [runs.trust(0, REFUTED, variant=1), runs.trust(0, NOT_REFUTED, variant=2)]
    rows += [runs.trust(1, REFUTED, variant=3)]
    with store.open_run(tmp_path, view.configuration, environment=view.environments[0]) as opened:
        opened.write_trust(rows)
    build_gallery(view, volumes=False)
    tiles = page(view, "layers/conv1.html").all("li", class_="tile")
    assert [tile.get("data-verdict") for tile in tiles] == ["not-refuted", "refuted", None]
    shown = page(view, "units/conv1/0000.html")
    assert shown.text.count("What speaks for and against this picture, variant") == 2
    assert shown.text.count(CERTIFICATE) == 1
    assert "not refuted variant 2: because of" in shown.text


def pages_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_without_a_table_nothing_of_it_is_on_the_pages(tmp_path):
    view = runs.trusted(tmp_path / "run", [])
    build_gallery(view, out=tmp_path / "empty", volumes=False)
    (view.directory / "trust.tsv").unlink()
    build_gallery(view, out=tmp_path / "none", volumes=False)
    assert pages_of(tmp_path / "empty") == pages_of(tmp_path / "none")
    for shown in runs.pages(tmp_path / "none"):
        assert not re.search("verdict|trust|refuted|certificate", shown.source)


def test_comparisons_show_the_pictures_without_verdicts(run, tmp_path):
    other = runs.trusted(tmp_path / "other", [], regularization="none")
    site = build_comparison([run, other], out=tmp_path / "compared").parent
    assert not any("refuted" in shown.source for shown in runs.pages(site))


# Files


def test_a_run_keeps_table_description_and_figures(tmp_path):
    rows = [runs.trust(4, REFUTED), runs.trust(0, NOT_REFUTED)]
    view = runs.trusted(tmp_path, rows)
    assert view.trust() == rows[::-1]
    described = json.loads((tmp_path / "trust.json").read_bytes())
    assert list(described) == list(table(view)[0])
    assert set(described["verdict"]["Levels"]) == set(VERDICTS)
    assert view.trust_path("conv1").read_bytes()[1:4] == b"PNG"
    assert view.trust_path("conv1", kind="pdf").read_bytes()[:4] == b"%PDF"
    assert not view.trust_path(runs.HOSTILE).exists()


@pytest.mark.parametrize("channels", [(0, 0), (0, 9)], ids=["twice", "no picture"])
def test_rows_that_fit_no_picture_are_refused_and_nothing_is_written(tmp_path, channels):
    rows = [runs.trust(channel, REFUTED) for channel in channels]
    with pytest.raises(ValueError, match=rf"pictures come twice or are none of .*{channels[1]}"):
        runs.trusted(tmp_path, rows)
    assert not list(tmp_path.glob("trust*"))


# The figure


def drawn(records: list[TrustRecord], **options) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(trust_figure(records, title="conv1", **options)))


def test_a_figure_has_room_for_one_picture_and_for_64():
    one = drawn([runs.trust(0, REFUTED)])
    many = drawn([runs.trust(number, VERDICTS[number % 3]) for number in range(64)])
    assert one.shape[1] == many.shape[1]
    # A row of at least 20 pixels to each, in which 7-point letters stand.
    assert (many.shape[0] - one.shape[0]) / 63 > 20
    for picture in (one, many):
        np.testing.assert_array_equal(picture[[0, -1], :, :3], 1)
        np.testing.assert_array_equal(picture[:, -1, :3], 1)
        assert picture[..., :3].min() < 0.3


def test_a_figure_changes_with_its_numbers_and_equal_ones_give_equal_bytes():
    rows = [runs.trust(0, NOT_REFUTED), runs.trust(2, REFUTED)]
    whole = trust_figure(rows, title="conv1")
    assert trust_figure(rows[::-1], title="conv1") == whole
    for name in ("belongs", "pasted_low", "likeness", "examples_predict", "label_auc"):
        changed = [dataclasses.replace(rows[0], **{name: 0.77}), rows[1]]
        assert trust_figure(changed, title="conv1") != whole, name


def test_a_figure_without_a_number_has_every_verdict():
    rows = [TrustRecord("conv1", channel, 1, NOT_MEASURED) for channel in range(3)]
    assert drawn(rows).shape[0] > drawn(rows[:1]).shape[0]
    with pytest.raises(ValueError, match="records is empty"):
        trust_figure([], title="conv1")


def test_names_numbers_beyond_the_axes_and_nan_are_drawn():
    row = runs.trust(0, REFUTED, strength=1e6, pasted=-3.0, likeness=float("nan"))
    named = trust_figure([row], title="$x$ </script>", names={0: "$a$_b" * 20}, kind="pdf")
    assert named[:4] == b"%PDF"
    assert drawn([row, runs.trust(0, REFUTED, variant=2)]).min() < 0.5

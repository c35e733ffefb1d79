"""What deformed scans have in common: pages say what the tables and maps of a run hold."""

import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax.results import store
from featvis_jax.results.gallery import build_gallery
from featvis_jax.results.gallery.growth import ends
from tests.results import gallery_runs as runs


@pytest.fixture(scope="module", params=["2-D", "3-D"])
def built(request, tmp_path_factory):
    """A run of deformed scans with its pages, and the page of its unit."""
    directory = tmp_path_factory.mktemp("deformed") / "run"
    grid = {"shape": runs.VOLUME, "affine": runs.VOLUME_AFFINE} if request.param == "3-D" else {}
    view = runs.deformed(directory, **grid)
    build_gallery(view)
    return request.param, view, runs.Page(directory / "gallery/units/conv1/0000.html")


def picture(page, image):
    return np.asarray(Pillow.open(page.path.parent / image["src"]))


def test_the_unit_s_page_says_what_the_tables_say(built):
    name, view, page = built
    (row,) = view.anatomy_maps()
    assert row.told in page.text
    assert "t over people, 2 degrees of freedom" in page.text
    assert "full colour from |t| = 4.50 on, false discovery rate 5 %" in page.text
    shown = [text.split() for text in page.read("td")]
    for record in view.anatomy():
        assert record.region in page.text
        assert [f"+{record.change:.1f}"] in shown
    assert ("volume, %" in page.text) == (name == "3-D")
    assert ("area, %" in page.text) == (name == "2-D")
    assert "2 more regions" in page.text
    assert ("Slices from 0 to 8 mm, laid over each other" in page.text) == (name == "2-D")


def test_the_warning_stands_above_the_map_and_on_the_tile_of_the_layer(built):
    _, view, page = built
    warned = view.anatomy()[0].warning
    assert page.text.index(warned) < page.text.index("in common")
    layer = runs.Page(page.path.parents[2] / "layers/conv1.html")
    assert "brightness, not shape" in layer.text
    assert "It asks for brightness: to reach the target, shape takes 3.25 times" in page.text


def test_every_image_names_the_scan_that_it_started_from(built):
    name, view, page = built
    for number, start in enumerate(view.starts, start=1):
        (heading,) = (text for text in page.read("h2") if text.startswith(f"Variant {number} "))
        assert start.words in heading
        assert f"the scan: {start.words}" in page.text
    assert (view.starts[1].words == "sub-01, slice 32 (z = 4 mm)") == (name == "2-D")


def test_scan_and_changed_scan_lie_over_each_other(built):
    """Of one size and at the same place, so that blending shows what changed."""
    _, view, page = built
    over = page.all("img", class_="over")
    assert len(over) == len(page.all("input", type="range")) == view.variants
    names = [image["src"].rsplit("-", 1)[0] for image in over]
    for image, stem in zip(over, names, strict=True):
        changed = {"src": f"{stem}-changed.png"}
        assert any(each["src"] == changed["src"] for each in page.all("img"))
        assert picture(page, image).shape == picture(page, changed).shape
        assert (picture(page, image) != picture(page, changed)).any()
    for slider in page.all("input", type="range"):
        assert slider["value"] == slider["max"] == "100"
    # Without scripts there is nothing that does nothing.
    assert all("hidden" in each for each in page.all("div", class_="blend"))


def test_colours_end_at_all_of_a_volume(built):
    _, _, page = built
    assert "+100 % or more" in page.text  # The second scan triples at a voxel.
    assert ends(np.array([-30.0, 12.0])) == (30.0, False)


def test_nothing_that_was_not_looked_at_is_told(tmp_path):
    build_gallery(runs.variants(tmp_path / "plain"))
    plain = runs.Page(tmp_path / "plain/gallery/units/conv1/0000.html")
    build_gallery(runs.deformed(tmp_path / "two", people=2, ratio=0.75))
    two = runs.Page(tmp_path / "two/gallery/units/conv1/0000.html")
    for text in ("in common", "brightness", "Flicker"):
        assert text not in plain.text
    assert "of fewer than three people nothing can be said to be common" in two.text
    assert "degrees of freedom" not in two.text and "brightness, not shape" not in two.text
    assert "It asks for shape: to reach the target, shape takes 0.75 times" in two.text
    assert store.read_run(tmp_path / "two").stat("conv1", 0, stat="t", name="logjac") is None

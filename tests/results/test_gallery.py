"""The gallery: true pictures, links that lead somewhere, text that stays text, nothing remote."""

import base64
import gzip
import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax.results import files, grids, store
from featvis_jax.results.gallery import build_comparison, build_gallery, charts, similarity
from tests.results import gallery_runs as runs

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """The gallery of a 2-D run."""
    return build_gallery(runs.slices(tmp_path_factory.mktemp("flat") / "run")).parent


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """The gallery of a 3-D run."""
    return build_gallery(runs.volumes(tmp_path_factory.mktemp("deep") / "run")).parent


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two runs side by side, one of them with a gallery and one channel less."""
    root = tmp_path_factory.mktemp("compared")
    first = runs.slices(root / "#1 50%", regularization="none")
    build_gallery(first)
    few = [runs.unit("conv1", channel) for channel in (0, 1)]
    second = runs.write_run(
        root / "b", few, wanted={"conv1": [0, 1]}, regularization="<b>blur</b>", seed=3
    )
    return build_comparison([first, second]).parent


@pytest.fixture(params=["flat", "deep", "compared"])
def site(request):
    """Each of the three."""
    return request.getfixturevalue(request.param)


def grey(path: Path) -> np.ndarray:
    return np.asarray(Pillow.open(path))


def expected_grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


# Pages


def test_every_address_leads_to_a_file_and_every_fragment_to_an_element(site):
    found = runs.pages(site)
    assert len(found) > 2
    for page in found:
        for address in page.addresses():
            if address == "data:,":
                continue
            assert page.target(address).is_file(), f"{page.path.name}: {address}"
            if "#" in address:
                name = address.split("#")[1]
                target = page if address.startswith("#") else runs.Page(page.target(address))
                assert any(each.get("id") == name for _, each in target.elements), address


def test_nothing_is_remote_and_nothing_is_inline(site):
    for page in runs.pages(site):
        policy = page.all("meta", http_equiv="Content-Security-Policy")[0]["content"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe-inline" not in policy
        assert "http" not in policy
        for tag, attributes in page.elements:
            assert tag not in ("style", "iframe", "object", "base")
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert tag != "script" or attributes["src"].endswith("gallery.js")
        for address in page.addresses():
            assert address == "data:," or not any(mark in address for mark in ("//", ":"))
    for name in ("gallery.css", "gallery.js"):
        text = (site / name).read_text()
        assert not any(word in text for word in ("http", "//cdn", "url(", "@import", "fetch("))
        assert not any(word in text for word in ("innerHTML", "eval(", "document.write"))


def test_a_layer_of_any_name_stays_text(flat, deep):
    for site in (flat, deep):
        titles = [page for page in runs.pages(site) if runs.HOSTILE in page.text]
        assert len(titles) >= 3
        for page in runs.pages(site):
            assert not page.all("img", src="x")
            assert len(page.all("script")) == 1
    scripts = list((deep / "volumes").rglob("*.js"))
    assert len(scripts) == 3
    for script in scripts:
        assert not set("<>&") & set(script.read_text())


def test_pages_can_be_read_without_seeing_them(site):
    for page in runs.pages(site):
        assert page.all("html")[0]["lang"] == "en"
        assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
        assert all(image["alt"] for image in page.all("img"))
        assert all(
            "aria-label" in each or "aria-hidden" in each or "voxels" not in each.get("class", "")
            for each in page.all("svg")
        )
        names = [each["id"] for _, each in page.elements if "id" in each]
        assert len(names) == len(set(names))
        labelled = {each.get("for") for each in page.all("label")}
        assert {each["id"] for each in page.all("input", type="radio")} <= labelled


def test_the_index_tells_how_much_is_done(flat):
    index = runs.Page(flat / "index.html")
    assert "8 of 14 channels" in index.text
    assert "6 not finished" in index.text
    for words in ("● 5 alive", "○ 1 dead", "□ 1 uniform", "△ 1 diverged"):
        assert words in index.text
    assert "No channel is finished yet" in index.text
    assert [each["data-layer"] for each in index.all("section", class_="layer")] == [
        "conv1", runs.HOSTILE, "conv3",
    ]  # fmt: skip
    assert not list((flat / "layers").glob("conv3*"))


def test_a_run_without_a_unit_has_an_index_and_grows(tmp_path):
    view = runs.write_run(tmp_path, [], wanted={"conv1": [0, 1]})
    index = build_gallery(view)
    assert "0 of 2 channels" in runs.Page(index).text
    runs.write_run(tmp_path, [runs.unit("conv1", 1)], wanted={"conv1": [0, 1]})
    assert "1 of 2 channels" in runs.Page(build_gallery(view)).text
    runs.write_run(tmp_path, [runs.unit("conv1", 0)], wanted={"conv1": [0, 1]})
    assert "2 of 2 channels" in runs.Page(build_gallery(view)).text
    assert "not finished" not in runs.Page(index).text


def test_a_run_may_be_written_to_while_it_is_shown(tmp_path):
    view = runs.slices(tmp_path)
    with store.open_run(tmp_path, view.configuration, environment=view.environments[0]):
        assert build_gallery(view).is_file()


def test_a_unit_page_says_what_is_known(flat):
    page = runs.Page(flat / "units" / "conv1" / "0002.html")
    assert "conv1 channel 2" in page.text
    assert "alive the objective rose" in page.text
    assert "Rank in the layer 2 of 4" in page.text
    assert page.all("a", rel="prev")[0]["href"].endswith("units/conv1/0001.html")
    assert page.all("a", rel="next")[0]["href"].endswith("units/conv1/0010.html")
    assert page.all("a", rel="up")[0]["href"].endswith("layers/conv1.html#c2")
    downloads = [each["href"] for each in page.all("a") if "download" in each]
    assert [Path(each).suffix for each in downloads] == [".gz", ".png", ".npz"]
    assert (
        "python -m experiments.visualize --model=m --steps=40 --batch=4 --layer=conv1 --channels=2 "
        "--out=runs/conv1-2" in page.text.replace("\\ ", "")
    )


def test_the_status_comes_with_its_rule(flat):
    folder = flat / "units" / files.file_name(runs.HOSTILE)
    for channel, words in enumerate(("does not react", "single intensity", "finite numbers")):
        assert words in runs.Page(folder / f"{channel:04d}.html").text


# Pictures


def test_a_slice_is_shown_voxel_by_voxel(flat):
    image = runs.unit("conv1", 10).image
    folder = flat / "pictures" / "conv1"
    shown = grey(folder / "0010-axial-shared.png")
    np.testing.assert_array_equal(shown, expected_grey(image[:, ::-1, 0].T, 0.0, 1.0))
    inner = image[5:15, 7:21]
    low, high = np.percentile(inner, (1, 99))
    own = grey(folder / "0010-axial-own.png").astype(int)
    assert np.abs(own - expected_grey(image[:, ::-1, 0].T, low, high)).max() <= 1


def test_a_volume_is_shown_in_planes_slices_and_projections(deep):
    volume = runs.unit("conv1", 0, shape=runs.VOLUME).image[..., 0]
    folder = deep / "pictures" / "conv1"
    x, y, z = (length // 2 for length in runs.VOLUME)
    planes = {
        "axial": volume[:, :, z],
        "coronal": volume[:, y, :],
        "sagittal": volume[x, :, :],
    }
    for name, plane in planes.items():
        shown = grey(folder / f"0000-{name}-shared.png")
        np.testing.assert_array_equal(shown, expected_grey(plane[:, ::-1].T, 0.0, 1.0))
    both = (volume, runs.phantom()[..., 0])
    largest = [some.max(axis=axis) for some in both for axis in (0, 1, 2)]
    low, high = min(each.min() for each in largest), max(each.max() for each in largest)
    for name, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        shown = grey(folder / f"0000-{name}-projection-shared.png")
        expected = expected_grey(volume.max(axis=axis)[:, ::-1].T, low, high)
        assert np.abs(shown - expected).max() <= 1


def test_every_slice_of_the_mosaic_is_the_one_that_it_says(deep):
    volume = runs.unit("conv1", 0, shape=runs.VOLUME).image[..., 0]
    page = runs.Page(deep / "units" / "conv1" / "0000.html")
    mosaic = grey(deep / "pictures" / "conv1" / "0000-slices-shared.png")
    windows = page.all("svg", class_="voxels")
    assert len(windows) == 2 * runs.VOLUME[2]
    for each in windows[: len(windows) // 2]:
        left, top, width, height = (int(number) for number in each["viewbox"].split())
        millimetres = float(each["aria-label"].split("z = ")[1].split()[0].replace("\u2212", "-"))
        index = round((millimetres + 7) / 2)
        np.testing.assert_array_equal(
            mosaic[top : top + height, left : left + width],
            expected_grey(volume[:, ::-1, index].T, 0.0, 1.0),
        )


def test_pages_are_not_mixed_with_other_files(tmp_path):
    run = runs.volumes(tmp_path / "run")
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "index.html").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis is not empty and holds no gallery .*index.html"):
        build_gallery(run, out=thesis)
    assert [path.name for path in thesis.iterdir()] == ["index.html"]
    assert build_gallery(run, out=tmp_path / "pages") == build_gallery(run, out=tmp_path / "pages")


@pytest.mark.parametrize(("affine", "letters"), [
    (runs.VOLUME_AFFINE, "AP LR SI LR SI PA"), (runs.MIRRORED_AFFINE, "PA RL SI RL SI AP"),
])  # fmt: skip
def test_letters_name_the_sides_of_the_subject(tmp_path, affine, letters):
    index = build_gallery(runs.volumes(tmp_path, affine=affine), volumes=False)
    page = runs.Page(index.parent / "units" / "conv1" / "0001.html")
    sides = page.text.split("the ascent made a pattern")[1].split("Window")[0].split()
    found = [word for word in sides if word in set("LRAPSI")]
    # A picture has its letters in the order top, left, right, bottom.
    top_left = [found[i] + found[i + 3] + " " + found[i + 1] + found[i + 2] for i in (0, 4, 8)]
    assert " ".join(top_left) == letters


@pytest.mark.parametrize("affine", [
    np.diag([2.0, 3.0, 4.0, 1.0]), runs.MIRRORED_AFFINE, np.eye(4)[[2, 0, 1, 3]],
])  # fmt: skip
def test_positions_are_those_of_nibabel(affine):
    shape = (7, 8, 9)
    for plane in grids.planes(affine, shape):
        index = 3
        corners = np.array([[0, 0, 0], [6, 7, 8]])
        corners[:, plane.normal] = index
        world = nibabel.affines.apply_affine(affine, corners)
        axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane.name]
        assert world[0, axis] == pytest.approx(world[1, axis])
        said = grids.position(affine, shape, normal=plane.normal, index=index)
        assert said == f"{'xyz'[axis]} = {world[0, axis]:g} mm".replace("-", "\u2212")


# Volumes


def test_the_viewer_gets_the_volume_on_its_grid(deep):
    script = (deep / "volumes" / "conv1" / "0000.js").read_text()
    assert script.startswith("featvisGallery.volume(")
    value = json.loads(script.removeprefix("featvisGallery.volume(").rstrip().removesuffix(");"))
    data = gzip.decompress(base64.b64decode(value["base64"]))
    stored = nibabel.Nifti1Image.from_bytes(data)
    volume = runs.unit("conv1", 0, shape=runs.VOLUME).image[..., 0]
    assert stored.get_data_dtype() == np.uint8
    assert np.abs(np.asarray(stored.dataobj) - volume).max() <= 0.51 / 255
    np.testing.assert_array_equal(np.asarray(stored.affine), runs.VOLUME_AFFINE)
    assert value["shared"] == [0.0, 1.0]
    assert value["own"][0] < value["own"][1]
    assert value["name"] == "conv1, channel 0"


def test_the_viewer_comes_with_its_licence_and_only_where_it_is_of_use(flat, deep, tmp_path):
    licence = (deep / "viewer" / "niivue-license.txt").read_text()
    assert "BSD 2-Clause License" in licence
    assert "Copyright (c) 2021, Niivue" in licence
    assert (deep / "viewer" / "niivue.umd.js").stat().st_size > 1e6
    assert not (flat / "viewer").exists()
    without = build_gallery(runs.volumes(tmp_path), volumes=False).parent
    assert not (without / "viewer").exists()
    assert not (without / "volumes").exists()
    assert not any("data-volume" in each for p in runs.pages(without) for _, each in p.elements)


# Building


def digests(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_the_same_run_gives_the_same_bytes_and_pages_are_replaced_as_a_whole(tmp_path):
    view = runs.slices(tmp_path / "run")
    before_run = digests(tmp_path / "run")
    first = digests(build_gallery(view, out=tmp_path / "a").parent)
    (tmp_path / "a" / ".index.html.partial").write_bytes(b"half a pa")
    (tmp_path / "a" / "index.html").write_bytes(b"half a pa")
    assert digests(build_gallery(view, out=tmp_path / "a").parent) == first
    assert digests(tmp_path / "run") == before_run


def test_a_second_builder_is_refused(tmp_path):
    view = runs.slices(tmp_path / "run")
    build_gallery(view)
    held = files.lock(view.directory / "gallery")
    with pytest.raises(files.RunInUse):
        build_gallery(view)
    files.unlock(held)
    build_gallery(view)


def test_a_gallery_can_be_moved_with_its_run(tmp_path):
    view = runs.slices(tmp_path / "here")
    build_gallery(view)
    (tmp_path / "here").rename(tmp_path / "there #2")
    for page in runs.pages(tmp_path / "there #2" / "gallery"):
        for address in page.addresses():
            assert address == "data:," or page.target(address).is_file()


WITHOUT_JAX = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("jax", "flax", "optax", "orbax"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from featvis_jax.results.gallery import build_gallery
from featvis_jax.results.store import read_run
print(build_gallery(read_run(sys.argv[1])))
"""


def test_no_jax_is_needed(tmp_path):
    view = runs.slices(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(view.directory / "gallery" / "index.html")


def test_sixty_four_channels_are_small_and_quick(tmp_path):
    # Noise is the worst that a compressor can get.
    units = [runs.unit("conv5", channel, shape=(140, 192)) for channel in range(64)]
    wanted = {"conv5": list(range(64))}
    view = runs.write_run(tmp_path, units, wanted=wanted, shape=(140, 192))
    start = time.process_time()
    site = inspect.unwrap(build_gallery)(view).parent
    built = time.process_time() - start
    # Quick is a small multiple of packing the same pictures once, on whatever processor this is.
    start = time.process_time()
    for unit in units:
        zlib.compress(expected_grey(unit.image, 0, 1).astype(np.uint8).tobytes(), 9)
        zlib.compress(unit.image.tobytes(), 9)
    packed = time.process_time() - start
    assert built < 20 * packed
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 15e6


# Comparison


def test_rows_are_channels_and_columns_are_runs(compared):
    page = runs.Page(compared / "layers" / "conv1.html")
    rows = [each["data-number"] for each in page.all("tr") if "data-number" in each]
    assert rows == ["0", "1", "2", "10"]
    assert "none <b>blur</b>" in page.text
    assert page.text.count("not finished") == 2
    # The first run has a gallery to lead to, the second has none.
    links = [each["href"] for each in page.all("a") if each["href"].endswith("0001.html")]
    assert len(links) == 1
    index = runs.Page(compared / "index.html")
    assert "regularization" in index.text
    assert "seed" in index.text
    assert "batch" not in index.text


def test_all_runs_are_drawn_in_one_window(tmp_path):
    views = []
    for name, factor in (("a", 1), ("b", 4)):
        units = [runs.unit("conv1", 0)]
        units[0].image[:] *= factor
        view = runs.write_run(tmp_path / name, [], wanted={"conv1": [0]}, name=name)
        with store.open_run(
            tmp_path / name, view.configuration, environment=view.environments[0]
        ) as run:
            run.write_units(units, affine=runs.SLICE_AFFINE, window=(0.0, float(factor)))
        views.append(view)
    site = build_comparison(views, out=tmp_path / "out").parent
    image = runs.unit("conv1", 0).image[:, ::-1, 0].T
    for number, factor in ((0, 1), (1, 4)):
        shown = grey(site / "pictures" / "conv1" / f"0000-{number}-axial-shared.png")
        assert np.abs(shown - expected_grey(image * factor, 0, 4)).max() <= 1


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    flat, deep = runs.slices(tmp_path / "flat"), runs.volumes(tmp_path / "deep")
    with pytest.raises(ValueError, match="at least two"):
        build_comparison([flat])
    with pytest.raises(ValueError, match=r"one shape; got .*flat: \(20, 28\), .*deep: \(12, 16"):
        build_comparison([flat, deep])
    units = [{"unit": unit} for unit in ("z-score of each scan", "0 to 1 of each scan")]
    both = [
        runs.driving(tmp_path / name, intensities=unit)
        for name, unit in zip("ab", units, strict=True)
    ]
    with pytest.raises(ValueError, match=r"one kind; got .*a: z-score of each scan, .*b: 0 to 1"):
        build_comparison(both)


# Similarity and charts


def test_textures_are_alike_wherever_they_lie(rng):
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    waves = [(0.1, 0.0), (0.0, 0.1), (0.2, 0.2)]
    images = [
        np.sin(2 * np.pi * (u * x + v * y) + rng.random() * 6) + 0.2 * rng.standard_normal((64, 64))
        for _ in range(4)
        for u, v in waves
    ]
    described = np.array([similarity.features([image]) for image in images])
    kinds = np.arange(12) % 3
    order = kinds[similarity.order(described)]
    assert (np.diff(order) != 0).sum() == 2
    nearest = similarity.nearest(described, count=3)
    assert (kinds[nearest] == kinds[:, None]).all()


def test_flat_and_broken_pictures_have_a_place_too():
    planes = [np.full((8, 9), 0.5), np.full((8, 9), np.nan), np.eye(9)[:8]]
    described = np.array([similarity.features([plane]) for plane in planes])
    assert np.isfinite(described).all()
    assert sorted(similarity.order(described)) == [0, 1, 2]


def test_a_long_curve_keeps_its_peaks(rng):
    trace = rng.random(20_000)
    trace[12_345], trace[17_000] = 9.0, -5.0
    chart = charts.chart([trace])
    points = np.array([
        [float(number) for number in point.split()] for point in chart.line[1:].split("L")
    ])  # fmt: skip
    assert len(points) < 600
    assert (np.diff(points[:, 0]) >= 0).all()
    inside = points[(points[:, 1] > 20) & (points[:, 1] < 130)]
    assert len(points) - len(inside) >= 2
    assert points[:, 1].min() == pytest.approx(15, abs=4)
    assert points[:, 1].max() == pytest.approx(139, abs=4)


def test_charts_draw_medians_and_leave_out_what_is_not_finite():
    traces = [np.array([0.0, 1.0, np.nan]), np.array([2.0, 3.0, np.inf]), np.array([4.0, 8.0, 9.0])]
    chart = charts.chart(traces)
    assert (chart.first, chart.last) == (2.0, 9.0)
    assert chart.band.endswith("Z")
    assert charts.chart([np.array([1.0])]).line.endswith("h0")
    assert charts.chart([]) is None


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.5, 8.9), (1e-9, 3e-9), (100, 123456), (-3, -1)]
)
def test_ticks_are_round_and_inside(low, high):
    ticks = charts.nice_ticks(float(low), float(high))
    assert 2 <= len(ticks) <= 6
    assert low - 1e-12 <= ticks[0] < ticks[-1] <= high + 1e-12
    assert len({f"{tick:.6g}" for tick in ticks}) == len(ticks)

"""Images of several channels in a run directory: their files, pictures, sheets and pages."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax.ranges import to_intensities
from featvis_jax.results import channels, nifti, panels, pixels, sheets, store
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.comparison import comparison
from featvis_jax.results.gallery import build_comparison, build_gallery, site, views
from featvis_jax.results.gallery.grid import Grid
from featvis_jax.results.sheets import contact_sheet
from tests.results.gallery_runs import SLICE, VOLUME, Page, contrasts, pages, random_image, unit

NAMES = ("T1w", "T1ce", "T2w", "FLAIR")
CONTRASTS = InputChannels(NAMES, held={"T2w": "5f3a"})
COLOUR = InputChannels(channels.RGB, is_colour=True)
# As of a T1w that is scaled to 0..1 and a CT beside it.
RANGED = InputChannels(("T1w", "CT"), ranges=((0.0, 1.0), (-1024.0, 3071.0)))
WINDOW = (0.0, 1.0)


# ----------------------------------------------------------------------------------- their names


@pytest.mark.parametrize(
    ("names", "count", "told"),
    [
        (["T1w"], 2, "1 names; expected 2"),
        (["T1w", "T2_w"], 2, "'T2_w' cannot end"),
        (["T1w", ""], 2, "'' cannot end"),
        (["T1w", "t1W"], 2, "but for capitals"),
        (["rgb"], 4, "rgb stands for 3 channels; the network takes 4"),
    ],
)
def test_names_that_cannot_be_are_refused(names, count, told):
    with pytest.raises(ValueError, match=told):
        channels.named(names, count=count)


def test_colour_is_for_pictures_and_only_where_it_is_asked_for():
    assert channels.named(["RGB"], count=3).is_colour
    assert not channels.named(["R", "G", "B"], count=3).is_colour
    assert not channels.named([], count=3).is_colour
    with pytest.raises(ValueError, match="no pictures: give R,G,B"):
        channels.named(["rgb"], count=3, is_picture=False)


@pytest.mark.parametrize(
    "given", [CONTRASTS, COLOUR, RANGED, InputChannels(("T1w",)), channels.ONE]
)
def test_a_configuration_tells_what_the_channels_are(given):
    setting = given.setting()
    assert channels.of_run({} if setting is None else {"input_channels": setting}) == given


# ------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("shape", [SLICE, VOLUME], ids=["2-D", "3-D"])
def test_every_channel_has_its_file_and_comes_back(tmp_path, shape):
    run = contrasts(tmp_path, CONTRASTS, shape=shape)
    expected = random_image((*shape, 4), 1)
    found, affine = run.image("conv1", 1)
    np.testing.assert_array_equal(found, expected)
    assert (affine is None) == (shape == SLICE)
    files = sorted(path.name for path in (tmp_path / "images" / "conv1").glob("0001*"))
    assert files == ["0001.png", *sorted(f"0001_{name}.nii.gz" for name in NAMES)]
    for number, path in enumerate(run.image_paths("conv1", 1)):
        alone, _ = nifti.decode_nifti(path.read_bytes())
        np.testing.assert_array_equal(alone[..., 0], expected[..., number])


def test_a_channel_with_a_name_keeps_the_file_of_one_without(tmp_path):
    run = contrasts(tmp_path, InputChannels(("T1w",)))
    assert [path.name for path in run.image_paths("conv1", 0)] == ["0000.nii.gz"]


def test_an_image_of_other_channels_is_refused_and_nothing_written(tmp_path):
    with store.open_run(tmp_path, {"input_channels": CONTRASTS.setting()}, environment={}) as run:
        with pytest.raises(ValueError, match="expected 4 channels, last: T1w, T1ce, T2w, FLAIR"):
            run.write_units([unit("conv1", 0)], affine=None)
        assert not (tmp_path / "images").exists()


def test_a_transparency_map_has_all_channels(tmp_path):
    given = random_image((*SLICE, 4))
    made = dataclasses.replace(unit("conv1", 0, image=given), transparency=2 * given)
    with store.open_run(tmp_path, {"input_channels": CONTRASTS.setting()}, environment={}) as run:
        run.write_units([made], affine=None)
        np.testing.assert_array_equal(run.transparency("conv1", 0), 2 * given)
        assert run.picture_path("conv1", 0, of="transparency").is_file()


def test_files_of_contrasts_with_ranges_of_their_own_ask_viewers_for_these(tmp_path):
    run = contrasts(tmp_path, RANGED)
    files = [path.read_bytes() for path in run.image_paths("conv1", 1)]
    assert tuple(map(nifti.proposed_window, files)) == RANGED.ranges
    seen = random_image((*SLICE, 2))
    made = dataclasses.replace(unit("conv1", 0, image=seen), transparency=seen)
    with store.open_run(tmp_path / "b", {"input_channels": RANGED.setting()}, environment={}) as on:
        on.write_units([made], affine=None)
        # Sizes of a gradient are no intensities.
        with Pillow.open(on.picture_path("conv1", 0, of="transparency")) as opened:
            drawn = np.asarray(opened)
    window = 0.0, float(seen.max())
    plain = RANGED._replace(ranges=None)
    np.testing.assert_array_equal(drawn, panels.picture(seen, channels=plain, window=window))


def test_a_lost_channel_is_told_by_its_file(tmp_path):
    run = contrasts(tmp_path, CONTRASTS)
    run.image_paths("conv1", 0)[2].write_bytes(b"not a NIfTI file")
    with pytest.raises(ValueError, match=r"0000_T2w.nii.gz: not a complete"):
        run.image("conv1", 0)


# ---------------------------------------------------------------------------------- the pictures


@pytest.mark.parametrize("shape", [SLICE, VOLUME], ids=["2-D", "3-D"])
def test_panels_hold_each_contrast_as_it_is_drawn_alone(shape):
    given = random_image((*shape, 4))
    parts = panels.planes(given, CONTRASTS)
    found = panels.arranged(parts, CONTRASTS, window=WINDOW, scale=2)
    frames = len(found.frames) // 4
    for number in range(4):
        alone = pixels.picture(given[..., [number]], window=WINDOW, scale=2)
        left, top, width, height = found.frames[number * frames]
        drawn = found.pixels[top : top + height, left : left + width]
        np.testing.assert_array_equal(drawn, alone[-height:, :width])
    assert [text for _, _, text in found.labels] == ["T1w", "T1ce", "T2w, held", "FLAIR"]
    across, down, _ = zip(*found.labels, strict=True)
    # Slices lie in a row, volumes one below the other.
    apart, same = (across, down) if shape == SLICE else (down, across)
    assert list(apart) == sorted(set(apart))
    assert len(set(same)) == 1


@pytest.mark.parametrize("window", [(0.0, 1.0), (0.2, 0.7)])
def test_contrasts_with_ranges_of_their_own_are_drawn_in_these(window):
    shares = random_image((*VOLUME, 2))
    image = np.stack([shares[..., 0], -1024 + 4095 * shares[..., 1]], axis=-1)
    drawn = panels.arranged(panels.planes(image, RANGED), RANGED, window=window)
    plain = panels.arranged(panels.planes(shares, RANGED.of_one_range), RANGED, window=window)
    assert np.abs(drawn.pixels.astype(int) - plain.pixels).max() <= 1
    low, high = window
    assert RANGED.windows(window)[0] == window
    np.testing.assert_allclose(RANGED.windows(window)[1], (-1024 + 4095 * low, -1024 + 4095 * high))
    colour = COLOUR._replace(ranges=((0.0, 1.0), (-2.0, 4.0), (0.0, 255.0)))
    photograph = random_image((5, 7, 3))
    own = photograph * np.array([1, 6, 255]) + np.array([0, -2, 0])
    found = panels.picture(own.astype(np.float32), channels=colour, window=window)
    expected = np.rint(((photograph - low) / (high - low)).clip(0, 1) * 255)
    assert np.abs(found - expected).max() <= 1
    assert colour.told_windows(window) == [("", window)]
    assert colour.told_unit("z-score") == "share of each channel's range"


def test_narrow_panels_leave_room_for_their_labels():
    given = InputChannels(("T1w", "averylongname"))
    found = panels.picture(random_image((5, 6, 2)), channels=given, window=WINDOW)
    ink = np.flatnonzero((found < pixels.PAPER).any(axis=0))
    assert ink.max() < found.shape[1]
    assert found.shape[1] > panels.font(panels.LABEL_PIXELS).getlength("averylongname")


def test_a_picture_in_colour_is_as_photographs_are():
    given = random_image((5, 7, 3))
    drawn = panels.picture(given, channels=COLOUR, window=WINDOW)
    np.testing.assert_array_equal(drawn, np.rint(given * 255).astype(np.uint8))
    given[1, 2, 0] = np.nan
    assert panels.picture(given, channels=COLOUR, window=WINDOW)[1, 2, 0] in (150, 225)


@pytest.mark.parametrize(
    ("given", "shape"), [(CONTRASTS, SLICE), (CONTRASTS, VOLUME), (COLOUR, SLICE), (RANGED, SLICE)]
)
def test_sheets_and_figures_show_every_channel(given, shape):
    images = [random_image((*shape, len(given.names)), number) for number in range(3)]
    sheet = contact_sheet(
        images, titles="012", statuses=["alive"] * 3, title="conv1",
        look=sheets.Look(WINDOW, columns=3, scale=1), voxels=sheets.Voxels(channels=given),
    )  # fmt: skip
    with Pillow.open(io.BytesIO(sheet)) as opened:
        page = np.asarray(opened)
    # Every plane of every channel is somewhere on the page, voxel by voxel.
    plane = np.rint(pixels.middle_planes(given.seen(images[1])[-1])[0] * 255).astype(np.uint8)
    colours = plane if plane.ndim == 3 else plane[..., None].repeat(3, -1)
    windows = np.lib.stride_tricks.sliding_window_view(page, (*plane.shape[:2], 3))
    assert (windows == colours).all(axis=(-3, -2, -1)).any()
    notes = sheets._notes(None, 1, given)
    assert notes == [("i down, j to the right" if given.is_colour else "i to the right, j up")]
    figure = comparison(
        [[images[0], images[1]]], rows=["3"], columns=["a", "b"], window=WINDOW, title="conv1",
        channels=given,
    )  # fmt: skip
    assert figure["pdf"][:4] == b"%PDF"


def test_a_figure_has_a_line_for_the_range_of_each_contrast():
    image = to_intensities(random_image((*SLICE, 2)), RANGED.ranges)
    heights, pictures = [], []
    for given, shown in ((RANGED, image), (RANGED.of_one_range, random_image((*SLICE, 2)))):
        figure = comparison(
            [[shown]], rows=["3"], columns=["a"], window=WINDOW, title="conv1", channels=given
        )
        with Pillow.open(io.BytesIO(figure["png"])) as opened:
            pictures.append(np.asarray(opened.convert("L")))
        heights.append(len(pictures[-1]))
    lines = heights[0] - heights[1]
    assert 0.2 * 250 < lines < 0.3 * 250  # Two lines, in pixels.
    # All else is where it was, below them.
    below = pictures[1][heights[1] // 2 :]
    assert np.abs(pictures[0][-len(below) :].astype(int) - below).mean() < 1


# ------------------------------------------------------------------------------------- the pages


@pytest.mark.parametrize("shape", [SLICE, VOLUME], ids=["2-D", "3-D"])
def test_pages_show_contrasts_apart_and_let_choose(tmp_path, shape):
    index = build_gallery(contrasts(tmp_path, CONTRASTS, shape=shape))
    for page in pages(index.parent):
        for address in page.addresses():
            assert address.startswith(("data:", "#")) or page.target(address).exists(), address
        assert "T2w, held" in page.text
        options = page.all("input", name="contrast")
        assert [option["value"] for option in options] == ["", *NAMES]
    style = (index.parent / "gallery.css").read_text()
    hidden = 'body:has(#contrast-FLAIR:checked) .part:not([data-contrast="FLAIR"]){display:none}'
    assert hidden in style
    one = Page(index.parent / "units" / "conv1" / "0000.html")
    parts = [part["data-contrast"] for part in one.all("div", class_="part")]
    assert parts[:4] == list(NAMES)
    assert "held at a given scan: T2w" in one.text
    links = [link["href"].rsplit("/", 1)[-1] for link in one.all("a") if "download" in link]
    assert links[:5] == [*(f"0000_{name}.nii.gz" for name in NAMES), "0000.png"]
    if shape == VOLUME:
        chosen = [option["value"].rsplit("/", 1)[-1] for option in one.all("option")]
        assert chosen == [f"0000_{name}.js" for name in NAMES]
        for address in one.all("option"):
            assert one.target(address["value"]).is_file()


def test_pages_show_contrasts_in_intensities_of_their_own(tmp_path):
    run = contrasts(tmp_path, RANGED, shape=VOLUME)
    index = build_gallery(run)
    page = Page(index.parent / "units" / "conv1" / "0001.html")
    image, _ = run.image("conv1", 1)
    bars = _bars(page)
    # Slices, then projections.
    assert bars["shared"][:2] == [("0", "1"), ("\u22121024", "3071")]
    assert len(bars["shared"]) == 4
    told = [f"{site.number(float(x.min()))} to {site.number(float(x.max()))}" for x in image.T]
    assert f"Intensities T1w {told[0]}, CT {told[1]}" in " ".join(page.text.split())
    for number, (low, high) in enumerate(bars["own"][:2]):
        window = views.own_window(image[..., [number]])
        np.testing.assert_allclose(
            [float(end.replace("\u2212", "-")) for end in (low, high)], window, rtol=1e-3
        )
    assert [
        _volume(index.parent / "volumes/conv1", f"0001_{name}")[0] for name in RANGED.names
    ] == [
        [0.0, 1.0],
        [-1024.0, 3071.0],
    ]
    shown = _volume(index.parent / "volumes/conv1", "0001_CT")[1]
    np.testing.assert_allclose(shown, image[..., [1]], atol=4095 / 255)
    sheet = Page(index.parent / "layers" / "conv1.html")
    assert _bars(sheet)[""] == bars["shared"][:2]


def _bars(page):
    """The ends of all colour bars, by their class."""
    found = {}
    for kind, text in re.findall(r'class="colorbar (\w*)">(.*?)</span></span>', page.source, re.S):
        low, high = re.findall(r'class="(?:low|high)">([^<]*)', f"{text}</span>")
        found.setdefault(kind, []).append((low, high))
    return found


def _volume(directory, name):
    """The shared window of a volume that the viewer gets, and its voxels."""
    text = (directory / f"{name}.js").read_text()
    told = json.loads(text.removeprefix("featvisGallery.volume(").removesuffix(");\n"))
    return told["shared"], nifti.decode_nifti(base64.b64decode(told["base64"]))[0]


def test_runs_of_other_ranges_are_compared_in_ranges_that_hold_both(tmp_path):
    wider = RANGED._replace(ranges=((-1.0, 0.5), (-500.0, 4000.0)))
    plain = RANGED.of_one_range
    runs = [
        contrasts(tmp_path / name, given, regularization=name)
        for name, given in (("a", RANGED), ("b", wider), ("c", plain))
    ]
    found = Grid.of_runs(runs, [run.records() for run in runs])
    assert found.channels.ranges == ((-1.0, 1.0), (-1024.0, 4000.0))
    assert found.window == (0.0, 1.0)
    index = build_comparison(runs)
    assert _bars(Page(index))[""] == [("\u22121", "1"), ("\u22121024", "4000")]
    drawn = sorted((index.parent / "pictures" / "conv1").glob("*_CT-*shared.png"))
    assert len(drawn) == 6
    for path, run in zip(drawn[:3], runs, strict=True):
        image, _ = run.image("conv1", 0)
        with Pillow.open(path) as opened:
            expected = pixels.picture(image[..., [1]], window=(-1024.0, 4000.0))
            assert np.abs(np.asarray(opened).astype(int) - expected).max() <= 1


def test_a_page_of_one_channel_has_no_choice_of_contrasts(tmp_path):
    index = build_gallery(contrasts(tmp_path, channels.ONE, shape=VOLUME))
    for page in pages(index.parent):
        assert not page.all("input", name="contrast")
        assert not page.all("span", class_="part")


def test_pages_of_colour_show_one_picture_with_rows_down(tmp_path):
    index = build_gallery(contrasts(tmp_path, COLOUR))
    page = Page(index.parent / "units" / "conv1" / "0001.html")
    assert not page.all("div", class_="part")
    assert "R, G, B, in colour" in page.text
    shared = page.target(page.all("img", class_="shared")[0]["src"])
    with Pillow.open(shared) as opened:
        drawn = np.asarray(opened)
    np.testing.assert_array_equal(
        drawn, np.rint(random_image((*SLICE, 3), 1) * 255).astype(np.uint8)
    )
    # Columns to the right, rows down.
    assert f".ij{{--w:{SLICE[1]};--h:{SLICE[0]}}}" in (index.parent / "gallery.css").read_text()


def test_runs_of_the_same_channels_are_compared_and_others_refused(tmp_path):
    first = contrasts(tmp_path / "a", CONTRASTS, regularization="a")
    second = contrasts(tmp_path / "b", CONTRASTS.unheld, regularization="b")
    page = Page(build_comparison([first, second]))
    assert [option["value"] for option in page.all("input", name="contrast")] == ["", *NAMES]
    other = InputChannels(("PD", *NAMES[1:]))
    third = contrasts(tmp_path / "c", other, regularization="c")
    with pytest.raises(ValueError, match=r"same input channels; got .*T1w, .*PD, "):
        build_comparison([first, third])

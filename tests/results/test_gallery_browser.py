"""The gallery in a real browser, from the disk: no error, no request, whole pixels, no flip."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax.results.channels import RGB, InputChannels
from featvis_jax.results.gallery import build_comparison, build_gallery
from tests.results import gallery_runs as runs

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
CONTRASTS = InputChannels(("T1w", "T2w", "FLAIR"), held={"T2w": "5f3a"})
COLOUR = InputChannels(RGB, is_colour=True)
WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        # The system's, or what "playwright install chromium" brought.
        found = CHROMIUM or playwright.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("chromium is not installed")
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> dict[str, Path]:
    """A 2-D gallery, 3-D ones on two grids, and a comparison."""
    root = tmp_path_factory.mktemp("sites")
    flat = runs.slices(root / "flat")
    variants, against = runs.variants(root / "variants"), runs.suppressing(root / "against")
    few = runs.write_run(
        root / "few", [runs.unit("conv1", 0)], wanted={"conv1": [0]}, regularization="blur"
    )
    return {
        "flat": build_gallery(flat).parent,
        "deep": build_gallery(runs.volumes(root / "deep")).parent,
        "mirrored": build_gallery(
            runs.volumes(root / "mirrored", affine=runs.MIRRORED_AFFINE)
        ).parent,
        "compared": build_comparison([flat, few]).parent,
        "variants": build_gallery(variants).parent,
        "unplaced": build_gallery(
            runs.variants(root / "unplaced", shape=runs.VOLUME, affine=None)
        ).parent,
        "both": build_comparison([variants, against]).parent,
        "contrasts": build_gallery(runs.contrasts(root / "c", CONTRASTS, shape=runs.VOLUME)).parent,
        "colour": build_gallery(runs.contrasts(root / "rgb", COLOUR)).parent,
        "trusted": build_gallery(runs.trusted(root / "trusted")).parent,
        "deformed": build_gallery(runs.deformed(root / "deformed")).parent,
        "deformed-3d": build_gallery(
            runs.deformed(root / "deep-deformed", shape=runs.VOLUME, affine=runs.VOLUME_AFFINE)
        ).parent,
    }


@pytest.fixture
def visit(chromium) -> Callable[..., Any]:
    """Opens a page and fails if it complains, or asks for anything that is not on the disk."""

    @contextmanager
    def opened(
        path: Path, fragment: str = "", *, size: str = "desk", **options: Any
    ) -> Iterator[Any]:
        width, height = WIDTHS[size]
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        page, complaints = context.new_page(), []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("file:", "data:", "blob:"))
                else complaints.append(request.url)
            ),
        )
        page.goto(path.as_uri() + fragment)
        yield page
        context.close()
        assert not complaints

    return opened


def shown(page: Any, selector: str) -> list[str]:
    """The names of the pictures that are to be seen."""
    return page.eval_on_selector_all(
        selector, "all => all.filter(e => e.offsetParent).map(e => e.src.split('/').pop())"
    )


def order(page: Any) -> list[int]:
    """The channels on a sheet, in the order in which they are to be seen."""
    return page.eval_on_selector_all(
        ".tile", "all => all.filter(e => e.offsetParent).map(e => Number(e.dataset.number))"
    )


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize(
    "name",
    [
        *("flat", "deep", "compared", "variants", "unplaced", "both", "contrasts", "colour"),
        *("trusted", "deformed", "deformed-3d"),
    ],
)
def test_no_page_complains_and_every_page_fits(sites, visit, name, size):
    for path in sorted(sites[name].rglob("*.html")):
        with visit(path, size=size) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[size][0], path
            assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0


@pytest.mark.parametrize("size", WIDTHS)
def test_a_voxel_is_a_square_of_whole_pixels(sites, visit, size):
    with visit(sites["flat"] / "units" / "conv1" / "0000.html", size=size) as page:
        # Images below the fold load lazily, and have no size of their own before that.
        page.evaluate(
            "Promise.all([...document.querySelectorAll('img.voxels')].filter(e => e.offsetParent)"
            ".map(e => { e.loading = 'eager'; return e.decode(); }))"
        )
        boxes = page.eval_on_selector_all(
            "img.voxels",
            "all => all.filter(e => e.offsetParent).map(e => { const b = e.getBoundingClientRect();"
            " return [b.width / e.naturalWidth, b.height / e.naturalHeight]; })",
        )
        assert boxes
        for across, up in boxes:
            assert across == up == round(across) >= 1


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_choices_work_with_and_without_scripts(sites, visit, scripts):
    with visit(sites["deep"] / "layers" / "conv1.html", java_script_enabled=scripts) as page:
        assert page.locator(".tile img:visible").count() == 2
        page.click("label[for=view-coronal]")
        page.click("label[for=window-own]")
        sources = [each.get_attribute("src") for each in page.locator(".tile img:visible").all()]
        assert [Path(source or "").name for source in sources] == [
            "0000-coronal-own.png", "0001-coronal-own.png",
        ]  # fmt: skip
        page.click("label[for=view-projection]")
        source = page.locator(".tile img:visible").first.get_attribute("src")
        assert source.endswith("0000-axial-projection-own.png")
        assert page.locator("[name=sort]").count() == 0 or scripts


def test_a_page_without_scripts_shows_every_image_and_no_dead_control(sites, visit):
    with visit(sites["deep"] / "units" / "conv1" / "0001.html", java_script_enabled=False) as page:
        assert page.locator(".stage img:visible").count() == 3
        assert page.locator(".projections img:visible").count() == 3
        assert page.locator(".slices.shared svg:visible").count() == runs.VOLUME[2]
        assert page.locator(".viewer button:visible").count() == 0
    with visit(sites["flat"] / "index.html", java_script_enabled=False) as page:
        assert page.locator("#layer-filter:visible").count() == 0
        assert page.locator(".layer:visible").count() == 3


def of_scan(page: Any) -> float:
    """How much of the scan is seen over the second variant's changed scan."""
    return float(page.locator("#v2 .over").evaluate("e => getComputedStyle(e).opacity"))


@pytest.mark.parametrize("name", ["deformed", "deformed-3d"])
def test_scan_and_changed_scan_blend_and_flicker_when_asked_to(sites, visit, name):
    with visit(sites[name] / "units/conv1/0000.html") as page:
        page.wait_for_timeout(700)
        assert of_scan(page) == 0  # Off, until somebody asks.
        same = page.locator("#v2 .blended img").evaluate_all(
            "all => all.map(e => JSON.stringify(e.getBoundingClientRect()))"
        )
        assert len(same) == 2 and len(set(same)) == 1
        slider, button = page.locator("#v2 .blend input"), page.locator("#v2 .blend button")
        slider.focus()
        page.keyboard.press("Home")
        assert of_scan(page) == 1
        page.keyboard.press("ArrowRight")
        assert of_scan(page) == pytest.approx(0.95)
        assert page.url.endswith("0000.html")  # Arrows turn no page there.
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == "true"
        seen = set()
        for _ in range(14):
            seen.add(of_scan(page))
            page.wait_for_timeout(100)
        assert seen == {0.0, 1.0}
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == "false"
        left = of_scan(page)
        page.wait_for_timeout(700)
        assert of_scan(page) == left


def test_nothing_moves_for_whoever_asks_for_less_motion(sites, visit):
    with visit(sites["deformed"] / "units/conv1/0000.html", reduced_motion="reduce") as page:
        button = page.locator("#v2 .blend button")
        assert button.inner_text() == "Swap"
        button.click()
        assert of_scan(page) == 1
        page.wait_for_timeout(700)
        assert of_scan(page) == 1
        button.click()
        assert of_scan(page) == 0


def test_filters_choose_layers_and_channels(sites, visit):
    with visit(sites["flat"] / "index.html") as page:
        assert page.locator(".tile:visible").count() == 8
        page.click("label[for=status-uniform]")
        assert page.locator(".tile:visible").count() == 1
        assert page.locator(".layer:visible").count() == 1
        page.click("label[for=status-all]")
        page.fill("#layer-filter", "CONV3")
        assert page.locator(".layer:visible").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", WIDTHS)
def test_every_variant_is_seen_in_one_view(sites, visit, size, scheme):
    options = {"size": size, "color_scheme": scheme}
    for name, place in (("variants", "axial"), ("unplaced", "ij")):
        for page_name in ("index.html", "layers/conv1.html"):
            with visit(sites[name] / page_name, **options) as page:
                assert shown(page, ".tile img") == [
                    f"{each}-{place}-shared.png"
                    for each in (
                        "0000", "0000-variant2", "0000-variant3", "0001", "0001-variant2",
                        "0001-variant3", "0005", "0005-variant2",
                    )
                ]  # fmt: skip
        with visit(sites[name] / "units" / "conv1" / "0001.html", **options) as page:
            assert len(shown(page, ".stage img")) == (3 if name == "variants" else 9)
            assert page.locator(".image h2:visible").all_inner_texts()[0].startswith("Variant 1")
            page.click(".tiles[aria-label=Variants] .tile:nth-child(3) a")
            assert page.evaluate("document.querySelector(':target').id") == "v3"
            assert page.evaluate("document.querySelector(':target h2').innerText.slice(0, 9)") == (
                "Variant 3"
            )


def test_contrasts_are_seen_side_by_side_or_one_alone(sites, visit):
    names = [f"{unit}_{name}-axial-shared.png" for unit in ("0000", "0001")
             for name in CONTRASTS.names]  # fmt: skip
    with visit(sites["contrasts"] / "layers" / "conv1.html") as page:
        assert shown(page, ".tile img") == names
        page.click("label[for=contrast-FLAIR]")
        assert shown(page, ".tile img") == names[2::3]
        # The choice goes along to the page of a channel, and back to all.
        page.click(".tile:visible a")
        page.wait_for_selector(".stage")
        assert {name.split("-")[0] for name in shown(page, ".stage img")} == {"0000_FLAIR"}
        page.click("label[for=contrast-]")
        assert len(shown(page, ".stage img")) == 9
        assert page.locator(".stage .part-name:visible").all_inner_texts() == [
            "T1w", "T2w, held", "FLAIR"
        ]  # fmt: skip


def test_an_address_keeps_what_was_chosen(sites, visit):
    layer = sites["flat"] / "layers" / "conv1.html"
    with visit(layer) as page:
        assert order(page) == [0, 1, 2, 10]
        page.click("label[for=sort-objective]")
        page.click("label[for=window-own]")
        assert order(page) == [10, 2, 1, 0]
        address = page.url
        assert address.endswith("#window=own&sort=objective")
        page.click(".tile a")
        page.wait_for_url("**/units/conv1/0010.html#window=own&sort=objective")
        assert shown(page, ".stage img") == ["0010-axial-own.png"]
        page.keyboard.press("Escape")
        page.wait_for_url("**/layers/conv1.html#c10&window=own&sort=objective")
        assert order(page) == [10, 2, 1, 0]
    with visit(layer, "#window=own&sort=objective") as page:
        assert order(page) == [10, 2, 1, 0]
        page.click("label[for=sort-number]")
        assert order(page) == [0, 1, 2, 10]


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_verdicts_filter_with_and_without_scripts(sites, visit, scripts):
    layer = sites["trusted"] / "layers" / "conv1.html"
    with visit(layer, java_script_enabled=scripts) as page:
        for slug, channels in {
            "not-refuted": [0, 4], "refuted": [1], "not-driving": [2], "not-measured": [3],
            "all": [0, 1, 2, 3, 4, 11],
        }.items():  # fmt: skip
            page.click(f"label[for=verdict-{slug}]")
            assert page.locator(".tile:visible").count() == len(channels)
            numbers = page.locator(".tile:visible .channel").all_inner_texts()
            assert [int(number) for number in numbers] == channels


def test_verdicts_sort_and_the_address_keeps_them(sites, visit):
    layer = sites["trusted"] / "layers" / "conv1.html"
    with visit(layer) as page:
        # What has no number comes last, by the number of its channel.
        page.click("label[for=sort-belongs]")
        assert order(page) == [4, 0, 1, 2, 3, 11]
        page.click("label[for=sort-examples]")
        assert order(page)[-3:] == [2, 3, 11]
        page.click("label[for=sort-belongs]")
        page.click("label[for=verdict-not-refuted]")
        assert order(page) == [4, 0]
        assert page.url.endswith("#verdict=not-refuted&sort=belongs")
        page.click(".tile:visible a")
        page.wait_for_url("**/units/conv1/0004.html#verdict=not-refuted&sort=belongs")
        assert page.locator(".trust tr[data-measure]:visible").count() > 8
        page.keyboard.press("Escape")
        page.wait_for_url("**/layers/conv1.html#c4&verdict=not-refuted&sort=belongs")
        assert order(page) == [4, 0]


def test_keys_turn_pages_and_move_among_tiles(sites, visit):
    with visit(sites["flat"] / "units" / "conv1" / "0001.html") as page:
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**/0002.html")
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**/0010.html")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**/0002.html")
        page.keyboard.press("w")
        assert shown(page, ".stage img") == ["0002-axial-own.png"]
        page.keyboard.press("Escape")
        page.wait_for_url("**/layers/conv1.html*")
        page.focus(".tile a")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.closest('.tile').id") == "c1"


def viewer_picture(page: Any, path: Path) -> np.ndarray:
    """The axial plane as the 3-D viewer draws it."""
    page.click(".viewer button")
    page.wait_for_selector(".viewer[data-state]", timeout=120_000)
    assert page.get_attribute(".viewer", "data-state") == "open", page.inner_text(".viewer")
    page.evaluate("featvisGallery.niivue.setCrosshairWidth(0)")
    page.evaluate("featvisGallery.niivue.setSliceType(0)")
    page.wait_for_timeout(500)
    page.locator(".viewer canvas").screenshot(path=path)
    return np.asarray(Pillow.open(path).convert("L")).astype(float)


def test_the_viewer_shows_each_volume_and_flips_none(sites, visit, tmp_path):
    drawn = {}
    for name, channel in (("deep", 0), ("deep", 1), ("mirrored", 1)):
        page_path = sites[name] / "units" / "conv1" / f"{channel:04d}.html"
        with visit(page_path) as page:
            drawn[name, channel] = viewer_picture(page, tmp_path / f"{name}{channel}.png")
    assert np.abs(drawn["deep", 0] - drawn["deep", 1]).mean() > 5
    middle = drawn["deep", 1].shape[1] // 2
    for name, bright in (("deep", "right"), ("mirrored", "left")):
        left, right = drawn[name, 1][:, :middle].sum(), drawn[name, 1][:, middle:].sum()
        # The right of the subject is on the right, whichever way the grid runs.
        assert (right > 2 * left) if bright == "right" else (left > 2 * right)


def test_the_viewer_has_letters_only_where_sides_are_known_and_one_for_each_variant(sites, visit):
    letters = "featvisGallery.niivue.opts.isOrientationTextVisible"
    with visit(sites["deep"] / "units" / "conv1" / "0000.html") as page:
        page.click(".viewer button")
        page.wait_for_selector(".viewer[data-state=open]", timeout=120_000)
        assert page.evaluate(letters) is True
    with visit(sites["unplaced"] / "units" / "conv1" / "0005.html") as page:
        for number in (0, 1):
            page.locator(".viewer button").nth(number).click()
        page.wait_for_selector(".viewer[data-state=open] >> nth=1", timeout=120_000)
        assert page.locator(".viewer canvas").count() == 2
        assert page.evaluate(letters) is False
        assert page.evaluate("featvisGallery.niivue.volumes[0].name").startswith(
            "conv1, channel 5, variant 2"
        )


def test_the_viewer_exchanges_contrasts(sites, visit):
    name = "featvisGallery.niivue.volumes.map((volume) => volume.name).join()"
    with visit(sites["contrasts"] / "units" / "conv1" / "0001.html") as page:
        assert not page.locator(".viewer select").is_visible()
        page.click(".viewer button")
        page.wait_for_selector(".viewer[data-state=open]", timeout=120_000)
        assert page.evaluate(name) == "conv1, channel 1, T1w.nii.gz"
        for number, text in ((2, "FLAIR"), (1, "T2w, held"), (0, "T1w")):
            page.select_option(".viewer select", index=number)
            wanted = f"conv1, channel 1, {text}.nii.gz"
            for _ in range(200):  # The page's policy forbids what playwright would wait by.
                if page.evaluate(name) == wanted:
                    break
                page.wait_for_timeout(100)
            assert page.evaluate(name) == wanted


def test_without_webgl_the_viewer_says_so_and_the_page_stays(sites, chromium):
    path = sites["deep"] / "units" / "conv1" / "0001.html"
    context = chromium.new_context()
    context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    page = context.new_page()
    page.goto(path.as_uri())
    page.click(".viewer button")
    page.wait_for_selector(".viewer[data-state=failed]")
    assert "no WebGL 2. The pictures above show the same" in page.inner_text(".viewer")
    assert page.locator(".stage img:visible").count() == 3
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(sites, visit, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )
    for name, page_name in (
        ("flat", "index.html"),
        ("flat", "layers/conv1.html"),
        ("flat", "units/conv1/0001.html"),
        ("deep", "layers/conv1.html"),
        ("deep", "units/conv1/0001.html"),
        ("compared", "index.html"),
        ("compared", "layers/conv1.html"),
        ("variants", "index.html"),
        ("variants", "layers/conv1.html"),
        ("variants", "units/conv1/0001.html"),
        ("unplaced", "units/conv1/0005.html"),
        ("both", "layers/conv1.html"),
        ("trusted", "layers/conv1.html"),
        ("trusted", "units/conv1/0000.html"),
        ("deformed", "layers/conv1.html"),
        ("deformed", "units/conv1/0000.html"),
        ("deformed-3d", "units/conv1/0000.html"),
    ):
        with visit(sites[name] / page_name, color_scheme=scheme) as page:
            found = axe.Axe().run(page, options={"preload": False}).response["violations"]
            serious = [
                (each["id"], [node["target"] for node in each["nodes"]][:3])
                for each in found
                if each["impact"] in ("serious", "critical")
            ]
            assert not serious, f"{name}/{page_name}: {serious}"

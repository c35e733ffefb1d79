"""Contact sheets: every voxel is where it belongs, whole, and in the right grey."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from featvis_jax.results import pixels, sheets


def page(png: bytes) -> np.ndarray:
    """The pixels of a PNG, as colours."""
    return np.asarray(Pillow.open(io.BytesIO(png)).convert("RGB"))


def find(tile: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Row and column of the one place where a grey tile lies in a colour picture."""
    grey = picture[..., 0].astype(int)
    height, width = tile.shape
    start = tile[0, :8]
    rows = np.lib.stride_tricks.sliding_window_view(grey[: 1 - height or None], 8, axis=1)
    candidates = np.argwhere((rows == start).all(axis=-1))
    places = [
        (row, column)
        for row, column in candidates.tolist()
        if (picture[row : row + height, column : column + width] == tile[..., None]).all()
    ]
    assert len(places) == 1, f"the tile is there {len(places)} times"
    return places[0]


def sheet(images, statuses=None, **options) -> np.ndarray:
    look = {name: options.pop(name) for name in sheets.Look._fields if name in options}
    voxels = {name: options.pop(name) for name in sheets.Voxels._fields if name in options}
    return page(
        sheets.contact_sheet(
            images,
            titles=[str(number) for number in range(len(images))],
            statuses=statuses or ["alive"] * len(images),
            title="conv3",
            look=sheets.Look(**look),
            voxels=sheets.Voxels(**voxels),
            **options,
        )
    )


def noise(rng, count: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    return list(rng.random((count, *shape, 1)).astype(np.float32))


@pytest.mark.parametrize("window", ["own", "shared"])
def test_what_the_intensities_are_stands_below_them_and_moves_nothing(rng, window):
    images = noise(rng, 1, (12, 14))
    plain, told = (sheet(images, window=window, unit=unit) for unit in (None, "z-score of a scan"))
    rows = np.flatnonzero((plain != told).any(axis=(1, 2)))
    assert rows.size
    # Below all else: until then there was nothing there.
    assert len(np.unique(plain[rows.min() :].reshape(-1, 3), axis=0)) == 1
    assert rows.max() < len(plain) - 3


def test_sixty_four_slices_lie_on_one_page_in_order_and_unchanged(rng):
    images = noise(rng, 64, (140, 192))
    window = min(float(i.min()) for i in images), max(float(i.max()) for i in images)
    drawn = sheet(images)
    tiles = [pixels.picture(image, window=window) for image in images]
    places = [find(tile, drawn) for tile in tiles]
    assert places == sorted(places)
    rows, columns = ({place[axis] for place in places} for axis in (0, 1))
    assert len(rows) == len(columns) == 8
    # Room for the labels, and a page that a screen shows at its own size.
    assert np.diff(sorted(rows)).min() >= 192 + 24
    assert drawn.shape[1] < 1400


def test_five_slices_are_drawn_in_whole_pixels_and_larger(rng):
    images = noise(rng, 5, (140, 192))
    drawn = sheet(images, window=(0.0, 1.0))
    places = [find(pixels.picture(one, window=(0.0, 1.0), scale=2), drawn) for one in images]
    assert len({row for row, _ in places}) == 1


def test_volumes_lie_on_one_page(rng):
    volumes = noise(rng, 4, (20, 24, 22))
    drawn = sheet(volumes, window=(0.0, 1.0), scale=2, columns=2)
    for volume in volumes:
        find(pixels.picture(volume[:, :, 11:12, 0], window=(0.0, 1.0), scale=2), drawn)
        find(pixels.picture(volume[:, 12, :], window=(0.0, 1.0), scale=2), drawn)
        find(pixels.picture(volume[10], window=(0.0, 1.0), scale=2), drawn)


@pytest.mark.parametrize(("count", "variants"), [(4, 3), (1, 20), (9, 2)])
def test_images_of_one_group_lie_together(rng, count, variants):
    images = noise(rng, count * variants, (140, 192))
    groups = [number // variants for number in range(len(images))]
    drawn = sheet(images, window=(0.0, 1.0), scale=1, groups=groups)
    places = [find(pixels.picture(one, window=(0.0, 1.0)), drawn) for one in images]
    blocks = np.array(places).reshape(count, variants, 2)
    # Blocks of one shape, none inside of another, and a group's images in the order given.
    assert len({tuple(map(tuple, block - block[0])) for block in blocks}) == 1
    assert all([tuple(each) for each in block] == sorted(map(tuple, block)) for block in blocks)
    first, last = blocks.min(axis=1), blocks.max(axis=1) + np.array([192, 140])
    for one in range(count):
        for other in range(one):
            assert (first[one] >= last[other]).any() or (first[other] >= last[one]).any()
    assert 0.3 < drawn.shape[1] / drawn.shape[0] < 3
    if count > 1 and len({row for row, _ in places}) < count:
        across = sorted({column for _, column in places})
        steps = np.diff(across)
        assert steps[0] < steps[variants - 1], "groups stand further apart than their images"


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.eye(4), "anterior up, left on the left"),
        (np.diag([-1.0, -1.0, 1.0, 1.0]), "posterior up, right on the left"),
        (None, "i to the right, j up"),
    ],
)
def test_a_page_says_which_way_up_its_images_are_as_far_as_it_is_known(
    rng, monkeypatch, affine, words
):
    said = []
    draw = sheets.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        sheets.ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, *rest, **more: (
            said.append(text) or draw(self, place, text, *rest, **more)
        ),
    )
    sheet(noise(rng, 2, (40, 40)), affine=affine)
    assert said[-1] == words
    sheet(noise(rng, 6, (30, 30, 30)), affine=affine)
    assert ("axial" in said[-1]) == (affine is not None)
    assert ("anterior" in said[-1] or "A up" in said[-1]) == (words.startswith("anterior"))


def test_images_may_come_one_by_one(rng):
    images = noise(rng, 3, (10, 12))
    options = {"titles": "012", "statuses": ["alive"] * 3, "title": "conv1"}
    assert sheets.contact_sheet(iter(images), **options) == sheets.contact_sheet(images, **options)


def test_every_image_can_have_its_own_window(rng):
    images = [noise(rng, 1, (30, 30))[0] * factor for factor in (1, 10)]
    drawn = sheet(images, window="own", scale=1)
    for image in images:
        find(pixels.picture(image, window=(float(image.min()), float(image.max()))), drawn)


def test_a_diverged_image_does_not_change_the_shared_window(rng):
    images = noise(rng, 3, (30, 30))
    images[1] = images[1] * 1e6
    window = (
        min(float(images[0].min()), float(images[2].min())),
        max(float(images[0].max()), float(images[2].max())),
    )
    drawn = sheet(images, ["alive", "diverged", "alive"], scale=1)
    find(pixels.picture(images[0], window=window), drawn)


def test_a_page_of_uniform_or_broken_images_is_drawn():
    constant = np.full((8, 8, 1), 0.3)
    grey = np.full((8, 8), 128, np.uint8)
    drawn = sheet([constant], ["uniform"], scale=1)
    assert (drawn == grey[0, 0]).all(axis=-1).sum() >= 64
    sheet([np.full((8, 8, 1), np.nan)], ["diverged"])
    sheet([constant, constant * np.nan], ["dead", "diverged"], window="own")


def test_a_status_is_marked_without_help_of_colour(rng):
    images = noise(rng, 4, (60, 60))
    plain = sheet(images, window=(0.0, 1.0)).mean(axis=-1)
    marked = {
        status: sheet(images, ["alive", status, "alive", "alive"], window=(0.0, 1.0)).mean(axis=-1)
        for status in ("dead", "uniform", "weak", "diverged")
    }
    for name, drawn in marked.items():
        changed = np.abs(drawn - plain) > 60
        assert changed.sum() > 40, name
    shapes = [(drawn < 200).astype(int).tobytes() for drawn in marked.values()]
    assert len(set(shapes)) == 4
    sound = sheet(images, ["driven", "alive", "driven", "alive"], window=(0.0, 1.0))
    np.testing.assert_array_equal(sound.mean(axis=-1), plain)


def test_equal_arguments_give_equal_bytes(rng):
    images = noise(rng, 3, (20, 20))
    np.testing.assert_array_equal(sheet(images), sheet([image.copy() for image in images]))


@pytest.mark.parametrize("name", ["</script>", "a\nb\t\x00", "层3", "x" * 300])
def test_names_of_any_kind_stay_on_the_page(name):
    image = np.zeros((9, 9, 1))
    png = sheets.contact_sheet([image], titles=[name], statuses=["dead"], title=name)
    drawn = page(png)
    assert drawn.shape[1] < 900
    assert (drawn[:, -8:] == 250).all()


def test_what_does_not_fit_together_is_refused(rng):
    images = noise(rng, 2, (9, 9))
    with pytest.raises(ValueError, match="2 images, 1 titles and 2 statuses"):
        sheets.contact_sheet(images, titles=["0"], statuses=["alive"] * 2, title="conv1")
    with pytest.raises(ValueError, match="at least one image"):
        sheets.contact_sheet([], titles=[], statuses=[], title="conv1")
    with pytest.raises(ValueError, match="one shape"):
        sheet([images[0], images[1][:5]])
    with pytest.raises(ValueError, match="2 images and 3 groups"):
        sheet(images, groups=[0, 0, 1])
    with pytest.raises(ValueError, match="window must be"):
        sheet(images, window=(1.0, 0.0))
    with pytest.raises(ValueError, match="columns must be"):
        sheet(images, columns=0)
    with pytest.raises(ValueError, match="scale must be"):
        sheet(images, scale=0)

"""Small runs for the tests of the gallery, written by the store itself, and a reader of pages."""

import dataclasses
import itertools
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from featvis_jax.ranges import to_intensities
from featvis_jax.results import store, tables
from featvis_jax.results.anatomy import MapRecord, RegionRecord, ScanRecord
from featvis_jax.results.channels import InputChannels
from featvis_jax.results.trust import (
    NOT_DRIVING,
    NOT_MEASURED,
    NOT_REFUTED,
    REFUTED,
    TrustRecord,
)

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&/../conv"
SLICE_AFFINE = np.array([[1.0, 0, 0, -9.5], [0, 1, 0, -16], [0, 0, 1, 12], [0, 0, 0, 1]])
VOLUME_AFFINE = np.array([[2.0, 0, 0, -11], [0, 2, 0, -20], [0, 0, 2, -7], [0, 0, 0, 1]])
# The first axis runs to the left of the subject, the second to the back.
MIRRORED_AFFINE = np.array([[-2.0, 0, 0, 11], [0, -2, 0, 20], [0, 0, 2, -7], [0, 0, 0, 1]])
SLICE, VOLUME = (20, 28), (12, 16, 14)

MEASURES = (
    "belongs", "strength", "pasted", "selectivity", "standing", "other_ways", "likeness",
    "examples_predict", "picture_predicts", "both_predict", "label_auc",
)  # fmt: skip

REFERENCE = {"images": 240, "of": "slices", "lesions": "with and without", "percentile": 100.0}


def unit(
    layer: str,
    channel: int,
    *,
    image=None,
    shape=SLICE,
    status="alive",
    steps=40,
    variant=1,
    **measured,
):
    """A result whose content follows from its name; the final objective is not its trace's."""
    generator = np.random.default_rng([variant, channel, *layer.encode()])
    if image is None:
        image = generator.random((*shape, 1)).astype(np.float32)
    objective = (np.linspace(-0.5, 1 + channel, steps) + 0.1 * generator.random(steps)).astype("f4")
    penalty = np.zeros(steps, np.float32)
    if status == "diverged":
        image[0, 0] = np.nan
        objective[steps // 2 :] = np.nan
    if status == "uniform":
        image[:] = 0.25
    first, last = float(objective[0]), float(objective[-1])
    # The second of three variants is the strongest.
    last = 2 * last + channel + (0, 0.125, -0.25)[variant - 1]
    record = tables.UnitRecord(
        layer, channel, status, 0.75 * first, last, 0.0,
        float(np.nanmin(image)), float(np.nanmax(image)), steps, 0.5, 7,
        variant=variant, transformed_objective=float(objective[np.isfinite(objective)][-1]),
        **measured,
    )  # fmt: skip
    return tables.UnitResult(record, image, objective, penalty)


def write_run(
    directory: Path,
    units: list[tables.UnitResult],
    *,
    wanted: dict[str, list[int]],
    shape: tuple[int, ...] = SLICE,
    affine: np.ndarray | None = SLICE_AFFINE,
    **settings: object,
) -> store.RunView:
    """A run in a directory, which may be one that is half done."""
    configuration = {"model": "tiny", "layers": wanted, "steps": 40, "batch": 4, **settings}
    environment = {"featvis_jax": "0.1.0", "command": "python -m experiments.visualize --model=m"}
    with store.open_run(directory, configuration, environment=environment) as run:
        run.write_flags("--model=m\n--layer=all\n--channels=all\n--out=o\n--steps=40\n")
        run.write_layers(
            [tables.LayerRecord(name, shape, 16, (5,) * len(shape), (1,) * len(shape))
             for name in (*wanted, "logits")]
        )  # fmt: skip
        done = {record.key for record in run.records()}
        new = [each for each in units if each.record.key not in done]
        run.write_units(new, affine=affine, window=(0.0, 1.0))
    return store.read_run(directory)


def slices(directory: Path, **settings: object) -> store.RunView:
    """A half-finished 2-D run with every status and a hostile layer."""
    units = [unit("conv1", channel) for channel in (0, 1, 2, 10)]
    units += [
        unit(HOSTILE, channel, status=status)
        for channel, status in enumerate(("dead", "uniform", "diverged", "alive"))
    ]
    wanted = {"conv1": [0, 1, 2, 10], HOSTILE: list(range(8)), "conv3": [0, 1]}
    return write_run(directory, units, wanted=wanted, **settings)


def phantom() -> np.ndarray:
    """A volume that is bright on one side of its first axis."""
    image = np.full((*VOLUME, 1), 0.1, np.float32)
    image[8:] = 0.9
    return image


def variants(directory: Path, *, shape=SLICE, affine=SLICE_AFFINE, **settings) -> store.RunView:
    """A run of three images of each of three channels, all finished but for one of the last."""
    pairs = [(channel, variant) for channel in (0, 1, 5) for variant in (1, 2, 3)][:-1]
    status = {(1, 3): "uniform", (5, 1): "diverged", (5, 2): "uniform"}
    units = [
        unit("conv1", channel, shape=shape, variant=variant,
             status=status.get((channel, variant), "alive"))
        for channel, variant in pairs
    ]  # fmt: skip
    settings = {"robustness": "chain(translate(max_voxels=4))", "variants": 3, **settings}
    return write_run(
        directory, units, wanted={"conv1": [0, 1, 5]}, shape=shape, affine=affine, **settings
    )


def driving(directory: Path, **settings: object) -> store.RunView:
    """A run beside real inputs: driven, weak, one that no real input drives, and a flat one."""
    units = [
        unit("conv1", 0, status="weak", response=1.5, target=3.0, strength=0.5),
        unit("conv1", 1, status="driven", response=13.64, target=4.0, strength=3.41),
        unit("conv1", 2, status="noise", response=0.25),
        unit("conv1", 3, status="weak", response=-0.5, target=10.0, strength=-0.05),
        unit("conv1", 5, status="uniform", response=1.25, target=1.0, strength=1.25),
    ]
    settings = {"reference": REFERENCE, **settings}
    return write_run(directory, units, wanted={"conv1": [0, 1, 2, 3, 5]}, **settings)


def suppressing(directory: Path, **settings: object) -> store.RunView:
    """A run of what suppresses its channels."""
    objective = {"conv1": "(-1.0) * channel('conv1')"}
    units = [unit("conv1", channel) for channel in (0, 3)]
    settings = {"objective": objective, "parameterization": "pixels(noise=0.1)", **settings}
    return write_run(directory, units, wanted={"conv1": [0, 3]}, **settings)


def directions(directory: Path, **settings: object) -> store.RunView:
    """A run of directions with names, of which one is not finished."""
    names = ["age", "sex", HOSTILE]
    settings = {
        "objective": {"conv1": "direction('conv1', vector=<3x16 float32, sha256 0123456789ab>)"},
        "unit_names": {"conv1": names},
        **settings,
    }
    units = [unit("conv1", number, strength=1.5, response=1.0, target=0.5) for number in (0, 2)]
    return write_run(directory, units, wanted={"conv1": [0, 1, 2]}, **settings)


def trust(channel: int, verdict: str, *, layer="conv1", variant=1, **measured: Any) -> TrustRecord:
    """A row of trust.tsv whose numbers follow from its name."""
    generator = np.random.default_rng([7, variant, channel, *layer.encode()])
    names = [name for name in MEASURES if name != "label_auc" or channel % 2 == 0]
    values: dict[str, Any] = {name: float(generator.random()) for name in names}
    for name in names:
        if f"{name}_low" in TrustRecord.__dataclass_fields__:
            values[f"{name}_low"] = 0.9 * values[name]
            values[f"{name}_high"] = min(1.0, 1.1 * values[name])
    values["strength"] = 3.0 * values["strength"]
    values["likeness"] -= 0.5
    words = {"reason": f"because of <b>{channel}</b>", "below": "pool1, conv1"}
    words |= {"label": "lesion"} if "label_auc" in names else {}
    values |= words
    return TrustRecord(layer, channel, variant, verdict, **{**values, **measured})


def trusted(directory: Path, rows: list[TrustRecord] | None = None, **settings) -> store.RunView:
    """A run of which pictures were looked at: one of every verdict, and one that has no row."""
    units = [unit("conv1", channel) for channel in (0, 1, 2, 3, 4, 11)]
    units += [unit(HOSTILE, 0)]
    wanted = {"conv1": [0, 1, 2, 3, 4, 11], HOSTILE: [0]}
    view = write_run(directory, units, wanted=wanted, **settings)
    if rows is None:
        rows = [
            trust(0, NOT_REFUTED, belongs=0.75, examples_predict=0.875, picture_predicts=0.5),
            trust(1, REFUTED, belongs=0.125, examples_predict=0.5, picture_predicts=0.875),
            trust(2, NOT_DRIVING, belongs=None, examples_predict=None, strength=-0.5),
            TrustRecord("conv1", 3, 1, NOT_MEASURED),
            trust(4, NOT_REFUTED, belongs=0.9375, strength=136.4, examples_x=-23.4,
                  examples_y=None, examples_z=8.0, examples_region="left putamen, 7 of 9"),
        ]  # fmt: skip
    with store.open_run(directory, view.configuration, environment=view.environments[0]) as run:
        run.write_trust(rows)
    return view


def deformed(
    directory: Path, *, shape=SLICE, affine=SLICE_AFFINE, ratio=3.25, people=3, **settings
) -> store.RunView:
    """A run of scans that were deformed, of three people, and what was found in them."""
    rng = np.random.default_rng(5)
    count = 3
    starts = [
        {"person": f"sub-0{number % people}", "slice": 30 + 2 * number, "height_mm": 4.0 * number}
        if len(shape) == 2
        else {"person": f"sub-0{number % people}"}
        for number in range(count)
    ]
    head = np.zeros((*shape, 1), np.float32)
    head[tuple(slice(n // 5, n - n // 5) for n in shape)] = 0.5
    units = []
    for number in range(count):
        growth = np.float32(0.2 * (head - 0.25) + 0.02 * rng.standard_normal(head.shape))
        growth[tuple(n // 2 for n in shape)] = 1.1 if number == 1 else 0.3
        image = np.float32(np.clip(head + 0.2 * rng.random(head.shape), 0, 1))
        moved = np.zeros((*shape, 3), np.float32)
        maps = {"scan": head, "logjac": growth, "displacement": moved}
        made = unit("conv1", 0, image=image, shape=shape, variant=number + 1)
        units.append(dataclasses.replace(made, maps=maps))
    settings = {"variants": count, "starts": starts, "parameterization": "deformations()"}
    view = write_run(
        directory, units, wanted={"conv1": [0]}, shape=shape, affine=affine, **settings
    )
    warned = f"This unit asks for brightness: {ratio}." if ratio > 1.7 else None
    told = {"brightness_ratio": ratio, "asks_for": "brightness" if warned else "shape"}
    regions = [
        RegionRecord(
            *("conv1", 0, f"region {number}", 40 + number, people, 20.0 - number),
            energy=0.5 / (number + 1), change_low=18.5 - number, change_high=21.5 - number,
            warning=warned, **told,
        )
        for number in range(14)
    ]  # fmt: skip
    scans = [
        ScanRecord(
            "conv1", 0, number, **starts[number - 1], target=8.0, shape_effort=0.13,
            brightness_effort=0.04, ratio=ratio, outcome="both reach it",
        )
        for number in range(1, count + 1)
    ]  # fmt: skip
    tested = {"degrees_of_freedom": 2, "t_threshold": 4.5, "rising": 0.25} if people > 2 else {}
    record = MapRecord("conv1", 0, "logjac", count, people, 90, **tested)
    with store.open_run(directory, view.configuration, environment=view.environments[0]) as run:
        mean = np.mean([each.maps["logjac"] for each in units], axis=0)
        run.write_stat("conv1", 0, head, affine, stat="mean", name="scan")
        run.write_stat("conv1", 0, mean, affine, stat="mean", name="logjac")
        if people > 2:
            t = np.float32(20 * mean)
            run.write_stat("conv1", 0, t, affine, stat="t", name="logjac", degrees_of_freedom=2)
        run.write_anatomy(regions, [record], scans)
    return view


def volumes(directory: Path, *, affine: np.ndarray | None = VOLUME_AFFINE) -> store.RunView:
    """A 3-D run; channel 1 is bright on one side only."""
    units = [unit("conv1", 0, shape=VOLUME), unit("conv1", 1, image=phantom(), shape=VOLUME)]
    units += [unit(HOSTILE, 2, shape=VOLUME)]
    wanted = {"conv1": [0, 1], HOSTILE: [2]}
    return write_run(directory, units, wanted=wanted, shape=VOLUME, affine=affine)


def contrasts(directory: Path, given: InputChannels, *, shape=SLICE, **settings) -> store.RunView:
    """A run of two channels, whose images have as many channels as given, within their ranges."""
    drawn = [random_image((*shape, len(given.names)), number) for number in (0, 1)]
    images = [to_intensities(image, given.ranges) for image in drawn]
    units = [unit("conv1", number, image=image) for number, image in enumerate(images)]
    return write_run(
        directory, units, wanted={"conv1": [0, 1]}, shape=shape,
        affine=VOLUME_AFFINE if len(shape) == 3 else None,
        input_channels=given.setting(), **settings,
    )  # fmt: skip


def random_image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """White noise on [0, 1]."""
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@dataclass
class Page(HTMLParser):
    """A page as a parser sees it: its elements, its text and where it leads."""

    path: Path
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    closed: list[tuple[str, str]] = field(default_factory=list)
    inside: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reads the page."""
        super().__init__(convert_charrefs=True)
        self.source = self.path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def __hash__(self) -> int:
        """A page is itself."""
        return id(self)

    def handle_starttag(self, tag, attrs):
        self.texts.append(" ")
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside[tag] = ""

    def handle_endtag(self, tag):
        if tag in ("dt", "dd", "figcaption", "li", "td", "th", "h1", "h2", "title"):
            self.closed.append((tag, re.sub(r"\s+", " ", self.inside.get(tag, "")).strip()))

    def handle_data(self, data):
        self.texts.append(data)
        self.inside = {tag: text + data for tag, text in self.inside.items()}

    @property
    def text(self) -> str:
        """What is to be read, with single spaces."""
        return re.sub(r"\s+", " ", "".join(self.texts))

    def read(self, tag: str) -> list[str]:
        """The texts of the elements of a kind, as far as nothing of the kind is inside of them."""
        return [text for name, text in self.closed if name == tag]

    def facts(self, name: str) -> list[str]:
        """What a page says of a name, in the order in which it says it."""
        return [
            told
            for (kind, said), (_, told) in itertools.pairwise(self.closed)
            if (kind, said) == ("dt", name)
        ]

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of the elements of a kind."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            found
            for name, found in self.elements
            if name == tag
            and all(
                value in found.get(key, "").split() if key == "class" else found.get(key) == value
                for key, value in wanted.items()
            )
        ]

    def addresses(self) -> list[str]:
        """Everything that the page loads or leads to."""
        names = ("href", "src", "data-library", "data-volume")
        return [found[name] for _, found in self.elements for name in names if name in found]

    def target(self, address: str) -> Path:
        """The file that an address on this page names."""
        path = unquote(urlsplit(address).path)
        return (self.path.parent / path).resolve() if path else self.path


def pages(directory: Path) -> list[Page]:
    """Every page below a directory."""
    return [Page(path) for path in sorted(directory.rglob("*.html"))]

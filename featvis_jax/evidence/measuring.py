"""All measures of the pictures of one layer, from networks and arrays to numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from featvis_jax.evaluation.strength import selectivity, strength
from featvis_jax.evidence import pasting, predicting
from featvis_jax.evidence.observing import Images, Observed, observer
from featvis_jax.evidence.paths import Contributions, Pair, by_other_ways, contributor, layers_below
from featvis_jax.evidence.predicting import UNKNOWN, Interval, concordance, likeness, strongest
from featvis_jax.maximize.objectives import Objective
from featvis_jax.maximize.reference import Asked
from featvis_jax.nn.network import Network

EXAMPLES = 8
"""How many of the strongest real inputs stand for what drives a unit, one of each person."""

# With fewer other pictures, or fewer people on either side, a share says too little.
_FEWEST_OTHERS, _FEWEST_PEOPLE = 4, 6


class RealInputs(NamedTuple):
    """Inputs from the world.

    Attributes:
      images: The inputs.
      owners: Whose each is.
      labels: A number for each, larger where there is more of something; None without labels.
    """

    images: Images
    owners: Sequence[str]
    labels: Float[np.ndarray, " images"] | None = None


class Measures(NamedTuple):
    """What was measured of one picture; NaN for what could not be.

    Attributes:
      liveliness: Its unit's response to the strongest real input, as a share of what is usual in
        its layer (the median over units that real inputs drive at all); 0 where none drives it.
      strength: Its unit's response to it, as a share of that to the strongest real input.
      pasted: The same of its patch in other people's images.
      selectivity: Share of the other living units that it drives less, by strength.
      standing: Share of the other units' pictures that drive its unit less.
      other_ways: `featvis_jax.evidence.paths.by_other_ways`, the largest over the layers below.
      below: Those layers.
      likeness: Of the layer below in the picture and in the strongest real inputs.
      picture_predicts: `featvis_jax.evidence.predicting.concordance` of its likeness to patches.
      examples_predict: The same of the unit's strongest real inputs.
      both_predict: Of both together.
      label: Of the unit's response with the labels.
      examples: Numbers of the strongest real inputs, strongest first.
      places: Where each of them drives the unit most, flat indices.
    """

    liveliness: float
    strength: float
    pasted: Interval
    selectivity: float
    standing: float
    other_ways: float
    below: tuple[str, ...]
    likeness: float
    picture_predicts: Interval
    examples_predict: Interval
    both_predict: Interval
    label: Interval
    examples: tuple[int, ...]
    places: tuple[int, ...]


Measure = Callable[[Sequence[int], Images], list[Measures]]
"""``(units, pictures) -> measures``: of which unit each picture is, and the pictures."""
Progress = Callable[[str, int, int], None]
"""Called with what is done, how many images are, and of how many."""


def _silent(what: str, done: int, total: int) -> None:
    pass


class _Known(NamedTuple):
    """What real inputs do to the units of a layer.

    Attributes:
      network: The network.
      objective: What its units are asked for.
      units: Numbers of those that have pictures.
      real: The inputs.
      below: The layers below that are looked at, nearest first.
      inputs: What the inputs do.
      reference: Response of every unit to the input that drives it most.
      examples: The inputs that drive a unit most, by its number.
      ways: By which channels they do, by layer, one after the other for all living `units`.
      way_of: Of which unit each of those is.
    """

    network: Network
    objective: Objective
    units: list[int]
    real: RealInputs
    below: tuple[str, ...]
    inputs: Observed
    reference: Float32[np.ndarray, " units"]
    examples: dict[int, list[int]]
    ways: dict[str, Contributions]
    way_of: Int[np.ndarray, " n"]


def measurer(
    network: Network,
    asked: Asked,
    real: RealInputs,
    *,
    total: int,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress = _silent,
) -> Measure:
    """Look at real inputs, and make the function that measures pictures beside them.

    Args:
      network: The network.
      asked: The units that have pictures.
      real: Real inputs of several people.
      total: How many units the layer has; all of them are asked about a picture.
      batch_size: Images per call of the network.
      seed: Of the bootstraps.
      progress: Called after each batch of images.

    Returns:
      A function of the pictures of a run, which are compared with each other, too.

    Raises:
      ValueError: There is no real input, or a response is not finite.
    """

    def told(what: str, of: int) -> Callable[[int], None]:
        return lambda done: progress(what, done, of)

    objective, units = asked.objective, list(asked.channels)
    everyone = Asked(objective, range(total))
    below = layers_below(network, objective, real.images[0])
    observe = observer(
        network, everyone, below[0] if below else None, featured=units, batch_size=batch_size
    )
    inputs = observe(real.images, told("real inputs", len(real.images)))
    reference = inputs.response.max(axis=0)
    examples = {u: strongest(inputs.response[:, u], real.owners, count=EXAMPLES) for u in units}
    contribute = contributor(network, everyone, below)
    pairs = [
        Pair(u, number, int(inputs.place[number, u]))
        for u in units
        if reference[u] > 0
        for number in examples[u]
    ]
    ways = contribute(real.images, pairs, told("ways of real inputs", len(pairs)))
    way_of = np.array([pair.unit for pair in pairs], int)
    known = _Known(
        network, objective, units, real, below, inputs, reference, examples, ways, way_of
    )

    def measure(units: Sequence[int], pictures: Images) -> list[Measures]:
        seen = observe(pictures, told("pictures", len(units)))
        living = [i for i, u in enumerate(units) if reference[u] > 0]
        own = [Pair(units[i], i, int(seen.place[i, units[i]])) for i in living]
        found = contribute(pictures, own, told("ways of pictures", len(own)))
        ways = dict(zip(living, _other_ways(known, units, living, found), strict=True))
        placed = _placed(known, units, pictures, seen, living)
        by_host = observe(placed, told("pictures in real inputs", len(placed))) if placed else None
        predictions = _predictions(known, units, seen, seed=seed)
        return [
            _measures(known, units, seen, i)._replace(
                pasted=_median(known, placed, by_host, i, units[i], seed=seed),
                other_ways=ways.get(i, float("nan")),
                **predictions[i],
                label=_label(known, units[i], seed=seed),
            )
            for i in range(len(units))
        ]

    return measure


def _measures(known: _Known, units: Sequence[int], seen: Observed, picture: int) -> Measures:
    """What a single look at all pictures tells of one."""
    unit, response = units[picture], seen.response[picture]
    living, others = known.reference > 0, np.asarray(units) != unit
    share = strength(float(response[unit]), float(known.reference[unit]))
    examples = known.examples[unit]
    standing = float("nan")
    if living[unit] and others.sum() >= _FEWEST_OTHERS:
        standing = float((seen.response[others, unit] < response[unit]).mean())
    usual = float(np.median(known.reference[living])) if living.any() else 1.0
    return Measures(
        liveliness=max(0.0, float(known.reference[unit]) / usual),
        strength=float("nan") if share is None else share,
        pasted=UNKNOWN,
        selectivity=float(selectivity(response[None], known.reference, [unit])[0]),
        standing=standing,
        other_ways=float("nan"),
        below=known.below,
        likeness=float("nan"),
        picture_predicts=UNKNOWN,
        examples_predict=UNKNOWN,
        both_predict=UNKNOWN,
        label=UNKNOWN,
        examples=tuple(examples),
        places=tuple(int(known.inputs.place[number, unit]) for number in examples),
    )


def _other_ways(
    known: _Known,
    units: Sequence[int],
    living: Sequence[int],
    found: dict[str, Contributions],
) -> list[float]:
    """How much of each picture's response comes by ways that its examples do not take."""
    shares = [
        [
            by_other_ways(found[name].of([row]), known.ways[name].of(known.way_of == units[i]))
            for name in known.below
        ]
        for row, i in enumerate(living)
    ]
    return [max((s for s in each if not math.isnan(s)), default=math.nan) for each in shares]


class _Placed(Sequence[np.ndarray]):
    """Pictures in other people's images, made one by one."""

    def __init__(
        self, pictures: Images, images: Images, wanted: Sequence[tuple[int, int, np.ndarray]]
    ):
        """Keep what is pasted where, as numbers of a picture and an image, and a mask."""
        self._pictures, self._images, self.wanted = pictures, images, wanted

    def __len__(self) -> int:
        """Number of pasted pictures."""
        return len(self.wanted)

    def __getitem__(self, number: int) -> np.ndarray:  # pyright: ignore
        """One of them."""
        picture, image, mask = self.wanted[number]
        return pasting.pasted(self._pictures[picture], self._images[image], mask)


def _placed(
    known: _Known, units: Sequence[int], pictures: Images, seen: Observed, living: Sequence[int]
) -> _Placed:
    """The patch of each picture in images of other people."""
    wanted = []
    for i in living:
        mask = pasting.patch_mask(known.network, known.objective, int(seen.place[i, units[i]]))
        if mask is not None:
            chosen = pasting.hosts(known.inputs.response[:, units[i]], known.real.owners)
            wanted += [(i, host, mask) for host in chosen]
    return _Placed(pictures, known.real.images, wanted)


def _median(
    known: _Known, placed: _Placed, found: Observed | None, picture: int, unit: int, *, seed: int
) -> Interval:
    """The strength of a patch in other people's images."""
    rows = [row for row, (number, _, _) in enumerate(placed.wanted) if number == picture]
    if found is None or not rows:
        return UNKNOWN
    return predicting.median(found.response[rows, unit] / known.reference[unit], seed=seed)


def _label(known: _Known, unit: int, *, seed: int) -> Interval:
    """How a unit's response goes with the labels."""
    real = known.real
    if real.labels is None:
        return UNKNOWN
    return concordance(known.inputs.response[:, unit], real.labels, real.owners, seed=seed)


def _predictions(
    known: _Known, units: Sequence[int], seen: Observed, *, seed: int
) -> list[dict[str, Any]]:
    """Likeness of each picture to its examples, and what both say of people not looked at."""
    inputs, owners = known.inputs, np.asarray(known.real.owners)
    people = list(dict.fromkeys(known.real.owners))
    shown = np.flatnonzero(np.isin(owners, people[::2]))
    unseen = np.flatnonzero(~np.isin(owners, people[::2]))
    if not seen.features.shape[-1] or len(people) // 2 < _FEWEST_PEOPLE:
        return [{} for _ in units]
    columns = [known.units.index(u) for u in units]
    # What drives a unit more than the others of its layer: the mean over all of them is taken off.
    usual = inputs.features[shown].mean(axis=(0, 1))
    usual_picture = seen.features[np.arange(len(units)), columns].mean(axis=0)
    scale = inputs.features[shown].reshape(-1, len(usual)).std(axis=0)
    found = []
    for i, (unit, column) in enumerate(zip(units, columns, strict=True)):
        response = inputs.response[:, unit]
        top = shown[strongest(response[shown], owners[shown].tolist(), count=EXAMPLES)]
        template = inputs.features[top, column].mean(axis=0) - usual
        picture = seen.features[i, column] - usual_picture
        patches = inputs.features[unseen, column] - usual
        alike = [likeness(patches, each, scale) for each in (picture, template)]
        together = _standardized(alike[0]) + _standardized(alike[1])
        judged = [
            concordance(each, response[unseen], owners[unseen].tolist(), seed=seed)
            for each in (*alike, together)
        ]
        names = "picture_predicts", "examples_predict", "both_predict"
        likeness_of_picture = float(likeness(picture, template, scale))
        found.append({"likeness": likeness_of_picture, **dict(zip(names, judged, strict=True))})
    return found


def _standardized(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return (values - values.mean()) / max(float(values.std()), 1e-12)

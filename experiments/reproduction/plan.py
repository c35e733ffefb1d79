"""What `experiments.reproduce_paper` runs: every command, from the scale and the cohort."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes

from experiments.reproduction.scales import Scale
from experiments.reproduction.stages import Stage
from featvis_jax.data.cohorts import Cohort
from featvis_jax.data.grids import Grid, GridError
from featvis_jax.data.sources import cohort_placement

MODELS = ("sex", "gaussian", "square")
TITLES = {"sex": "Sex", "gaussian": "Gaussian lesions", "square": "Square lesions"}
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
# A channel's number means nothing, so numbers that every layer has are as good as any.
_FEWEST_CHANNELS = 8
_LAST_CHANNEL = 63
# Lesions of volumes are planted in synthetic heads: few cohorts have the people that 3-D takes.
_HEADS = ("--cohort=synthetic", "--synthetic_subjects=120", "--synthetic_voxel_size_mm=4")
_CUBES = ("--dims=3", "--lesion_size_mm=16,28", "--learning_rate=1e-3", "--evaluate_every=100")


class Training(NamedTuple):
    """How a model comes about.

    Attributes:
      task: What it is trained on.
      rank: 2 for slices, 3 for volumes.
      shipped: The model of the zoo that may stand in for it.
      seed: Added to that of the reproduction. The people that are held out are the same for all.
      start: The model whose weights it goes on from, through noise.
    """

    task: str
    rank: int
    shipped: str | None = None
    seed: int = 0
    start: str | None = None


TRAININGS: Mapping[str, Training] = MappingProxyType(
    {
        "gaussian": Training("gaussian_lesion", 2, "gaussian-lesion"),
        "square": Training("square_lesion", 2, "square-lesion"),
        "sex": Training("sex", 3),
        "square-noise": Training("square_lesion", 2, "square-lesion-noise", seed=2, start="square"),
        "cube": Training("square_lesion", 3, "cube-lesion"),
        "gaussian-2": Training("gaussian_lesion", 2, "gaussian-lesion-2", seed=1),
        "square-2": Training("square_lesion", 2, "square-lesion-2", seed=1),
        "square-noise-2": Training(
            "square_lesion", 2, "square-lesion-noise-2", seed=3, start="square-2"
        ),
        "cube-2": Training("square_lesion", 3, "cube-lesion-2", seed=1),
    }
)


class Planted(NamedTuple):
    """Lesions that a model was trained on, so that it is known what its pictures should show.

    Attributes:
      title: For the report.
      transfer: Another model, trained on its own; the grading tells how far pictures move it.
      regularization: Of the ascents.
    """

    title: str
    transfer: str
    regularization: str = "lucid"


PLANTED: Mapping[str, Planted] = MappingProxyType(
    {
        "square": Planted("square lesions", "square-2"),
        "square-noise": Planted(
            "square lesions, trained through noise", "square-noise-2", "lucid,noise_0.1"
        ),
        "gaussian": Planted("Gaussian lesions", "gaussian-2"),
        "cube": Planted("cubes, in 3-D", "cube-2"),
    }
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages, and where they leave what the report is made of.

    Attributes:
      stages: In the order in which they run.
      models: What names each model.
      trained: The models that are trained here.
      figure_channels: Channels that Figure 2 shows of every layer.
      compared: Channels of conv5 that go through every strategy.
      graded: The planted models whose pictures are graded.
    """

    stages: tuple[Stage, ...]
    models: dict[str, str]
    trained: tuple[str, ...]
    figure_channels: tuple[int, ...]
    compared: tuple[int, ...]
    graded: tuple[str, ...]


def make_plan(
    out: Path,
    scale: Scale,
    cohort: Cohort,
    cohort_arguments: Sequence[str],
    *,
    cache_arguments: Sequence[str],
    regularization: str,
    seed: int,
) -> Plan:
    """List the stages.

    Args:
      out: Directory of the reproduction.
      scale: How much is done.
      cohort: The subjects.
      cohort_arguments: Flags that name them to a launcher.
      cache_arguments: Flags that name the cache.
      regularization: Strategy of Figure 2.
      seed: Of everything.
    """
    planner = _Planner(out, scale, cohort, cohort_arguments, cache_arguments, seed)
    order = np.random.default_rng(seed).permutation(_FEWEST_CHANNELS).tolist()
    compared = tuple(int(n) for n in np.linspace(0, _LAST_CHANNEL, scale.compared).round())
    for name in ("gaussian", "square", "sex"):
        planner.train(name)
    runs = {
        name: planner.visualize(name, order, regularization)
        for name in ("square", "gaussian", "sex")
    }
    planner.compare("square", compared)
    for name, run in runs.items():
        planner.assess(name, run)
    planner.measure(runs)
    graded = tuple(name for name in PLANTED if scale.graded_starts[TRAININGS[name].rank])
    for name in graded:
        planner.grade(name)
    fewest = min((n for n in scale.channels.values() if n is not None), default=3)
    return Plan(
        tuple(planner.stages),
        planner.models,
        tuple(planner.trained),
        tuple(sorted(order[: min(fewest, 3)])),
        compared,
        graded,
    )


class _Planner:
    """Adds stages, one kind per method; each gives back where its stage leaves its results."""

    def __init__(
        self,
        out: Path,
        scale: Scale,
        cohort: Cohort,
        cohort_arguments: Sequence[str],
        cache_arguments: Sequence[str],
        seed: int,
    ):
        self.stages = list[Stage]()
        self.models = dict[str, str]()
        self.trained = list[str]()
        self._out, self._scale, self._cohort, self._seed = out, scale, cohort, seed
        self._slices = (*cohort_arguments, *cache_arguments)
        self._heads = (*_HEADS, *cache_arguments)
        self._left = dict[str, Path]()
        self._volumes = self._resampled()

    def train(self, name: str) -> str:
        """Train a model, unless that was planned before or a shipped one will do; names it."""
        if name in self.models:
            return self.models[name]
        how = TRAININGS[name]
        if how.shipped is not None and self._scale.use_zoo and self._fits(how.shipped):
            self.models[name] = how.shipped
            return how.shipped
        if how.start is not None:
            training = (*self._scale.noise_training, f"--init={self.train(how.start)}")
        elif how.task == "sex":
            training = self._scale.sex_training
        elif how.rank == 3:
            training = (*_CUBES, *self._scale.cube_training)
        else:
            training = self._scale.lesion_training
        place = self._add(
            *(f"train-{name}", "experiments.train", self._out / "models" / name),
            *(f"--task={how.task}", *self._data(name), *training),
            *(f"--split_seed={self._seed}", f"--seed={self._seed + how.seed}"),
        )
        self.trained.append(name)
        self.models[name] = str(place / "model")
        return self.models[name]

    def visualize(self, name: str, order: Sequence[int], regularization: str) -> Path:
        """The images of Figure 2: the first channels of an order, in every layer."""
        rank = TRAININGS[name].rank
        count = self._scale.channels[rank]
        chosen = "all" if count is None else ",".join(str(n) for n in sorted(order[:count]))
        return self._add(
            *(f"images-{name}", "experiments.visualize", self._out / "images" / name),
            *(f"--model={self.train(name)}", *(f"--layer={layer}" for layer in LAYERS)),
            *(f"--channels={chosen}", f"--steps={self._scale.figure_2_steps}"),
            *(f"--regularization={regularization}", f"--penalty={self._scale.penalty}"),
            *(f"--batch={self._scale.batch[rank]}", "--gallery=false", f"--seed={self._seed}"),
        )

    def compare(self, name: str, channels: Sequence[int]) -> Path:
        """Figures 3 and 4: channels of conv5 under every strategy."""
        return self._add(
            *("comparison", "experiments.compare", self._out / "comparison"),
            *(f"--model={self.train(name)}", "--layer=conv5"),
            *(f"--channels={','.join(map(str, channels))}",),
            *(f"--steps={self._scale.comparison_steps}", f"--penalty={self._scale.penalty}"),
            *(f"--strategies={','.join(self._scale.strategies)}", f"--seed={self._seed}"),
        )

    def assess(self, name: str, run: Path) -> Path:
        """What a model takes held-out images for, whole and without some of its channels."""
        return self._add(
            *(f"assess-{name}", "experiments.reproduction.assess"),
            self._out / "assessment" / name,
            *(f"--model={self.train(name)}", f"--run={run}", *self._data(name)),
            *(f"--batch={16 if TRAININGS[name].rank == 2 else 2}", f"--seed={self._seed}"),
        )

    def measure(self, runs: Mapping[str, Path]) -> Path:
        """Stripes, edges and sharpness of all images of Figure 2."""
        return self._add(
            *("measure", "experiments.reproduction.measure", self._out / "measures"),
            *(f"--run={name}={run}" for name, run in runs.items()),
        )

    def grade(self, name: str) -> Path:
        """Grade the logit's pictures of a planted model, beside those of permuted weights."""
        how, planted, scale = TRAININGS[name], PLANTED[name], self._scale
        model, transfer = self.train(name), self.train(planted.transfer)
        runs = {
            kind: self._add(
                *(f"{kind}-{name}", "experiments.visualize", self._out / kind / name),
                *(f"--model={model}", "--layer=logits", "--channels=1", *control),
                *("--objective=logit_difference", "--diversity=0", "--parameterization=fourier"),
                f"--variants={scale.graded_starts[how.rank]}",
                f"--regularization={planted.regularization}",
                f"--steps={scale.graded_steps[how.rank]}",
                f"--batch={1 if how.rank == 2 else 'auto'}",
                *("--gallery=false", f"--seed={self._seed}"),
            )
            for kind, control in (("logits", ()), ("permuted", (f"--random_weights={self._seed}",)))
        }
        return self._add(
            *(f"grade-{name}", "experiments.grade", self._out / "grades" / name),
            *(f"--task={how.task}", f"--model={model}", f"--run={runs['logits']}"),
            *(f"--control=permuted={runs['permuted']}", *self._data(name)),
            *(f"--transfer_model={transfer}", f"--seed={self._seed}"),
        )

    def _resampled(self) -> tuple[str, ...]:
        """The flags that name the volumes, coarser ones where the scale wants them."""
        size, cohort = self._scale.volume_mm, self._cohort
        if size is None or voxel_sizes(cohort.affine).max() >= 0.99 * size:
            return self._slices
        return (*self._slices, f"--voxel_size_mm={size:g}")

    def _data(self, name: str) -> tuple[str, ...]:
        """The flags that name the images of a model."""
        how = TRAININGS[name]
        if how.rank == 2:
            return self._slices
        return self._volumes if how.task == "sex" else self._heads

    def _fits(self, shipped: str) -> bool:
        """Whether a shipped model takes the slices, or the heads, that there are."""
        card = card_of(shipped)
        if len(card["grid"]["shape"]) == 3:
            return True
        grid = Grid(tuple(card["grid"]["shape"]), np.array(card["grid"]["affine"]))
        try:
            placed = cohort_placement(self._cohort, grid)
        except GridError:
            return False
        return not any(placed.outside(self._cohort.shape))

    def _add(self, name: str, module: str, out: Path, *arguments: str) -> Path:
        """A stage comes after all those whose results one of its arguments names."""
        named = [Path(argument.rpartition("=")[2]) for argument in arguments]
        after = tuple(
            before
            for before, place in self._left.items()
            if any(path.is_relative_to(place) for path in named)
        )
        self.stages.append(Stage(name, module, (*arguments, f"--out={out}"), after))
        self._left[name] = out
        return out


def card_of(model: str) -> dict[str, Any]:
    """The card of a shipped model, or of one that a training left.

    Args:
      model: A zoo name, or the directory of a trained model.
    """
    path = Path(model) / "card.json"
    if not path.is_file():
        path = resources.files("featvis_jax.zoo") / model / "card.json"
    return json.loads(path.read_text("utf-8"))

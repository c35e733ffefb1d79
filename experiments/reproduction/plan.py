"""What `experiments.reproduce_paper` runs: every command, from the scale and the cohort."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

from experiments.reproduction.stages import Stage
from featvis_jax.data.cohorts import Cohort

MODELS = ("sex", "gaussian", "square")
TITLES = {"sex": "Sex", "gaussian": "Gaussian lesions", "square": "Square lesions"}
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
_ZOO = {"gaussian": "gaussian-lesion", "square": "square-lesion", "cube": "cube-lesion"}
# A channel's number means nothing, so numbers that every layer has are as good as any.
_FEWEST_CHANNELS = 8
_RANKS = {"sex": 3, "gaussian": 2, "square": 2}

# Figures 3 and 4 of the paper, in its order as far as words and pictures tell.
FIGURE_3 = (
    *("none", "jitter_1", "jitter_2", "rotation_10", "rotation_30", "rotation_90"),
    *("translation_0.1", "resize_0.5", "zoom_0.9", "zoom_1.1"),
)
FIGURE_4 = (
    *("none", "crop_nearest", "crop_linear", "crop_cubic", "tv_0.1", "sbf"),
    *("blur_0.5", "blur_1", "blur_every_step"),
    *("jitter_rotation", "jitter_rotation_tv", "resize_cubic", "resize_cubic_tv"),
)
# What is graded: the lesions are planted, so that it is known what a picture should show.
PLANTED = {"square": "square lesions", "gaussian": "Gaussian lesions", "cube": "cubes, in 3-D"}
_PLANTED_TASKS = {"square": "square_lesion", "gaussian": "gaussian_lesion", "cube": "square_lesion"}
# Lesions of volumes are planted in synthetic heads: few cohorts have the people that 3-D takes.
_HEADS = ("--cohort=synthetic", "--synthetic_subjects=120", "--synthetic_voxel_size_mm=4")
_CUBES = ("--dims=3", "--lesion_size_mm=16,28", "--learning_rate=1e-3", "--evaluate_every=100")
STRATEGIES = tuple(dict.fromkeys((*FIGURE_3, *FIGURE_4)))


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much is done.

    Attributes:
      sex_training: Flags of the training on whole volumes.
      lesion_training: Flags of the trainings on slices.
      volume_mm: Voxels of the volumes; finer ones are resampled. None leaves them as they are.
      use_zoo: Whether shipped models are taken where the cohort's slices fit them.
      channels: Channels of each layer, by the rank of the model; None for all.
      compared: Channels of conv5 that go through every strategy.
      figure_2_steps: Steps of each ascent for Figure 2.
      comparison_steps: Steps of each ascent for Figures 3 and 4.
      strategies: What they go through.
      penalty: R(x), subtracted with the paper's weight of 10.
      batch: Units that run together, by the rank of the model.
      graded_starts: Pictures of each planted model's logit that are graded, each from a start of
        its own, by the rank of the model; 0 for none.
      graded_steps: Steps of each of their ascents, by the rank of the model.
      cube_training: Flags of the trainings on volumes with cubes.
    """

    sex_training: tuple[str, ...]
    lesion_training: tuple[str, ...]
    volume_mm: float | None
    use_zoo: bool
    channels: dict[int, int | None]
    compared: int
    strategies: tuple[str, ...] = STRATEGIES
    figure_2_steps: int = 200
    comparison_steps: int = 256
    penalty: str = "none"
    cube_training: tuple[str, ...] = ("--steps=300", "--curriculum=150")
    batch: dict[int, str] = dataclasses.field(default_factory=lambda: {2: "16", 3: "3"})
    graded_starts: dict[int, int] = dataclasses.field(default_factory=lambda: {2: 20, 3: 8})
    graded_steps: dict[int, int] = dataclasses.field(default_factory=lambda: {2: 128, 3: 64})


SCALES = {
    "small": Scale(
        sex_training=("--batch=8", "--steps=80", "--evaluate_every=20", "--curriculum=0"),
        lesion_training=(
            *("--batch=32", "--steps=600", "--evaluate_every=100", "--curriculum=200"),
            "--validation_images=256",
        ),
        volume_mm=2.0,
        use_zoo=True,
        channels={2: None, 3: 3},
        compared=10,
    ),
    "paper": Scale(
        sex_training=(
            *("--batch=8", "--steps=15000", "--evaluate_every=150", "--patience=10"),
            *("--learning_rate=1e-4", "--weight_decay=1e-5", "--decay=constant"),
            *("--validation_images=0", "--augment=false"),
        ),
        lesion_training=(
            *("--batch=200", "--steps=40000", "--evaluate_every=400", "--patience=7"),
            *("--learning_rate=1e-3", "--weight_decay=1e-4", "--decay=constant"),
            *("--validation_images=0", "--augment=false"),
        ),
        volume_mm=None,
        use_zoo=False,
        channels={2: None, 3: None},
        compared=64,
        penalty="layer_l1",
        batch={2: "auto", 3: "auto"},
        graded_starts={2: 20, 3: 20},
        graded_steps={2: 256, 3: 256},
        cube_training=("--steps=2000", "--curriculum=600"),
    ),
}


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
    slices = (*cohort_arguments, *cache_arguments)
    volumes, stages = slices, list[Stage]()
    common = (f"--seed={seed}",)
    before_volumes: tuple[str, ...] = ()
    if scale.volume_mm is not None and voxel_sizes(cohort.affine).max() < 0.99 * scale.volume_mm:
        place = out / "cohort" / f"{cohort.name}-{scale.volume_mm:g}mm"
        arguments = (*slices, f"--voxel_size_mm={scale.volume_mm:g}", f"--out={place}")
        stages.append(Stage("resample", "experiments.reproduction.resample", arguments))
        volumes, before_volumes = (f"--cohort={place}", *cache_arguments), ("resample",)

    models, trained = dict[str, str](), list[str]()
    for name in ("gaussian", "square", "sex"):
        if scale.use_zoo and name in _ZOO and _fits(_ZOO[name], cohort):
            models[name] = _ZOO[name]
            continue
        place = out / "models" / name
        is_sex = name == "sex"
        arguments = (
            f"--task={name if is_sex else f'{name}_lesion'}",
            *(volumes if is_sex else slices),
            *(scale.sex_training if is_sex else scale.lesion_training),
            *common,
            f"--out={place}",
        )
        after = before_volumes if is_sex else ()
        stages.append(Stage(f"train-{name}", "experiments.train", arguments, after))
        models[name] = str(place)
        trained.append(name)

    drawn = np.random.default_rng(seed).permutation(_FEWEST_CHANNELS)
    for name in ("square", "gaussian", "sex"):
        rank = _RANKS[name]
        count = scale.channels[rank]
        chosen = "all" if count is None else ",".join(str(n) for n in sorted(drawn[:count]))
        arguments = (
            *(f"--model={models[name]}", *(f"--layer={layer}" for layer in LAYERS)),
            *(f"--channels={chosen}", f"--steps={scale.figure_2_steps}"),
            *(f"--regularization={regularization}", f"--penalty={scale.penalty}"),
            *(f"--batch={scale.batch[rank]}", "--gallery=false", *common),
            f"--out={out / 'images' / name}",
        )
        after = (f"train-{name}",) if name in trained else ()
        stages.append(Stage(f"images-{name}", "experiments.visualize", arguments, after))

    compared = tuple(int(n) for n in np.linspace(0, 63, scale.compared).round())
    after = ("train-square",) if "square" in trained else ()
    arguments = (
        *(f"--model={models['square']}", "--layer=conv5"),
        *(f"--channels={','.join(map(str, compared))}", f"--steps={scale.comparison_steps}"),
        *(f"--strategies={','.join(scale.strategies)}", f"--penalty={scale.penalty}", *common),
        f"--out={out / 'comparison'}",
    )
    stages.append(Stage("comparison", "experiments.compare_regularizers", arguments, after))

    for name in ("square", "gaussian", "sex"):
        arguments = (
            *(f"--model={models[name]}", f"--run={out / 'images' / name}"),
            *(volumes if name == "sex" else slices),
            *(f"--batch={16 if _RANKS[name] == 2 else 2}", *common),
            f"--out={out / 'assessment' / name}",
        )
        after = (f"images-{name}",)
        stages.append(Stage(f"assess-{name}", "experiments.reproduction.assess", arguments, after))
    lesions = tuple(f"images-{name}" for name in ("square", "gaussian", "sex"))
    arguments = (
        *(f"--run={name}={out / 'images' / name}" for name in ("square", "gaussian", "sex")),
        f"--out={out / 'measures'}",
    )
    stages.append(Stage("measure", "experiments.reproduction.measure", arguments, lesions))
    stages += _grading(
        out, scale, models, slices, cache_arguments, trained=trained, cohort=cohort, seed=seed
    )
    fewest = min((n for n in scale.channels.values() if n is not None), default=3)
    shown = tuple(sorted(int(n) for n in drawn[: min(fewest, 3)]))
    graded = tuple(name for name in PLANTED if any(s.name == f"grade-{name}" for s in stages))
    return Plan(tuple(stages), models, tuple(trained), shown, compared, graded)


def _grading(
    out: Path,
    scale: Scale,
    models: Mapping[str, str],
    slices: Sequence[str],
    cache_arguments: Sequence[str],
    *,
    trained: Sequence[str],
    cohort: Cohort,
    seed: int,
) -> list[Stage]:
    """The stages that grade logits of the planted models, beside those of permuted weights."""
    stages = list[Stage]()
    for name, task in _PLANTED_TASKS.items():
        rank = 3 if name == "cube" else 2
        starts = scale.graded_starts[rank]
        if not starts:
            continue
        data = (*_HEADS, *cache_arguments) if name == "cube" else tuple(slices)
        training = (*_CUBES, *scale.cube_training) if name == "cube" else scale.lesion_training
        # Scores 3 and 4 ask a network that was trained on its own, on the same people.
        shipped = scale.use_zoo and (name == "cube" or _fits(_ZOO[name], cohort))
        made = {name: models[name]} if name in models else {}
        before = [f"train-{name}"] if name in trained else []
        for number, (model, of_zoo) in enumerate(
            ((name, _ZOO[name]), (f"{name}-2", _ZOO[name] + "-2"))
        ):
            if model in made:
                continue
            if shipped:
                made[model] = of_zoo
                continue
            made[model] = str(out / "models" / model)
            arguments = (
                *(f"--task={task}", *data, *training, f"--split_seed={seed}"),
                *(f"--seed={seed + number}", f"--out={made[model]}"),
            )
            stages.append(Stage(f"train-{model}", "experiments.train", arguments))
            before.append(f"train-{model}")
        runs = {"logits": (), "permuted": (f"--random_weights={seed}",)}
        for kind, flags in runs.items():
            arguments = (
                *(f"--model={made[name]}", "--layer=logits", "--channels=1", *flags),
                *("--objective=logit_difference", f"--variants={starts}", "--diversity=0"),
                *("--parameterization=fourier", "--regularization=lucid"),
                *(f"--steps={scale.graded_steps[rank]}", f"--batch={1 if rank == 2 else 'auto'}"),
                *("--gallery=false", f"--seed={seed}", f"--out={out / kind / name}"),
            )
            stages.append(
                Stage(f"{kind}-{name}", "experiments.visualize", arguments, tuple(before))
            )
        arguments = (
            *(f"--task={task}", f"--model={made[name]}", f"--run={out / 'logits' / name}"),
            *(f"--control=permuted={out / 'permuted' / name}", *data),
            *(f"--transfer_model={made[f'{name}-2']}", f"--seed={seed}"),
            f"--out={out / 'grades' / name}",
        )
        after = (*before, f"logits-{name}", f"permuted-{name}")
        stages.append(Stage(f"grade-{name}", "experiments.evaluate", arguments, after))
    return stages


def _fits(zoo_name: str, cohort: Cohort) -> bool:
    """Whether the slices of a cohort lie on the grid of a shipped model."""
    card = card_of(zoo_name)
    shape, affine = card["grid"]["shape"], np.array(card["grid"]["affine"])
    sizes = voxel_sizes(affine)
    same_size = np.allclose(voxel_sizes(cohort.affine), sizes, rtol=0.01)
    return same_size and all(n >= m for n, m in zip(cohort.shape, shape, strict=False))


def card_of(model: str) -> dict[str, Any]:
    """The card of a shipped model, or of one that a training left.

    Args:
      model: A zoo name, or the directory of a training.
    """
    path = Path(model) / "model" / "card.json"
    if not path.is_file():
        return json.loads(
            (resources.files("featvis_jax.zoo") / model / "card.json").read_text("utf-8")
        )
    return json.loads(path.read_text("utf-8"))

r"""Make the paper's figures and table again, and put its statements to the test.

    python -m experiments.reproduce_paper --cohort=DIR --out=runs/paper
    python -m experiments.reproduce_paper --cohort=synthetic --scale=small --out=runs/paper

Trains the models that are missing, visualizes them, measures, and writes report.html and report.md.
It runs the other launchers one after the other and keeps what each of them printed in logs/.
Started again with the same --out, it goes on where it stopped; --dry_run tells the commands.
"""

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reproduction import evidence as tables
from experiments.reproduction import figures
from experiments.reproduction.numbers import numbers, strongest_channel
from experiments.reproduction.plan import LAYERS, MODELS, TITLES, Plan, make_plan
from experiments.reproduction.scales import FIGURE_3, FIGURE_4, SCALES, STRATEGIES, Scale
from experiments.reproduction.stages import refuse_other_cohort, run_stages
from featvis_jax.commands.launch import Command, start
from featvis_jax.data.cohorts import Cohort
from featvis_jax.options import Options, fields, option, shown_value
from featvis_jax.results import manifest
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory, refuse_foreign
from featvis_jax.results.report import write_report
from featvis_jax.runs.cache import CacheOptions
from featvis_jax.runs.cohorts import CohortOptions, cohort_of, cohort_volumes_directory


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceOptions(CohortOptions):
    """What is reproduced, and how much of it."""

    out: str | None = option(None, "Directory for everything.")
    scale: str = option(
        "small",
        "small: an hour on two cores. paper: the paper's sizes and settings, for a GPU.",
        choices=tuple(SCALES),
    )
    regularization: str = option(
        "recommended", "Strategy of Figure 2, which the paper does not name."
    )
    seed: int = option(0, "Of trainings, lesions and images.", least=0)
    channels_per_layer: int | None = option(
        None,
        "Channels of each layer that are visualized, instead of what the scale says.",
        least=1,
        most=8,
    )
    compared_channels: int | None = option(
        None,
        "Channels that go through every strategy, instead of what the scale says.",
        least=1,
        most=64,
    )
    strategies: tuple[str, ...] = option(
        STRATEGIES, "What Figures 3 and 4 show, and statements are measured by."
    )
    train_steps: int | None = option(
        None, "Most steps of each training, instead of the scale's.", least=1
    )
    steps: int | None = option(
        None, "Steps of every ascent, instead of the paper's 200 and 256.", least=1
    )
    graded_starts: int | None = option(
        None,
        "Pictures of each planted model's logit that are graded, instead of the scale's; 0 for "
        "none.",
        least=0,
    )
    dry_run: bool = option(False, "Tell the commands, and run none.")


_ACCURACY_NOTE = (
    "The sex model is trained on whatever cohort is given; on a small one its accuracy is reported "
    "as it is, with its interval, and nothing is claimed from it."
)


def main(options: ReproduceOptions) -> None:
    """Plan, run the stages, draw and write."""
    out, cohort = Path(str(options.out)), cohort_of(options)
    scale = chosen_scale(options)
    plan = make_plan(
        out,
        scale,
        cohort,
        _given(CohortOptions, options, but=CacheOptions),
        cache_arguments=_given(CacheOptions, options),
        regularization=options.regularization,
        seed=options.seed,
    )
    if options.dry_run:
        for stage in plan.stages:
            print(stage.command)
        return
    refuse_foreign(out, "cohort.json", what="reproduction")
    make_directory(out)
    with locked(out):
        refuse_other_cohort(out, cohort, cohort_volumes_directory(cohort, options))
        run_stages(out, plan.stages, tell=lambda text: print(text, end="", flush=True))
        found = numbers(out, plan, _settings(scale, cohort, options))
        _draw(out, plan, scale)
        atomic_write_bytes(out / "numbers.json", manifest.encode_json(found))
        # What is written is what was stored.
        html, markdown = write_report(out, json.loads((out / "numbers.json").read_bytes()))
    verdicts = [each["verdict"] for each in found["statements"]]
    for verdict in dict.fromkeys(verdicts):
        print(f"{verdict}: {verdicts.count(verdict)} of {len(verdicts)} statements")
    print(f"Report: {html.resolve().as_uri()}, and {markdown}")


def chosen_scale(options: ReproduceOptions) -> Scale:
    """The scale that is asked for, with what other options change in it.

    Args:
      options: What is asked for.

    Raises:
      ValueError: No figure shows one of the strategies.
    """
    if unknown := sorted(set(options.strategies) - set(STRATEGIES)):
        raise ValueError(
            f"`strategies={','.join(options.strategies)}`: no figure shows {', '.join(unknown)}; "
            f"expected some of {', '.join(STRATEGIES)}."
        )
    # The others are compared with it.
    chosen = tuple(name for name in STRATEGIES if name == "none" or name in options.strategies)
    scale = dataclasses.replace(SCALES[options.scale], strategies=chosen)
    if options.channels_per_layer is not None:
        scale = dataclasses.replace(
            scale, channels=dict.fromkeys((2, 3), options.channels_per_layer)
        )
    if options.compared_channels is not None:
        scale = dataclasses.replace(scale, compared=options.compared_channels)
    if options.steps is not None:
        scale = dataclasses.replace(
            scale,
            figure_2_steps=options.steps,
            comparison_steps=options.steps,
            graded_steps=dict.fromkeys((2, 3), options.steps),
        )
    if options.graded_starts is not None:
        starts = dict.fromkeys((2, 3), options.graded_starts)
        scale = dataclasses.replace(scale, graded_starts=starts)
    if options.train_steps is not None:
        scale = dataclasses.replace(
            scale,
            sex_training=_for_steps(scale.sex_training, options.train_steps),
            lesion_training=_for_steps(scale.lesion_training, options.train_steps),
            cube_training=_for_steps(scale.cube_training, options.train_steps),
            noise_training=_for_steps(scale.noise_training, options.train_steps),
        )
    return scale


def _for_steps(training: Sequence[str], steps: int) -> tuple[str, ...]:
    """The flags of a training with another number of steps, and one evaluation at its end."""
    kept = [flag for flag in training if not flag.startswith(("--steps=", "--evaluate_every="))]
    return (*kept, f"--steps={steps}", f"--evaluate_every={steps}")


def _given(
    group: type[Options], options: Options, *, but: type[Options] | None = None
) -> tuple[str, ...]:
    """The flags of a group that say something else than their defaults do."""
    passed_over = {each.name for each in fields(but)} if but is not None else set()
    return tuple(
        f"--{each.name}={shown_value(value)}"
        for each in fields(group)
        if each.name not in passed_over and (value := getattr(options, each.name)) != each.default
    )


def _settings(scale: Scale, cohort: Cohort, options: ReproduceOptions) -> dict[str, Any]:
    """What was asked for, for the report."""
    return {
        "scale": options.scale,
        "cohort": cohort.name,
        "subjects": len(cohort.subjects),
        "voxel_mm": float(np.linalg.norm(cohort.affine[:3, 0])),
        "steps_of_figure_2": scale.figure_2_steps,
        "steps_of_figures_3_and_4": scale.comparison_steps,
        "transforms": "at every 50th step, blurring at every step",
        "strategy_of_figure_2": options.regularization,
        "penalty": scale.penalty,
        "penalty_weight": 0.0 if scale.penalty == "none" else 10.0,
        "seed": options.seed,
        "interval": "95 %",
        "accuracy_note": _ACCURACY_NOTE,
    }


def _draw(out: Path, plan: Plan, scale: Scale) -> None:
    """Write the four figures."""
    place = out / "figures"
    make_directory(place)
    found = {}
    for name in ("gaussian", "square"):
        data = (out / "assessment" / name / "example.npz").read_bytes()
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            found[name] = dict(stored)
    channel = strongest_channel(tables.read(out, MODELS))
    drawn = {
        "figure1": figures.examples(found),
        "figure2": figures.layers(
            {name: out / "images" / name for name in MODELS},
            plan.figure_channels,
            LAYERS,
            [TITLES[name] for name in MODELS],
        ),
    }
    for name, names, columns in (("figure3", FIGURE_3, 5), ("figure4", FIGURE_4, 7)):
        chosen = [each for each in names if each in scale.strategies]
        drawn[name] = figures.strategies(
            out / "comparison", chosen, channel, title="Square lesions, conv5", columns=columns
        )
    for name, data in drawn.items():
        atomic_write_bytes(place / f"{name}.png", data)


COMMAND = Command(
    name="reproduce_paper",
    summary="make the paper's figures again, and test its statements",
    examples=(
        "--cohort=DIR --out=runs/paper",
        "--cohort=synthetic --scale=small --out=runs/paper",
    ),
    options=ReproduceOptions,
    main=main,
    required=("out",),
    first=("cohort", "out", "scale", "regularization", "dry_run"),
    program="python -m experiments.reproduce_paper",
)


if __name__ == "__main__":
    start(COMMAND)

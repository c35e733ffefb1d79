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
from absl import flags

from experiments import cohort_flags
from experiments.launch import start
from experiments.progress import callback
from experiments.reproduction import evidence as tables
from experiments.reproduction import figures
from experiments.reproduction.numbers import numbers, strongest_channel
from experiments.reproduction.plan import LAYERS, MODELS, TITLES, Plan, make_plan
from experiments.reproduction.scales import FIGURE_3, FIGURE_4, SCALES, STRATEGIES, Scale
from experiments.reproduction.stages import run_stages
from featvis_jax.data.cache import cache_volumes, checksums
from featvis_jax.data.cohorts import Cohort
from featvis_jax.results import manifest
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory, refuse_foreign
from featvis_jax.results.report import write_report

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "Directory for everything.", required=True)
flags.DEFINE_enum(
    "scale",
    "small",
    list(SCALES),
    "small: an hour on two cores. paper: the paper's sizes and settings, for a GPU.",
)
flags.DEFINE_string(
    "regularization", "recommended", "Strategy of Figure 2, which the paper does not name."
)
flags.DEFINE_integer("seed", 0, "Of trainings, lesions and images.", lower_bound=0)
flags.DEFINE_integer(
    "channels_per_layer",
    None,
    "Channels of each layer that are visualized, instead of what the scale says.",
    lower_bound=1,
    upper_bound=8,
)
flags.DEFINE_integer(
    "compared_channels",
    None,
    "Channels that go through every strategy, instead of what the scale says.",
    lower_bound=1,
    upper_bound=64,
)
flags.DEFINE_list(
    "strategies", list(STRATEGIES), "What Figures 3 and 4 show, and statements are measured by."
)
flags.DEFINE_integer(
    "train_steps", None, "Most steps of each training, instead of the scale's.", lower_bound=1
)
flags.DEFINE_integer(
    "steps", None, "Steps of every ascent, instead of the paper's 200 and 256.", lower_bound=1
)
flags.DEFINE_integer(
    "graded_starts",
    None,
    "Pictures of each planted model's logit that are graded, instead of the scale's; 0 for none.",
    lower_bound=0,
)
flags.DEFINE_bool("dry_run", False, "Tell the commands, and run none.")

_ACCURACY_NOTE = (
    "The sex model is trained on whatever cohort is given; on a small one its accuracy is reported "
    "as it is, with its interval, and nothing is claimed from it."
)


def main(_: Sequence[str]) -> None:
    """Plan, run the stages, draw and write."""
    out, cohort = Path(FLAGS.out), cohort_flags.cohort_from_flags()
    scale = chosen_scale()
    plan = make_plan(
        out,
        scale,
        cohort,
        _present("cohort"),
        cache_arguments=_present("cache"),
        regularization=FLAGS.regularization,
        seed=FLAGS.seed,
    )
    if FLAGS.dry_run:
        for stage in plan.stages:
            print(stage.command)
        return
    refuse_foreign(out, "cohort.json", what="reproduction")
    make_directory(out)
    with locked(out):
        refuse_other_cohort(out, cohort, cohort_flags.volume_cache_directory(cohort))
        run_stages(out, plan.stages, tell=lambda text: print(text, end="", flush=True))
        found = numbers(out, plan, _settings(scale, cohort))
        _draw(out, plan, scale)
        atomic_write_bytes(out / "numbers.json", manifest.encode_json(found))
        # What is written is what was stored.
        html, markdown = write_report(out, json.loads((out / "numbers.json").read_bytes()))
    verdicts = [each["verdict"] for each in found["statements"]]
    for verdict in dict.fromkeys(verdicts):
        print(f"{verdict}: {verdicts.count(verdict)} of {len(verdicts)} statements")
    print(f"Report: {html.resolve().as_uri()}, and {markdown}")


def refuse_other_cohort(out: Path, cohort: Cohort, cache: Path) -> None:
    """Refuse to mix results of scans or labels that were replaced between two starts."""
    with callback("reading scans", unit="scan") as on_scans:
        cached = cache_volumes(cohort.subjects, cache, progress=on_scans)
    files, path = checksums(cohort, cached), out / "cohort.json"
    if path.exists():
        manifest.refuse_mismatch(out, json.loads(path.read_bytes()), files)
    atomic_write_bytes(path, manifest.encode_json(files))


def chosen_scale() -> Scale:
    """The scale of the flags, with what other flags change in it."""
    if unknown := sorted(set(FLAGS.strategies) - set(STRATEGIES)):
        raise ValueError(
            f"--strategies={','.join(FLAGS.strategies)}: no figure shows {', '.join(unknown)}; "
            f"expected some of {', '.join(STRATEGIES)}."
        )
    # The others are compared with it.
    chosen = tuple(name for name in STRATEGIES if name == "none" or name in FLAGS.strategies)
    scale = dataclasses.replace(SCALES[FLAGS.scale], strategies=chosen)
    if FLAGS.channels_per_layer is not None:
        scale = dataclasses.replace(scale, channels=dict.fromkeys((2, 3), FLAGS.channels_per_layer))
    if FLAGS.compared_channels is not None:
        scale = dataclasses.replace(scale, compared=FLAGS.compared_channels)
    if FLAGS.steps is not None:
        scale = dataclasses.replace(
            scale,
            figure_2_steps=FLAGS.steps,
            comparison_steps=FLAGS.steps,
            graded_steps=dict.fromkeys((2, 3), FLAGS.steps),
        )
    if FLAGS.graded_starts is not None:
        starts = dict.fromkeys((2, 3), FLAGS.graded_starts)
        scale = dataclasses.replace(scale, graded_starts=starts)
    if FLAGS.train_steps is not None:
        scale = dataclasses.replace(
            scale,
            sex_training=_for_steps(scale.sex_training, FLAGS.train_steps),
            lesion_training=_for_steps(scale.lesion_training, FLAGS.train_steps),
            cube_training=_for_steps(scale.cube_training, FLAGS.train_steps),
            noise_training=_for_steps(scale.noise_training, FLAGS.train_steps),
        )
    return scale


def _for_steps(training: Sequence[str], steps: int) -> tuple[str, ...]:
    """The flags of a training with another number of steps, and one evaluation at its end."""
    kept = [flag for flag in training if not flag.startswith(("--steps=", "--evaluate_every="))]
    return (*kept, f"--steps={steps}", f"--evaluate_every={steps}")


def _present(flag: str) -> tuple[str, ...]:
    """The flags of the module that defines one, as far as the user gave them."""
    module = FLAGS.find_module_defining_flag(flag)
    own = FLAGS.flags_by_module_dict()[module or ""]
    return tuple(each.serialize() for each in own if each.present)


def _settings(scale: Scale, cohort: Cohort) -> dict[str, Any]:
    """What was asked for, for the report."""
    return {
        "scale": FLAGS.scale,
        "cohort": cohort.name,
        "subjects": len(cohort.subjects),
        "voxel_mm": float(np.linalg.norm(cohort.affine[:3, 0])),
        "steps_of_figure_2": scale.figure_2_steps,
        "steps_of_figures_3_and_4": scale.comparison_steps,
        "transforms": "at every 50th step, blurring at every step",
        "strategy_of_figure_2": FLAGS.regularization,
        "penalty": scale.penalty,
        "penalty_weight": 0.0 if scale.penalty == "none" else 10.0,
        "seed": FLAGS.seed,
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


if __name__ == "__main__":
    start(main)

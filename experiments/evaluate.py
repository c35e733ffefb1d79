r"""Grade pictures: do they show the lesion shape that the network was trained on?

    python -m experiments.evaluate --run=runs/square --task=square_lesion --cohort=DIR \
        --transfer_model=DIR --out=DIR --control=random=RUN --control=shuffled=RUN
    python -m experiments.evaluate --images=DIR --shape=square --task=square_lesion --cohort=DIR \
        --transfer_model=square-lesion --out=DIR

Every picture of the graded units is named rightly or is not (featvis_jax/evaluation/grading.py), by
a judge of shapes that is trained here. Graded are the logits of classes that have a shape, and in
other layers the channels that tell the classes apart best; --list_channels tells which these are.
Writes scores.tsv, summary.tsv, scores.json and scores.png and .pdf; to known.tsv what the same
grade says of drawn pictures, perfect ones and wrong ones of many kinds; and to responses.tsv how
the network itself answers to lesions of other shapes, since a picture can show no more than was
learned.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import (
    cohort_flags,
    graded_pictures,
    graders,
    networks,
    progress,
    startup,
    stopping,
)
from experiments.calibration import calibrated
from experiments.graded_pictures import Picture
from experiments.graders import HeldOut, Truth
from experiments.grid_flags import with_grid
from experiments.launch import start, versions
from experiments.networks import Model
from experiments.task_names import TASK_HELP, NamedTask, named_task
from featvis_jax.data.grids import coincide, described
from featvis_jax.evaluation import concepts
from featvis_jax.evaluation.grading import Concept, Grader
from featvis_jax.evaluation.responses import Response
from featvis_jax.evaluation.selectivity import class_effects, most_selective
from featvis_jax.evaluation.summary import (
    PICTURE,
    Graded,
    known,
    known_scores,
    rows,
    scores,
    summary,
)
from featvis_jax.results.files import atomic_write_bytes, locked, make_directory, refuse_foreign
from featvis_jax.results.manifest import encode_json
from featvis_jax.results.scores_figure import scores_figure
from featvis_jax.results.store import RunView
from featvis_jax.results.tables import encode_rows

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("run", None, "Run to grade; repeat for several, other seeds for example.")
flags.DEFINE_string("images", None, "Directory of .nii, .nii.gz or .npy images to grade instead.")
flags.DEFINE_string("shape", None, "What all of --images should show; the task's shape by default.")
flags.DEFINE_string("task", None, f"What the network was trained on: {TASK_HELP}", required=True)
flags.DEFINE_string(
    "model", None, f"The runs' network, where their flags do not tell: {networks.MODEL_HELP}"
)
flags.DEFINE_string(
    "transfer_model",
    None,
    f"A network that was trained on the same task from another seed. {networks.MODEL_HELP}",
    required=True,
)
flags.DEFINE_string("out", None, "Directory for the grades.", required=True)
flags.DEFINE_multi_string(
    "control",
    [],
    "NAME=RUN: pictures of the same units that should not show the shape, of a network with "
    "--random_weights or of one trained with --shuffle_labels.",
)
flags.DEFINE_list(
    "made_controls",
    ["scrambled", "real"],
    "Controls made here: the pictures with their phases scrambled, and real clean images.",
)
flags.DEFINE_integer("best", 5, "Channels of each layer but the logits.", lower_bound=1)
flags.DEFINE_bool("list_channels", False, "Tell which channels are graded, and do nothing.")
flags.DEFINE_integer(
    "judge_patches", 12288, "Patches that the judge learns from, for every shape.", lower_bound=64
)
flags.DEFINE_integer("seed", 0, "Of patches, lesions and phases.", lower_bound=0)
# Real images of each unit that are graded beside its pictures.
_REAL = 4
# What a grading writes beside scores.json.
_FILES = ("known.tsv", "responses.tsv", "scores.tsv", "summary.tsv", "scores.png", "scores.pdf")


def main(_: Sequence[str]) -> None:
    """Grade, and write what was found."""
    startup.prepare()
    named = named_task(FLAGS.task)
    _check_flags()
    out = Path(FLAGS.out)
    refuse_foreign(out, "scores.json", what="grades", before=_FILES)
    runs = graded_pictures.open_runs(FLAGS.run or [], flag="--run")
    controls = _controls()
    transfer = with_grid(networks.load(FLAGS.transfer_model), _grid_of(runs))
    model = _model(runs)
    _check_grids(model, transfer)
    truth = graders.truth_of(named, model or transfer)
    cohort = cohort_flags.cohort_from_flags()
    held_out = graders.hold_out(cohort, [m for m in (model, transfer) if m is not None])
    units = _units(runs, model, truth, held_out) if model is not None else {}
    if FLAGS.list_channels:
        return
    pictures = _pictures(runs, controls, units, model, transfer, truth, held_out)
    make_directory(out)
    with locked(out):
        grader, by_name = graders.make_grader(
            truth, transfer, held_out, patches=FLAGS.judge_patches, seed=FLAGS.seed
        )
        graded = _graded(pictures, grader, by_name, truth)
        drawn = known(calibrated(grader, by_name, truth, seed=FLAGS.seed))
        if model is not None:
            answers = graders.responses(model, truth, held_out, seed=FLAGS.seed)
            _write_responses(out / "responses.tsv", answers)
        _write(out, graded, drawn, grader, model, transfer, named, runs)


def _check_flags() -> None:
    if bool(FLAGS.run) == bool(FLAGS.images) and not FLAGS.list_channels:
        raise ValueError(
            f"--run={FLAGS.run} and --images={FLAGS.images}: expected one of the two, runs of ours "
            "or a directory of images."
        )
    if FLAGS.shape is not None and not FLAGS.images:
        raise ValueError(f"--shape={FLAGS.shape}: says what --images show, and there are none.")
    unknown = set(FLAGS.made_controls) - {"scrambled", "real", ""}
    if unknown:  # "" is what --made_controls= gives.
        raise ValueError(
            f"--made_controls={','.join(FLAGS.made_controls)}: expected scrambled, real, both or "
            "nothing."
        )


def _controls() -> dict[str, list[RunView]]:
    """The runs of --control by name."""
    found: dict[str, list[RunView]] = {}
    for text in FLAGS.control:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in (PICTURE, "scrambled", "real"):
            raise ValueError(
                f"--control={text}: expected NAME=RUN with a name such as random or shuffled, and "
                "the directory of a run."
            )
        found.setdefault(name, []).extend(
            graded_pictures.open_runs([path], flag=f"--control={name}")
        )
    return found


def _model(runs: Sequence[RunView]) -> Model | None:
    """The network that the runs visualize."""
    if not runs and not FLAGS.list_channels:
        return None
    spec = FLAGS.model or (graded_pictures.flag_of(runs[0], "model") if runs else None)
    if spec is None:
        raise ValueError("--model is missing: the run does not say which network it is of.")
    try:
        model = with_grid(networks.load(spec), _grid_of(runs))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--model={spec}: {error}") from error
    for run in runs:
        configuration = run.configuration
        if configuration.get("weights_sha256") != model.card["weights_sha256"]:
            raise ValueError(
                f"--run={run.directory} is of the model {configuration.get('model')!r} with the "
                f"weights {configuration.get('weights_sha256')}; --model={spec} has "
                f"{model.card['weights_sha256']}: give the model that the run was made with."
            )
    return model


def _grid_of(runs: Sequence[RunView]) -> str | None:
    """What --grid was when the runs were made."""
    return graded_pictures.flag_of(runs[0], "grid") if runs else None


def _check_grids(model: Model | None, transfer: Model) -> None:
    if model is not None:
        same = model.image_shape == transfer.image_shape
        if same and model.affine is not None and transfer.affine is not None:
            same = coincide(model.grid, transfer.grid, any_slice=True)
        if not same:
            raise ValueError(
                f"--transfer_model={FLAGS.transfer_model} takes images of "
                f"{described(transfer.grid)}, the run's are of {described(model.grid)}: take one "
                "that was trained on the same grid."
            )
    if model is not None and model.card["weights_sha256"] == transfer.card["weights_sha256"]:
        raise ValueError(
            f"--transfer_model={FLAGS.transfer_model} is the run's own model: take one that was "
            "trained from another seed."
        )


def _units(
    runs: Sequence[RunView], model: Model, truth: Truth, held_out: HeldOut
) -> dict[tuple[str, int], str]:
    """The units that are graded, and the shape that each was trained on."""
    logits = graders.logits_of(model)
    if runs:
        present = graded_pictures.channels_of(runs)
    else:
        weighted = (layer for layer in model.network.layers if layer.has_weights)
        present = {layer.name: list(range(layer.channels)) for layer in weighted}
    found: dict[tuple[str, int], str] = {}
    hidden = [layer for layer in present if layer != logits]
    examples = graders.labelled(truth, held_out.all, seed=FLAGS.seed)
    effects = class_effects(model.network, hidden, examples) if hidden else {}
    for layer, channels in present.items():
        if layer == logits:
            chosen = [channel for channel in channels if channel in truth.names]
            found |= {(layer, channel): truth.names[channel] for channel in chosen}
            print(f"{layer}: {', '.join(f'{c} ({truth.names[c]})' for c in chosen) or 'none'}")
            continue
        best = most_selective(
            effects[layer], best=FLAGS.best, concepts=tuple(truth.names), among=channels
        )
        found |= {(layer, each.channel): truth.names[each.concept] for each in best}
        told = (f"{e.channel} ({truth.names[e.concept]}, effect {e.effect:.2f})" for e in best)
        print(f"{layer}: {', '.join(told) or 'no channel tells the classes apart'}")
    if not found:
        raise ValueError(
            f"--run={','.join(FLAGS.run)}: none of its units detects a lesion; visualize the "
            f"logits, or the channels that --list_channels tells of."
        )
    return found


def _pictures(
    runs: Sequence[RunView],
    controls: Mapping[str, Sequence[RunView]],
    units: Mapping[tuple[str, int], str],
    model: Model | None,
    transfer: Model,
    truth: Truth,
    held_out: HeldOut,
) -> list[Picture]:
    """All pictures and controls."""
    if FLAGS.images:
        names = list(truth.names.values())
        if FLAGS.shape is None and len(names) > 1:
            raise ValueError(f"--shape is missing: say which of {names} --images should show.")
        shape = FLAGS.shape or names[0]
        if shape not in names:
            raise ValueError(f"--shape={shape}: --task={FLAGS.task} has {names}.")
        found = graded_pictures.of_directory(FLAGS.images, shape, transfer.grid)
    else:
        found = [p for run in runs for p in graded_pictures.of_run(run, units)]
    made = list(found)
    if "scrambled" in FLAGS.made_controls:
        made += graded_pictures.scrambled(found, seed=FLAGS.seed)
    if "real" in FLAGS.made_controls and model is not None:
        made += graded_pictures.real(model, held_out.few, units, count=_REAL)
    for name, of_control in controls.items():
        own = [p for run in of_control for p in graded_pictures.of_run(run, units, kind=name)]
        if not own and not FLAGS.images:
            wanted = ", ".join(f"{layer} {channel}" for layer, channel in units)
            raise ValueError(
                f"--control={name}: its runs have none of the units that are graded ({wanted}): "
                "visualize the same layers and channels."
            )
        made += own
    return made


def _graded(
    pictures: Sequence[Picture], grader: Grader, by_name: Mapping[str, Concept], truth: Truth
) -> list[Graded]:
    """The grade of every picture."""
    lesions = truth.task.lesions
    shapes = {truth.names[label]: shape for label, shape in truth.shapes.items()}
    shape = grader.places[0].image.shape
    found = []
    for each in progress.each(pictures, "grading", unit="picture"):
        stopping.check()
        image, concept = each.load(), by_name[each.concept]
        if image.shape != shape:
            raise ValueError(
                f"{each.run}, {each.layer} {each.channel}: a picture of shape {image.shape}; "
                f"--transfer_model={FLAGS.transfer_model} takes {shape}: resample it to that grid."
            )
        grade = grader.grade(image, concept)
        side = concepts.equal_area_side(shapes[each.concept], image.ndim - 1)
        found.append(
            Graded(*each[:-1], size_mm=grade.size / side * lesions.voxel_size_mm, grade=grade)
        )
    return found


def _write_responses(path: Path, answers: Mapping[str, Sequence[Response]]) -> None:
    """What the network answers to lesions of every shape: to a file, and in a line each."""
    table = [
        {"concept": concept, **response._asdict()}
        for concept, responses in answers.items()
        for response in responses
    ]
    atomic_write_bytes(path, encode_rows(table, digits=5))
    for concept, responses in answers.items():
        told = ", ".join(f"{each.shape} {each.change:+.2f}" for each in responses)
        print(f"One lesion more raises the logit for {concept} by: {told}")


def _write(
    out: Path,
    graded: Sequence[Graded],
    drawn: Sequence[Mapping[str, Any]],
    grader: Grader,
    model: Model | None,
    transfer: Model,
    named: NamedTask,
    runs: Sequence[RunView],
) -> None:
    """All files of a grading, and a few lines on the terminal."""
    table = summary(graded)
    found = {
        **scores(graded),
        "task": named.name,
        "known": known_scores(drawn),
        "judge": {
            "classes": list(grader.judge.classes),
            "balanced_accuracy": grader.judge.balanced_accuracy,
        },
        "models": {
            name: {"name": known.card["name"], "weights_sha256": known.card["weights_sha256"]}
            for name, known in (("graded", model), ("transfer", transfer))
            if known is not None
        },
        "runs": [{"name": r.directory.resolve().name, "fingerprint": r.fingerprint} for r in runs],
        "seed": FLAGS.seed,
        "versions": versions(),
    }
    atomic_write_bytes(out / "scores.tsv", encode_rows(rows(graded), digits=5))
    atomic_write_bytes(out / "summary.tsv", encode_rows(table, digits=5))
    atomic_write_bytes(out / "known.tsv", encode_rows(drawn, digits=5))
    for kind in ("png", "pdf"):
        figure = scores_figure(
            table, known=drawn, title=f"{named.name}: what the pictures show", kind=kind
        )
        atomic_write_bytes(out / f"scores.{kind}", figure)
    atomic_write_bytes(out / "scores.json", encode_json(json.loads(json.dumps(found))))
    for row in table:
        if row["layer"] == "all" and row["score"] in ("named", "size"):
            low, high = (f"{100 * float(str(row[end])):.0f}" for end in ("low", "high"))
            print(
                f"{row['control']}, {row['score']}: {row['passed']} of {row['n']} "
                f"(95 % interval {low} to {high} %)"
            )
    for concept, said in found["known"].items():
        right, wrong, worst = said["perfect"], said["wrong"], said["worst"]
        print(
            f"Of drawn pictures, the same grade names {concept} in {100 * right['value']:.0f} % of "
            f"{right['n']} perfect ones and in {100 * wrong['value']:.0f} % of {wrong['n']} wrong "
            f"ones; at most in {100 * worst['value']:.0f} % of a kind ({worst['kind']})."
        )
    print(f"Scores: {out / 'scores.json'}, {out / 'scores.png'}")


if __name__ == "__main__":
    start(main)

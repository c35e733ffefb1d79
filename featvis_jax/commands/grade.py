"""``featvis grade``: do pictures show the lesion shape that their network was trained on?"""

import dataclasses
from pathlib import Path

from featvis_jax.commands import startup
from featvis_jax.commands.launch import Command
from featvis_jax.commands.startup import StartupOptions
from featvis_jax.options import option, say
from featvis_jax.runs import grade
from featvis_jax.runs.grade_job import GradeOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(GradeOptions, StartupOptions):
    """Other."""

    list_channels: bool = option(
        False, "List the channels that would be graded, and stop.", belongs_to_run=False
    )


def main(flags: Flags) -> None:
    """Grade, and say what was found and where it is."""
    startup.prepare(flags)
    if flags.list_channels:
        grade.list_channels(flags)
        return
    if flags.out is None:
        raise ValueError("`out` is missing: name a directory for the grades.")
    say(str(grade.run(flags)))
    out = Path(flags.out)
    say(f"Scores: {out / 'scores.json'}, {out / 'scores.png'}")


COMMAND = Command(
    name="grade",
    summary="check whether pictures show the lesion shape that was trained on",
    examples=(
        "--run=runs/logits --task=square_lesion --cohort=DIR "
        "--transfer_model=square-lesion-2 --out=grades",
        "--images=DIR --shape=square --task=square_lesion --cohort=DIR "
        "--transfer_model=square-lesion --out=grades",
    ),
    options=Flags,
    main=main,
    required=("task", "transfer_model"),
    first=("run", "task", "cohort", "transfer_model", "control", "out", "list_channels"),
)

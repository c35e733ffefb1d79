"""What the name of a task means: a task of ours, or lesions of a shape from the user's own file."""

import hashlib
from typing import NamedTuple

from featvis_jax.data.shapes import Shape
from featvis_jax.data.tasks import TASKS, label_column
from featvis_jax.importers.python_files import function_name, load_function
from featvis_jax.options import errors_of

TASK_HELP = (
    "FILE.py:FUNCTION for lesions of a shape of your own; label:COLUMN for a column of "
    "participants.tsv, whose values are classes, or a number to estimate if there are more than "
    "ten different numbers (volumes only); or one of\n"
    + "\n".join(f"{name}: {text}" for name, text in TASKS.items())
)


class NamedTask(NamedTuple):
    """A task's name, and what only a user's own one has.

    Attributes:
      name: One of `TASKS`, ``label:COLUMN``, or the name of the user's function.
      shape: That function.
      sha256: Checksum of its file, which decides the images.
    """

    name: str
    shape: Shape | None = None
    sha256: str | None = None


def named_task(text: str, *, name: str = "task") -> NamedTask:
    """Find a task.

    Args:
      text: What names it.
      name: Of the option that does.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: There is no such task or function.
    """
    function = function_name(text)
    if function is not None:
        with errors_of(name, text):
            shape = load_function(function.path, function.name)
        checksum = hashlib.sha256(function.path.read_bytes()).hexdigest()
        return NamedTask(function.name, shape, checksum)
    if label_column(text) is None and text not in TASKS:
        raise ValueError(
            f"`{name}={text}`: there is no such task; expected FILE.py:FUNCTION for a shape of "
            "your own, label:COLUMN for a column of participants.tsv, or one of "
            f"{', '.join(TASKS)}."
        )
    return NamedTask(text)

"""What --task names: a task of ours, or lesions of a shape from the user's own file."""

import hashlib
from typing import NamedTuple

from experiments.python_files import function_name, load_function
from featvis_jax.data.lesions import Shape
from featvis_jax.data.tasks import TASKS

TASK_HELP = "FILE.py:FUNCTION for lesions of a shape of your own, or one of\n" + "\n".join(
    f"{name}: {text}" for name, text in TASKS.items()
)


class NamedTask(NamedTuple):
    """A task's name, and what only a user's own one has.

    Attributes:
      name: One of `TASKS`, or the name of the user's function.
      shape: That function.
      sha256: Checksum of its file, which decides the images.
    """

    name: str
    shape: Shape | None = None
    sha256: str | None = None


def named_task(text: str) -> NamedTask:
    """Find a task.

    Args:
      text: What came by --task.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: There is no such task or function.
    """
    function = function_name(text)
    if function is not None:
        shape = load_function(function.path, function.name, flag="--task")
        checksum = hashlib.sha256(function.path.read_bytes()).hexdigest()
        return NamedTask(function.name, shape, checksum)
    if text not in TASKS:
        raise ValueError(
            f"--task={text}: there is no such task; expected FILE.py:FUNCTION for a shape of your "
            f"own, or one of {', '.join(TASKS)}."
        )
    return NamedTask(text)

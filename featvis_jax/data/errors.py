"""What is wrong with what came in: a scan, or a cohort with all that is wrong with it at once."""

from collections.abc import Iterable


class CohortError(ValueError):
    """A cohort that cannot be used. `problems` holds one line per bad row or file."""

    def __init__(self, heading: str, problems: Iterable[str] = ()):
        """Join the heading and the problems, one a line, to the message."""
        self.problems = tuple(problems)
        super().__init__("\n  ".join([heading, *self.problems]))


class VolumeError(ValueError):
    """A NIfTI file that cannot be used; the message names the file, what is wrong and the fix."""

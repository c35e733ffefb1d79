"""What the cases of `tests.stress.slurm` share: a clone, jobs, and undisturbed runs."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from featvis_jax.data.synthetic import write_synthetic_cohort
from tests import batch_scripts
from tests.stress import slurm_cluster

EVALUATE_EVERY = 100
VISUALIZATION = ["--channels=0:2", "--batch=1", "--steps=256", "--regularization=none"]
_PATIENCE_S = 600.0


class Lost(Exception):
    """What an interruption cost, or that there was none."""


class Stage:
    """The clone that jobs are submitted from, and the undisturbed runs to compare with."""

    def __init__(self, root: Path, cluster: slurm_cluster.Cluster, steps: int) -> None:
        """Lay out a clone with the scripts of docs/cluster.md, and a cohort."""
        self.root, self.cluster, self.steps = root, cluster, steps
        self.clone = root / "clone"
        self.clone.mkdir()
        (self.clone / ".venv").symlink_to(sys.prefix)
        for name in ("experiments", "featvis_jax"):
            (self.clone / name).symlink_to(batch_scripts.REPOSITORY / name)
        for name, text in batch_scripts.scripts().items():
            (self.clone / name).write_text(text)
        write_synthetic_cohort(root / "cohort", num_subjects=6, voxel_size_mm=4.0)
        self.training = [
            *[f"--steps={steps}", f"--evaluate_every={EVALUATE_EVERY}", "--patience=1000"],
            *["--batch=4", "--crop=40,44", "--validation_images=6", "--lesion_size_mm=16,28"],
            f"--cache={root / 'cache'}",
        ]
        self.model = self.scratch("undisturbed") / "runs" / "square"

    def scratch(self, name: str) -> Path:
        """A place of one case's own that has the cohort."""
        place = self.root / "scratch" / name
        if not place.exists():
            (place / "runs").mkdir(parents=True)
            (place / "cohort").symlink_to(self.root / "cohort")
        return place

    def submit(self, scratch: Path, *command: str) -> str:
        """Submit a script; gives the number of the job."""
        environment = {**self.cluster.environment, "SCRATCH": str(scratch)}
        return self.cluster.call("sbatch", "--parsable", *command, cwd=self.clone, env=environment)

    def log(self, job: str) -> str:
        """What a job, or an element of an array, has written so far."""
        found = list(self.clone.glob(f"*-{job}.log"))
        return found[0].read_text() if found else ""

    def finish(self, job: str, name: str) -> None:
        """Wait for the end of a job, which has to be a good one."""
        wait(lambda: not self.busy(job), f"the end of job {job}")
        state, _ = self.cluster.state(job)
        if state != "COMPLETED":
            raise Lost(f"job {job} ({name}) ended as {state}:\n{self.log(job)[-2000:]}")

    def busy(self, job: str) -> bool:
        """Whether any part of a job waits, runs or ends."""
        over = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
        return not set(self.cluster.state(job)[0].split(",")) <= over

    def trained(self) -> None:
        """The undisturbed training, by the same script."""
        if not (self.model / "report.json").exists():
            self.finish(
                self.submit(self.scratch("undisturbed"), "train.sbatch", *self.training),
                "training",
            )

    def visualized(self) -> Path:
        """The undisturbed visualization, by the script of one process."""
        self.trained()
        scratch = self.scratch("undisturbed")
        if not (scratch / "runs" / "pictures" / "gallery").exists():
            self.finish(
                self.submit(scratch, "collect.sbatch", *VISUALIZATION), "undisturbed visualization"
            )
        return scratch / "runs" / "pictures"


def wait(done: Callable[[], object], what: str) -> None:
    """Wait for something that has to come."""
    deadline = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise Lost(f"{what} did not come within {_PATIENCE_S:.0f} s")
        time.sleep(0.2)

"""Which of several processes this one is, as a cluster's launcher tells it."""

from collections.abc import Mapping

# What was started last counts: mpirun may run within an allocation of Slurm.
_VARIABLES = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "Slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}
_FIX = "start the processes by srun or mpirun, or give `shard=I/N`"


def shard(environment: Mapping[str, str]) -> tuple[int, int]:
    """The part of the work that falls to this process.

    Slurm sets both variables in what ``srun`` starts, and the rank alone in a batch script: a
    script without ``srun`` would do the first part and leave the others.

    Args:
      environment: Such as `os.environ`.

    Returns:
      The number of this process, from 1, and how many there are.

    Raises:
      ValueError: Nothing is set, or a part of it, or something that is no such number.

    Example:
      >>> shard({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"})
      (2, 4)
    """
    for name, variables in _VARIABLES.items():
        found = {key: environment[key] for key in variables if key in environment}
        if not found:
            continue
        told = ", ".join(f"{key}={value}" for key, value in found.items())
        missing = [key for key in variables if key not in found]
        if missing:
            raise ValueError(
                f"`shard=cluster`: {name} has set {told} and not {missing[0]}: {_FIX}."
            )
        rank, count = found.values()
        numbers = rank.isdecimal() and count.isdecimal()
        if not numbers or not int(rank) < int(count):
            raise ValueError(
                f"`shard=cluster`: {name} has set {told}; expected a number from 0 and a larger "
                f"count: {_FIX}."
            )
        return int(rank) + 1, int(count)
    known = ", ".join(key for keys in _VARIABLES.values() for key in keys)
    raise ValueError(f"`shard=cluster`: none of {known} is set: {_FIX}.")

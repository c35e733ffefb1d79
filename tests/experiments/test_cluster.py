"""Which process of a cluster this is."""

import pytest

from featvis_jax.commands.cluster import shard

SLURM = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SLURM, (1, 3)),
        (OPEN_MPI, (2, 2)),
        # mpirun within an allocation of Slurm.
        ({**SLURM, **OPEN_MPI}, (2, 2)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "PATH": "/bin"}, (3, 3)),
    ],
)
def test_a_process_takes_the_part_of_its_rank(environment, expected):
    assert shard(environment) == expected


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "SLURM_PROCID, SLURM_STEP_NUM_TASKS is set"),
        # A batch script without srun.
        ({"SLURM_PROCID": "0"}, "SLURM_PROCID=0 and not SLURM_STEP_NUM_TASKS"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2 and not OMPI_COMM_WORLD_RANK"),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "3"}, "expected a number from 0"),
        ({"SLURM_PROCID": "-1", "SLURM_STEP_NUM_TASKS": "3"}, "expected a number from 0"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2(x2)"}, "expected a number from 0"),
    ],
)
def test_a_half_set_or_foreign_environment_is_named_with_the_fix(environment, told):
    with pytest.raises(ValueError, match=r"`shard=cluster`") as caught:
        shard(environment)
    assert told in str(caught.value)
    assert "srun" in str(caught.value)

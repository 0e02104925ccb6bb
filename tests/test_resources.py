"""The number of MPI processes of a job."""

import pytest

from aiida_mlfinetune.common.resources import mpi_processes


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, 1),
        ({"num_machines": 2}, 2),
        ({"num_machines": 2, "num_mpiprocs_per_machine": 3}, 6),
        ({"tot_num_mpiprocs": 5, "num_machines": 2}, 5),
    ],
)
def test_processes_of_all_machines_together(resources, expected):
    assert mpi_processes(resources) == expected


def test_a_default_counts_where_the_resources_say_nothing():
    assert mpi_processes({"num_machines": 2}, default_per_machine=4) == 8
    assert mpi_processes({"num_machines": 2, "num_mpiprocs_per_machine": 1}, default_per_machine=4) == 2

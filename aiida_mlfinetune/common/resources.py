"""Resources of a job, as AiiDA writes them in its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mpi_processes(resources: Mapping[str, Any], default_per_machine: int = 1) -> int:
    """Return the number of MPI processes that ``resources`` ask for, all machines together.

    :param default_per_machine: those of one machine where the resources say nothing, such as a computer's default
    """
    if total := resources.get("tot_num_mpiprocs"):
        return int(total)
    per_machine = resources.get("num_mpiprocs_per_machine") or default_per_machine
    return int(resources.get("num_machines") or 1) * int(per_machine)

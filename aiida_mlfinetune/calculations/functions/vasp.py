"""What VASP gets for each frame, as nodes."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.calculations.vasp_input import frame_mesh, frame_structure
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.raw.vasp_misc import ENERGY_TYPES

POSCAR_DECIMALS = 14
MOST_RUNS = 5
"""Runs of VASP for one frame, at most, the handlers' retries included."""


@calcfunction
def shared_inputs(level: orm.Dict) -> dict[str, orm.Data]:
    """Return the inputs that all frames of a level share: as one set of nodes, not one a frame."""
    spec = level.get_dict()
    return {
        "parameters": orm.Dict({"incar": spec["incar"]}),
        "potential_family": orm.Str(spec["potentials"]["family"]),
        "potential_mapping": orm.Dict(spec["potentials"]["mapping"]),
        "settings": orm.Dict(
            {"poscar_precision": POSCAR_DECIMALS, "parser_settings": {"energy_type": list(ENERGY_TYPES)}}
        ),
        "max_iterations": orm.Int(MOST_RUNS),
        "clean_workdir": orm.Bool(True),
        "keep_last_workdir": orm.Bool(False),
        "verbose": orm.Bool(False),
        "stdout_monitor": orm.Dict({"entry_point": "vasp.stdout"}),
        "loop_time_monitor": orm.Dict({"entry_point": "vasp.loop_time", "minimum_poll_interval": 600}),
    }


@calcfunction
def frame_inputs(dataset: DatasetData, level: orm.Dict, first: orm.Int, last: orm.Int) -> dict[str, orm.Data]:
    """Return the structures of the frames ``first`` to ``last`` (not included), and the meshes of k-points they need.

    Names are those of ``structure_name`` and ``mesh_name``.
    """
    spec, frames = level.get_dict(), dataset.frames
    outputs: dict[str, orm.Data] = {}
    for index in range(first.value, last.value):
        outputs[structure_name(index)] = frame_structure(spec, frames, index)
        mesh = frame_mesh(spec, frames, index)
        if mesh_name(mesh) not in outputs:
            outputs[mesh_name(mesh)] = orm.KpointsData()
            outputs[mesh_name(mesh)].set_kpoints_mesh(list(mesh))
    return outputs


def structure_name(index: int) -> str:
    """Return the name of the structure of a frame among the outputs of ``frame_inputs``."""
    return f"structure_{index:06d}"


def mesh_name(mesh: tuple[int, int, int]) -> str:
    """Return the name of a mesh of k-points among the outputs of ``frame_inputs``."""
    return "kpoints_" + "_".join(str(number) for number in mesh)

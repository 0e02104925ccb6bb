"""``mlfinetune.cp2k_md``: molecular dynamics with CP2K through aiida-cp2k, and the input of such a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.engine import calcfunction
from aiida_cp2k.calculations import Cp2kCalculation
from ase import Atoms

from aiida_mlfinetune.calculations.cp2k_cells import grid_section, has_grid
from aiida_mlfinetune.calculations.cp2k_input import check_level, force_eval, vacuum_edge_A
from aiida_mlfinetune.calculations.validators import (
    CP2K_PLUGINS,
    kinds_problem,
    validate_dict,
    validate_program,
)
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import FramesError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.checks import check_structure
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.dynamics.md_settings import MdSettings

SHARE_OF_WALLTIME = 0.9
"""CP2K stops at this share of the scheduler's limit: it looks at the clock between steps only."""
CP2K_ENSEMBLES = {
    Ensemble.NVE: "NVE",
    Ensemble.NVT: "NVT",
    Ensemble.NPT_ISOTROPIC: "NPT_I",
    Ensemble.NPT_FLEXIBLE: "NPT_F",
}


class Cp2kMdCalculation(Cp2kCalculation):
    """CP2K molecular dynamics whose frames come back as one dataset with energies, forces and stress."""

    ENERGIES_FILENAME = f"{Cp2kCalculation._DEFAULT_PROJECT_NAME}-1.ener"  # noqa: SLF001 - the file names of CP2K's project
    POSITIONS_FILENAME = Cp2kCalculation._DEFAULT_TRAJECT_XYZ_FILE_NAME  # noqa: SLF001
    FORCES_FILENAME = Cp2kCalculation._DEFAULT_TRAJECT_FORCES_FILE_NAME  # noqa: SLF001
    CELLS_FILENAME = Cp2kCalculation._DEFAULT_TRAJECT_CELL_FILE_NAME  # noqa: SLF001
    RESTART_FILENAME = Cp2kCalculation._DEFAULT_RESTART_FILE_NAME  # noqa: SLF001
    _DEFAULT_PARSER = "mlfinetune.cp2k_md"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Add the level, the outputs and the exit codes that plain aiida-cp2k lacks."""
        super().define(spec)
        spec.input(
            "level",
            valid_type=orm.Dict,
            validator=validate_dict(check_level),
            help="Level of theory (from `load_level`), which the labels of the frames are filed under.",
        )
        spec.inputs["structure"].required = True
        spec.inputs["structure"].validator = validate_structure
        spec.inputs["code"].validator = validate_program(*CP2K_PLUGINS)
        spec.output(
            "frames",
            valid_type=DatasetData,
            required=False,
            help="Printed frames with step, energy (eV), forces (eV/A) and, for crystals, stress (eV/A^3, ASE's sign).",
        )
        spec.output(
            "properties",
            valid_type=orm.ArrayData,
            required=False,
            help="Per MD step: step, time_fs, potential_energy_eV, kinetic_energy_eV, temperature_K, conserved_eV; and "
            "volume_A3, NaN at steps whose cell was not printed.",
        )
        spec.exit_code(211, "ERROR_INPUT_REFUSED", message="CP2K refused its input: {message}")
        spec.exit_code(322, "ERROR_ENERGIES_READ", message="The table of energies is missing or cannot be read.")
        spec.exit_code(
            330,
            "ERROR_EXPLODED",
            message="The run exploded: temperature or energy are beyond all bounds from step {step} on. Shorten the "
            "time step, or start from a relaxed structure.",
        )
        spec.exit_code(
            340,
            "ERROR_UNCONVERGED",
            message="The self-consistency failed at {count} of {total} steps. Raise MAX_SCF, or change the minimiser.",
        )
        spec.exit_code(
            410,
            "ERROR_INTERRUPTED",
            message="CP2K was ended from outside before its last step; a restart file is there.",
        )

    def prepare_for_submission(self, folder: Any) -> Any:
        """Retrieve the table of energies too, and let CP2K end by itself before the scheduler's limit.

        The limit is written here and not kept among the parameters, so that it does not enter the hash of the inputs.
        """
        calcinfo = super().prepare_for_submission(folder)
        limit = self.inputs.metadata.options.get("max_wallclock_seconds")
        if limit is not None:
            path = Path(folder.get_abs_path(self._DEFAULT_INPUT_FILE))
            own = max(1, int(limit * SHARE_OF_WALLTIME))
            path.write_text(path.read_text().replace("&GLOBAL\n", f"&GLOBAL\n   WALLTIME {own}\n", 1))
        calcinfo.retrieve_list.append(self.ENERGIES_FILENAME)
        return calcinfo


def validate_structure(structure: orm.StructureData | None, _: Any = None) -> str | None:
    """Check that a structure can be computed."""
    if structure is None:
        return None
    if problem := kinds_problem(structure):
        return problem
    if any(structure.pbc) and not all(structure.pbc):
        return (
            f"the structure is periodic in some directions only ({list(structure.pbc)}): make it a crystal (all three) "
            "or a molecule (none)"
        )
    try:
        check_structure(structure.get_ase())
    except FramesError as error:
        return str(error)
    return None


def check_run(level: Mapping[str, Any], atoms: Atoms, settings: MdSettings) -> None:
    """Check that level, settings and structure fit together.

    Raises:
        StudyError: a barostat for a molecule without a cell, or with a grid that is open, or too long a time step for
            hydrogen.
    """
    if settings.ensemble.has_barostat and not atoms.pbc.all():
        raise StudyError(
            f"ensemble {settings.ensemble.value!r} moves the cell, but the structure is a molecule without one: use "
            f"{Ensemble.NVT.value!r}"
        )
    if settings.ensemble.has_barostat and has_grid(level) and not grid_section(level, Frames.from_atoms([atoms])):
        raise StudyError(
            f"ensemble {settings.ensemble.value!r} moves the cell, and the grid of level {level['key']!r} is open, so "
            "that the energy would jump: name a reference cell in `grid_cells`, as `get_builder_from_protocol` does"
        )
    settings.check_elements(atoms.get_chemical_symbols())


def md_parameters(level: Mapping[str, Any], settings: MdSettings, atoms: Atoms) -> dict[str, Any]:
    """Return the whole CP2K input (for aiida-cp2k) of an MD run of ``atoms`` but for coordinates and cell vectors."""
    check_run(level, atoms, settings)
    periodic = bool(atoms.pbc.all())
    each = {"MD": settings.stride}
    section = force_eval(level, atoms.get_chemical_symbols(), periodic)
    if periodic:
        section["PRINT"]["STRESS_TENSOR"]["EACH"] = each
        section["SUBSYS"]["CELL"].update(grid_section(level, Frames.from_atoms([atoms])))
    else:
        edge = vacuum_edge_A(level, atoms.positions)
        section["SUBSYS"]["CELL"]["ABC"] = f"{edge} {edge} {edge}"
        section["SUBSYS"]["TOPOLOGY"] = {"CENTER_COORDINATES": {"_": "ON"}}
    dynamics: dict[str, Any] = {
        "ENSEMBLE": CP2K_ENSEMBLES[settings.ensemble],
        "STEPS": settings.n_steps,
        "TIMESTEP": settings.timestep_fs,
        "TEMPERATURE": settings.temperature_K,
    }
    if settings.ensemble is not Ensemble.NVE:
        dynamics["THERMOSTAT"] = {
            "TYPE": "CSVR",
            "REGION": "GLOBAL",
            "CSVR": {"TIMECON": settings.thermostat_tau_fs},
        }
    if settings.ensemble.has_barostat:
        dynamics["BAROSTAT"] = {"PRESSURE": settings.pressure_bar, "TIMECON": settings.barostat_tau_fs}
    return {
        "GLOBAL": {"RUN_TYPE": "MD", "PRINT_LEVEL": "LOW", "SEED": settings.seed},
        "FORCE_EVAL": section,
        "MOTION": {
            "MD": dynamics,
            "PRINT": {
                "TRAJECTORY": {"EACH": each},
                "FORCES": {"_": "ON", "EACH": each},
                "CELL": {"_": "ON", "EACH": each},
                "RESTART": {"BACKUP_COPIES": 0, "EACH": each},
                "RESTART_HISTORY": {"_": "OFF"},
            },
        },
    }


@calcfunction
def cp2k_md_parameters(level: orm.Dict, md: orm.Dict, structure: orm.StructureData) -> orm.Dict:
    """Turn a level, MD settings and a structure into the parameters of aiida-cp2k."""
    settings = MdSettings.from_dict(md.get_dict())
    return orm.Dict(md_parameters(level.get_dict(), settings, structure.get_ase()))


@calcfunction
def cp2k_restart_parameters(parameters: orm.Dict, output_parameters: orm.Dict) -> orm.Dict:
    """Return the parameters of a run that goes on from ``parent_calc_folder``.

    ``parameters`` are those of the first run, ``output_parameters`` come from the run whose folder it is.
    """
    tree = parameters.get_dict()
    tree["EXT_RESTART"] = {
        "RESTART_FILE_NAME": f"{Cp2kMdCalculation._DEFAULT_PARENT_CALC_FLDR_NAME}{Cp2kMdCalculation.RESTART_FILENAME}",  # noqa: SLF001
        "RESTART_DEFAULT": True,
    }
    tree["MOTION"]["MD"]["STEPS"] = tree["MOTION"]["MD"]["STEPS"] - output_parameters["restart_step"]
    return orm.Dict(tree)

"""``mlfinetune.cp2k_label``: energies, forces and stress of many frames in one CP2K job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.common.datastructures import CalcInfo
from aiida.common.folders import Folder
from aiida.engine.processes.calcjobs.calcjob import validate_calc_job
from aiida_cp2k.calculations import Cp2kCalculation
from aiida_cp2k.utils import Cp2kInput

from aiida_mlfinetune.calculations import cp2k_reftraj as reftraj
from aiida_mlfinetune.calculations.cp2k_cells import grid_numbers
from aiida_mlfinetune.calculations.cp2k_checks import level_problem, ranks_problem
from aiida_mlfinetune.calculations.cp2k_input import check_level
from aiida_mlfinetune.calculations.cp2k_ladder import check_cp2k_rung
from aiida_mlfinetune.calculations.job_files import call_of, write_texts
from aiida_mlfinetune.calculations.validators import (
    CP2K_PLUGINS,
    new_level_problem,
    validate_dict,
    validate_program,
)
from aiida_mlfinetune.common.resources import mpi_processes
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.checks import frames_problem

SHARE_OF_WALLTIME = 0.95
"""CP2K stops itself at this part of the time that the scheduler allows, so that it ends in order."""


def validate_dataset(dataset: DatasetData | None, _: Any) -> str | None:
    """Check that all frames fit into one job, and that each can be computed."""
    if dataset is None:
        return None
    return reftraj.check_batch(dataset.frames) or frames_problem(dataset.frames)


def cp2k_inputs_problem(inputs: Mapping[str, Any]) -> str | None:
    """Return what is wrong with inputs that do not fit together: level, dataset, and the resources of the job."""
    if "level" not in inputs:
        return None
    spec = inputs["level"].get_dict()
    if "dataset" in inputs:
        dataset = inputs["dataset"]
        if problem := new_level_problem(spec, dataset) or level_problem(spec, dataset.frames):
            return problem
    return ranks_problem(spec, _mpi_processes(inputs)) if "code" in inputs else None


def _mpi_processes(inputs: Mapping[str, Any]) -> int:
    """Return the number of MPI processes that a job will have, with what AiiDA fills in."""
    code, options = inputs["code"], inputs.get("metadata", {}).get("options", {})
    with_mpi = code.with_mpi if code.with_mpi is not None else options.get("withmpi", False)
    if not with_mpi:
        return 1
    return mpi_processes(options.get("resources", {}), code.computer.get_default_mpiprocs_per_machine() or 1)


def validate_inputs(inputs: Mapping[str, Any], port: Any) -> str | None:
    """Check our own inputs, and what AiiDA asks of every job."""
    return cp2k_inputs_problem(inputs) or _several_grids(inputs) or validate_calc_job(inputs, port)


def _several_grids(inputs: Mapping[str, Any]) -> str | None:
    if "level" not in inputs or "dataset" not in inputs:
        return None
    if np.ptp(grid_numbers(inputs["level"].get_dict(), inputs["dataset"].frames)) == 0:
        return None
    return (
        "the frames are of crystals with different reference cells, and one CP2K job has one grid: use the labelling "
        "work chain, which sorts frames into jobs"
    )


class Cp2kLabelCalculation(Cp2kCalculation):
    """CP2K on many frames of one composition in one job, wavefunctions carried from frame to frame.

    The frames are a REFTRAJ trajectory: CP2K evaluates each as it stands. Neighbouring frames should be alike (the
    labelling work chain sorts them), since each SCF cycle starts from an extrapolation of the ones before. A frame
    whose SCF cycle does not converge is left out and named in ``failed``; a job that ends early keeps the frames that
    it finished.
    """

    _DEFAULT_PARSER = "mlfinetune.cp2k_label"
    _UNUSED_INPUTS = (
        "parameters",
        "structure",
        "trajectory",
        "settings",
        "parent_calc_folder",
        "kpoints",
        "file",
        "basissets",
        "pseudos",
        "pseudos_upf",
    )
    _UNUSED_OUTPUTS = ("output_structure", "output_trajectory", "output_bands")

    @classmethod
    def define(cls, spec: Any) -> None:
        """Declare dataset and level in place of aiida-cp2k's structure and parameters."""
        super().define(spec)
        for name in cls._UNUSED_INPUTS:
            del spec.inputs[name]
        for name in cls._UNUSED_OUTPUTS:
            del spec.outputs[name]
        for label in [label for label, code in spec.exit_codes.items() if code.status > 200]:
            del spec.exit_codes[label]
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.inputs["code"].validator = validate_program(*CP2K_PLUGINS)
        spec.input(
            "dataset",
            valid_type=DatasetData,
            validator=validate_dataset,
            help="Frames of one composition, order of atoms and periodicity (all three directions, or none).",
        )
        spec.input(
            "level",
            valid_type=orm.Dict,
            validator=validate_dict(check_level),
            help="Level of theory: engine 'cp2k', a key for the labels, and CP2K sections in upper case.",
        )
        spec.input(
            "convergence",
            valid_type=orm.Dict,
            validator=validate_dict(check_cp2k_rung),
            required=False,
            help="For frames that did not converge otherwise: `name` of the rung of the ladder, and `parameters`, aids "
            "to convergence that are laid over the level's.",
        )
        spec.output(
            "dataset",
            valid_type=DatasetData,
            required=False,
            help="The frames that succeeded, in order: energy (eV), forces (eV/A), stress (eV/A^3, ASE's sign).",
        )
        spec.output(
            "failed",
            valid_type=orm.Dict,
            required=False,
            help="By index in the input dataset: `reason`, `retry`: whether another job may succeed, and `climb`: "
            "true if it needs more help to converge.",
        )
        spec.outputs["output_parameters"].required = False
        spec.outputs.dynamic = False
        spec.default_output_node = "output_parameters"
        spec.exit_code(210, "ERROR_INPUT_REFUSED", message="CP2K refused its input: {message}", invalidates_cache=True)
        spec.exit_code(
            310, "ERROR_OUTPUT_MISSING", message="CP2K's standard output was not retrieved.", invalidates_cache=True
        )
        spec.exit_code(
            311,
            "ERROR_NO_FRAME_FINISHED",
            message="CP2K was ended from outside before it finished a frame.",
            invalidates_cache=True,
        )
        spec.exit_code(
            312,
            "ERROR_NO_FRAME_CONVERGED",
            message="Of {total} frames none converged. Raise MAX_SCF, or change the minimiser.",
        )
        # What these two finished need not be done again: they stay in the cache, so that a rerun does only the rest.
        spec.exit_code(400, "ERROR_OUT_OF_WALLTIME", message="CP2K ran out of time after {done} of {total} frames.")
        spec.exit_code(410, "ERROR_INTERRUPTED", message="CP2K ended early, after {done} of {total} frames.")

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write input, first frame, trajectory and cells."""
        spec, frames = self.inputs.level.get_dict(), self.inputs.dataset.frames
        limit = self.inputs.metadata.options.get("max_wallclock_seconds")
        walltime = None if limit is None else max(1, int(limit * SHARE_OF_WALLTIME))
        convergence = self.inputs.convergence["parameters"] if "convergence" in self.inputs else None
        tree = reftraj.reftraj_input(spec, frames, walltime, convergence)
        positions = reftraj.coordinates(spec, frames)
        files = {
            self.inputs.metadata.options.input_filename: Cp2kInput(tree).render(),
            reftraj.COORDINATES_FILENAME: reftraj.xyz_text(frames, positions[:1]),
            reftraj.TRAJECTORY_FILENAME: reftraj.xyz_text(frames, positions),
        }
        if frames.pbc.all():
            files[reftraj.CELLS_FILENAME] = reftraj.cell_text(frames)
        write_texts(folder, files)
        calc_info = call_of(self.inputs, "-i", self.inputs.metadata.options.input_filename)
        # The dataset holds the trajectory already.
        calc_info.provenance_exclude_list = [reftraj.TRAJECTORY_FILENAME, reftraj.CELLS_FILENAME]
        return calc_info

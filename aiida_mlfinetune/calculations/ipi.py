"""``mlfinetune.ipi``: molecular dynamics with i-PI and a MACE model, both in one process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from aiida import orm
from aiida.common.datastructures import CalcInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec
from ase import Atoms

from aiida_mlfinetune.calculations import ipi_input
from aiida_mlfinetune.calculations.job_files import call_of, program_text, write_texts
from aiida_mlfinetune.calculations.validators import (
    IPI_PLUGINS,
    kinds_problem,
    validate_dict,
    validate_program,
)
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import MlFinetuneError, ModelError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.checks import check_elements, structure_problem
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from aiida_mlfinetune.science.models.baseline import baseline_head
from aiida_mlfinetune.science.models.passport import Passport
from aiida_mlfinetune.science.training.heads import HEAD
from aiida_mlfinetune.science.training.stress import stress_problem

WALL_MARGIN = (30.0, 0.05)
"""Seconds, and part of the wall time, that are kept for starting up, for saving and for the scheduler."""
BASELINE_HELP = "The model that `model` is a difference to: the potential is the sum of both."
SKIN_A = 0.5
"""Pairs of atoms are kept up to this much beyond the model's cutoff, until one may have been missed."""


class IpiCalculation(CalcJob):
    """A run of i-PI whose forces come from a MACE model in the same process."""

    INPUT_FILENAME = "input.xml"
    OUTPUT_FILENAME = "i-pi.out"
    DRIVER_FILENAME, FUSED_FILENAME = "ipi_mace.py", "mace_fused.py"
    SETTINGS_FILENAME = "driver.json"
    MODEL_FILENAME = "model.model"
    BASELINE_FILENAME = "baseline.model"
    STOP_FILENAME = "driver_stop.json"
    CELL_FILENAME = "driver_cell.txt"
    PROPERTIES_FILENAME = f"{ipi_input.PREFIX}.properties"
    POSITIONS, FORCES = "positions", "forces"
    """Names of trajectories, as ``ipi_input.bead_filenames`` takes them."""
    POSITIONS_FILENAME, FORCES_FILENAME = (ipi_input.bead_filenames(name, 1)[0] for name in (POSITIONS, FORCES))
    """Where nuclei are classical."""
    RESTART_FILENAMES = ("RESTART", f"{ipi_input.PREFIX}.checkpoint")
    """Written at a polite end, and from time to time."""

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs, outputs and exit codes."""
        super().define(spec)
        spec.inputs["code"].validator = validate_program(*IPI_PLUGINS)
        spec.input("model", valid_type=MaceModelData, help="The potential.")
        spec.input("baseline", valid_type=MaceModelData, required=False, help=BASELINE_HELP)
        spec.input(
            "structure",
            valid_type=orm.StructureData,
            validator=validate_structure,
            help="Where the run starts (angstrom): a crystal, or a molecule that is periodic in no direction.",
        )
        spec.input(
            "parameters",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_dict(IpiSettings.from_dict),
            help="The run, as `science.ipi_settings.IpiSettings` documents it: ensemble (nve, nvt, npt-isotropic, "
            "npt-flexible), temperature_K, n_steps and seed (every structure and model has random numbers of its own "
            "from it); optionally pressure_bar, timestep_fs, stride, "
            "properties_stride, checkpoint_stride, thermostat (langevin, svr, gle, pile-l, pile-g, piglet), "
            "thermostat_tau_fs, gle, cell_thermostat (langevin, svr, gle), cell_gle, barostat_tau_fs, n_beads, "
            "batch_size, head, dtype, device, enable_cueq, print_forces, allow_large_timestep, and limits beyond which "
            "a run has exploded, and require_stress, which refuses a barostat with a model trained without stress.",
        )
        spec.input(
            "parent_folder",
            valid_type=orm.RemoteData,
            required=False,
            help="Folder of a run with the same inputs (but for n_steps, which may be raised) to go on with.",
        )
        spec.inputs.validator = validate_inputs
        options = spec.inputs["metadata"]["options"]
        options["parser_name"].default = "mlfinetune.ipi"
        options["output_filename"].default = cls.OUTPUT_FILENAME
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False

        spec.output(
            "trajectory",
            valid_type=DatasetData,
            required=False,
            help="Frames with step, energy (eV), for crystals stress (eV/A^3, without the kinetic part, positive = "
            "tensile) and, if printed, forces (eV/A), at the level of the model. With several beads, every bead of a "
            "step is a frame, in their order, with its own energy and without stress.",
        )
        spec.output(
            "properties",
            valid_type=orm.ArrayData,
            required=False,
            help="Per printed step: step, time_fs, potential_energy_eV, kinetic_energy_eV (of the 3N - 3 degrees of "
            "freedom that move: the centre of mass rests), temperature_K (as if it moved too), conserved_eV; "
            "volume_A3, pressure_bar and cell_A (n, 3, 3), NaN for a molecule. With a barostat cell_kinetic_energy_eV, "
            "of the 1 or 6 degrees of freedom of the cell in the middle of the step, NaN where a job starts. With "
            "several beads energies are means over the beads, pressure_bar is the centroid-virial one, and there are "
            "kinetic_cv_eV, the centroid-virial kinetic energy of all 3N degrees of freedom, and bead_potentials_eV "
            "(n, n_beads).",
        )
        spec.output(
            "last_sane",
            valid_type=DatasetData,
            required=False,
            help="Of a run that exploded: the last configuration before (with beads, those of the last pass), with the "
            "model's energy (eV) and forces (eV/A). Frames like it are what the model lacks.",
        )
        spec.output("output_parameters", valid_type=orm.Dict, help="last_step, restart_step, and how the run ended.")
        spec.default_output_node = "output_parameters"

        spec.exit_code(300, "ERROR_NO_OUTPUT", message="i-PI wrote no properties: {details}")
        spec.exit_code(310, "ERROR_OUTPUT_UNREADABLE", message="An output file cannot be read: {details}")
        spec.exit_code(
            320,
            "ERROR_EXPLODED",
            message="The run exploded: {details}. Frames from before are in the outputs. Shorten the time step, start "
            "from a relaxed structure, or train the model on frames like the last ones.",
        )
        spec.exit_code(
            330,
            "ERROR_INCOMPLETE",
            message="The run ended at step {step} of {total} without a restart file.",
            invalidates_cache=True,
        )
        spec.exit_code(400, "ERROR_OUT_OF_WALLTIME", message="The wall time was over at step {step} of {total}.")
        spec.exit_code(410, "ERROR_INTERRUPTED", message="The run was ended from outside at step {step} of {total}.")

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the input of i-PI, or the restart file of the parent, and what the driver needs."""
        settings = IpiSettings.from_dict(self.inputs.parameters.get_dict())
        atoms = self.inputs.structure.get_ase()
        limit = wall_limit(self.inputs.metadata.options.get("max_wallclock_seconds"))
        first_step = 0
        if "parent_folder" in self.inputs:
            restart = restart_text(self.inputs.parent_folder)
            first_step = ipi_input.restart_step(restart) or 0
            text = ipi_input.restart_xml(restart, settings.n_steps, limit)
        else:
            seeded = replace(settings, seed=ipi_input.own_seed(settings.seed, atoms, self.inputs.model.sha256))
            text = ipi_input.simulation_xml(seeded, atoms, limit, self.DRIVER_FILENAME, self.SETTINGS_FILENAME)
        contents = {
            self.INPUT_FILENAME: text,
            ipi_input.COORDINATES_FILENAME: ipi_input.coordinates_xyz(atoms),
            self.SETTINGS_FILENAME: json.dumps(self._driver_settings(settings, atoms, first_step), indent=1),
            self.DRIVER_FILENAME: program_text(self.DRIVER_FILENAME),
            self.FUSED_FILENAME: program_text(self.FUSED_FILENAME),
        }
        write_texts(folder, contents)
        with folder.open(self.MODEL_FILENAME, "wb") as handle:
            handle.write(self.inputs.model.content())
        if "baseline" in self.inputs:
            with folder.open(self.BASELINE_FILENAME, "wb") as handle:
                handle.write(self.inputs.baseline.content())

        calc_info = call_of(self.inputs, self.INPUT_FILENAME)
        calc_info.provenance_exclude_list = [self.MODEL_FILENAME, self.BASELINE_FILENAME]
        calc_info.retrieve_list += [
            self.PROPERTIES_FILENAME,
            *ipi_input.bead_filenames(self.POSITIONS, settings.n_beads),
            *(ipi_input.bead_filenames(self.FORCES, settings.n_beads) if settings.print_forces else []),
            *self.RESTART_FILENAMES,
            self.STOP_FILENAME,
            *([self.CELL_FILENAME] if settings.ensemble.has_barostat else []),
        ]
        return calc_info

    def _driver_settings(self, settings: IpiSettings, atoms: Atoms, first_step: int) -> dict[str, Any]:
        baseline = {}
        if "baseline" in self.inputs:
            head = baseline_head(self.inputs.model.passport, self.inputs.baseline.passport)
            baseline = {"baseline": {"model": self.BASELINE_FILENAME, "head": head}}
        return {
            **baseline,
            "model": self.MODEL_FILENAME,
            "numbers": atoms.numbers.tolist(),
            "pbc": atoms.pbc.tolist(),
            "head": model_head(settings, self.inputs.model.passport),
            "dtype": settings.dtype,
            "device": settings.device,
            "enable_cueq": settings.enable_cueq,
            "skin_A": SKIN_A,
            "n_batches": settings.n_batches,
            "masses": atoms.get_masses().tolist(),
            "timestep_fs": settings.timestep_fs,
            "max_temperature_K": settings.max_temperature_K,
            "min_distance_A": settings.min_distance_A,
            "max_force_eV_A": settings.max_force_eV_A,
            "max_displacement_A": settings.max_displacement_A,
            "reference_volume_A3": abs(atoms.get_volume()) if atoms.pbc.all() else None,
            "volume_factor_limits": list(settings.volume_factor_limits),
            "cell_motion": {
                "first_step": first_step,
                "stride": settings.properties_stride,
                "timestep_fs": settings.timestep_fs,
                "tau_fs": settings.barostat_tau_fs,
                "temperature_K": settings.temperature_K,
                "n_atoms": len(atoms),
                "isotropic": settings.ensemble is Ensemble.NPT_ISOTROPIC,
            }
            if settings.ensemble.has_barostat
            else None,
        }


def wall_limit(max_wallclock_seconds: int | None) -> float:
    """Return after how many seconds i-PI shall stop by itself; 0 is never."""
    if not max_wallclock_seconds:
        return 0.0
    seconds, part = WALL_MARGIN
    margin = max(seconds, part * max_wallclock_seconds)
    return max(max_wallclock_seconds - margin, 0.5 * max_wallclock_seconds)


def restart_text(parent: orm.RemoteData) -> str:
    """Return the restart file that the run in ``parent`` got furthest with.

    Raises:
        ValueError: the folder is none of a run of i-PI, or holds no restart file.
    """
    creator = parent.creator
    if creator is None or creator.process_class is not IpiCalculation:
        raise ValueError("it is not the remote_folder of an mlfinetune.ipi calculation")
    repository = creator.outputs.retrieved.base.repository
    there = set(repository.list_object_names())
    texts = [repository.get_object_content(name) for name in IpiCalculation.RESTART_FILENAMES if name in there]
    steps = {text: step for text in texts if (step := ipi_input.restart_step(text)) is not None}
    if not steps:
        raise ValueError("that run left no complete restart file")
    return max(steps, key=lambda text: steps[text])


def model_head(settings: IpiSettings, passport: Passport) -> str:
    """Return the head to use: the one asked for, the only one, or that of the level a training was for.

    Raises:
        ModelError: no such head, or several to choose from.
    """
    if settings.head is None and len(passport.heads) == 1:
        return passport.heads[0]
    if settings.head is None and "training_content_hash" in passport.settings and HEAD in passport.heads:
        return HEAD
    if settings.head not in passport.heads:
        raise ModelError(
            f"head is {settings.head!r}, but the model has the heads {list(passport.heads)}: name one of them"
        )
    return settings.head


def check_run(settings: IpiSettings, atoms: Atoms, passport: Passport, baseline: Passport | None = None) -> None:
    """Check that settings, structure, model and its baseline fit together.

    Raises:
        StudyError: a barostat without a cell, or too long a time step for hydrogen.
        ModelError: elements or a head that a model lacks; what ``science.baseline.baseline_head`` refuses.
    """
    settings.check_periodicity(bool(atoms.pbc.all()))
    settings.check_elements(atoms.get_chemical_symbols())
    check_elements(atoms.get_chemical_symbols(), passport.elements)
    head = model_head(settings, passport)
    if settings.require_stress and (problem := barostat_problem(settings, passport, head)) is not None:
        raise ModelError(f"{problem}: train on stress, run NVT, or drop require_stress")
    baseline_head(passport, baseline)
    if baseline is not None:
        check_elements(atoms.get_chemical_symbols(), baseline.elements, model="the baseline")


def barostat_problem(settings: IpiSettings, passport: Passport, head: str) -> str | None:
    """Return why a barostat should not trust a model, or None."""
    problem = stress_problem(passport, head) if settings.ensemble.has_barostat else None
    return None if problem is None else f"{problem}, but {settings.ensemble.value} moves the cell by it"


def validate_structure(structure: orm.StructureData | None, _: Any = None) -> str | None:
    """Check that a structure can be run."""
    if structure is None:
        return None
    if len(set(structure.pbc)) > 1:
        return (
            f"the structure is periodic in some directions only (pbc is {list(structure.pbc)}): make it periodic in "
            "all for a crystal, or in none for a molecule"
        )
    return kinds_problem(structure) or structure_problem(structure.get_ase())


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several inputs at once."""
    if any(name not in inputs for name in ("model", "structure", "parameters")):
        return None
    try:
        settings = IpiSettings.from_dict(inputs["parameters"].get_dict())
        baseline = inputs["baseline"].passport if "baseline" in inputs else None
        check_run(settings, inputs["structure"].get_ase(), inputs["model"].passport, baseline)
        if "parent_folder" in inputs:
            _check_parent(settings, inputs)
    except MlFinetuneError as error:
        return str(error)
    return None


def _check_parent(settings: IpiSettings, inputs: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was another one."""
    creator = inputs["parent_folder"].creator
    if creator is None or creator.process_class is not IpiCalculation:
        raise StudyError("parent_folder is not the remote_folder of an mlfinetune.ipi calculation")
    old = IpiSettings.from_dict(creator.inputs.parameters.get_dict()).to_dict()
    changed = [name for name, value in settings.to_dict().items() if name != "n_steps" and old[name] != value]
    if changed:
        raise StudyError(
            f"parent_folder belongs to a run with another {changed}, but only n_steps may change when going on: start "
            "a new run instead"
        )
    if creator.inputs.model.sha256 != inputs["model"].sha256:
        raise StudyError("parent_folder belongs to a run with another model: start a new run instead")
    atoms, old_atoms = inputs["structure"].get_ase(), creator.inputs.structure.get_ase()
    same = (
        len(atoms) == len(old_atoms)
        and (atoms.numbers == old_atoms.numbers).all()
        and not (atoms.pbc ^ old_atoms.pbc).any()
    )
    if not (same and np.allclose(atoms.positions, old_atoms.positions) and np.allclose(atoms.cell, old_atoms.cell)):
        raise StudyError(
            "parent_folder belongs to a run of another structure: give the structure that run started from, or start a "
            "new run"
        )
    try:
        ipi_input.restart_xml(restart_text(inputs["parent_folder"]), settings.n_steps, 0.0)
    except ValueError as error:
        raise StudyError(f"cannot go on from parent_folder: {error}") from error

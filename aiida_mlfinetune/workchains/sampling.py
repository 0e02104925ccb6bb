"""``mlfinetune.sampling``: frames from molecular dynamics with CP2K."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import BaseRestartWorkChain, ExitCode, ProcessHandlerReport, process_handler, while_

from aiida_mlfinetune.calculations.cp2k_cells import narrow_cells_warning, with_grid_cells
from aiida_mlfinetune.calculations.cp2k_input import check_level
from aiida_mlfinetune.calculations.cp2k_md import (
    Cp2kMdCalculation,
    check_run,
    cp2k_md_parameters,
    cp2k_restart_parameters,
    validate_structure,
)
from aiida_mlfinetune.calculations.functions.dataset import REFERENCE_VOLUME, select_frames
from aiida_mlfinetune.calculations.functions.trajectory import FRAMES_PREFIX, PROPERTIES_PREFIX, join_trajectory
from aiida_mlfinetune.calculations.validators import validate_dict
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError, StudyError
from aiida_mlfinetune.common.resources import mpi_processes
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.selection import Selection, select_indices
from aiida_mlfinetune.science.dynamics.md_settings import MdSettings
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge, unused_pressure, with_state
from aiida_mlfinetune.workchains.protocols.levels import load_level

EXIT = Cp2kMdCalculation.exit_codes


class SamplingWorkChain(ProtocolMixin, BaseRestartWorkChain):
    """CP2K molecular dynamics of a crystal (NVT or NPT) or of a molecule (NVT), and a selection of its frames."""

    _process_class = Cp2kMdCalculation
    _PROTOCOL_FILE = "sampling.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.expose_inputs(
            Cp2kMdCalculation,
            namespace="cp2k",
            exclude=("structure", "parameters", "level", "parent_calc_folder", "trajectory", "kpoints"),
        )
        spec.inputs["cp2k"].dynamic = False
        spec.input(
            "structure",
            valid_type=orm.StructureData,
            validator=validate_structure,
            help="The crystal, or a molecule (periodic in no direction), which is put into a vacuum.",
        )
        spec.input(
            "level", valid_type=orm.Dict, validator=validate_dict(check_level), help="CP2K level, from `load_level`."
        )
        spec.input(
            "md",
            valid_type=orm.Dict,
            validator=validate_dict(MdSettings.from_dict),
            help="ensemble, temperature_K, pressure_bar, n_steps, timestep_fs, stride, seed, thermostat_tau_fs, "
            "barostat_tau_fs, allow_large_timestep.",
        )
        spec.input(
            "selection",
            valid_type=orm.Dict,
            validator=validate_selection,
            help="n_frames, method (random or stride), seed, equilibration (fraction left out), volume_range (relative "
            "to reference_volume_A3) or null, largest_shear.",
        )
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.setup,
            cls.make_parameters,
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.join,
            cls.select,
            cls.results,
        )
        spec.output("dataset", valid_type=DatasetData, help="The selected frames.")
        spec.output("trajectory", valid_type=DatasetData, help="All printed frames, with the labels of the MD's level.")
        spec.output("properties", valid_type=orm.ArrayData, help="Energies (eV), temperature, volume per MD step.")
        spec.exit_code(310, "ERROR_TOO_FEW_FRAMES", message="Too few frames are left to select from: {message}")
        spec.exit_code(311, "ERROR_NO_PROGRESS", message="A restarted run got no further: raise the wall-clock limit.")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        structure: orm.StructureData,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        ensemble: Ensemble | str | None = None,
        temperature_K: float | None = None,  # noqa: N803 - the unit
        pressure_bar: float | None = None,
        level: str | Mapping[str, Any] | None = None,
        crystals: Iterable[orm.StructureData] = (),
    ) -> Any:
        """Return a builder with the inputs of a protocol.

        A structure that is periodic in no direction is a molecule: it is run in NVT, and its frames are not rescaled.

        Args:
            code: CP2K.
            structure: crystal or molecule.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/sampling.yaml``.
            options: scheduler options, laid over those of the protocol.
            ensemble: nve, nvt, npt-isotropic or npt-flexible.
            temperature_K: temperature.
            pressure_bar: external pressure.
            level: name of a CP2K level, or a whole specification. The grid of a crystal is that of ``structure``, if
                ``grid_cells`` in the level does not say otherwise.
            crystals: all that are sampled at the level, where these are several: those that are alike share a grid.

        Raises:
            StudyError: unknown protocol, input, ensemble or level; a state that the overrides give otherwise; a
                barostat for a molecule.
        """
        builder = cls.get_builder()
        builder.structure = structure
        inputs = cls.get_protocol_inputs(protocol, overrides)
        asked = {"ensemble": ensemble, "temperature_K": temperature_K, "pressure_bar": pressure_bar}
        given = (overrides or {}).get("md") or {}
        md = with_state(inputs["md"], given, asked)
        selection = dict(inputs["selection"])
        if any(structure.pbc):
            if selection["volume_range"] is not None:
                selection.setdefault(REFERENCE_VOLUME, structure.get_cell_volume())
        else:
            md["ensemble"] = ensemble or given.get("ensemble") or Ensemble.NVT
            selection |= {"volume_range": None, "largest_shear": 0.0}
        settings = MdSettings.from_dict(md)
        if any(structure.pbc) and (
            warning := unused_pressure(settings.ensemble, pressure_bar, given.get("pressure_bar"))
        ):
            AIIDA_LOGGER.warning(warning)
        if isinstance(level, Mapping):
            spec = dict(level)
        else:
            spec = load_level(level or inputs["level"], inputs["level_overrides"])
        if all(structure.pbc):
            spec = with_grid_cells(spec, Frames.from_atoms([each.get_ase() for each in (*crystals, structure)]))
        check_run(spec, structure.get_ase(), settings)
        if all(structure.pbc) and (warning := narrow_cells_warning(spec, [structure.cell])) is not None:
            AIIDA_LOGGER.warning(warning)

        builder.level = orm.Dict(spec)
        builder.md = orm.Dict(settings.to_dict())
        builder.selection = orm.Dict(selection)
        builder.max_iterations = orm.Int(inputs["max_iterations"])
        builder.clean_workdir = orm.Bool(inputs["clean_workdir"])
        builder.cp2k.code = code
        builder.cp2k.metadata.options = run_options(inputs["cp2k"]["metadata"]["options"], options)
        AIIDA_LOGGER.report(
            f"sampling: {settings.n_steps} steps of {settings.timestep_fs} fs, {settings.ensemble.value}, "
            f"{settings.temperature_K} K, of {structure.get_formula()} with CP2K at {spec['key']!r}; "
            f"{selection['n_frames']} frames are taken"
        )
        return builder

    def make_parameters(self) -> None:
        """Turn level and settings into CP2K's input."""
        self.ctx.parameters = cp2k_md_parameters(self.inputs.level, self.inputs.md, self.inputs.structure)
        self.ctx.inputs = AttributeDict(self.exposed_inputs(Cp2kMdCalculation, "cp2k"))
        self.ctx.inputs.structure = self.inputs.structure
        self.ctx.inputs.level = self.inputs.level
        self.ctx.inputs.parameters = self.ctx.parameters

    @process_handler(priority=400, exit_codes=[EXIT.ERROR_OUT_OF_WALLTIME, EXIT.ERROR_INTERRUPTED])
    def continue_from_restart_file(self, calculation: orm.CalcJobNode) -> ProcessHandlerReport:
        """A run that was cut short goes on from its restart file."""
        step = calculation.outputs.output_parameters["restart_step"]
        if step <= self.ctx.get("restart_step", 0):
            return ProcessHandlerReport(True, self.exit_codes.ERROR_NO_PROGRESS)
        self.ctx.restart_step = step
        self.ctx.inputs.parameters = cp2k_restart_parameters(self.ctx.parameters, calculation.outputs.output_parameters)
        self.ctx.inputs.parent_calc_folder = calculation.outputs.remote_folder
        self.report(f"{calculation.process_label}<{calculation.pk}> was cut short, going on from step {step}")
        return ProcessHandlerReport(True)

    def join(self) -> ExitCode | None:
        """Make one trajectory of all runs."""
        children = self.ctx.children
        if "frames" not in children[-1].outputs and not any("frames" in child.outputs for child in children):
            return self.exit_codes.ERROR_TOO_FEW_FRAMES.format(message="no step converged")
        if len(children) == 1:
            self.ctx.trajectory, self.ctx.properties = children[0].outputs.frames, children[0].outputs.properties
            return None
        pieces = {}
        for number, child in enumerate(children):
            for prefix, name in ((FRAMES_PREFIX, "frames"), (PROPERTIES_PREFIX, "properties")):
                if name in child.outputs:
                    pieces[f"{prefix}{number:04d}"] = child.outputs[name]
        joined = join_trajectory(**pieces)
        self.ctx.trajectory, self.ctx.properties = joined["trajectory"], joined["properties"]
        return None

    def select(self) -> ExitCode | None:
        """Take frames from the trajectory."""
        try:
            select_indices(self.ctx.trajectory.n_frames, selection_of(self.inputs.selection))
        except FramesError as error:
            return self.exit_codes.ERROR_TOO_FEW_FRAMES.format(message=str(error))
        self.ctx.dataset = select_frames(self.ctx.trajectory, self.inputs.selection)
        return None

    def results(self) -> None:
        """Attach the outputs."""
        self.out("dataset", self.ctx.dataset)
        self.out("trajectory", self.ctx.trajectory)
        self.out("properties", self.ctx.properties)


def run_options(base: Mapping[str, Any], options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return scheduler options; MPI is used where more than one process is asked for, unless options say otherwise."""
    merged = merge(base, options or {}, {""}, "options")
    merged.setdefault("withmpi", mpi_processes(merged.get("resources", {})) > 1)
    return merged


def validate_selection(selection: orm.Dict, _: Any = None) -> str | None:
    """Check the selection of frames."""
    try:
        choice = selection_of(selection)
    except (MlFinetuneError, TypeError) as error:
        return str(error)
    if choice.volume_range is not None and REFERENCE_VOLUME not in selection.get_dict():
        return f"a selection with 'volume_range' needs {REFERENCE_VOLUME!r}, the volume it is relative to"
    return None


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several inputs at once."""
    if any(name not in inputs for name in ("structure", "level", "md", "selection")):
        return None
    atoms = inputs["structure"].get_ase()
    choice = selection_of(inputs["selection"])
    try:
        settings = MdSettings.from_dict(inputs["md"].get_dict())
        check_run(inputs["level"].get_dict(), atoms, settings)
        if choice.changes_cells and not atoms.pbc.all():
            raise StudyError(
                "the selection has a 'volume_range' or 'largest_shear', but the structure is a molecule: leave it out"
            )
        select_indices(settings.n_steps // settings.stride + 1, choice)
    except MlFinetuneError as error:
        return str(error)
    return None


def selection_of(selection: orm.Dict) -> Selection:
    """Return the selection that a node holds, without the volume that it is relative to."""
    return Selection.from_dict({key: value for key, value in selection.get_dict().items() if key != REFERENCE_VOLUME})

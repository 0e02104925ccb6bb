"""``mlfinetune.dynamics``: molecular dynamics with a MACE model, over as many jobs as the wall time makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import BaseRestartWorkChain, ProcessHandlerReport, process_handler, while_

from aiida_mlfinetune.calculations.functions.trajectory import FRAMES_PREFIX, PROPERTIES_PREFIX, join_trajectory
from aiida_mlfinetune.calculations.ipi import (
    BASELINE_HELP,
    IpiCalculation,
    barostat_problem,
    check_run,
    model_head,
    validate_inputs,
    validate_structure,
)
from aiida_mlfinetune.calculations.validators import IPI_PLUGINS, validate_dict, validate_program
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.assessments import assessment_problem
from aiida_mlfinetune.data.foundations import FOUNDATIONS
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge, unused_pressure, with_state

EXIT = IpiCalculation.exit_codes
_TOLD: set[str] = set()
"""Checksums of shipped foundations that this session was told about."""


class DynamicsWorkChain(ProtocolMixin, BaseRestartWorkChain):
    """One run of i-PI with a MACE model: a crystal in NVE, NVT or NPT, or a molecule in NVE or NVT."""

    _process_class = IpiCalculation
    _PROTOCOL_FILE = "dynamics.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.expose_inputs(
            IpiCalculation, namespace="ipi", exclude=("model", "baseline", "structure", "parameters", "parent_folder")
        )
        spec.inputs["ipi"].dynamic = False
        spec.inputs["ipi"].validator = None  # it checks those inputs together that are given one level up here
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
            help="The run, as `science.ipi_settings.IpiSettings` documents it: ensemble, temperature_K, pressure_bar, "
            "n_steps, timestep_fs, stride, seed, thermostat, thermostat_tau_fs, barostat_tau_fs, ...",
        )
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.setup,
            cls.warn_of_model,
            cls.collect_inputs,
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.join,
            cls.results,
        )
        spec.expose_outputs(IpiCalculation, include=("trajectory", "properties", "last_sane"))
        spec.exit_code(300, "ERROR_RUN_FAILED", message="i-PI failed with exit status {status}: {message}")
        spec.exit_code(320, "ERROR_EXPLODED", message="{message}")
        spec.exit_code(321, "ERROR_NO_PROGRESS", message="A restarted run got no further: raise the wall-clock limit.")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        structure: orm.StructureData,
        model: MaceModelData | None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        ensemble: Ensemble | str | None = None,
        temperature_K: float | None = None,  # noqa: N803 - the unit
        pressure_bar: float | None = None,
        baseline: MaceModelData | None = None,
    ) -> Any:
        """Return a builder with the inputs of a protocol.

        A structure that is periodic in no direction is a molecule, and is run in NVT.

        Args:
            code: i-PI.
            structure: crystal or molecule.
            model: the potential; None where another work chain fills it in.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/dynamics.yaml``.
            options: scheduler options, laid over those of the protocol.
            ensemble: nve, nvt, npt-isotropic or npt-flexible.
            temperature_K: temperature.
            pressure_bar: external pressure.
            baseline: the model that ``model`` is a difference to, if it is one.

        Raises:
            StudyError: unknown protocol, input or ensemble; values that cannot be, or a state that the overrides give
                otherwise; a barostat for a molecule; a code or a structure that cannot be used.
            ModelError: elements that the model does not know, or a head that it lacks; a difference without its
                baseline, or a baseline of another model.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        asked = {"ensemble": ensemble, "temperature_K": temperature_K, "pressure_bar": pressure_bar}
        given = (overrides or {}).get("parameters") or {}
        parameters = with_state(inputs["parameters"], given, asked)
        if not any(structure.pbc):
            parameters["ensemble"] = ensemble or given.get("ensemble") or Ensemble.NVT
        settings = IpiSettings.from_dict(parameters)
        settings.check_use(given)
        settings = replace(settings, **dict.fromkeys(settings.unused_matrices))  # those of the protocol
        problem = validate_structure(structure) or validate_program(*IPI_PLUGINS)(code, None)
        if problem is not None:
            raise StudyError(problem)
        atoms = structure.get_ase()
        if model is None:
            settings.check_periodicity(bool(atoms.pbc.all()))
            settings.check_elements(atoms.get_chemical_symbols())
        else:
            check_run(settings, atoms, model.passport, None if baseline is None else baseline.passport)

        if any(structure.pbc) and (
            warning := unused_pressure(settings.ensemble, pressure_bar, given.get("pressure_bar"))
        ):
            AIIDA_LOGGER.warning(warning)

        builder = cls.get_builder()
        builder.structure = structure
        if model is not None:
            builder.model = model
            _tell_of_model(model)
            if (
                warning := barostat_problem(settings, model.passport, model_head(settings, model.passport))
            ) is not None:
                AIIDA_LOGGER.warning(warning)
        if baseline is not None:
            builder.baseline = baseline
        builder.parameters = orm.Dict(settings.to_dict())
        builder.max_iterations = orm.Int(inputs["max_iterations"])
        builder.clean_workdir = orm.Bool(inputs["clean_workdir"])
        builder.ipi.code = code
        builder.ipi.metadata.options = merge(inputs["ipi"]["metadata"]["options"], options or {}, {""}, "options")
        AIIDA_LOGGER.report(
            f"dynamics: {settings.n_steps} steps of {settings.timestep_fs} fs, {settings.ensemble.value}, "
            f"{settings.temperature_K} K, of {structure.get_formula()}; a frame every {settings.stride} steps"
        )
        return builder

    def warn_of_model(self) -> None:
        """Say in the report where the model was not assessed, failed, or lacks the stress that a barostat wants.

        An assessment's own run says nothing.
        """
        caller = self.node.caller
        if caller is not None and caller.process_label == "AssessWorkChain":
            return
        settings = IpiSettings.from_dict(self.inputs.parameters.get_dict())
        passport = self.inputs.model.passport
        problems = (
            assessment_problem(self.inputs.model),
            barostat_problem(settings, passport, model_head(settings, passport)),
        )
        for problem in problems:
            if problem is not None:
                self.report(f"warning: {problem}")

    def collect_inputs(self) -> None:
        """Collect the inputs of the calculations."""
        self.ctx.inputs = AttributeDict(self.exposed_inputs(IpiCalculation, "ipi"))
        self.ctx.inputs.model = self.inputs.model
        if "baseline" in self.inputs:
            self.ctx.inputs.baseline = self.inputs.baseline
        self.ctx.inputs.structure = self.inputs.structure
        self.ctx.inputs.parameters = self.inputs.parameters

    @process_handler(priority=400, exit_codes=[EXIT.ERROR_OUT_OF_WALLTIME, EXIT.ERROR_INTERRUPTED])
    def continue_from_restart_file(self, calculation: orm.CalcJobNode) -> ProcessHandlerReport:
        """A run that was cut short goes on from its restart file."""
        step = calculation.outputs.output_parameters["restart_step"]
        if step <= self.ctx.get("restart_step", 0):
            return ProcessHandlerReport(True, self.exit_codes.ERROR_NO_PROGRESS)
        self.ctx.restart_step = step
        self.ctx.inputs.parent_folder = calculation.outputs.remote_folder
        self.report(f"{calculation.process_label}<{calculation.pk}> was cut short, going on from step {step}")
        return ProcessHandlerReport(True)

    @process_handler(priority=300, exit_codes=[EXIT.ERROR_EXPLODED])
    def keep_what_came_before_the_explosion(self, calculation: orm.CalcJobNode) -> ProcessHandlerReport:
        """A run that exploded ends the chain; what came before stays available."""
        self.join()
        if "last_sane" in calculation.outputs:
            self.ctx.outputs["last_sane"] = calculation.outputs.last_sane
        self.results()
        return ProcessHandlerReport(True, self.exit_codes.ERROR_EXPLODED.format(message=calculation.exit_message))

    @process_handler(
        priority=200, exit_codes=[EXIT.ERROR_NO_OUTPUT, EXIT.ERROR_OUTPUT_UNREADABLE, EXIT.ERROR_INCOMPLETE]
    )
    def give_up(self, calculation: orm.CalcJobNode) -> ProcessHandlerReport:
        """The same run would fail again."""
        code = self.exit_codes.ERROR_RUN_FAILED.format(status=calculation.exit_status, message=calculation.exit_message)
        return ProcessHandlerReport(True, code)

    def join(self) -> None:
        """Make one trajectory and one table of all runs."""
        children = [child for child in self.ctx.children if "properties" in child.outputs]
        if len(children) == 1:
            self.ctx.outputs = {name: children[0].outputs[name] for name in children[0].outputs}
            return
        pieces = {}
        for number, child in enumerate(children):
            for prefix, name in ((FRAMES_PREFIX, "trajectory"), (PROPERTIES_PREFIX, "properties")):
                if name in child.outputs:
                    pieces[f"{prefix}{number:04d}"] = child.outputs[name]
        self.ctx.outputs = join_trajectory(**pieces) if pieces else {}

    def results(self) -> None:
        """Attach the outputs."""
        for name, value in self.ctx.outputs.items():
            if name in ("trajectory", "properties", "last_sane"):
                self.out(name, value)


def _tell_of_model(model: MaceModelData) -> None:
    """Warn of a model that was not assessed, or that failed; of a shipped one only once, and as a report."""
    problem = assessment_problem(model)
    if problem is None:
        return
    if all(foundation.passport.sha256 != model.sha256 for foundation in FOUNDATIONS.values()):
        AIIDA_LOGGER.warning(problem)
    elif model.sha256 not in _TOLD:
        _TOLD.add(model.sha256)
        AIIDA_LOGGER.report(problem)

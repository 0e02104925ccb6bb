"""``mlfinetune.error_budget``: the sublimation enthalpy of a model, and what it lacks, term by term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, ProcessBuilder, WorkChain

from aiida_mlfinetune.calculations.functions.error_budget import (
    changed_parameters,
    repeated_cell,
    sublimation_budget,
    with_changes,
)
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, inputs_of

CLASSICAL, QUANTUM, LARGE = "classical", "quantum", "large"


class ErrorBudgetWorkChain(ProtocolMixin, WorkChain):
    """Run crystal and gas classically, as path integrals, and the crystal in a larger cell; add up what differs."""

    _PROTOCOL_FILE = "error_budget.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.expose_inputs(AveragesWorkChain, namespace="averages")
        spec.inputs["averages"].dynamic = False
        spec.input(
            "path_integral",
            valid_type=orm.Dict,
            required=False,
            serializer=orm.to_aiida_type,
            help="What a path integral changes in the parameters of both runs: `n_beads`, and such as thermostat, gle, "
            "n_steps, batch_size. Without it there is no nuclear term.",
        )
        spec.input(
            "supercell",
            valid_type=orm.List,
            required=False,
            serializer=orm.to_aiida_type,
            validator=validate_supercell,
            help="How often the crystal is repeated along its cell vectors for the larger cell, such as [2, 1, 1]. "
            "Without it there is no term for the size of the cell.",
        )
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(cls.run_all, cls.inspect, cls.add_up)
        spec.output(
            "sublimation_enthalpy",
            valid_type=ObservableData,
            help="H(gas) - H(crystal) in kJ/mol with all corrections that were run; `details` hold each `term`.",
        )
        for name in (CLASSICAL, QUANTUM, LARGE):
            spec.expose_outputs(AveragesWorkChain, namespace=name, namespace_options={"required": name == CLASSICAL})
        spec.exit_code(220, "ERROR_STAGE_REFUSED", message="The inputs of a stage are refused: {message}")
        spec.exit_code(353, "ERROR_AVERAGES_FAILED", message="Runs failed: {message}")
        spec.exit_code(354, "ERROR_NO_BUDGET", message="The terms cannot be added up: {message}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        ipi_code: orm.AbstractCode,
        crystal: orm.StructureData,
        molecule: orm.StructureData,
        model: MaceModelData,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        supercell: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            ipi_code: i-PI.
            crystal: where the runs of the crystal start.
            molecule: of the gas phase.
            model: the potential.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/error_budget.yaml``; null leaves a term out.
            options: scheduler options by program: i-pi, reference.
            supercell: repeats for the larger cell, instead of the protocol's.
            **kwargs: of ``AveragesWorkChain.get_builder_from_protocol``: temperature_K, pressure_bar, reference_code,
                reference_level, reference_model.

        Raises:
            MlFinetuneError: an unknown protocol or input, or what one of the work chains refuses.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        builder = cls.get_builder()
        settings = dict(inputs["averages"])
        averages = AveragesWorkChain.get_builder_from_protocol(
            ipi_code, crystal, model, molecule, settings.pop("protocol"), settings, options, **kwargs
        )
        builder.averages = inputs_of(averages)
        if inputs["path_integral"] is not None:
            builder.path_integral = orm.Dict(inputs["path_integral"])
        repeats = inputs["supercell"] if supercell is None else list(supercell)
        try:
            if repeats is not None:
                builder.supercell = orm.List(repeats)
        except ValueError as error:
            raise StudyError(str(error).removeprefix("invalid attribute value ")) from error
        if problem := validate_inputs(inputs_of(builder)):
            raise StudyError(problem)
        return builder

    def run_all(self) -> ExitCode | None:
        """Start all runs."""
        self.ctx.names = []
        inputs = AttributeDict(self.exposed_inputs(AveragesWorkChain, "averages"))
        if (code := self._submit(CLASSICAL, inputs)) is not None:
            return code
        if "path_integral" in self.inputs:
            own = _copy(inputs)
            own.pop("reweighting", None)
            for phase in ("crystal", "gas"):
                stage = own[f"dynamics_{phase}"]
                stage["parameters"] = changed_parameters(stage["parameters"], self.inputs.path_integral)
            if (code := self._submit(QUANTUM, own)) is not None:
                return code
        if "supercell" in self.inputs:
            own = _copy(inputs)
            for name in ("reweighting", "molecule", "dynamics_gas"):
                own.pop(name, None)
            own.crystal = repeated_cell(own.crystal, self.inputs.supercell)
            return self._submit(LARGE, own)
        return None

    def inspect(self) -> ExitCode | None:
        """Check all runs."""
        problems = []
        for name in self.ctx.names:
            node = self.ctx[name]
            if node.is_finished_ok:
                self.out_many(self.exposed_outputs(node, AveragesWorkChain, namespace=name))
            else:
                problems.append(f"{name}<{node.pk}> with [{node.exit_status}] {node.exit_message}")
        return self.exit_codes.ERROR_AVERAGES_FAILED.format(message="; ".join(problems)) if problems else None

    def add_up(self) -> ExitCode | None:
        """Make the budget."""
        classical = self.ctx[CLASSICAL].outputs
        given = {"crystal": classical.enthalpy_crystal, "gas": classical.enthalpy_gas}
        if "reference" in classical:
            given |= {f"{phase}_reference": classical.reference[f"enthalpy_{phase}"] for phase in ("crystal", "gas")}
        if QUANTUM in self.ctx:
            outputs = self.ctx[QUANTUM].outputs
            given |= {f"{phase}_quantum": outputs[f"enthalpy_{phase}"] for phase in ("crystal", "gas")}
        if LARGE in self.ctx:
            given["crystal_large"] = self.ctx[LARGE].outputs.enthalpy_crystal
        try:
            result = sublimation_budget(**given)
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_BUDGET.format(message=str(error))
        self.out("sublimation_enthalpy", result)
        for kind, term in result.details["kinds"].items():
            self.report(f"{kind}: {term['value']:+.3f} +- {term['error'] or float('nan'):.3f} kJ/mol")
        self.report(str(result))
        return None

    def _submit(self, name: str, inputs: AttributeDict) -> ExitCode | None:
        inputs.metadata = {"call_link_label": name}
        try:
            node = self.submit(AveragesWorkChain, **inputs)
        except ValueError as error:  # what the spec's validators say
            return self.exit_codes.ERROR_STAGE_REFUSED.format(message=f"{name}: {error}")
        self.report(f"{name}: submitted {node.process_label}<{node.pk}>")
        self.ctx.names.append(name)
        self.to_context(**{name: node})
        return None


def validate_supercell(repeats: orm.List | None, _: Any = None) -> str | None:
    """Refuse repeats that make no larger cell."""
    if repeats is None:
        return None
    values = repeats.get_list()
    whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= 1 for value in values)
    if len(values) != 3 or not whole or max(values) == 1:
        return f"'supercell' must be three whole numbers of at least 1, one of them larger, got {values}"
    return None


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check that the changed runs can be made."""
    averages = inputs.get("averages", {})
    if "molecule" not in averages:
        return "a sublimation enthalpy needs the molecule of the gas: give `averages.molecule`"
    changes = inputs.get("path_integral")
    if changes is None:
        return None
    if changes.get_dict().get("n_beads", 1) < 2:
        return "'path_integral' needs 'n_beads' of at least 2: leave it out for no nuclear term"
    if kept := sorted(set(changes.get_dict()) & {"temperature_K", "pressure_bar", "ensemble"}):
        return f"'path_integral' changes {kept}, but the state has to be that of the classical run: leave them out"
    for phase in ("crystal", "gas"):
        parameters = averages.get(f"dynamics_{phase}", {}).get("parameters")
        if parameters is None:
            continue
        try:
            settings = IpiSettings.from_dict(with_changes(parameters.get_dict(), changes.get_dict()))
            if phase == "crystal":  # what concerns the cell is of no use to the molecule, which has the same changes
                settings.check_use(changes.get_dict())
        except MlFinetuneError as error:
            return f"the path integral of the {phase} cannot be run: {error}"
    return None


def _copy(inputs: AttributeDict) -> AttributeDict:
    """Return the inputs in new namespaces, with the same nodes."""
    return AttributeDict(
        {key: _copy(value) if isinstance(value, AttributeDict) else value for key, value in inputs.items()}
    )

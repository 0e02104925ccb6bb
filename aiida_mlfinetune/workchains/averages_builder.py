"""Builders of ``mlfinetune.averages`` from protocols, and checks on its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.averages.thermodynamics import enthalpy_problem
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, inputs_of
from aiida_mlfinetune.workchains.reweighting import ReweightingWorkChain
from aiida_mlfinetune.workchains.run_checks import comparison_problem, reweighting_problem

CRYSTAL, GAS = "crystal", "gas"


class AveragesBuilderMixin(ProtocolMixin):
    """Gives the work chain ``get_builder_from_protocol``."""

    _PROTOCOL_FILE = "averages.yaml"

    @classmethod
    def get_builder_from_protocol(
        cls,
        ipi_code: orm.AbstractCode,
        crystal: orm.StructureData,
        model: MaceModelData | None,
        molecule: orm.StructureData | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        temperature_K: float | None = None,  # noqa: N803 - the unit
        pressure_bar: float | None = None,
        reference_code: orm.AbstractCode | None = None,
        reference_level: str | Mapping[str, Any] | None = None,
        reference_model: MaceModelData | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            ipi_code: i-PI.
            crystal: where the run of the crystal starts.
            model: the potential; None where another work chain fills it in.
            molecule: of the gas phase; without it only the crystal is run.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/averages.yaml``.
            options: scheduler options by program: i-pi, reference.
            temperature_K: of both runs.
            pressure_bar: on the crystal.
            reference_code: of the reference level's engine; without it nothing is reweighted.
            reference_level: name of a level of any engine, or a whole specification; else the protocol's.
            reference_model: the model behind a reference level that reads one.

        Raises:
            MlFinetuneError: an unknown protocol or input, or what one of the work chains refuses.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        by_program = dict(options or {})
        if unknown := sorted(set(by_program) - {"i-pi", "reference"}):
            raise StudyError(f"unknown programs in the options: {unknown}; options are given by 'i-pi', 'reference'")
        builder = cls.get_builder()
        builder.crystal = crystal
        if model is not None:
            builder.model = model
        state = {"temperature_K": temperature_K, "pressure_bar": pressure_bar}
        structures = {CRYSTAL: crystal}
        if molecule is not None:
            builder.molecule = structures[GAS] = molecule
        for phase, structure in structures.items():
            settings = dict(inputs[f"dynamics_{phase}"])
            made = DynamicsWorkChain.get_builder_from_protocol(
                ipi_code, structure, model, settings.pop("protocol"), settings, by_program.get("i-pi"), **state
            )
            builder[f"dynamics_{phase}"] = inputs_of(made, "model", "structure")
        if reference_code is not None:
            settings = dict(inputs["reweighting"])
            made = ReweightingWorkChain.get_builder_from_protocol(
                reference_code,
                None,
                reference_level,
                settings.pop("protocol"),
                settings,
                by_program.get("reference"),
                model=reference_model,
                crystals=[crystal],
            )
            builder.reweighting = inputs_of(made)
        if problem := validate_inputs(inputs_of(builder)):
            raise StudyError(problem)
        return builder


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns crystal and gas together."""
    has = {"molecule": "molecule" in inputs, "dynamics_gas": "dynamics_gas" in inputs}
    if len(set(has.values())) > 1:
        return "a gas needs both 'molecule' and 'dynamics_gas': give both, or none to run the crystal alone"
    runs = {
        phase: inputs[f"dynamics_{phase}"]["parameters"].get_dict()
        for phase in (CRYSTAL, GAS)
        if "parameters" in inputs.get(f"dynamics_{phase}", {})
    }
    if problem := comparison_problem(runs):
        return problem
    if GAS in runs and Ensemble(runs[GAS]["ensemble"]).has_barostat:
        return f"dynamics_gas asks for ensemble {runs[GAS]['ensemble']!r}, but a molecule has no cell: use 'nvt'"
    if CRYSTAL in runs and (problem := enthalpy_problem(runs[CRYSTAL]["ensemble"])):
        return f"dynamics_crystal: {problem}"
    if "settings" in inputs.get("reweighting", {}):
        starts = {CRYSTAL: inputs.get("crystal"), GAS: inputs.get("molecule")}
        for phase, run in runs.items():
            start = starts[phase]
            problem = reweighting_problem(
                run, inputs["reweighting"]["settings"].get_dict(), None if start is None else start.get_ase()
            )
            if problem is not None:
                return f"reweighting of dynamics_{phase}: {problem}"
    return None

"""``mlfinetune.averages``: what a model says of a crystal, and how far that is from its reference."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, WorkChain, if_

from aiida_mlfinetune.calculations.functions.observables import potential_energy
from aiida_mlfinetune.calculations.functions.reference_averages import reference_average, reference_sublimation
from aiida_mlfinetune.calculations.functions.thermodynamics import (
    crystal_enthalpy,
    density,
    gas_enthalpy,
    sublimation_enthalpy,
)
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.workchains.averages_builder import CRYSTAL, GAS, AveragesBuilderMixin, validate_inputs
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.reweighting import ReweightingWorkChain
from aiida_mlfinetune.workchains.sublimation_checks import validate_crystal

REWEIGHTED = {
    "potential_energy": (CRYSTAL, "potential_energy"),
    "density": (CRYSTAL, "density"),
    "enthalpy_crystal": (CRYSTAL, "enthalpy"),
    "enthalpy_gas": (GAS, "enthalpy"),
}
"""The phase, and the output of its reweighting, that moves an average to the reference level."""


class AveragesWorkChain(AveragesBuilderMixin, WorkChain):
    """Run crystal and molecule with a model, average, and move the averages to the reference level."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("model", valid_type=MaceModelData, help="The potential.")
        spec.input(
            "crystal",
            valid_type=orm.StructureData,
            validator=validate_crystal,
            help="Molecular crystal (angstrom), all molecules alike.",
        )
        spec.input(
            "molecule",
            valid_type=orm.StructureData,
            required=False,
            help="Its molecule in the gas phase (angstrom), periodic in no direction; without it there is no "
            "sublimation enthalpy.",
        )
        spec.expose_inputs(DynamicsWorkChain, namespace="dynamics_crystal", exclude=("model", "structure"))
        spec.expose_inputs(
            DynamicsWorkChain,
            namespace="dynamics_gas",
            exclude=("model", "structure"),
            namespace_options={"required": False, "populate_defaults": False},
        )
        spec.expose_inputs(
            ReweightingWorkChain,
            namespace="reweighting",
            exclude=("trajectory", "conditions", "sampled_level"),
            namespace_options={
                "required": False,
                "populate_defaults": False,
                "help": "The reference level, and which frames of both runs are labelled at it; without it the "
                "averages are those of the model alone.",
            },
        )
        for name in ("dynamics_crystal", "dynamics_gas", "reweighting"):
            spec.inputs[name].dynamic = False
            spec.inputs[name].validator = None  # it needs the structures, which are given one level up here
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.run_dynamics,
            cls.inspect_dynamics,
            cls.average,
            if_(cls.should_reweight)(cls.run_reweighting, cls.inspect_reweighting, cls.move),
        )
        for name, text in {
            "potential_energy": "Potential energy of the crystal in kJ/mol of molecules",
            "density": "Density of the crystal in g/cm^3",
            "enthalpy_crystal": "Enthalpy of the crystal in kJ/mol of molecules",
            "enthalpy_gas": "Enthalpy of the ideal gas in kJ/mol",
            "sublimation_enthalpy": "H(gas) - H(crystal) in kJ/mol, positive for a stable crystal",
        }.items():
            required = name not in ("enthalpy_gas", "sublimation_enthalpy")
            spec.output(name, valid_type=ObservableData, required=required, help=f"{text}, with the model.")
            spec.output(
                f"reference.{name}", valid_type=ObservableData, required=False, help=f"{text}, at the reference level."
            )
        for phase in (CRYSTAL, GAS):
            spec.expose_outputs(
                DynamicsWorkChain, namespace=f"dynamics_{phase}", namespace_options={"required": phase == CRYSTAL}
            )
            spec.expose_outputs(
                ReweightingWorkChain, namespace=f"reweighting_{phase}", namespace_options={"required": False}
            )
        spec.exit_code(220, "ERROR_STAGE_REFUSED", message="The inputs of a stage are refused: {message}")
        spec.exit_code(353, "ERROR_DYNAMICS_FAILED", message="The dynamics failed: {message}")
        spec.exit_code(354, "ERROR_NO_AVERAGE", message="No averages can be taken of the runs: {message}")
        spec.exit_code(355, "ERROR_REWEIGHTING_FAILED", message="The reweighting failed: {message}")

    def run_dynamics(self) -> ExitCode | None:
        """Run crystal and molecule at the same time."""
        self.ctx.structures = {CRYSTAL: self.inputs.crystal}
        if "molecule" in self.inputs:
            self.ctx.structures[GAS] = self.inputs.molecule
        for phase, structure in self.ctx.structures.items():
            self._submit(DynamicsWorkChain, "dynamics", phase, model=self.inputs.model, structure=structure)
        return self._refused()

    def inspect_dynamics(self) -> ExitCode | None:
        """Check the runs."""
        if problem := self._failed("dynamics"):
            return self.exit_codes.ERROR_DYNAMICS_FAILED.format(message=problem)
        return None

    def average(self) -> ExitCode | None:
        """Average the runs, and compare crystal and gas."""
        properties = {phase: self.ctx[f"dynamics_{phase}"].outputs.properties for phase in self.ctx.structures}
        conditions = {phase: self.inputs[f"dynamics_{phase}"].parameters for phase in self.ctx.structures}
        crystal = (properties[CRYSTAL], self.inputs.crystal, conditions[CRYSTAL])
        found = {}
        try:
            found["potential_energy"] = potential_energy(*crystal)
            found["density"] = density(*crystal)
            found["enthalpy_crystal"] = crystal_enthalpy(*crystal)
            if GAS in properties:
                found["enthalpy_gas"] = gas_enthalpy(properties[GAS], self.ctx.structures[GAS], conditions[GAS])
                found["sublimation_enthalpy"] = sublimation_enthalpy(found["enthalpy_crystal"], found["enthalpy_gas"])
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_AVERAGE.format(message=str(error))
        finally:
            for name, observable in found.items():
                self.out(name, observable)
        self.ctx.found = found
        return None

    def should_reweight(self) -> bool:
        """Whether there is a reference level."""
        return "reweighting" in self.inputs

    def run_reweighting(self) -> ExitCode | None:
        """Label frames of both runs at the reference level."""
        for phase in self.ctx.structures:
            self._submit(
                ReweightingWorkChain,
                "reweighting",
                phase,
                trajectory=self.ctx[f"dynamics_{phase}"].outputs.trajectory,
                conditions=self.inputs[f"dynamics_{phase}"].parameters,
            )
        return self._refused()

    def inspect_reweighting(self) -> ExitCode | None:
        """Check the reweighting."""
        if problem := self._failed("reweighting"):
            return self.exit_codes.ERROR_REWEIGHTING_FAILED.format(message=problem)
        return None

    def move(self) -> ExitCode | None:
        """Move all averages to the reference level."""
        moved = {}
        try:
            for name, (phase, output) in REWEIGHTED.items():
                if name in self.ctx.found:
                    moved[name] = reference_average(
                        self.ctx.found[name], self.ctx[f"reweighting_{phase}"].outputs[output]
                    )
            if "enthalpy_gas" in moved:
                moved["sublimation_enthalpy"] = reference_sublimation(moved["enthalpy_crystal"], moved["enthalpy_gas"])
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_AVERAGE.format(message=str(error))
        for name, observable in moved.items():
            self.out(f"reference.{name}", observable)
        for name in ("density", "sublimation_enthalpy"):
            if name in moved:
                self.report(f"model: {self.ctx.found[name]}; reference: {moved[name]}")
        return None

    def _submit(self, chain: type[WorkChain], stage: str, phase: str, **made: orm.Data) -> None:
        name = f"{stage}_{phase}"
        inputs = AttributeDict(self.exposed_inputs(chain, name if name in self.inputs else stage))
        inputs.update(made)
        inputs.metadata = {"call_link_label": name}
        try:
            node = self.submit(chain, **inputs)
        except ValueError as error:  # what the spec's validators say
            self.ctx.setdefault("refused", {})[name] = str(error)
            return
        self.report(f"{name}: submitted {chain.__name__}<{node.pk}>")
        self.to_context(**{name: node})

    def _refused(self) -> ExitCode | None:
        if not (told := self.ctx.get("refused", {})):
            return None
        return self.exit_codes.ERROR_STAGE_REFUSED.format(
            message="; ".join(f"{name}: {text}" for name, text in told.items())
        )

    def _failed(self, stage: str) -> str:
        """Attach the outputs of a stage, and return what failed in words; empty if nothing did."""
        problems = []
        for phase in self.ctx.structures:
            node = self.ctx[f"{stage}_{phase}"]
            if node.is_finished_ok:
                chain = DynamicsWorkChain if stage == "dynamics" else ReweightingWorkChain
                self.out_many(self.exposed_outputs(node, chain, namespace=f"{stage}_{phase}"))
            else:
                problems.append(f"{stage}_{phase}<{node.pk}> with [{node.exit_status}] {node.exit_message}")
        return "; ".join(problems)

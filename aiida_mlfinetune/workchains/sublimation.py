"""``mlfinetune.sublimation``: from a molecular crystal to its density and sublimation enthalpy."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, WorkChain, if_

from aiida_mlfinetune.calculations.functions.dataset import join, without_level_of
from aiida_mlfinetune.calculations.functions.thermodynamics import (
    crystal_enthalpy,
    density,
    extract_molecule,
    gas_enthalpy,
    sublimation_enthalpy,
)
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.workchains.sublimation_builder import ALTERNATIVES, BY_MODEL, STAGES, SublimationBuilderMixin
from aiida_mlfinetune.workchains.sublimation_checks import validate_crystal, validate_inputs
from aiida_mlfinetune.workchains.training import TrainingWorkChain

PHASES = ("crystal", "gas")


class SublimationWorkChain(SublimationBuilderMixin, WorkChain):
    """Sample crystal and molecule, label, train a model, run both with it, and compare their enthalpies."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input(
            "crystal",
            valid_type=orm.StructureData,
            validator=validate_crystal,
            help="Molecular crystal (angstrom), all molecules alike; where sampling and dynamics start from.",
        )
        spec.input(
            "foundation",
            valid_type=MaceModelData,
            required=False,
            help="Model to fine-tune; without it one is trained from scratch.",
        )
        spec.input(
            "sampling_model",
            valid_type=MaceModelData,
            required=False,
            help="Model whose dynamics the frames are taken from, `model_sampling_*`, instead of CP2K's, `sampling_*`.",
        )
        for stage, (chain, exclude) in STAGES.items():
            options = {"required": False, "populate_defaults": False} if stage in ALTERNATIVES else {}
            spec.expose_inputs(chain, namespace=stage, exclude=exclude, namespace_options=options)
            spec.inputs[stage].dynamic = False
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.take_molecule,
            cls.run_sampling,
            cls.inspect_sampling,
            if_(cls.labels_are_missing)(cls.run_labelling, cls.inspect_labelling),
            cls.run_training,
            cls.inspect_training,
            cls.run_dynamics,
            cls.inspect_dynamics,
            cls.average,
        )
        for name, text in {
            "density": "Density of the crystal in g/cm^3.",
            "sublimation_enthalpy": "H(gas) - H(crystal) in kJ/mol, positive for a stable crystal.",
            "enthalpy_crystal": "Enthalpy of the crystal in kJ/mol of molecules, on the model's energy scale.",
            "enthalpy_gas": "Enthalpy of the ideal gas in kJ/mol, on the model's energy scale.",
        }.items():
            spec.output(name, valid_type=ObservableData, help=text)
        spec.output("molecule", valid_type=orm.StructureData, help="The molecule in the gas phase (angstrom).")
        spec.output("dataset", valid_type=DatasetData, help="All frames with their labels.")
        spec.output("model", valid_type=MaceModelData, help="The trained model.")
        spec.expose_outputs(TrainingWorkChain, namespace="training")
        for stage in ("dynamics_crystal", "dynamics_gas"):
            spec.expose_outputs(STAGES[stage][0], namespace=stage)
        for stage in ALTERNATIVES:
            spec.expose_outputs(STAGES[stage][0], namespace=stage, namespace_options={"required": False})
        spec.expose_outputs(STAGES["labelling"][0], namespace="labelling", namespace_options={"required": False})
        spec.exit_code(210, "ERROR_NO_MOLECULE", message="No molecule can be taken from the crystal: {message}")
        spec.exit_code(220, "ERROR_STAGE_REFUSED", message="The inputs of a stage are refused: {message}")
        spec.exit_code(320, "ERROR_FRAMES_DIFFER", message="The sampled frames cannot be joined: {message}")
        spec.exit_code(350, "ERROR_SAMPLING_FAILED", message="The sampling of {stages} failed; see their reports.")
        spec.exit_code(351, "ERROR_LABELLING_FAILED", message="The labelling failed; see its report.")
        spec.exit_code(352, "ERROR_TRAINING_FAILED", message="The training failed; see its report.")
        spec.exit_code(353, "ERROR_DYNAMICS_FAILED", message="The dynamics of {stages} failed; see their reports.")
        spec.exit_code(354, "ERROR_NO_AVERAGE", message="No averages can be taken of the runs: {message}")

    def take_molecule(self) -> ExitCode | None:
        """Take the molecule of the gas phase from the crystal."""
        try:
            molecule = extract_molecule(self.inputs.crystal)
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_MOLECULE.format(message=str(error))
        self.ctx.structures = AttributeDict({"crystal": self.inputs.crystal, "gas": molecule})
        self.out("molecule", molecule)
        return None

    def run_sampling(self) -> None:
        """Run molecular dynamics of crystal and molecule, with CP2K or a model, at the same time."""
        for phase, stage in self._sampling_stages().items():
            structure = self.ctx.structures[phase]
            if "sampling_model" in self.inputs:
                own = self.inputs[stage].dynamics
                self._submit(stage, dynamics={**own, "structure": structure, "model": self.inputs.sampling_model})
            else:
                self._submit(stage, structure=structure)

    def inspect_sampling(self) -> ExitCode | None:
        """Check both runs, and join their frames."""
        stages = self._sampling_stages()
        if (problem := self._problem("ERROR_SAMPLING_FAILED", *stages.values())) is not None:
            return problem
        for stage in stages.values():
            self._expose(stage)
        try:
            self.ctx.frames = join(**{phase: self.ctx[stage].outputs.dataset for phase, stage in stages.items()})
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_FRAMES_DIFFER.format(message=str(error))
        return None

    def labels_are_missing(self) -> bool:
        """Whether frames need labels: not if the sampling was done at the level of the labels and kept them all."""
        frames, key = self.ctx.frames, self.inputs.labelling.level["key"]
        counts = frames.levels[key]["counts"] if key in frames.levels else {}
        if counts.get("energy") == counts.get("forces") == frames.n_frames:
            self.report(f"the frames have their labels at {key!r} from the sampling: they are not labelled again")
            self._keep_dataset(frames)
            return False
        return True

    def run_labelling(self) -> None:
        """Label the frames of crystal and molecule."""
        frames, level = self.ctx.frames, self.inputs.labelling.level
        if level["key"] in frames.levels:
            frames = without_level_of(frames, level)
        self._submit("labelling", dataset=frames)

    def inspect_labelling(self) -> ExitCode | None:
        """Check the labelling."""
        if (problem := self._problem("ERROR_LABELLING_FAILED", "labelling")) is not None:
            return problem
        self._expose("labelling")
        self._keep_dataset(self.ctx.labelling.outputs.dataset)
        return None

    def run_training(self) -> None:
        """Train a model on the labels."""
        inputs = {"foundation": self.inputs.foundation} if "foundation" in self.inputs else {}
        self._submit("training", dataset=self.ctx.dataset, **inputs)

    def inspect_training(self) -> ExitCode | None:
        """Check the training."""
        if (problem := self._problem("ERROR_TRAINING_FAILED", "training")) is not None:
            return problem
        self._expose("training")
        self.ctx.model = self.ctx.training.outputs.model
        self.out("model", self.ctx.model)
        return None

    def run_dynamics(self) -> None:
        """Run crystal and molecule with the model at the same time."""
        for phase in PHASES:
            self._submit(f"dynamics_{phase}", structure=self.ctx.structures[phase], model=self.ctx.model)

    def inspect_dynamics(self) -> ExitCode | None:
        """Check both runs."""
        if (problem := self._problem("ERROR_DYNAMICS_FAILED", "dynamics_crystal", "dynamics_gas")) is not None:
            return problem
        for phase in PHASES:
            self._expose(f"dynamics_{phase}")
        return None

    def average(self) -> ExitCode | None:
        """Average the runs, and compare crystal and gas."""
        properties = {phase: self.ctx[f"dynamics_{phase}"].outputs.properties for phase in PHASES}
        conditions = {phase: self.inputs[f"dynamics_{phase}"].parameters for phase in PHASES}
        crystal = (properties["crystal"], self.inputs.crystal, conditions["crystal"])
        try:
            results = {
                "density": density(*crystal),
                "enthalpy_crystal": crystal_enthalpy(*crystal),
                "enthalpy_gas": gas_enthalpy(properties["gas"], self.ctx.structures.gas, conditions["gas"]),
            }
            results["sublimation_enthalpy"] = sublimation_enthalpy(results["enthalpy_crystal"], results["enthalpy_gas"])
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_AVERAGE.format(message=str(error))
        for name, observable in results.items():
            self.out(name, observable)
        for name in ("density", "sublimation_enthalpy"):
            self.report(str(results[name]))
        return None

    def _sampling_stages(self) -> dict[str, str]:
        """Return the stage that samples each phase."""
        prefix = BY_MODEL if "sampling_model" in self.inputs else ""
        return {phase: f"{prefix}sampling_{phase}" for phase in PHASES}

    def _submit(self, stage: str, **made: Any) -> None:
        """Submit the work chain of a stage with its exposed inputs and what earlier stages made.

        Inputs that the chain refuses are kept as the stage's problem, for the step that inspects it: another stage that
        was submitted beside it is then waited for.
        """
        chain, _ = STAGES[stage]
        inputs = AttributeDict(self.exposed_inputs(chain, stage))
        inputs.update(made)
        inputs.setdefault("metadata", AttributeDict())["call_link_label"] = stage
        try:
            node = self.submit(chain, **inputs)
        except ValueError as error:  # what the spec's validators say
            self.ctx.setdefault("refused", {})[stage] = str(error)
            self.report(f"{stage}: {chain.__name__} refuses its inputs: {error}")
            return
        self.report(f"{stage}: submitted {chain.__name__}<{node.pk}>")
        self.to_context(**{stage: node})

    def _problem(self, exit_code: str, *stages: str) -> ExitCode | None:
        """Return why stages came to nothing, refused or failed, and report all of it; None if all finished."""
        refused = self.ctx.get("refused", {})
        if told := [f"{stage}: {refused[stage]}" for stage in stages if stage in refused]:
            return self.exit_codes.ERROR_STAGE_REFUSED.format(message="; ".join(told))
        texts = []
        for stage in stages:
            node = self.ctx[stage]
            if not node.is_finished_ok:
                texts.append(f"{stage}<{node.pk}>")
                self.report(f"{stage}<{node.pk}> failed with [{node.exit_status}] {node.exit_message}")
        return self.exit_codes[exit_code].format(stages=", ".join(texts)) if texts else None

    def _keep_dataset(self, dataset: DatasetData) -> None:
        self.ctx.dataset = dataset
        self.out("dataset", dataset)

    def _expose(self, stage: str) -> None:
        self.out_many(self.exposed_outputs(self.ctx[stage], STAGES[stage][0], namespace=stage))

"""``mlfinetune.study``: polymorphs and their molecule, from sampling to a table with reference values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ExitCode, append_, while_

from aiida_mlfinetune.calculations.validators import validate_dict, validate_positive
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.conclusions.targets import PropertyTarget
from aiida_mlfinetune.workchains.refill import RefillingWorkChain
from aiida_mlfinetune.workchains.study_builder import StudyBuilderMixin
from aiida_mlfinetune.workchains.study_checks import (
    NEXT_LEVEL,
    STAGES,
    validate_crystals,
    validate_distributions,
    validate_inputs,
    validate_production,
    validate_upgrade,
)
from aiida_mlfinetune.workchains.study_stages import StudyStagesMixin


class StudyWorkChain(StudyBuilderMixin, StudyStagesMixin, RefillingWorkChain):
    """Sampling, labels, learning curves, runs of every model, reweighting, further runs, upgrade: for all polymorphs.

    The stages follow one another; within a stage as many work chains as ``max_concurrent`` run at a time. A run of a
    model that fails is a result: it is named in ``failed``, and the study goes on without it.
    """

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input_namespace(
            "crystals",
            valid_type=orm.StructureData,
            dynamic=True,
            validator=validate_crystals,
            help="Polymorphs by name (angstrom), all of one kind of molecule; where sampling and dynamics start from.",
        )
        spec.input("foundation", valid_type=MaceModelData, required=False, help="Model that fine-tuning starts from.")
        spec.input(
            "sampling_model",
            valid_type=MaceModelData,
            required=False,
            help="Model whose dynamics the frames are taken from, `model_sampling_*`, instead of CP2K's, `sampling_*`.",
        )
        spec.input(
            "pool",
            valid_type=orm.Bool,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Bool(True),
            help="Whether one model is trained for all polymorphs, or one for each; the molecule is in every set.",
        )
        spec.input(
            "target",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({}),
            validator=validate_dict(PropertyTarget.from_dict),
            help="How far the averages of a model may be from the reference: sublimation_enthalpy_kJ_mol (0.5), "
            "density_percent (1).",
        )
        spec.input(
            "production",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_production,
            help="The model whose runs are reweighted and go into the table: `mode`, and `size` of its training set "
            "(null: the largest).",
        )
        spec.input(
            "distributions",
            valid_type=orm.Dict,
            required=False,
            serializer=orm.to_aiida_type,
            validator=validate_distributions,
            help="Radial distribution functions of the runs: `pairs` of elements, `r_max_A`, `n_bins`.",
        )
        spec.input(
            "experiment",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({}),
            help="What was measured, by polymorph: density (g/cm^3), sublimation_enthalpy (kJ/mol), source.",
        )
        spec.input(
            "max_concurrent",
            valid_type=orm.Int,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Int(2),
            validator=validate_positive,
            help="Work chains of a stage at a time, at most.",
        )
        spec.input_namespace(
            "selections",
            valid_type=orm.Dict,
            dynamic=True,
            help="By polymorph: which frames are taken from its sampling, see `mlfinetune.sampling`.",
        )
        for stage, (chain, exclude, required) in STAGES.items():
            options = {} if required else {"required": False, "populate_defaults": False}
            spec.expose_inputs(chain, namespace=stage, exclude=exclude, namespace_options=options)
            spec.inputs[stage].dynamic = False
            spec.inputs[stage].validator = None  # it needs what the study itself gives the stage
        spec.input_namespace(
            "runs",
            valid_type=(orm.Dict, orm.List),
            dynamic=True,
            required=False,
            help="Further runs of the production model by name: what changes in `crystal` and `gas` (Dict of the "
            "parameters of `mlfinetune.dynamics`; without `gas` only the crystals are run), `repeat` (List of three).",
        )
        spec.input(
            NEXT_LEVEL,
            valid_type=orm.Dict,
            required=False,
            serializer=orm.to_aiida_type,
            validator=validate_upgrade,
            help="The smallest sufficient set at a higher level: `crystals`, `n_frames` of these and `n_gas` of the "
            "molecule (null: all), `seed`, `start` (foundation or production).",
        )
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.take_molecule,
            while_(cls.has_stages)(
                cls.open_stage,
                while_(cls.has_jobs)(cls.submit_jobs),
                cls.close_stage,
            ),
            cls.compare,
        )
        spec.output("molecule", valid_type=orm.StructureData, help="The molecule in the gas phase (angstrom).")
        spec.output("dataset", valid_type=DatasetData, help="All frames with their labels.")
        spec.output("failed", valid_type=orm.Dict, help="Why runs are missing, by what they are called.")
        for name, kind, text in (
            ("curves", ObservableData, "Learning curves by set: `all`, or the polymorph's name."),
            ("models", MaceModelData, "Models by set and as `<mode>_n<size>_s<seed>`."),
            ("averages", ObservableData, "By polymorph and model: potential_energy, density, enthalpies."),
            ("reference", ObservableData, "By polymorph: the averages at the reference level."),
            ("convergence", ObservableData, "By polymorph: averages against the size of the training set."),
            ("production_runs", ObservableData, "By further run and polymorph: its averages."),
            ("structure", ObservableData, "By run, or `reference`, and polymorph: radial distribution functions."),
            ("budget", ObservableData, "By polymorph: the sublimation enthalpy with its error budget."),
            ("ranking", ObservableData, "Order of the polymorphs: of the `model`, and at the `reference` level."),
            ("upgraded", ObservableData, "By polymorph: averages of the model of the higher level."),
        ):
            spec.output_namespace(name, valid_type=kind, dynamic=True, required=False, help=text)
        spec.output("upgraded_model", valid_type=MaceModelData, required=False, help="The model of the higher level.")
        spec.exit_code(320, "ERROR_FRAMES_DIFFER", message="The frames cannot be used together: {message}")
        spec.exit_code(350, "ERROR_SAMPLING_FAILED", message="The sampling failed: {reasons}")
        spec.exit_code(351, "ERROR_LABELLING_FAILED", message="The labelling failed: {reasons}")
        spec.exit_code(352, "ERROR_NO_MODEL", message="No model was trained: {reasons}")
        spec.exit_code(
            360,
            "ERROR_RUNS_FAILED",
            message="{count} runs failed; the rest is there. The first: {reason}",
        )

    def has_stages(self) -> bool:
        """Whether stages are left."""
        return self.ctx.stage < len(self.ctx.stages)

    def open_stage(self) -> ExitCode | None:
        """List the work chains of the next stage."""
        stage = self.ctx.stages[self.ctx.stage]
        self.ctx.active = {}
        try:
            self.ctx.queue = getattr(self, f"_open_{stage}")()
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_FRAMES_DIFFER.format(message=str(error))
        if self.ctx.queue:
            self.report(f"stage {stage}: {len(self.ctx.queue)} work chains")
        return None

    def has_jobs(self) -> bool:
        """Whether work chains of the stage are left to be run, or are running."""
        return bool(self.ctx.queue or self.ctx.active)

    def submit_jobs(self) -> None:
        """Let go of the work chains that ended, and submit as many new ones as may run at a time."""
        stage = self.ctx.stages[self.ctx.stage]
        for label, pk in list(self.ctx.active.items()):
            child = orm.load_node(pk)
            if child.is_terminated:
                del self.ctx.active[label]
                if not child.is_finished_ok:
                    self._fail(label, f"<{child.uuid}> [{child.exit_status}] {child.exit_message}")
        while self.ctx.queue and len(self.ctx.active) < self.inputs.max_concurrent.value:
            job = self.ctx.queue[0]
            self.ctx.queue = self.ctx.queue[1:]
            label = "_".join((stage, *job))
            try:
                chain, inputs = getattr(self, f"_inputs_{stage}")(*job)
                inputs.metadata = {"call_link_label": label, "label": f"{stage}: {' '.join(job)}".replace("_", " ")}
                child = self.submit(chain, **inputs)
            except (MlFinetuneError, ValueError) as error:
                self._fail(label, str(error))
                continue
            self.ctx.active[label] = child.pk
            self.ctx.done[label] = child.pk
        self.ctx.awaited = []
        for pk in self.ctx.active.values():
            self.to_context(awaited=append_(orm.load_node(pk)))

    def close_stage(self) -> ExitCode | None:
        """Take what the work chains of the stage made."""
        stage = self.ctx.stages[self.ctx.stage]
        self.ctx.stage += 1
        try:
            return getattr(self, f"_close_{stage}")()
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_FRAMES_DIFFER.format(message=f"{stage}: {error}")

    def _fail(self, label: str, reason: str) -> None:
        self.ctx.failed[label] = reason
        self.report(f"{label} failed: {reason}")

    def _child(self, *parts: str) -> orm.ProcessNode | None:
        """Return the work chain of that name if it ended well."""
        pk = self.ctx.done.get("_".join(parts))
        child = None if pk is None else orm.load_node(pk)
        return child if child is not None and child.is_finished_ok else None

    def _out_all(self, namespace: str, nodes: Mapping[str, orm.Data]) -> None:
        for name, node in nodes.items():
            self.out(f"{namespace}.{name}", node)

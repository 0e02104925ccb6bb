"""``mlfinetune.closed_loop``: label, train, run, reweight, until the averages are near enough to the reference."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, WorkChain, if_, while_

from aiida_mlfinetune.calculations.functions.closed_loop import QUANTITIES, grown_dataset, judge_round
from aiida_mlfinetune.calculations.functions.dataset import without_level_of
from aiida_mlfinetune.calculations.validators import validate_dict
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.conclusions.closed_loop import GO_ON, Budget
from aiida_mlfinetune.science.conclusions.targets import PropertyTarget
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from aiida_mlfinetune.workchains.closed_loop_builder import ClosedLoopBuilderMixin, validate_inputs
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.training import TrainingWorkChain

PHASES = ("crystal", "gas")


class ClosedLoopWorkChain(ClosedLoopBuilderMixin, WorkChain):
    """Train on what is labelled, run, reweight, and train again on the frames where the model was most wrong.

    The frames that a round adds are among those that its reweighting labelled, so that they cost nothing more. Every
    round trains anew from the same start on all frames.
    """

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("dataset", valid_type=DatasetData, help="Frames that the first round trains on.")
        spec.expose_inputs(LabellingWorkChain, namespace="labelling", exclude=("dataset",))
        spec.expose_inputs(
            TrainingWorkChain, namespace="training", exclude=("dataset", "train", "valid", "test", "level")
        )
        spec.expose_inputs(AveragesWorkChain, namespace="averages", exclude=("model",))
        for name in ("labelling", "training", "averages"):
            spec.inputs[name].dynamic = False
            spec.inputs[name].validator = None  # it needs what only the chain knows
        spec.input(
            "target",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict(PropertyTarget().to_dict()),
            validator=validate_dict(PropertyTarget.from_dict),
            help="How far from the reference the averages may be: sublimation_enthalpy_kJ_mol, density_percent.",
        )
        spec.input(
            "budget",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict(Budget().to_dict()),
            validator=validate_dict(Budget.from_dict),
            help="`max_rounds`, and `max_labels` (frames labelled in all, by the reweighting too).",
        )
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.start,
            if_(cls.labels_are_missing)(cls.run_labelling, cls.inspect_labelling),
            while_(cls.should_go_on)(
                cls.run_training,
                cls.inspect_training,
                cls.run_averages,
                cls.inspect_averages,
            ),
            cls.conclude,
        )
        spec.output_namespace(
            "rounds",
            valid_type=orm.Dict,
            dynamic=True,
            help="`round_1`, ...: what each round cost and bought, see `calculations.functions.closed_loop`.",
        )
        spec.output("model", valid_type=MaceModelData, required=False, help="The model of the last round.")
        spec.output("dataset", valid_type=DatasetData, required=False, help="The frames that it was trained on.")
        for namespace, text in (("model_averages", "with the model"), ("reference", "at the reference level")):
            spec.output_namespace(
                namespace,
                valid_type=ObservableData,
                dynamic=True,
                required=False,
                help=f"Averages of the last round {text}.",
            )
        spec.exit_code(351, "ERROR_LABELLING_FAILED", message="The labelling failed with [{status}] {message}")
        spec.exit_code(
            352, "ERROR_TRAINING_FAILED", message="The training of round {number} failed with [{status}] {message}"
        )
        spec.exit_code(
            353, "ERROR_AVERAGES_FAILED", message="The runs of round {number} failed with [{status}] {message}"
        )
        spec.exit_code(354, "ERROR_NOT_JUDGED", message="Round {number} cannot be judged: {message}")
        spec.exit_code(220, "ERROR_STAGE_REFUSED", message="The inputs of a stage are refused: {message}")

    def start(self) -> None:
        """Begin before the first round."""
        self.ctx.dataset = self.inputs.dataset
        self.ctx.level = orm.Str(self.inputs.labelling.level["key"])
        self.ctx.number, self.ctx.labels = 0, 0
        self.ctx.last = None

    def labels_are_missing(self) -> bool:
        """Whether frames lack an energy or forces at the reference level."""
        counts = self.inputs.dataset.levels.get(self.ctx.level.value, {}).get("counts", {})
        return not counts.get("energy") == counts.get("forces") == self.inputs.dataset.n_frames

    def run_labelling(self) -> ExitCode | None:
        """Label the frames of the first round."""
        frames, level = self.inputs.dataset, self.inputs.labelling.level
        inputs = AttributeDict(self.exposed_inputs(LabellingWorkChain, "labelling"))
        inputs.dataset = without_level_of(frames, level) if level["key"] in frames.levels else frames
        return self._submit(LabellingWorkChain, "labelling", inputs)

    def inspect_labelling(self) -> ExitCode | None:
        """Check the labelling."""
        node = self.ctx.labelling
        if not node.is_finished_ok:
            return self.exit_codes.ERROR_LABELLING_FAILED.format(status=node.exit_status, message=node.exit_message)
        self.ctx.dataset = node.outputs.dataset
        self.ctx.labels = node.outputs.dataset.n_frames
        return None

    def should_go_on(self) -> bool:
        """Whether there is another round."""
        return self.ctx.last is None or self.ctx.last["next"] == GO_ON

    def run_training(self) -> ExitCode | None:
        """Add what the last round found to the frames, and train on all of them."""
        found = {} if self.ctx.last is None else self._found()
        try:
            self.ctx.dataset = grown_dataset(self.ctx.level, a_known=self.ctx.dataset, **found)
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_STAGE_REFUSED.format(message=str(error))
        self.ctx.number += 1
        inputs = AttributeDict(self.exposed_inputs(TrainingWorkChain, "training"))
        inputs.dataset, inputs.level = self.ctx.dataset, self.ctx.level
        return self._submit(TrainingWorkChain, f"training_{self.ctx.number}", inputs)

    def _found(self) -> dict[str, DatasetData]:
        outputs = self.ctx[f"averages_{self.ctx.number}"].outputs
        names = {phase: f"reweighting_{phase}" for phase in PHASES if f"reweighting_{phase}" in outputs}
        return {f"b_{phase}": outputs[name].to_train for phase, name in names.items()}

    def inspect_training(self) -> ExitCode | None:
        """Check the training."""
        node, number = self.ctx[f"training_{self.ctx.number}"], self.ctx.number
        if not node.is_finished_ok:
            return self.exit_codes.ERROR_TRAINING_FAILED.format(
                number=number, status=node.exit_status, message=node.exit_message
            )
        return None

    def run_averages(self) -> ExitCode | None:
        """Run crystal and gas with the model of the round, and reweight them."""
        inputs = AttributeDict(self.exposed_inputs(AveragesWorkChain, "averages"))
        inputs.model = self.ctx[f"training_{self.ctx.number}"].outputs.model
        return self._submit(AveragesWorkChain, f"averages_{self.ctx.number}", inputs)

    def inspect_averages(self) -> ExitCode | None:
        """Say what the round bought, and whether another one is wanted."""
        node, number = self.ctx[f"averages_{self.ctx.number}"], self.ctx.number
        if not node.is_finished_ok:
            return self.exit_codes.ERROR_AVERAGES_FAILED.format(
                number=number, status=node.exit_status, message=node.exit_message
            )
        reference = node.outputs.reference
        own = {name: reference[name] for name in QUANTITIES if name in reference}
        before = orm.Dict({"labels": self.ctx.labels}) if self.ctx.last is None else self.ctx.last
        try:
            self.ctx.last = judge_round(self.inputs.target, self.inputs.budget, self.ctx.dataset, before, **own)
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NOT_JUDGED.format(number=number, message=str(error))
        self.out(f"rounds.round_{number}", self.ctx.last)
        values = self.ctx.last.get_dict()
        told = "; ".join(
            f"{name} off by {row['difference']:+.4g} {row['unit']}" for name, row in values["quantities"].items()
        )
        self.report(
            f"round {number}, {values['n_frames']} frames, {values['labels']} labels: {told}: {values['verdict']}; "
            f"{values['reason']}. {values.get('outlook', '')}".rstrip()
        )
        return None

    def conclude(self) -> None:
        """Attach what the last round made."""
        averages = self.ctx[f"averages_{self.ctx.number}"].outputs
        self.out("model", self.ctx[f"training_{self.ctx.number}"].outputs.model)
        self.out("dataset", self.ctx.dataset)
        for name in averages.reference:
            self.out(f"reference.{name}", averages.reference[name])
            self.out(f"model_averages.{name}", averages[name])

    def _submit(self, chain: type[WorkChain], name: str, inputs: AttributeDict) -> ExitCode | None:
        inputs.metadata = {"call_link_label": name}
        try:
            node = self.submit(chain, **inputs)
        except ValueError as error:  # what the spec's validators say
            return self.exit_codes.ERROR_STAGE_REFUSED.format(message=f"{name}: {error}")
        self.report(f"{name}: submitted {chain.__name__}<{node.pk}>")
        self.to_context(**{name: node})
        return None

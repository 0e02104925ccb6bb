"""``mlfinetune.convergence``: averages of runs against the size of the training set, beside those of the reference."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.links import LinkType
from aiida.engine import ExitCode, append_, if_, while_

from aiida_mlfinetune.calculations.functions.convergence import (
    QUANTITIES,
    REFERENCE,
    collect_convergence,
    parse_label,
)
from aiida_mlfinetune.calculations.validators import validate_dict, validate_positive
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.conclusions.targets import PropertyTarget
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from aiida_mlfinetune.workchains.convergence_builder import (
    ConvergenceBuilderMixin,
    default_reference,
    validate_inputs,
)
from aiida_mlfinetune.workchains.learning_curve import LearningCurveWorkChain
from aiida_mlfinetune.workchains.refill import RefillingWorkChain


class ConvergenceWorkChain(ConvergenceBuilderMixin, RefillingWorkChain):
    """Run crystal and molecule with every model of a learning curve, and one of them reweighted to the reference."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.expose_inputs(
            LearningCurveWorkChain,
            namespace="learning_curve",
            namespace_options={
                "required": False,
                "populate_defaults": False,
                "help": "Makes the models; or give `models`.",
            },
        )
        spec.inputs["learning_curve"].dynamic = False
        spec.input_namespace(
            "models",
            valid_type=MaceModelData,
            dynamic=True,
            required=False,
            help="Models of a learning curve, as `<mode>_n<size>_s<seed>`, instead of `learning_curve`.",
        )
        spec.expose_inputs(AveragesWorkChain, namespace="averages", exclude=("model",))
        spec.inputs["averages"].dynamic = False
        spec.input(
            "reference_model",
            valid_type=orm.Str,
            required=False,
            serializer=orm.to_aiida_type,
            help="Name of the model whose runs are reweighted; by default that of the largest set, in the mode with "
            "the smallest error of the learning curve (else the first by name), with the first seed.",
        )
        spec.input(
            "target",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict(PropertyTarget().to_dict()),
            validator=validate_dict(PropertyTarget.from_dict),
            help="How far from the reference the averages may be: sublimation_enthalpy_kJ_mol, density_percent.",
        )
        spec.input(
            "max_concurrent",
            valid_type=orm.Int,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Int(2),
            validator=validate_positive,
            help="Number of models that are run at a time, at most.",
        )
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            if_(cls.should_train)(cls.run_learning_curve, cls.inspect_learning_curve),
            cls.take_models,
            while_(cls.has_runs)(cls.submit_runs),
            cls.collect,
        )
        spec.output(
            "convergence",
            valid_type=ObservableData,
            help="Averages by mode, size and seed, the reference with its error, the verdict on each size, and the "
            "smallest sufficient set: `details['smallest']` by mode, None where none can be named.",
        )
        spec.output_namespace(
            "models", valid_type=MaceModelData, dynamic=True, help="The models, as `<mode>_n<size>_s<seed>`."
        )
        spec.output("curve", valid_type=ObservableData, required=False, help="The learning curve.")
        spec.output_namespace(
            "sets", valid_type=DatasetData, dynamic=True, required=False, help="The sets of the learning curve."
        )
        spec.output_namespace(
            "reference",
            valid_type=ObservableData,
            dynamic=True,
            help="Averages at the reference level, from the reweighted runs.",
        )
        spec.output_namespace(
            "to_train",
            valid_type=DatasetData,
            dynamic=True,
            required=False,
            help="`crystal`, `gas`: labelled frames of the reweighted runs, to train on.",
        )
        spec.exit_code(
            360, "ERROR_RUNS_FAILED", message="{count} of {total} models have no averages; the first: {reason}"
        )
        spec.exit_code(350, "ERROR_LEARNING_CURVE_FAILED", message="There is no model: [{status}] {message}")
        spec.exit_code(361, "ERROR_NO_REFERENCE", message="The runs of {label} gave no reference: {reason}")
        spec.exit_code(362, "ERROR_NO_AVERAGE", message="The averages cannot be compared: {message}")

    def should_train(self) -> bool:
        """Whether the models have to be made."""
        return "learning_curve" in self.inputs

    def run_learning_curve(self) -> None:
        """Train the models."""
        inputs = AttributeDict(self.exposed_inputs(LearningCurveWorkChain, "learning_curve"))
        inputs.metadata = {"call_link_label": "learning_curve"}
        self.to_context(learning_curve=self.submit(LearningCurveWorkChain, **inputs))

    def inspect_learning_curve(self) -> ExitCode | None:
        """Check the trainings; those that failed are missing, the others are run."""
        node = self.ctx.learning_curve
        if "models" not in node.outputs or "curve" not in node.outputs:
            return self.exit_codes.ERROR_LEARNING_CURVE_FAILED.format(
                status=node.exit_status, message=node.exit_message
            )
        if not node.is_finished_ok:
            self.report(f"warning: {node.exit_message}")
        self.out("curve", node.outputs.curve)
        for name in node.outputs.sets:
            self.out(f"sets.{name}", node.outputs.sets[name])
        return None

    def take_models(self) -> ExitCode | None:
        """Choose the model whose runs are reweighted, and queue all."""
        models = self.ctx.learning_curve.outputs.models if self.should_train() else self.inputs.models
        self.ctx.models = {name: models[name] for name in models}
        for name, model in self.ctx.models.items():
            self.out(f"models.{name}", model)
        labels = sorted(self.ctx.models, key=parse_label)
        if "reference_model" in self.inputs:
            self.ctx.reference = self.inputs.reference_model.value
        else:
            best = self.ctx.learning_curve.outputs.curve.conditions["mode"] if self.should_train() else None
            self.ctx.reference = default_reference(labels, best)
        if self.ctx.reference not in self.ctx.models:
            return self.exit_codes.ERROR_NO_REFERENCE.format(
                label=self.ctx.reference, reason=f"there is no such model, but {labels}"
            )
        # The reference first: what it says is needed to judge all others
        self.ctx.queue = [self.ctx.reference, *(label for label in labels if label != self.ctx.reference)]
        self.ctx.active, self.ctx.refused = {}, {}
        self.report(f"{len(labels)} models to run; the runs of {self.ctx.reference} are reweighted")
        return None

    def has_runs(self) -> bool:
        """Whether models are left to be run, or are running."""
        return bool(self.ctx.queue or self.ctx.active)

    def submit_runs(self) -> None:
        """Let go of the runs that ended, and submit as many new ones as may run at a time."""
        for label, pk in list(self.ctx.active.items()):
            child = orm.load_node(pk)
            if child.is_terminated:
                del self.ctx.active[label]
                if not child.is_finished_ok:
                    self.report(f"{label} failed: {_reason(child)}")
        while self.ctx.queue and len(self.ctx.active) < self.inputs.max_concurrent.value:
            label = self.ctx.queue[0]
            self.ctx.queue = self.ctx.queue[1:]
            inputs = AttributeDict(self.exposed_inputs(AveragesWorkChain, "averages"))
            if label != self.ctx.reference:
                inputs.pop("reweighting")
            inputs.model = self.ctx.models[label]
            inputs.metadata = {"call_link_label": label}
            try:
                child = self.submit(AveragesWorkChain, **inputs)
            except ValueError as error:  # what the spec's validators say
                self.ctx.refused[label] = str(error)
                self.report(f"{label} is refused: {error}")
                continue
            self.ctx.active[label] = child.pk
        self.ctx.awaited = []
        for pk in self.ctx.active.values():
            self.to_context(awaited=append_(orm.load_node(pk)))

    def collect(self) -> ExitCode | None:
        """Compare all averages with those of the reference."""
        children: dict[str, orm.ProcessNode] = {}
        for link in self.node.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all():
            # After a crash of the daemon a run may have been submitted twice
            known = children.get(link.link_label)
            if link.link_label in self.ctx.models and (known is None or link.node.is_finished_ok):
                children[link.link_label] = link.node
        failed = dict(self.ctx.refused)
        averages: dict[str, ObservableData] = {}
        for label, child in children.items():
            if not child.is_finished_ok:
                failed[label] = _reason(child)
            averages.update({f"{name}_{label}": child.outputs[name] for name in QUANTITIES if name in child.outputs})
        reference = children.get(self.ctx.reference)
        if reference is None or "reference" not in reference.outputs:
            return self.exit_codes.ERROR_NO_REFERENCE.format(
                label=self.ctx.reference, reason=failed.get(self.ctx.reference, "it was not run")
            )
        for name in reference.outputs.reference:
            self.out(f"reference.{name}", reference.outputs.reference[name])
            if name in QUANTITIES:
                averages[REFERENCE + name] = reference.outputs.reference[name]
        for phase in ("crystal", "gas"):
            if f"reweighting_{phase}" in reference.outputs:
                self.out(f"to_train.{phase}", reference.outputs[f"reweighting_{phase}"].to_train)
        try:
            result = collect_convergence(self.inputs.target, orm.Str(self.ctx.reference), orm.Dict(failed), **averages)
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_AVERAGE.format(message=str(error))
        self.out("convergence", result)
        for mode, sentence in result.details["sentences"].items():
            self.report(f"{mode}: {sentence}")
        if failed:
            return self.exit_codes.ERROR_RUNS_FAILED.format(
                count=len(failed), total=len(self.ctx.models), reason=next(iter(failed.values()))
            )
        return None


def _reason(child: orm.ProcessNode) -> str:
    if child.exit_status is None:
        return f"{child.process_label}<{child.pk}> {child.process_state.value}"
    return f"{child.process_label}<{child.pk}> [{child.exit_status}] {child.exit_message}"

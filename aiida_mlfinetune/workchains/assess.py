"""``mlfinetune.assess``: a quick suite of checks on a trained model, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ExitCode, ProcessBuilder, WorkChain

from aiida_mlfinetune.calculations.functions.assessment import assess_model, assessment_frames
from aiida_mlfinetune.calculations.ipi import check_run, validate_structure
from aiida_mlfinetune.calculations.mace_evaluate import MaceEvaluateCalculation, validate_parameters
from aiida_mlfinetune.calculations.validators import PYTHON_PLUGINS, validate_dict, validate_program
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import MlFinetuneError, ModelError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.datasets.checks import check_disjoint, check_elements
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from aiida_mlfinetune.science.models.assessment import Thresholds
from aiida_mlfinetune.science.models.baseline import baseline_head, required_baseline
from aiida_mlfinetune.science.models.probes import ProbeSettings
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge

KEY = "assessed/mace"
"""Key of the model's labels on the frames of an assessment."""
EXPLODED = DynamicsWorkChain.exit_codes.ERROR_EXPLODED.status


class AssessWorkChain(ProtocolMixin, WorkChain):
    """Ask a model what is known beforehand, run it at twice the temperature, and say whether it passes."""

    _PROTOCOL_FILE = "assess.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("model", valid_type=MaceModelData, help="The model to assess.")
        spec.input(
            "baseline", valid_type=MaceModelData, required=False, help="The model that `model` is a difference to."
        )
        spec.input(
            "structure",
            valid_type=orm.StructureData,
            validator=validate_structure,
            help="The crystal that the model is for (angstrom), or a molecule that is periodic in no direction.",
        )
        spec.input("test", valid_type=DatasetData, required=False, help="Frames with labels for parity.")
        spec.input(
            "level", valid_type=orm.Str, required=False, serializer=orm.to_aiida_type, help="Level of those labels."
        )
        spec.input(
            "parity_set",
            valid_type=orm.Str,
            required=False,
            serializer=orm.to_aiida_type,
            help="What `test` was in the training: `test`, or `valid`, which is not independent of it.",
        )
        for name, check, text in (
            ("settings", ProbeSettings.from_dict, "Which frames are made: see `science.probes.ProbeSettings`."),
            ("thresholds", Thresholds.from_dict, "What is asked for: see `science.assessment.Thresholds`."),
        ):
            spec.input(
                name,
                valid_type=orm.Dict,
                serializer=orm.to_aiida_type,
                default=lambda: orm.Dict({}),
                validator=validate_dict(check),
                help=text,
            )
        spec.expose_inputs(
            MaceEvaluateCalculation, namespace="python", exclude=("model", "baseline", "dataset", "parameters")
        )
        spec.input(
            "evaluation",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({"key": KEY}),
            validator=validate_parameters,
            help=f"Parameters of `mlfinetune.mace_evaluate` for the frames; `key` must be {KEY!r}.",
        )
        spec.expose_inputs(
            DynamicsWorkChain,
            namespace="dynamics",
            exclude=("model", "baseline", "structure"),
            namespace_options={
                "required": False,
                "populate_defaults": False,
                "help": "The run at a higher temperature; left out, none is done.",
            },
        )
        for name in ("python", "dynamics"):
            spec.inputs[name].dynamic = False
            spec.inputs[name].validator = None  # they check inputs together that are given one level up here
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(cls.make_frames, cls.ask, cls.inspect, cls.judge)
        spec.output("assessment", valid_type=ObservableData, help="The verdict: number of checks that failed.")
        spec.output("dataset", valid_type=DatasetData, help="The frames with the model's labels (eV, eV/A, eV/A^3).")
        spec.expose_outputs(DynamicsWorkChain, namespace="dynamics", namespace_options={"required": False})
        spec.exit_code(210, "ERROR_NO_FRAMES", message="The frames cannot be made: {message}")
        spec.exit_code(220, "ERROR_STAGE_REFUSED", message="The inputs of a stage are refused: {message}")
        spec.exit_code(350, "ERROR_EVALUATION_FAILED", message="The model could not be evaluated: {message}")
        spec.exit_code(
            351, "ERROR_DYNAMICS_FAILED", message="The run failed for another reason than the model: {message}"
        )
        spec.exit_code(352, "ERROR_NO_VERDICT", message="The answers cannot be judged: {message}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        python_code: orm.AbstractCode,
        ipi_code: orm.AbstractCode | None,
        model: MaceModelData,
        structure: orm.StructureData,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        baseline: MaceModelData | None = None,
        test: DatasetData | None = None,
        level: str | None = None,
        temperature_K: float | None = None,  # noqa: N803 - the unit
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            python_code: a Python with MACE.
            ipi_code: i-PI; None leaves the run out.
            model: the model to assess.
            structure: the crystal that the model is for, or a molecule that is periodic in no direction.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/assess.yaml``.
            options: scheduler options by program: python, i-pi.
            baseline: the model that ``model`` is a difference to, if it is one.
            test: frames with labels; by default the test set of the training that made the model, else its validation
                set.
            level: of those labels; by default that of the training.
            temperature_K: at which the model will be used.

        Raises:
            StudyError: an unknown protocol or input, or a value that cannot be.
            ModelError: elements or a head that the model lacks; a difference without its baseline.
            FramesError: test frames that the model was trained on.
            LabelsError: a level that the test frames lack.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        by_program = dict(options or {})
        if unknown := sorted(set(by_program) - {"python", "i-pi"}):
            raise StudyError(f"unknown programs in the options: {unknown}; options are given by ['python', 'i-pi']")
        if (problem := validate_program(*PYTHON_PLUGINS)(python_code, None)) is not None:
            raise StudyError(problem)
        own = None
        if test is None:
            test, own, trained_on = training_frames(model)
            level = level or trained_on
        builder = cls.get_builder()
        builder.model, builder.structure = model, structure
        if baseline is not None:
            builder.baseline = baseline
        if test is not None:
            if level is None:
                raise StudyError("test frames need the level of their labels: give 'level'")
            builder.test, builder.level = test, orm.Str(level)
        if own is not None:
            builder.parity_set = orm.Str(own)
        head = inputs["evaluation"]["head"] or model.heads[-1]
        builder.evaluation = orm.Dict({**inputs["evaluation"], "head": head, "key": KEY})
        builder.settings = orm.Dict(inputs["settings"])
        builder.thresholds = orm.Dict(inputs["thresholds"])
        builder.python.code = python_code
        builder.python.metadata.options = merge(
            inputs["python"]["metadata"]["options"], by_program.get("python", {}), {""}, "options"
        )
        temperature = temperature_K or inputs["temperature_K"]
        hot = temperature * inputs["temperature_factor"]
        if ipi_code is not None and inputs["dynamics"] is not None:
            wished = dict(inputs["dynamics"])
            made = DynamicsWorkChain.get_builder_from_protocol(
                ipi_code,
                structure,
                None,
                wished.pop("protocol", None),
                _with_head(wished, head),
                by_program.get("i-pi"),
                ensemble=Ensemble.NVT,
                temperature_K=hot,
            )
            values = made._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
            builder.dynamics = {name: value for name, value in values.items() if name != "structure"}
        if (problem := validate_inputs(builder._inputs(prune=True))) is not None:  # noqa: SLF001
            raise StudyError(problem)
        parity = "no parity" if test is None else f"parity on {test.n_frames} frames at {level!r}"
        run = (
            "no run"
            if builder.dynamics.get("parameters") is None
            else f"{builder.dynamics.parameters['n_steps']} steps of NVT at {hot:g} K"
        )
        AIIDA_LOGGER.report(f"assessment of model {model.sha256[:12]} on {structure.get_formula()}: {parity}, {run}")
        return builder

    def make_frames(self) -> ExitCode | None:
        """Make the frames that the model is asked about."""
        more = {name: self.inputs[name] for name in ("test", "level", "baseline") if name in self.inputs}
        try:
            made = assessment_frames(self.inputs.structure, self.inputs.model, self.inputs.settings, **more)
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_FRAMES.format(message=str(error))
        self.ctx.frames, self.ctx.plan = made["frames"], made["plan"]
        return None

    def ask(self) -> ExitCode | None:
        """Predict all frames in one job, and run the model at the higher temperature beside it."""
        both = {name: self.inputs[name] for name in ("model", "baseline") if name in self.inputs}
        evaluation = AttributeDict(self.exposed_inputs(MaceEvaluateCalculation, "python"))
        evaluation.update(both, dataset=self.ctx.frames, parameters=self.inputs.evaluation)
        stages = {"evaluation": (MaceEvaluateCalculation, evaluation)}
        if self.inputs.get("dynamics"):
            run = AttributeDict(self.exposed_inputs(DynamicsWorkChain, "dynamics"))
            run.update(both, structure=self.inputs.structure)
            stages["dynamics"] = (DynamicsWorkChain, run)
        for name, (process, inputs) in stages.items():
            inputs.setdefault("metadata", AttributeDict())["call_link_label"] = name
            try:
                node = self.submit(process, **inputs)
            except ValueError as error:  # what the spec's validators say
                self.ctx.refused = f"{name}: {error}"
                continue
            self.report(f"{name}: submitted {process.__name__}<{node.pk}>")
            self.to_context(**{name: node})
        return None

    def inspect(self) -> ExitCode | None:
        """Check both; a run that exploded says something about the model, any other failure does not."""
        if "refused" in self.ctx:
            return self.exit_codes.ERROR_STAGE_REFUSED.format(message=self.ctx.refused)
        evaluation = self.ctx.evaluation
        if not evaluation.is_finished_ok:
            return self.exit_codes.ERROR_EVALUATION_FAILED.format(message=evaluation.exit_message)
        self.out("dataset", evaluation.outputs.dataset)
        if "dynamics" in self.ctx:
            run = self.ctx.dynamics
            self.out_many(self.exposed_outputs(run, DynamicsWorkChain, namespace="dynamics"))
            if not run.is_finished_ok and run.exit_status != EXPLODED:
                return self.exit_codes.ERROR_DYNAMICS_FAILED.format(message=run.exit_message)
        return None

    def judge(self) -> ExitCode | None:
        """Give the verdict."""
        more = {name: self.inputs[name] for name in ("baseline", "parity_set") if name in self.inputs}
        if "dynamics" in self.ctx:
            more["run"] = self.inputs.dynamics.parameters
            outputs = self.ctx.dynamics.outputs
            more |= {name: outputs[name] for name in ("properties", "trajectory") if name in outputs}
        asked = (self.inputs.evaluation, self.inputs.thresholds)
        try:
            verdict = assess_model(
                self.inputs.model,
                self.inputs.structure,
                self.ctx.evaluation.outputs.dataset,
                self.ctx.plan,
                *asked,
                **more,
            )
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_VERDICT.format(message=str(error))
        self.out("assessment", verdict)
        n_judged = verdict.details["n_judged"]
        if verdict.details["passed"]:
            self.report(f"the model passed all of {n_judged} checks")
        else:
            self.report(f"the model failed {verdict.value:.0f} of {n_judged} checks: " + "; ".join(verdict.warnings))
        return None


def training_frames(model: MaceModelData) -> tuple[DatasetData | None, str | None, str | None]:
    """Return test frames that the training of a model left, the name of their set, and their level; Nones without.

    A model of a difference has none: its frames hold labels of the difference, but it is assessed with its baseline.
    """
    training = model.creator if model.is_stored else None
    if training is None or "level" not in training.inputs or required_baseline(model.passport) is not None:
        return None, None, None
    for name in ("test", "valid"):
        if name in training.inputs:
            return training.inputs[name], name, training.inputs.level.value
    return None, None, None


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several inputs at once."""
    if any(name not in inputs for name in ("model", "structure")):
        return None  # a missing port is reported by itself
    try:
        _check(inputs)
    except MlFinetuneError as error:
        return str(error)
    return None


def _check(inputs: Mapping[str, Any]) -> None:
    model, structure = inputs["model"], inputs["structure"]
    baseline = inputs.get("baseline")
    elements = structure.get_symbols_set()
    check_elements(sorted(elements), model.elements)
    if baseline is not None:
        check_elements(sorted(elements), baseline.elements, "the baseline")
    baseline_head(model.passport, None if baseline is None else baseline.passport)
    evaluation = inputs["evaluation"].get_dict() if "evaluation" in inputs else {"key": KEY}
    if evaluation.get("key") != KEY:
        raise StudyError(f"the key of the evaluation is {evaluation.get('key')!r}, but must be {KEY!r}")
    head = evaluation.get("head")
    if head not in model.heads and not (head is None and len(model.heads) == 1):
        raise ModelError(f"head is {head!r}, but the model has the heads {model.heads}: name one of them")
    if ("test" in inputs) != ("level" in inputs):
        raise StudyError("test frames and the level of their labels ('test' and 'level') belong together: give both")
    if "test" in inputs:
        _check_test(model, inputs["test"], inputs["level"].value)
    run = inputs.get("dynamics") or {}
    if "parameters" in run:
        settings = IpiSettings.from_dict(run["parameters"].get_dict())
        passports = (model.passport, None if baseline is None else baseline.passport)
        check_run(settings, structure.get_ase(), *passports)
        if settings.head not in (None, head):
            raise StudyError(f"the run uses head {settings.head!r}, but the evaluation {head!r}: take the same one")
        if settings.ensemble is not Ensemble.NVT:
            raise StudyError(f"the run of an assessment is NVT, got {settings.ensemble.value!r}")


def _check_test(model: MaceModelData, test: DatasetData, level: str) -> None:
    """Refuse test frames without the level, of unknown elements, or that the model was trained on.

    Raises:
        MlFinetuneError: says which.
    """
    test.frames.labels(level)
    check_elements(test.elements, model.elements)
    training = model.creator if model.is_stored else None
    if training is not None and "train" in training.inputs:
        check_disjoint(training.inputs.train.frames, test.frames, ("training", "test"))


def _with_head(overrides: Mapping[str, Any], head: str) -> dict[str, Any]:
    return {**overrides, "parameters": {"head": head, **(overrides.get("parameters") or {})}}

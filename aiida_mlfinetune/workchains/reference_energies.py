"""``mlfinetune.reference_energies``: what labels determine of the reference energies that a training starts with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, ProcessBuilder, WorkChain, if_

from aiida_mlfinetune.calculations.functions.reference_energies import diagnose_reference_energies, frames_to_predict
from aiida_mlfinetune.calculations.mace_evaluate import MaceEvaluateCalculation
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.datasets.checks import elements_problem, overlap_problem
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge


class ReferenceEnergiesWorkChain(ProtocolMixin, WorkChain):
    """Diagnose reference energies (E0): rank of the compositions, first validation before and after, dissociation."""

    _PROTOCOL_FILE = "reference_energies.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("train", valid_type=DatasetData, help="Training frames, whose energies (eV) are fitted.")
        spec.input("valid", valid_type=DatasetData, help="Validation frames; none of them in `train`.")
        spec.input("level", valid_type=orm.Str, serializer=orm.to_aiida_type, help="Key of the level of the labels.")
        spec.input(
            "model",
            valid_type=MaceModelData,
            required=False,
            help="Model that the training starts from, or a trained one; without it the energies start at zero.",
        )
        spec.expose_inputs(
            MaceEvaluateCalculation,
            namespace="python",
            include=("code", "metadata", "parameters"),
            namespace_options={"required": False, "populate_defaults": False},
        )
        spec.inputs["python"].dynamic = False
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(if_(cls.has_model)(cls.predict, cls.inspect_prediction), cls.diagnose)
        spec.output(
            "diagnosis",
            valid_type=ObservableData,
            help="Error of the first validation after re-estimation (meV/atom); in `details` rank, condition, what is "
            "determined, shifts (eV), errors before and after, and the energies of isolated atoms against E0 (meV).",
        )
        spec.exit_code(350, "ERROR_PREDICTION_FAILED", message="The model could not be evaluated: {reason}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode | None,
        train: DatasetData,
        valid: DatasetData,
        level: str,
        model: MaceModelData | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        head: str | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            code: a Python with MACE; not needed without a model.
            train: training frames.
            valid: validation frames.
            level: key of the level of the labels.
            model: that the training starts from, or a trained one.
            protocol: demo, fast, balanced or kaur2025, which differ in nothing but the scheduler's options.
            overrides: in the layout of ``protocols/reference_energies.yaml``.
            options: scheduler options, laid over those of the protocol.
            head: of the model, if it has several.

        Raises:
            StudyError: unknown protocol or input, or inputs that do not fit each other.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        builder = cls.get_builder()
        builder.train, builder.valid, builder.level = train, valid, orm.Str(level)
        if model is not None:
            builder.model = model
            if code is not None:
                builder.python.code = code
            builder.python.metadata.options = merge(inputs["metadata"]["options"], options or {}, {""}, "options")
        if head is not None:
            builder.python.parameters = orm.Dict({"head": head})
        if problem := validate_inputs(builder._inputs(prune=True)):  # noqa: SLF001 - the builder's own content
            raise StudyError(problem)
        return builder

    def has_model(self) -> bool:
        """Whether there is a model whose energies count."""
        return "model" in self.inputs

    def predict(self) -> None:
        """Evaluate the model on both sets and on isolated atoms, in one job."""
        inputs = AttributeDict(self.exposed_inputs(MaceEvaluateCalculation, "python"))
        inputs.update(model=self.inputs.model, dataset=frames_to_predict(self.inputs.train, self.inputs.valid))
        self.to_context(prediction=self.submit(MaceEvaluateCalculation, **inputs))

    def inspect_prediction(self) -> ExitCode | None:
        """Check the job."""
        job = self.ctx.prediction
        if not job.is_finished_ok:
            return self.exit_codes.ERROR_PREDICTION_FAILED.format(reason=f"[{job.exit_status}] {job.exit_message}")
        return None

    def diagnose(self) -> None:
        """Make the diagnosis."""
        more = {}
        if self.has_model():
            more = {"model": self.inputs.model, "predicted": self.ctx.prediction.outputs.dataset}
            if "parameters" in self.inputs.python:
                more["parameters"] = self.inputs.python.parameters
        diagnosis = diagnose_reference_energies(self.inputs.train, self.inputs.valid, self.inputs.level, **more)
        self.report(diagnosis.details["determination"]["sentence"])
        self.out("diagnosis", diagnosis)


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check that the sets are labelled and share no frame, and that the model knows their elements."""
    if any(name not in inputs for name in ("train", "valid", "level")):
        return None
    sets = {name: inputs[name] for name in ("train", "valid")}
    for name, dataset in sets.items():
        try:
            labels = dataset.frames.labels(inputs["level"].value)
        except MlFinetuneError as error:
            return f"{name}: {error}"
        if not labels.has_energy.any():
            return f"{name}: no frame has an energy at level {inputs['level'].value!r}"
    if problem := overlap_problem(sets["train"].frames, sets["valid"].frames):
        return problem
    model, python = inputs.get("model"), inputs.get("python", {})
    if model is None:
        return "`python` is there to evaluate a model: give the input `model` too, or leave it out" if python else None
    if "code" not in python:
        return "a model needs `python.code`, a Python with MACE, to be evaluated"
    head = python["parameters"].get_dict().get("head") if "parameters" in python else None
    if head is None and len(model.heads) > 1:
        return f"the model has the heads {model.heads}: say in the parameter 'head' which one"
    if head is not None and head not in model.heads:
        return f"the model has no head {head!r}: it has {model.heads}"
    elements = dict.fromkeys(element for dataset in sets.values() for element in dataset.elements)
    return elements_problem(elements, model.elements)

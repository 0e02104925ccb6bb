"""``mlfinetune.replay``: a replay set of a foundation's own data, for fine-tuning that does not forget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ExitCode, ProcessBuilder, WorkChain, if_

from aiida_mlfinetune.calculations.functions.replay import CANDIDATES, farthest_replay, fill_replay, replay_candidates
from aiida_mlfinetune.calculations.mace_descriptors import MaceDescriptorsCalculation
from aiida_mlfinetune.calculations.mace_descriptors import validate_parameters as validate_descriptors
from aiida_mlfinetune.calculations.mace_evaluate import MaceEvaluateCalculation
from aiida_mlfinetune.calculations.mace_evaluate import validate_inputs as validate_evaluation
from aiida_mlfinetune.calculations.mace_evaluate import validate_parameters as validate_prediction
from aiida_mlfinetune.calculations.validators import PYTHON_PLUGINS, validate_dict, validate_program
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.checks import elements_problem
from aiida_mlfinetune.science.training.replay import ReplayLabels, ReplaySettings
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge

OF_DESCRIPTORS = ("parser_name", "output_filename")
"""Options of the jobs that have other defaults for the descriptors than for the labels."""


class ReplayWorkChain(ProtocolMixin, WorkChain):
    """Take frames that hold elements of the new data, fill up at random, or spread them out by farthest points.

    Nothing of the new data but its elements goes in, so that all runs on the same elements share the set.
    """

    _PROTOCOL_FILE = "replay.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("dataset", valid_type=DatasetData, help="The data of the foundation.")
        spec.input("model", valid_type=MaceModelData, help="The foundation, whose descriptors tell frames apart.")
        spec.input(
            "elements",
            valid_type=orm.List,
            serializer=orm.to_aiida_type,
            help="Chemical symbols of the new data, in alphabetical order.",
        )
        spec.input(
            "parameters",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_dict(ReplaySettings.from_dict),
            help="`n_frames`, `seed`, `elements` (at-least-two of those of the new data, every one, or none), `labels` "
            "(own, or foundation for its predictions), `level` (key of the labels that frames must have).",
        )
        spec.input(
            "descriptors",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({}),
            validator=validate_descriptors,
            help="How descriptors are computed: `batch_size` (frames), `dtype`, `device`.",
        )
        spec.input(
            "prediction",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({}),
            validator=validate_prediction,
            help="How the foundation predicts labels, as `mlfinetune.mace_evaluate` takes it: `head` (needed if it has "
            "several), `key` of the level, `batch_size` (frames), `dtype`, `device`.",
        )
        spec.expose_inputs(MaceDescriptorsCalculation, namespace="python", include=("code", "metadata"))
        spec.inputs["python"].dynamic = False
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.find_candidates,
            if_(cls.are_too_many)(cls.describe, cls.take_farthest).else_(cls.fill),
            if_(cls.are_labels_predicted)(cls.predict, cls.inspect_prediction),
            cls.results,
        )
        spec.output("dataset", valid_type=DatasetData, help="The replay set, with its labels (eV, eV/A, eV/A^3).")
        spec.output(
            "selection",
            valid_type=orm.Dict,
            help="`n_candidates`, `n_random`, `farthest_points` (whether they were used) and `radius`: the largest "
            "distance of a candidate from the set, in the measure of the descriptors.",
        )
        spec.exit_code(300, "ERROR_DESCRIPTORS_FAILED", message="The descriptors failed: [{status}] {message}")
        spec.exit_code(310, "ERROR_PSEUDOLABELS_FAILED", message="The foundation's labels failed: [{status}] {message}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        dataset: DatasetData,
        model: MaceModelData,
        elements: Sequence[str] | DatasetData,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        head: str | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            code: a Python with MACE.
            dataset: the data of the foundation.
            model: the foundation.
            elements: chemical symbols of the new data, or these data.
            protocol: demo, fast, balanced, kaur2025, caco3 or mace-mp.
            overrides: in the layout of ``protocols/replay.yaml``; the ``level`` of the parameters is by default the one
                that the foundation's passport names, if its labels are kept.
            options: scheduler options, laid over those of the protocol.
            head: of the foundation: the one whose level is kept, or that predicts; needed if it has several.

        Raises:
            StudyError: unknown protocol or input; a code, level, head or size that cannot be used.
            FramesError: settings that cannot be.
        """
        given = {key: dict(value) if isinstance(value, Mapping) else value for key, value in (overrides or {}).items()}
        level = given.get("parameters", {}).pop("level", None)
        inputs = cls.get_protocol_inputs(protocol, given)
        own = inputs["parameters"]["labels"] == ReplayLabels.OWN.value
        if level is None and own:
            level = model.passport.levels.get(head or model.heads[-1])
            if level is None:
                raise StudyError(
                    "the passport of the foundation does not name its level of theory: say in the parameter 'level' "
                    f"which of {sorted(dataset.levels)} the replay set keeps, or use labels: foundation"
                )
        settings = ReplaySettings.from_dict({**inputs["parameters"], "level": level})
        if problem := validate_program(*PYTHON_PLUGINS)(code, None):
            raise StudyError(problem)
        builder = cls.get_builder()
        builder.dataset, builder.model = dataset, model
        symbols = sorted(elements.elements if isinstance(elements, DatasetData) else set(elements))
        builder.elements = orm.List(symbols)
        builder.parameters = orm.Dict(settings.to_dict())
        builder.descriptors = orm.Dict(inputs["evaluation"])
        builder.prediction = orm.Dict({**inputs["evaluation"], **({} if head is None else {"head": head})})
        builder.python.code = code
        builder.python.metadata.options = merge(inputs["python"]["metadata"]["options"], options or {}, {""}, "options")
        if problem := validate_inputs(builder):
            raise StudyError(problem)
        AIIDA_LOGGER.report(
            f"replay set: {settings.n_frames} of {dataset.n_frames} frames for {', '.join(symbols)}, labels: "
            f"{settings.level if own else 'by the foundation'}"
        )
        return builder

    def find_candidates(self) -> None:
        """Take the frames with the elements of the new data."""
        self.ctx.sets = replay_candidates(self.inputs.dataset, self.inputs.elements, self.inputs.parameters)

    def are_too_many(self) -> bool:
        """Whether there are more candidates than are wanted."""
        wanted = self.inputs.parameters["n_frames"]
        return CANDIDATES in self.ctx.sets and self.ctx.sets[CANDIDATES].n_frames > wanted

    def describe(self) -> Any:
        """Compute the descriptors of the candidates."""
        node = self.submit(
            MaceDescriptorsCalculation,
            **self._job_inputs(),
            dataset=self.ctx.sets[CANDIDATES],
            parameters=self.inputs.descriptors,
        )
        self.report(f"submitted {node.process_label}<{node.pk}> for {self.ctx.sets[CANDIDATES].n_frames} candidates")
        return self.to_context(described=node)

    def take_farthest(self) -> ExitCode | None:
        """Spread the set out over the candidates."""
        job = self.ctx.described
        if not job.is_finished_ok:
            return self.exit_codes.ERROR_DESCRIPTORS_FAILED.format(status=job.exit_status, message=job.exit_message)
        candidates = self.ctx.sets[CANDIDATES]
        self.ctx.chosen = farthest_replay(candidates, job.outputs.descriptors, self.inputs.parameters)
        return None

    def fill(self) -> None:
        """Take all candidates, and others at random."""
        self.ctx.chosen = fill_replay(self.inputs.parameters, **self.ctx.sets)

    def are_labels_predicted(self) -> bool:
        """Whether the foundation is to predict the labels."""
        return self.inputs.parameters["labels"] == ReplayLabels.FOUNDATION.value

    def predict(self) -> Any:
        """Let the foundation predict energies, forces and stress."""
        inputs = self._job_inputs()
        for name in OF_DESCRIPTORS:
            inputs.metadata.options.pop(name, None)
        node = self.submit(
            MaceEvaluateCalculation,
            **inputs,
            dataset=self.ctx.chosen["dataset"],
            parameters=self.inputs.prediction,
        )
        self.report(f"submitted {node.process_label}<{node.pk}> for the labels")
        return self.to_context(predicted=node)

    def inspect_prediction(self) -> ExitCode | None:
        """Take the labels."""
        job = self.ctx.predicted
        if not job.is_finished_ok:
            return self.exit_codes.ERROR_PSEUDOLABELS_FAILED.format(status=job.exit_status, message=job.exit_message)
        self.ctx.chosen = {**self.ctx.chosen, "dataset": job.outputs.dataset}
        return None

    def results(self) -> None:
        """Attach the outputs."""
        self.out("dataset", self.ctx.chosen["dataset"])
        self.out("selection", self.ctx.chosen["selection"])

    def _job_inputs(self) -> AttributeDict:
        inputs = AttributeDict(self.exposed_inputs(MaceDescriptorsCalculation, "python"))
        inputs.model = self.inputs.model
        return inputs


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several inputs at once."""
    if any(name not in inputs for name in ("dataset", "model", "elements", "parameters")):
        return None
    dataset, model = inputs["dataset"], inputs["model"]
    settings = ReplaySettings.from_dict(inputs["parameters"].get_dict())
    elements = inputs["elements"].get_list()
    if not elements or elements != sorted(set(elements)):
        return f"the elements of the new data are {elements}: list each once, in alphabetical order"
    if problem := elements_problem(dataset.elements, model.elements, model="the foundation"):
        return problem
    if settings.level is not None and settings.level not in dataset.levels:
        return f"the data of the foundation have no level {settings.level!r}: they have {sorted(dataset.levels)}"
    usable = dataset.n_frames if settings.level is None else dataset.levels[settings.level]["counts"]["energy"]
    if usable < settings.n_frames:
        return f"a replay set of {settings.n_frames} frames is asked for, but only {usable} can be used: ask for fewer"
    if settings.labels is ReplayLabels.FOUNDATION:
        return _prediction_problem(inputs)
    return None


def _prediction_problem(inputs: Mapping[str, Any]) -> str | None:
    """Return why the foundation cannot predict labels, None if it can."""
    own = {name: inputs[name] for name in ("model", "dataset")}
    if "prediction" in inputs:
        own["parameters"] = inputs["prediction"]
    return validate_evaluation(own, None)

"""``mlfinetune.training``: split a labelled dataset, train a model on it, and go on where a time limit cut in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import BaseRestartWorkChain, ProcessBuilder, ProcessHandlerReport, if_, process_handler, while_

from aiida_mlfinetune.calculations.functions.dataset import add_level, join, split
from aiida_mlfinetune.calculations.functions.levels import subtract_levels
from aiida_mlfinetune.calculations.functions.training import (
    BATCHES,
    delta_levels,
    prediction_parameters,
    with_lower_rate,
    with_smaller_batches,
)
from aiida_mlfinetune.calculations.mace_evaluate import MaceEvaluateCalculation
from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation, validate_parameters
from aiida_mlfinetune.calculations.validators import validate_dict
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.checks import check_elements
from aiida_mlfinetune.science.datasets.splits import SETS, SplitSizes
from aiida_mlfinetune.science.models.levels import model_level_key
from aiida_mlfinetune.science.training.checks import inputs_problem
from aiida_mlfinetune.science.training.heads import replay_level
from aiida_mlfinetune.science.training.inputs import parameters_problem
from aiida_mlfinetune.science.training.mace_arguments import DEFAULTS
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge
from aiida_mlfinetune.workchains.training_inputs import check_sets, split_sets, validate_inputs

EXIT = MaceTrainCalculation.exit_codes
SET_BY_CHAIN = (
    "train",
    "valid",
    "test",
    "level",
    "foundation",
    "heads",
    "replay",
    "parameters",
    "e0s",
    "parent_folder",
)
TRAINING_OPTIONS = ("parser_name", "output_filename")
"""Options of the training job that its predictions do not share."""
ARCHITECTURE = {"foundation": TrainingMode.NAIVE, "nothing": TrainingMode.SCRATCH}
"""The section of the protocol that a mode's own is laid over, by what the training starts from."""
MAX_LOWER_RATES = 2
"""How often a training that diverged is repeated at a lower rate."""


class TrainingWorkChain(ProtocolMixin, BaseRestartWorkChain):
    """A MACE model from a labelled dataset, in any of the training modes."""

    _process_class = MaceTrainCalculation
    _PROTOCOL_FILE = "training.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.expose_inputs(MaceTrainCalculation, namespace="python", exclude=SET_BY_CHAIN)
        spec.inputs["python"].dynamic = False
        spec.input("dataset", valid_type=DatasetData, required=False, help="Labelled frames, to be split by `split`.")
        spec.input(
            "split",
            valid_type=orm.Dict,
            required=False,
            serializer=orm.to_aiida_type,
            validator=validate_dict(SplitSizes.from_dict),
            help="Sizes of `valid`, `test` and `train` (all counts or all fractions; `train` gets the rest by default),"
            " `seed`, and `min_separation` in steps of the run that frames were taken from.",
        )
        for name in SETS:
            spec.input(
                name, valid_type=DatasetData, required=False, help=f"The {name} set, instead of `dataset` and `split`."
            )
        spec.input("level", valid_type=orm.Str, serializer=orm.to_aiida_type, help="Key of the level to train on.")
        spec.input("foundation", valid_type=MaceModelData, required=False, help="Model to start from.")
        spec.input(
            "heads",
            valid_type=orm.Dict,
            required=False,
            serializer=orm.to_aiida_type,
            help="In the modes multi-level and multi-fidelity: level key by name of each further head.",
        )
        spec.input(
            "replay",
            valid_type=DatasetData,
            required=False,
            help="In mode multihead-replay: frames of the foundation's own data. Without the parameter `replay_level` "
            "they are labelled by the foundation first.",
        )
        spec.input(
            "baseline",
            valid_type=MaceModelData,
            required=False,
            help="In mode delta: the model that the trained one will be added to. It labels the frames first; or the "
            "parameter `baseline_level` names labels that they have.",
        )
        spec.input(
            "parameters",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_parameters,
            help="`mode`, `seed`, and arguments of mace_run_train: see `mlfinetune.mace_train`.",
        )
        spec.input(
            "e0s",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({"source": "estimated"}),
            help="Atomic reference energies (eV): see `mlfinetune.mace_train`.",
        )
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.setup,
            cls.make_sets,
            if_(cls.should_predict)(cls.run_predictions, cls.inspect_predictions),
            if_(cls.is_delta)(cls.subtract_baseline),
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.results,
        )
        spec.expose_outputs(MaceTrainCalculation, exclude=("remote_folder", "remote_stash", "retrieved"))
        for name in SETS:
            spec.output(name, valid_type=DatasetData, required=name != "test", help=f"The {name} set.")
        spec.exit_code(
            310,
            "ERROR_PREDICTIONS_FAILED",
            message="The frames could not be labelled by the model that they should be labelled by: {details}",
        )
        spec.exit_code(
            312, "ERROR_STILL_DIVERGES", message="The training diverged at every learning rate that was tried: {rates}"
        )
        spec.exit_code(
            313, "ERROR_STILL_OUT_OF_MEMORY", message="The training ran out of memory even with batches of {size}."
        )
        spec.exit_code(
            311, "ERROR_NO_PROGRESS", message="A resumed training got no further: raise the wall-clock limit."
        )

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        dataset: DatasetData | None,
        level: str,
        foundation: MaceModelData | None = None,
        mode: TrainingMode | str | None = None,
        heads: Mapping[str, str] | None = None,
        replay: DatasetData | None = None,
        baseline: MaceModelData | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            code: a Python with MACE.
            dataset: labelled frames; may be None where a work chain makes them later, or where the builder's inputs
                ``train``, ``valid`` and ``test`` are set afterwards.
            level: key of the level to train on.
            foundation: model to start from.
            mode: one of ``TrainingMode``; by default naive if there is a foundation, else scratch.
            heads: level key by name of each further head, in the modes multi-level and multi-fidelity.
            replay: frames of the foundation's own data, in mode multihead-replay.
            baseline: model that the trained one will be added to, in mode delta.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/training.yaml``; null removes a parameter.
            options: scheduler options, laid over those of the protocol.

        Raises:
            StudyError: unknown protocol or input, or parameters that MACE does not know or would ignore.
            MlFinetuneError: frames that cannot be trained on, such as those of elements unknown to the foundation.
        """
        chosen = TrainingMode(mode or (TrainingMode.SCRATCH if foundation is None else TrainingMode.NAIVE))
        inputs = cls.get_protocol_inputs(protocol, overrides)
        parameters = cls._parameters(chosen, protocol, overrides, foundation is not None)
        problem = parameters_problem(parameters) or inputs_problem(parameters, inputs["e0s"], heads, level)
        if problem is not None:
            raise StudyError(problem)
        sizes = SplitSizes.from_dict(inputs["split"])
        builder = cls.get_builder()
        models = {"foundation": foundation, "replay": replay, "baseline": baseline}
        given = {name: node for name, node in models.items() if node is not None}
        if dataset is not None:
            if foundation is not None:
                check_elements(dataset.elements, foundation.elements, "the foundation")
            check_sets(split_sets(dataset, sizes), level, parameters, inputs["e0s"], heads, given)
            builder.dataset = dataset
        for name, node in given.items():
            builder[name] = node
        if heads is not None:
            builder.heads = orm.Dict(dict(heads))
        builder.split = orm.Dict(inputs["split"])
        builder.level = orm.Str(level)
        builder.parameters = orm.Dict(parameters)
        builder.e0s = orm.Dict(inputs["e0s"])
        builder.max_iterations = orm.Int(inputs["max_iterations"])
        builder.clean_workdir = orm.Bool(inputs["clean_workdir"])
        builder.python.code = code
        builder.python.metadata.options = merge(inputs["python"]["metadata"]["options"], options or {}, {""}, "options")
        start = "" if foundation is None else f" of the model with sha256 {foundation.sha256[:12]}"
        AIIDA_LOGGER.report(
            f"training: mode {chosen.value}{start}, level {level!r}, at most {parameters['max_num_epochs']} epochs, "
            f"loss {parameters.get('loss', 'weighted')!r}, seed {parameters['seed']}"
        )
        return builder

    @classmethod
    def _parameters(
        cls, mode: TrainingMode, protocol: str | None, overrides: Mapping[str, Any] | None, fine_tuned: bool
    ) -> dict[str, Any]:
        """Return the parameters of a mode: the protocol's common ones, its own, then a user's; null removes one.

        A mode that starts from a foundation shares those of ``naive``, one that starts from nothing those of
        ``scratch``.
        """
        shared = ARCHITECTURE["foundation" if fine_tuned or mode.needs_foundation else "nothing"].value
        sections = ["parameters", shared, *([mode.value] if mode.value != shared else [])]
        merged: dict[str, Any] = {}
        for source in (cls.get_protocol_inputs(protocol), overrides or {}):
            for section in sections:
                merged.update(source.get(section) or {})
        return {"mode": mode.value} | {name: value for name, value in merged.items() if value is not None}

    def make_sets(self) -> None:
        """Split the dataset, unless the sets are given."""
        if "dataset" in self.inputs:
            sets = split(self.inputs.dataset, self.inputs.split)
        else:
            sets = {name: self.inputs[name] for name in SETS if name in self.inputs}
        self.ctx.inputs = AttributeDict(self.exposed_inputs(MaceTrainCalculation, "python"))
        for name in ("level", "parameters", "e0s", "foundation", "heads", "replay"):
            if name in self.inputs:
                self.ctx.inputs[name] = self.inputs[name]
        self.ctx.sets = AttributeDict(sets)
        for name, dataset in sets.items():
            self.ctx.inputs[name] = dataset
            self.out(name, dataset)
        self.ctx.to_predict = self._unlabelled()

    def _unlabelled(self) -> dict[str, dict[str, orm.Data]]:
        """Return what a model has to label first: the foundation the replay set, the baseline all sets in one."""
        if "replay" in self.inputs:
            key = replay_level(self.inputs.parameters.get_dict(), self.inputs.foundation.passport)
            if key not in self.inputs.replay.levels:
                return {"replay": {"model": self.inputs.foundation, "dataset": self.inputs.replay}}
        if "baseline" in self.inputs:
            key = model_level_key(self.inputs.baseline.sha256)
            missing = {name: dataset for name, dataset in self.ctx.sets.items() if key not in dataset.levels}
            if missing:
                return {"sets": {"model": self.inputs.baseline, "dataset": join(**missing)}}
        return {}

    def should_predict(self) -> bool:
        """Whether a model has to label frames first."""
        return bool(self.ctx.to_predict)

    def run_predictions(self) -> None:
        """Label frames by a model."""
        options = {
            name: value
            for name, value in self.ctx.inputs.metadata.get("options", {}).items()
            if name not in TRAINING_OPTIONS
        }
        for name, given in self.ctx.to_predict.items():
            model = given["model"]
            inputs = {
                **given,
                "code": self.ctx.inputs.code,
                "parameters": prediction_parameters(self.inputs.parameters, model),
                "metadata": {"options": options, "call_link_label": f"predict_{name}"},
            }
            job = self.submit(MaceEvaluateCalculation, **inputs)
            self.report(
                f"labelling the frames of the {name} by model {model.sha256[:8]}: {job.process_label}<{job.pk}>"
            )
            self.to_context(**{f"predict_{name}": job})

    def inspect_predictions(self) -> Any:
        """Check that the frames were labelled."""
        for name in self.ctx.to_predict:
            job = self.ctx[f"predict_{name}"]
            if not job.is_finished_ok:
                details = f"{job.process_label}<{job.pk}> ended with exit status {job.exit_status}: {job.exit_message}"
                self.report(details)
                return self.exit_codes.ERROR_PREDICTIONS_FAILED.format(details=details)
            if name == "replay":
                self.ctx.inputs.replay = job.outputs.dataset
        return None

    def is_delta(self) -> bool:
        """Whether the model is one of a difference."""
        return self.inputs.parameters["mode"] == TrainingMode.DELTA.value

    def subtract_baseline(self) -> None:
        """Put the differences of the two levels in the place of the labels."""
        models = {"baseline": self.inputs.baseline} if "baseline" in self.inputs else {}
        keys = delta_levels(self.inputs.level, self.inputs.parameters, **models)
        for name, dataset in self.ctx.sets.items():
            whole = dataset
            if keys["baseline"].value not in dataset.levels:
                whole = add_level(dataset, self.ctx.predict_sets.outputs.dataset, keys["baseline"])
            self.ctx.inputs[name] = subtract_levels(whole, self.inputs.level, keys["baseline"])
        self.ctx.inputs.level = keys["difference"]

    def get_outputs(self, node: orm.CalcJobNode) -> Mapping[str, orm.Data]:
        """Return the outputs of a training, and the sets that it was given: they are outputs of this chain alone."""
        return {**super().get_outputs(node), **self.ctx.sets}

    @process_handler(priority=500, exit_codes=[EXIT.ERROR_LOSS_NAN, EXIT.ERROR_LOSS_EXPLODED])
    def lower_the_rate(self, calculation: orm.CalcJobNode) -> ProcessHandlerReport:
        """A training that diverged is made again at a lower learning rate, from the beginning."""
        rates = [*self.ctx.get("rates", []), rate_of(self.ctx.inputs.parameters)]
        self.ctx.rates = rates
        if len(rates) > MAX_LOWER_RATES:
            return ProcessHandlerReport(True, self.exit_codes.ERROR_STILL_DIVERGES.format(rates=rates))
        self._start_again(with_lower_rate(self.ctx.inputs.parameters))
        self.report(
            f"{calculation.process_label}<{calculation.pk}> diverged at the learning rate {rates[-1]:g}: training "
            f"again from the beginning at {rate_of(self.ctx.inputs.parameters):g}"
        )
        return ProcessHandlerReport(True)

    @process_handler(priority=490, exit_codes=[EXIT.ERROR_OUT_OF_MEMORY])
    def take_smaller_batches(self, calculation: orm.CalcJobNode) -> ProcessHandlerReport:
        """A training that ran out of memory is made again with batches of half the size, from the beginning."""
        old = batches_of(self.ctx.inputs.parameters)
        self._start_again(with_smaller_batches(self.ctx.inputs.parameters))
        new = batches_of(self.ctx.inputs.parameters)
        if new == old:
            return ProcessHandlerReport(True, self.exit_codes.ERROR_STILL_OUT_OF_MEMORY.format(size=old["batch_size"]))
        self.report(
            f"{calculation.process_label}<{calculation.pk}> ran out of memory with {old}: training again from the "
            f"beginning with {new}"
        )
        return ProcessHandlerReport(True)

    def _start_again(self, parameters: orm.Dict) -> None:
        self.ctx.inputs.parameters = parameters
        self.ctx.inputs.pop("parent_folder", None)
        self.ctx.last_epoch = -1

    @process_handler(priority=410, exit_codes=[EXIT.ERROR_NO_MODEL, EXIT.ERROR_INTERRUPTED])
    def try_once_more(self, calculation: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """A training that was killed before its first epoch was over is made again, once."""
        if _last_epoch(calculation) >= 0 or "lost" in self.ctx:
            return None
        self.ctx.lost = calculation.pk
        self.ctx.inputs.metadata.disable_cache = True  # the cache would answer with the job that was killed
        self.report(f"{calculation.process_label}<{calculation.pk}> left nothing to go on from: once more")
        return ProcessHandlerReport(True)

    @process_handler(priority=400, exit_codes=[EXIT.ERROR_OUT_OF_WALLTIME, EXIT.ERROR_INTERRUPTED])
    def continue_from_saved_state(self, calculation: orm.CalcJobNode) -> ProcessHandlerReport:
        """A training that was cut short goes on from its saved state."""
        epoch = _last_epoch(calculation)
        if epoch <= self.ctx.get("last_epoch", -1):
            return ProcessHandlerReport(True, self.exit_codes.ERROR_NO_PROGRESS)
        self.ctx.last_epoch = epoch
        self.ctx.inputs.parent_folder = calculation.outputs.remote_folder
        self.report(f"{calculation.process_label}<{calculation.pk}> was cut short after epoch {epoch}, going on")
        return ProcessHandlerReport(True)


def _last_epoch(calculation: orm.CalcJobNode) -> int:
    """Return the last epoch that a training is known to have got to; one that is killed leaves no loss curve."""
    if "loss_curve" in calculation.outputs:
        return int(calculation.outputs.loss_curve.get_array("epoch").max())
    name = MaceTrainCalculation.PROGRESS_FILENAME
    if "retrieved" not in calculation.outputs or name not in calculation.outputs.retrieved.list_object_names():
        return -1
    try:
        epoch = json.loads(calculation.outputs.retrieved.get_object_content(name)).get("epoch")
    except ValueError:  # killed while it wrote
        return -1
    return -1 if epoch is None else int(epoch)


def rate_of(parameters: orm.Dict) -> float:
    """Return the learning rate of a training."""
    return float(parameters.get("lr", DEFAULTS["lr"]))


def batches_of(parameters: orm.Dict) -> dict[str, int]:
    """Return the sizes of the batches of a training."""
    return {name: parameters.get(name, DEFAULTS[name]) for name in BATCHES}

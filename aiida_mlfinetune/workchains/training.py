"""``mlfinetune.training``: split a labelled dataset, train a model on it, and go on where a time limit cut in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import BaseRestartWorkChain, ProcessBuilder, ProcessHandlerReport, process_handler, while_

from aiida_mlfinetune.calculations.functions.dataset import split
from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation, validate_parameters
from aiida_mlfinetune.calculations.validators import validate_dict
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.checks import check_elements
from aiida_mlfinetune.science.splits import SETS, SplitSizes, split_frames
from aiida_mlfinetune.science.training_input import check_training, e0s_problem, parameters_problem
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge

EXIT = MaceTrainCalculation.exit_codes
SET_BY_CHAIN = ("train", "valid", "test", "level", "foundation", "parameters", "e0s", "parent_folder")


class TrainingWorkChain(ProtocolMixin, BaseRestartWorkChain):
    """A MACE model from a labelled dataset: from scratch, or fine-tuned from a foundation."""

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
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.results,
        )
        spec.expose_outputs(MaceTrainCalculation, exclude=("remote_folder", "remote_stash", "retrieved"))
        for name in SETS:
            spec.output(name, valid_type=DatasetData, required=name != "test", help=f"The {name} set.")
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
            mode: scratch or naive; naive by default if there is a foundation.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/training.yaml``; null removes a parameter.
            options: scheduler options, laid over those of the protocol.

        Raises:
            StudyError: unknown protocol or input, or parameters that MACE does not know or would ignore.
            MlFinetuneError: frames that cannot be trained on, such as those of elements unknown to the foundation.
        """
        chosen = TrainingMode(mode or (TrainingMode.SCRATCH if foundation is None else TrainingMode.NAIVE))
        inputs = cls.get_protocol_inputs(protocol, overrides)
        parameters = cls._parameters(chosen, protocol, overrides)
        if (problem := parameters_problem(parameters) or e0s_problem(inputs["e0s"], chosen.value)) is not None:
            raise StudyError(problem)
        sizes = SplitSizes.from_dict(inputs["split"])
        builder = cls.get_builder()
        if dataset is not None:
            if foundation is not None:
                check_elements(dataset.elements, foundation.elements, "the foundation")
            _check_split(dataset, sizes, level, parameters, inputs["e0s"], foundation)
            builder.dataset = dataset
        if foundation is not None:
            builder.foundation = foundation
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
        cls, mode: TrainingMode, protocol: str | None, overrides: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Return the parameters of a mode: the protocol's common ones, its own, then a user's; null removes one."""
        layers: list[Mapping[str, Any]] = []
        for source in (cls.get_protocol_inputs(protocol), overrides or {}):
            layers += [source.get("parameters") or {}, source.get(mode.value) or {}]
        merged: dict[str, Any] = {}
        for layer in layers:
            merged.update(layer)
        return {"mode": mode.value} | {name: value for name, value in merged.items() if value is not None}

    def make_sets(self) -> None:
        """Split the dataset, unless the sets are given."""
        if "dataset" in self.inputs:
            sets = split(self.inputs.dataset, self.inputs.split)
        else:
            sets = {name: self.inputs[name] for name in SETS if name in self.inputs}
        self.ctx.inputs = AttributeDict(self.exposed_inputs(MaceTrainCalculation, "python"))
        for name in ("level", "parameters", "e0s", "foundation"):
            if name in self.inputs:
                self.ctx.inputs[name] = self.inputs[name]
        for name, dataset in sets.items():
            self.ctx.inputs[name] = dataset
            self.out(name, dataset)

    def get_outputs(self, node: orm.CalcJobNode) -> Mapping[str, orm.Data]:
        """Return the outputs of a training, and the sets that it was given: they are outputs of this chain alone."""
        sets = {name: self.ctx.inputs[name] for name in SETS if name in self.ctx.inputs}
        return {**super().get_outputs(node), **sets}

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
    if "loss_curve" not in calculation.outputs:
        return -1
    return int(calculation.outputs.loss_curve.get_array("epoch").max())


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check that the sets are given in one way, and that they can be trained on."""
    sets = [name for name in SETS if name in inputs]
    if "dataset" in inputs and sets:
        return f"give either 'dataset' and 'split', or the sets themselves: both 'dataset' and {sets} are there"
    if "dataset" in inputs and "split" not in inputs:
        return "the input 'split' is missing: how to split 'dataset'"
    if sets and not {"train", "valid"} <= set(sets):
        return f"the sets 'train' and 'valid' are both needed, got {sets}"
    if any(name not in inputs for name in ("level", "parameters", "e0s")):
        return None
    parameters, e0s = inputs["parameters"].get_dict(), inputs["e0s"].get_dict()
    if (problem := e0s_problem(e0s, parameters["mode"])) is not None:
        return problem
    foundation = inputs.get("foundation")
    try:
        if "dataset" in inputs:
            sizes = SplitSizes.from_dict(inputs["split"].get_dict())
            _check_split(inputs["dataset"], sizes, inputs["level"].value, parameters, e0s, foundation)
        elif sets:
            frames = {name: inputs[name].frames for name in sets}
            check_training(
                frames["train"],
                frames["valid"],
                frames.get("test"),
                inputs["level"].value,
                parameters,
                e0s,
                None if foundation is None else foundation.passport,
            )
    except MlFinetuneError as error:
        return str(error)
    return None


def _check_split(
    dataset: DatasetData,
    sizes: SplitSizes,
    level: str,
    parameters: Mapping[str, Any],
    e0s: Mapping[str, Any],
    foundation: MaceModelData | None,
) -> None:
    """Check a training on the sets that ``split`` will make.

    Raises:
        MlFinetuneError: they cannot be made or trained on.
    """
    sets = {name: dataset.frames.select(chosen) for name, chosen in split_frames(dataset.frames, sizes).items()}
    if not len(sets["valid"]):
        raise StudyError("the validation set is empty: give 'valid' a size in 'split'")
    check_training(
        sets["train"],
        sets["valid"],
        sets["test"] if len(sets["test"]) else None,
        level,
        parameters,
        e0s,
        None if foundation is None else foundation.passport,
    )

"""``mlfinetune.mace_evaluate``: one batched pass of a model over a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec

from aiida_mlfinetune.calculations.validators import PYTHON_PLUGINS, validate_program
from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.checks import elements_problem
from aiida_mlfinetune.science.frames import write_geometry
from aiida_mlfinetune.science.levels import Level
from aiida_mlfinetune.science.model_levels import model_level

DEFAULT_PARAMETERS = {"batch_size": 16, "dtype": "float64", "device": "cpu"}
CHOICES = {"dtype": ("float32", "float64"), "device": ("cpu", "cuda", "mps", "xpu")}
NAMES = ("head", "key", *DEFAULT_PARAMETERS)


def validate_parameters(node: orm.Dict | None, _: Any) -> str | None:
    """Refuse unknown names and impossible values."""
    if node is None:
        return None
    parameters = node.get_dict()
    if unknown := sorted(set(parameters) - set(NAMES)):
        return f"unknown parameters {unknown}: known are {list(NAMES)}"
    for name, choices in CHOICES.items():
        if name in parameters and parameters[name] not in choices:
            return f"{name!r} must be one of {list(choices)}, got {parameters[name]!r}"
    size = parameters.get("batch_size", 1)
    if not isinstance(size, int) or size < 1:
        return f"'batch_size' must be a whole number of at least 1, got {size!r}"
    return None


def validate_inputs(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Refuse heads and elements that the model lacks, and levels that the dataset has already."""
    if "model" not in inputs or "dataset" not in inputs:
        return None
    model, dataset = inputs["model"], inputs["dataset"]
    parameters = inputs["parameters"].get_dict() if "parameters" in inputs else {}
    if (problem := elements_problem(dataset.elements, model.elements)) is not None:
        return problem
    head = parameters.get("head")
    if head is None and len(model.heads) > 1:
        return f"the model has the heads {model.heads}: say in the parameter 'head' which one predicts"
    if head is not None and head not in model.heads:
        return f"the model has no head {head!r}: it has {model.heads}"
    try:
        key = level_of(model, parameters).key
    except LabelsError as error:
        return str(error)
    if key in dataset.levels:
        return f"the dataset has the level {key!r} already: give another name in the parameter 'key'"
    return None


def level_of(model: MaceModelData, parameters: Mapping[str, Any]) -> Level:
    """Return the level of the labels that ``model`` predicts with ``parameters``."""
    head = parameters.get("head", model.heads[-1])
    dtype = parameters.get("dtype", DEFAULT_PARAMETERS["dtype"])
    return model_level(model.sha256, head, dtype, key=parameters.get("key"))


class MaceEvaluateCalculation(CalcJob):
    """Energies, forces and stress of all frames of a dataset by a MACE model."""

    PROGRAM_FILENAME = "mace_evaluate.py"
    JOB_FILENAME = "evaluate.json"
    MODEL_FILENAME = "model.model"
    FRAMES_FILENAME = "frames.npz"
    LABELS_FILENAME = "labels.npz"
    OUTPUT_FILENAME = "evaluate.log"

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs, outputs and exit codes."""
        super().define(spec)
        spec.inputs["code"].validator = validate_program(*PYTHON_PLUGINS)
        spec.input("model", valid_type=MaceModelData, help="The model that predicts.")
        spec.input("dataset", valid_type=DatasetData, help="The frames to predict; their labels are kept.")
        spec.input(
            "parameters",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({}),
            validator=validate_parameters,
            help="`head` (needed if the model has several), `key` of the new level (by default <sha256>/mace), "
            "`batch_size` (frames), `dtype`, `device`.",
        )
        spec.inputs.validator = validate_inputs
        options = spec.inputs["metadata"]["options"]
        options["parser_name"].default = "mlfinetune.mace_evaluate"
        options["output_filename"].default = cls.OUTPUT_FILENAME
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False
        spec.output("dataset", valid_type=DatasetData, help="The frames with one more level (eV, eV/A, eV/A^3).")
        spec.exit_code(300, "ERROR_NO_LABELS", message="The job ended without predictions; its last words: {details}")
        spec.exit_code(301, "ERROR_OUTPUT_INCOMPLETE", message="The predictions cannot be read: {details}")
        spec.exit_code(302, "ERROR_NOT_FINITE", message="The model predicts numbers that are not finite: {details}")

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write frames, program and its input."""
        inputs = self.inputs
        parameters = inputs.parameters.get_dict()
        job = {
            **DEFAULT_PARAMETERS,
            **{key: value for key, value in parameters.items() if key != "key"},
            "head": parameters.get("head", inputs.model.heads[-1]),
            "model": self.MODEL_FILENAME,
            "frames": self.FRAMES_FILENAME,
            "labels": self.LABELS_FILENAME,
        }
        write_geometry(Path(folder.abspath) / self.FRAMES_FILENAME, inputs.dataset.frames)
        with folder.open(self.JOB_FILENAME, "w", encoding="utf-8") as handle:
            json.dump(job, handle, indent=1, sort_keys=True)
        program = resources.files("aiida_mlfinetune.programs") / self.PROGRAM_FILENAME
        with folder.open(self.PROGRAM_FILENAME, "w", encoding="utf-8") as handle:
            handle.write(program.read_text(encoding="utf-8"))
        code_info = CodeInfo()
        code_info.code_uuid = inputs.code.uuid
        code_info.cmdline_params = [self.PROGRAM_FILENAME, self.JOB_FILENAME]
        code_info.stdout_name = inputs.metadata.options.output_filename
        code_info.join_files = True
        calc_info = CalcInfo()
        calc_info.codes_info = [code_info]
        calc_info.local_copy_list = [(inputs.model.uuid, inputs.model.MODEL_FILENAME, self.MODEL_FILENAME)]
        calc_info.provenance_exclude_list = [self.FRAMES_FILENAME]
        calc_info.retrieve_list = [self.LABELS_FILENAME, inputs.metadata.options.output_filename]
        return calc_info

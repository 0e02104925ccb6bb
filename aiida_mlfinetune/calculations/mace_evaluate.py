"""``mlfinetune.mace_evaluate``: one batched pass of a model over a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.common.datastructures import CalcInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec

from aiida_mlfinetune.calculations.job_files import call_of, program_text, write_texts
from aiida_mlfinetune.calculations.validators import PYTHON_PLUGINS, validate_program
from aiida_mlfinetune.common.errors import LabelsError, ModelError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.checks import elements_problem
from aiida_mlfinetune.science.datasets.frames import write_geometry
from aiida_mlfinetune.science.datasets.levels import Level
from aiida_mlfinetune.science.models.baseline import baseline_head
from aiida_mlfinetune.science.models.devices import device_problem
from aiida_mlfinetune.science.models.levels import model_level

DEFAULT_PARAMETERS = {"batch_size": 16, "dtype": "float64", "device": "cpu"}
NAMES = ("head", "key", "enable_cueq", *DEFAULT_PARAMETERS)


def validate_parameters(node: orm.Dict | None, _: Any) -> str | None:
    """Refuse unknown names and impossible values."""
    if node is None:
        return None
    parameters = node.get_dict()
    if unknown := sorted(set(parameters) - set(NAMES)):
        return f"unknown parameters {unknown}: known are {list(NAMES)}"
    settings = {**DEFAULT_PARAMETERS, **parameters}
    size = settings["batch_size"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        return f"'batch_size' must be a whole number of at least 1, got {size!r}"
    return device_problem(settings["device"], settings["dtype"], settings.get("enable_cueq", False))


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
    baseline = inputs.get("baseline")
    try:
        key = level_of(model, parameters, baseline).key
    except (LabelsError, ModelError) as error:
        return str(error)
    if baseline is not None:
        problem = elements_problem(dataset.elements, baseline.elements, model="the baseline")
        if problem is not None:
            return problem
    if key in dataset.levels:
        return f"the dataset has the level {key!r} already: give another name in the parameter 'key'"
    return None


def level_of(model: MaceModelData, parameters: Mapping[str, Any], baseline: MaceModelData | None = None) -> Level:
    """Return the level of the labels that ``model``, added to ``baseline`` if given, predicts with ``parameters``.

    Raises:
        LabelsError: a key that is none.
        ModelError: what ``science.baseline.baseline_head`` refuses.
    """
    head = parameters.get("head", model.heads[-1])
    dtype = parameters.get("dtype", DEFAULT_PARAMETERS["dtype"])
    own = describe_baseline(model, baseline)
    return model_level(model.sha256, head, dtype, key=parameters.get("key"), baseline=own)


def describe_baseline(model: MaceModelData, baseline: MaceModelData | None) -> dict[str, str] | None:
    """Return ``sha256`` and ``head`` of the baseline that ``model`` is added to, None for a model that needs none."""
    head = baseline_head(model.passport, None if baseline is None else baseline.passport)
    return None if head is None or baseline is None else {"sha256": baseline.sha256, "head": head}


class MaceEvaluateCalculation(CalcJob):
    """Energies, forces and stress of all frames of a dataset by a MACE model."""

    PROGRAM_FILENAME = "mace_evaluate.py"
    JOB_FILENAME = "evaluate.json"
    MODEL_FILENAME = "model.model"
    BASELINE_FILENAME = "baseline.model"
    FRAMES_FILENAME = "frames.npz"
    LABELS_FILENAME = "labels.npz"
    OUTPUT_FILENAME = "evaluate.log"

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs, outputs and exit codes."""
        super().define(spec)
        spec.inputs["code"].validator = validate_program(*PYTHON_PLUGINS)
        spec.input("model", valid_type=MaceModelData, help="The model that predicts.")
        spec.input(
            "baseline",
            valid_type=MaceModelData,
            required=False,
            help="The model that `model` is a difference to; energies, forces and stress are the sum of both.",
        )
        spec.input("dataset", valid_type=DatasetData, help="The frames to predict; their labels are kept.")
        spec.input(
            "parameters",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({}),
            validator=validate_parameters,
            help="`head` (needed if the model has several), `key` of the new level (by default <sha256>/mace), "
            "`batch_size` (frames), `dtype`, `device`, `enable_cueq` (kernels of cuEquivariance, with `cuda`).",
        )
        spec.inputs.validator = validate_inputs
        options = spec.inputs["metadata"]["options"]
        options["parser_name"].default = "mlfinetune.mace_evaluate"
        options["output_filename"].default = cls.OUTPUT_FILENAME
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False
        spec.output("dataset", valid_type=DatasetData, help="The frames with one more level (eV, eV/A, eV/A^3).")
        spec.exit_code(
            300,
            "ERROR_NO_LABELS",
            message="The job ended without predictions; its last words: {details}",
            invalidates_cache=True,
        )
        spec.exit_code(
            301, "ERROR_OUTPUT_INCOMPLETE", message="The predictions cannot be read: {details}", invalidates_cache=True
        )
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
        files = [(inputs.model.uuid, inputs.model.MODEL_FILENAME, self.MODEL_FILENAME)]
        if "baseline" in inputs:
            own = describe_baseline(inputs.model, inputs.baseline)
            job["baseline"] = {"model": self.BASELINE_FILENAME, "head": own["head"] if own else None}
            files.append((inputs.baseline.uuid, inputs.baseline.MODEL_FILENAME, self.BASELINE_FILENAME))
        write_geometry(Path(folder.abspath) / self.FRAMES_FILENAME, inputs.dataset.frames)
        job_text = json.dumps(job, indent=1, sort_keys=True)
        write_texts(folder, {self.JOB_FILENAME: job_text, self.PROGRAM_FILENAME: program_text(self.PROGRAM_FILENAME)})
        calc_info = call_of(inputs, self.PROGRAM_FILENAME, self.JOB_FILENAME)
        calc_info.local_copy_list = files
        calc_info.provenance_exclude_list = [self.FRAMES_FILENAME]
        calc_info.retrieve_list.append(self.LABELS_FILENAME)
        return calc_info

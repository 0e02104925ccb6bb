"""``mlfinetune.mace_descriptors``: the invariant descriptors of a MACE model, averaged by element in each frame."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.common.datastructures import CalcInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec

from aiida_mlfinetune.calculations import mace_evaluate
from aiida_mlfinetune.calculations.job_files import call_of, program_text, write_texts
from aiida_mlfinetune.calculations.validators import PYTHON_PLUGINS, validate_program
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.checks import elements_problem
from aiida_mlfinetune.science.datasets.frames import write_geometry

NAMES = tuple(mace_evaluate.DEFAULT_PARAMETERS)


def validate_parameters(node: orm.Dict | None, _: Any) -> str | None:
    """Refuse unknown names and impossible values."""
    if node is not None and (unknown := sorted(set(node.get_dict()) - set(NAMES))):
        return f"unknown parameters {unknown}: known are {list(NAMES)}"
    return mace_evaluate.validate_parameters(node, None)


def validate_inputs(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Refuse elements that the model lacks."""
    if "model" not in inputs or "dataset" not in inputs:
        return None
    return elements_problem(inputs["dataset"].elements, inputs["model"].elements)


class MaceDescriptorsCalculation(CalcJob):
    """For each element of each frame, the mean of the model's invariant descriptors over its atoms."""

    PROGRAM_FILENAMES = ("mace_descriptors.py", "mace_evaluate.py")
    JOB_FILENAME = "descriptors.json"
    MODEL_FILENAME = "model.model"
    FRAMES_FILENAME = "frames.npz"
    DESCRIPTORS_FILENAME = "descriptors.npz"
    OUTPUT_FILENAME = "descriptors.log"

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs, outputs and exit codes."""
        super().define(spec)
        spec.inputs["code"].validator = validate_program(*PYTHON_PLUGINS)
        spec.input("model", valid_type=MaceModelData, help="The model whose descriptors are computed.")
        spec.input("dataset", valid_type=DatasetData, help="The frames to describe.")
        spec.input(
            "parameters",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({}),
            validator=validate_parameters,
            help="`batch_size` (frames), `dtype`, `device`.",
        )
        spec.inputs.validator = validate_inputs
        options = spec.inputs["metadata"]["options"]
        options["parser_name"].default = "mlfinetune.mace_descriptors"
        options["output_filename"].default = cls.OUTPUT_FILENAME
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False
        spec.output(
            "descriptors",
            valid_type=orm.ArrayData,
            help="A row for each element of each frame: `frame` (m,), `number` (m,) its atomic number, and `mean` "
            "(m, d) over its atoms, without unit, in single precision.",
        )
        spec.exit_code(
            300,
            "ERROR_NO_DESCRIPTORS",
            message="The job ended without output; its last words: {details}",
            invalidates_cache=True,
        )
        spec.exit_code(
            301, "ERROR_OUTPUT_INCOMPLETE", message="The descriptors cannot be read: {details}", invalidates_cache=True
        )
        spec.exit_code(302, "ERROR_NOT_FINITE", message="The model's descriptors of frames {frames} are not finite.")

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write frames, programs and their input."""
        inputs = self.inputs
        job = {
            **mace_evaluate.DEFAULT_PARAMETERS,
            **inputs.parameters.get_dict(),
            "model": self.MODEL_FILENAME,
            "frames": self.FRAMES_FILENAME,
            "descriptors": self.DESCRIPTORS_FILENAME,
        }
        write_geometry(Path(folder.abspath) / self.FRAMES_FILENAME, inputs.dataset.frames)
        write_texts(folder, {self.JOB_FILENAME: json.dumps(job, indent=1, sort_keys=True)})
        write_texts(folder, {name: program_text(name) for name in self.PROGRAM_FILENAMES})
        calc_info = call_of(inputs, self.PROGRAM_FILENAMES[0], self.JOB_FILENAME)
        calc_info.local_copy_list = [(inputs.model.uuid, inputs.model.MODEL_FILENAME, self.MODEL_FILENAME)]
        calc_info.provenance_exclude_list = [self.FRAMES_FILENAME]
        calc_info.retrieve_list.append(self.DESCRIPTORS_FILENAME)
        return calc_info

"""``mlfinetune.ase_label``: energies, forces and stress of many frames by any ASE calculator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.common.datastructures import CalcInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec
from aiida.engine.processes.calcjobs.calcjob import validate_calc_job

from aiida_mlfinetune.calculations.job_files import call_of, program_text, write_texts
from aiida_mlfinetune.calculations.validators import (
    PYTHON_PLUGINS,
    new_level_problem,
    validate_dict,
    validate_program,
)
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.checks import elements_problem, frames_problem
from aiida_mlfinetune.science.datasets.frames import write_geometry
from aiida_mlfinetune.science.datasets.levels import Level

SPEC_KEYS = ("name", "key", "engine", "method", "basis", "energy", "calculator", "kwargs")
MODEL_MODULES = ("mace.calculators",)
"""Modules whose calculators read a model."""


def check_ase_level(spec: Mapping[str, Any]) -> None:
    """Check the specification of a level for an ASE calculator.

    Raises:
        StudyError: an unknown or missing entry, another engine, or a calculator that is not ``module:class``.
        LabelsError: a key that is none.
    """
    if unknown := sorted(set(spec) - set(SPEC_KEYS)):
        raise StudyError(f"unknown entries {unknown} in the ASE level: known are {list(SPEC_KEYS)}")
    if missing := [key for key in ("key", "engine", "calculator") if key not in spec]:
        raise StudyError(f"the ASE level lacks {missing}: it needs key, engine, calculator and, if any, kwargs")
    if spec["engine"] != "ase":
        raise StudyError(f"level {spec['key']!r} is for engine {spec['engine']!r}, not for ase")
    module, _, name = str(spec["calculator"]).partition(":")
    if not (all(part.isidentifier() for part in module.split(".")) and name.isidentifier()):
        raise StudyError(f"calculator {spec['calculator']!r} is not of the form 'module:class', as 'tblite.ase:TBLite'")
    if not isinstance(spec.get("kwargs", {}), Mapping):
        raise StudyError(f"kwargs of level {spec['key']!r} must be a dictionary of the calculator's arguments")
    if "model_paths" in spec.get("kwargs", {}):
        raise StudyError("give the model as the input `model`, not as a path: a path is of no use on another machine")
    ase_level(spec)


def ase_level(
    spec: Mapping[str, Any], code: Mapping[str, str] | None = None, model: MaceModelData | None = None
) -> Level:
    """Return what labels made with the level ``spec`` carry; ``code`` holds ``code`` and ``code_version``."""
    settings = {"calculator": spec["calculator"], "kwargs": dict(spec.get("kwargs", {}))}
    if model is not None:
        settings["sha256"] = model.sha256
    return Level(
        key=spec["key"],
        engine="ase",
        method=spec.get("method", ""),
        basis=spec.get("basis", ""),
        energy=spec.get("energy", "free"),
        settings=settings,
        **(code or {}),
    )


def validate_dataset(dataset: DatasetData | None, _: Any) -> str | None:
    """Check that every frame can be computed."""
    return None if dataset is None else frames_problem(dataset.frames)


def ase_inputs_problem(inputs: Mapping[str, Any]) -> str | None:
    """Return what is wrong with inputs that do not fit together: level, dataset and model."""
    if "level" not in inputs:
        return None
    level, dataset, model = inputs["level"].get_dict(), inputs.get("dataset"), inputs.get("model")
    reads_model = level["calculator"].partition(":")[0] in MODEL_MODULES
    if reads_model and model is None:
        return f"calculator {level['calculator']!r} reads a model: give it as the input `model`"
    if model is not None and not reads_model:
        return f"calculator {level['calculator']!r} reads no model: remove the input `model`"
    if dataset is None:
        return None
    if problem := new_level_problem(level, dataset):
        return problem
    return elements_problem(dataset.elements, model.elements) if model is not None else None


def validate_inputs(inputs: Mapping[str, Any], port: Any) -> str | None:
    """Check our own inputs, and what AiiDA asks of every job."""
    return ase_inputs_problem(inputs) or validate_calc_job(inputs, port)


class AseLabelCalculation(CalcJob):
    """Any ASE calculator on many frames, of any compositions, in one job.

    A frame that the calculator cannot do is left out and named in ``failed``; a job that ends early keeps the frames
    that it finished.
    """

    PROGRAM_FILENAME = "ase_label.py"
    JOB_FILENAME = "label.json"
    MODEL_FILENAME = MaceModelData.MODEL_FILENAME
    FRAMES_FILENAME = "frames.npz"
    LABELS_FILENAME = "labels.jsonl"
    OUTPUT_FILENAME = "label.log"

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs, outputs and exit codes."""
        super().define(spec)
        spec.inputs["code"].validator = validate_program(*PYTHON_PLUGINS)
        spec.input("dataset", valid_type=DatasetData, validator=validate_dataset, help="Frames to label.")
        spec.input(
            "level",
            valid_type=orm.Dict,
            validator=validate_dict(check_ase_level),
            help="Level of theory: engine 'ase', a key for the labels, `calculator` (module:class) and its `kwargs`.",
        )
        spec.input(
            "model",
            valid_type=MaceModelData,
            required=False,
            help="The model of a MACECalculator, which gets its file as `model_paths`.",
        )
        spec.inputs.validator = validate_inputs
        options = spec.inputs["metadata"]["options"]
        options["parser_name"].default = "mlfinetune.ase_label"
        options["output_filename"].default = cls.OUTPUT_FILENAME
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False
        spec.output(
            "dataset",
            valid_type=DatasetData,
            required=False,
            help="The frames that succeeded, in order: energy (eV), forces (eV/A), stress (eV/A^3, ASE's sign).",
        )
        spec.output(
            "failed",
            valid_type=orm.Dict,
            required=False,
            help="By index in the input dataset: `reason`, and `retry`: whether another job may succeed.",
        )
        spec.exit_code(
            210, "ERROR_CALCULATOR_REFUSED", message="The calculator cannot be made: {message}", invalidates_cache=True
        )
        spec.exit_code(
            310,
            "ERROR_OUTPUT_MISSING",
            message="The job wrote no labels; its last words: {details}",
            invalidates_cache=True,
        )
        spec.exit_code(
            311,
            "ERROR_NO_FRAME_FINISHED",
            message="The job was ended from outside before it finished a frame.",
            invalidates_cache=True,
        )
        spec.exit_code(
            312, "ERROR_NO_FRAME_LABELLED", message="The calculator failed for all of {total} frames: {reason}"
        )
        # What it finished need not be done again: it stays in the cache, so that a rerun does only the rest.
        spec.exit_code(410, "ERROR_INTERRUPTED", message="The job ended early, after {done} of {total} frames.")

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write frames, program and its input."""
        level, inputs = self.inputs.level.get_dict(), self.inputs
        job = {
            "calculator": level["calculator"],
            "kwargs": level.get("kwargs", {}),
            "energy": level.get("energy", "free"),
            "model": self.MODEL_FILENAME if "model" in inputs else None,
            "frames": self.FRAMES_FILENAME,
            "labels": self.LABELS_FILENAME,
        }
        write_geometry(Path(folder.abspath) / self.FRAMES_FILENAME, inputs.dataset.frames)
        job_text = json.dumps(job, indent=1, sort_keys=True)
        write_texts(folder, {self.JOB_FILENAME: job_text, self.PROGRAM_FILENAME: program_text(self.PROGRAM_FILENAME)})
        calc_info = call_of(inputs, self.PROGRAM_FILENAME, self.JOB_FILENAME)
        if "model" in inputs:
            calc_info.local_copy_list = [(inputs.model.uuid, inputs.model.MODEL_FILENAME, self.MODEL_FILENAME)]
        calc_info.provenance_exclude_list = [self.FRAMES_FILENAME, self.MODEL_FILENAME]
        calc_info.retrieve_list.append(self.LABELS_FILENAME)
        return calc_info

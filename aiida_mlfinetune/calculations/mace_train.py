"""``mlfinetune.mace_train``: train a MACE model on labelled frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from aiida import orm
from aiida.common.datastructures import CalcInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec

from aiida_mlfinetune.calculations.job_files import call_of, program_text, write_texts
from aiida_mlfinetune.calculations.validators import PYTHON_PLUGINS, validate_program
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.extxyz import write_mace_extxyz
from aiida_mlfinetune.science.datasets.frames import GEOMETRY_ARRAYS, write_geometry
from aiida_mlfinetune.science.training import checks as training_checks
from aiida_mlfinetune.science.training import heads as training_heads
from aiida_mlfinetune.science.training import inputs as training_input
from aiida_mlfinetune.science.training.heads import HEAD, HeadSets
from aiida_mlfinetune.science.training.inputs import file_of

SAVE_INTERVAL_S = 120
MAX_LOSS_GROWTH = 1e4
WALL_MARGIN = (30.0, 0.1)
"""Seconds, and part of the wall time, that are kept for saving and for the scheduler."""


def validate_parameters(node: orm.Dict | None, _: Any) -> str | None:
    """Refuse unknown parameters and those that MACE would ignore."""
    return None if node is None else training_input.parameters_problem(node.get_dict())


def validate_inputs(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Refuse inputs that do not fit each other."""
    if any(name not in inputs for name in ("train", "valid", "level", "parameters", "e0s")):
        return None  # a missing port is reported by itself, and work chains fill some in later
    parameters, e0s, level = inputs["parameters"].get_dict(), inputs["e0s"].get_dict(), inputs["level"].value
    heads = inputs["heads"].get_dict() if "heads" in inputs else None
    if (problem := training_checks.inputs_problem(parameters, e0s, heads, level)) is not None:
        return problem
    try:
        if parameters["mode"] == TrainingMode.DELTA.value:
            training_checks.check_delta_level(inputs["train"].frames, level)
        training_checks.check_training(
            inputs["train"].frames,
            inputs["valid"].frames,
            inputs["test"].frames if "test" in inputs else None,
            level,
            parameters,
            e0s,
            inputs["foundation"].passport if "foundation" in inputs else None,
            heads,
            inputs["replay"].frames if "replay" in inputs else None,
        )
    except MlFinetuneError as error:
        return str(error)
    return None


class MaceTrainCalculation(CalcJob):
    """Train a MACE model in one job, in any of the training modes."""

    PROGRAM_FILENAMES = ("mace_train.py", "mace_evaluate.py", "mace_fused.py", "mace_passport.py", "mace_record.py")
    JOB_FILENAME = "job.json"
    CONFIG_FILENAME = "mace.yaml"
    FOUNDATION_FILENAME = "foundation.model"
    OUTPUT_FILENAME = "mace.log"
    MODEL_FILENAME = "model.model"
    PASSPORT_FILENAME = "passport.json"
    E0S_FILENAME = "e0s.json"
    RECORD_FILENAME = "trained.json"
    LOSS_FILENAME = "loss.jsonl"
    STATUS_FILENAME = "status.json"
    PROGRESS_FILENAME = "progress.json"
    STATE_FILENAME = "restart.pt"

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs, outputs and exit codes."""
        super().define(spec)
        spec.inputs["code"].validator = validate_program(*PYTHON_PLUGINS)
        spec.input("train", valid_type=DatasetData, help="Frames to train on (eV, eV/A, eV/A^3).")
        spec.input("valid", valid_type=DatasetData, help="Frames that choose the best epoch; none of them in `train`.")
        spec.input("test", valid_type=DatasetData, required=False, help="Frames that only the final errors are for.")
        spec.input("level", valid_type=orm.Str, serializer=orm.to_aiida_type, help="Key of the level to train on.")
        spec.input("foundation", valid_type=MaceModelData, required=False, help="Model to start from.")
        spec.input(
            "heads",
            valid_type=orm.Dict,
            required=False,
            serializer=orm.to_aiida_type,
            help="In the modes multi-level and multi-fidelity: level key by name of each further head. The head of "
            "`level` is called Default, and is the last.",
        )
        spec.input(
            "replay",
            valid_type=DatasetData,
            required=False,
            help="In mode multihead-replay: frames of the foundation's own data, labelled at `replay_level`, or with "
            "the foundation's predictions. A part of them, `replay_valid`, validates their head.",
        )
        spec.input(
            "parameters",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_parameters,
            help="`mode` (scratch, naive, multihead-replay, multi-level, delta, transfer or multi-fidelity), `seed`, "
            "optionally `foundation_head`, `molecule` (formula, for errors per molecule), `replay_level`, "
            "`replay_valid` (fraction) and `replay_seed`, and arguments of mace_run_train by their own names (eV, A).",
        )
        spec.input(
            "e0s",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({"source": "estimated"}),
            help="Atomic reference energies of the final model: `source` is given (with `values`, element: eV), "
            "foundation, estimated (least squares; of the foundation's residuals where there is one), or isolated "
            "(frames of one atom). `heads` gives the same for further heads, which otherwise take the same source.",
        )
        spec.input(
            "parent_folder",
            valid_type=orm.RemoteData,
            required=False,
            help="Folder of a stopped training to go on with.",
        )
        spec.inputs.validator = validate_inputs
        options = spec.inputs["metadata"]["options"]
        options["parser_name"].default = "mlfinetune.mace_train"
        options["output_filename"].default = cls.OUTPUT_FILENAME
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False

        spec.output("model", valid_type=MaceModelData, help="The trained model with its passport.")
        spec.output(
            "loss_curve",
            valid_type=orm.ArrayData,
            help="Per epoch: epoch, train_loss, valid_loss, valid_rmse_energy_eV_per_atom, valid_rmse_forces_eV_A, "
            "valid_rmse_stress_eV_A3; epoch -1 is the model before training. Those of further heads begin with the "
            "head's name and '_'.",
        )
        spec.output(
            "errors",
            valid_type=orm.Dict,
            help="Errors of the final model by set: meV, kJ/mol, meV/A, percent; those of further heads in `heads`, by "
            "head and set.",
        )
        spec.output(
            "parity",
            valid_type=DatasetData,
            help="Validation and test frames with the reference labels and those of the model (eV, eV/A, eV/A^3).",
        )
        spec.output("e0s", valid_type=orm.Dict, help="The reference energies asked for (eV), and how they were found.")
        spec.default_output_node = "errors"

        spec.exit_code(
            300, "ERROR_NO_MODEL", message="The job ended without a model and without a reason.", invalidates_cache=True
        )
        spec.exit_code(
            301,
            "ERROR_OUTPUT_INCOMPLETE",
            message="Outputs are missing or cannot be read: {details}",
            invalidates_cache=True,
        )
        spec.exit_code(310, "ERROR_MACE_FAILED", message="MACE failed: {details}")
        spec.exit_code(311, "ERROR_OUT_OF_MEMORY", message="The training ran out of memory: {details}")
        spec.exit_code(320, "ERROR_LOSS_NAN", message="The loss is not a number: {details}")
        spec.exit_code(321, "ERROR_LOSS_EXPLODED", message="The training diverged: {details}")
        spec.exit_code(
            330, "ERROR_E0_MISMATCH", message="The model's reference energies are not those asked for: {details}"
        )
        spec.exit_code(331, "ERROR_MODEL_MISMATCH", message="The model is not what was asked for: {details}")
        spec.exit_code(332, "ERROR_TRAINING_MISMATCH", message="MACE did not train what was asked for: {details}")
        spec.exit_code(340, "ERROR_RESTART_FAILED", message="The training could not be resumed: {details}")
        spec.exit_code(
            400, "ERROR_OUT_OF_WALLTIME", message="The training stopped at the time limit, ready to be resumed."
        )
        spec.exit_code(
            401,
            "ERROR_INTERRUPTED",
            message="The job was killed during the training; it may be resumed from its folder.",
        )

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write frames, MACE's input, and what MACE cannot be told."""
        inputs = self.inputs
        parameters = inputs.parameters.get_dict()
        heads, requested = self.heads(inputs), self.requested_e0s(inputs)
        fine_tuned = "foundation" in inputs
        root = Path(folder.abspath)
        config = training_input.mace_config(
            parameters, [head.name for head in heads], fine_tuned, requested[HEAD] if len(heads) == 1 else None
        )
        targets = training_heads.loss_targets(parameters)
        derived = []
        described = []
        for head in heads:
            files = {}
            for name in ("train", "valid"):
                files[f"{name}_file"] = filename = file_of(head.name, name, "xyz")
                write_mace_extxyz(root / filename, head.trained_frames(name, targets), head.level)
                derived.append(filename)
            if requested[head.name] is None:
                files["train_frames"] = filename = file_of(head.name, "train", "npz")
                with folder.open(filename, "wb") as handle:
                    arrays = {name: getattr(head.train, name) for name in GEOMETRY_ARRAYS}
                    np.savez(handle, **arrays, energy=head.train.labels(head.level).energy)
                derived.append(filename)
            source = training_input.e0s_of_head(inputs.e0s.get_dict(), head.name)["source"]
            described.append({"name": head.name, **files, "e0s": {"source": source, "values": requested[head.name]}})
        predict = []
        for head in heads:
            for name in ("valid", "test"):
                if name in head.sets:
                    item = {"head": head.name, "set": name, "frames": file_of(head.name, name, "npz")}
                    write_geometry(root / item["frames"], head.sets[name])
                    derived.append(item["frames"])
                    predict.append({**item, "labels": self.predictions_filename(head.name, name)})
        job: dict[str, Any] = {
            "mode": parameters["mode"],
            "heads": described,
            "elements": training_input.all_elements(heads),
            "restart": "parent_folder" in inputs,
            "predict": predict,
            "batch_size": config.get("valid_batch_size", 10),
            "dtype": config["default_dtype"],
            "device": config["device"],
            "max_seconds": _usable_seconds(inputs.metadata.options.get("max_wallclock_seconds")),
            "save_interval_s": SAVE_INTERVAL_S,
            "max_loss_growth": MAX_LOSS_GROWTH,
        }
        calc_info = call_of(inputs, self.PROGRAM_FILENAMES[0], self.JOB_FILENAME)
        calc_info.local_copy_list = []
        calc_info.remote_copy_list = []
        if fine_tuned:
            foundation = inputs.foundation
            job["foundation"] = self.FOUNDATION_FILENAME
            job["foundation_head"] = training_input.foundation_head(parameters, foundation.passport)
            calc_info.local_copy_list.append((foundation.uuid, foundation.MODEL_FILENAME, self.FOUNDATION_FILENAME))
        if "parent_folder" in inputs:
            parent = inputs.parent_folder
            calc_info.remote_copy_list = [
                (parent.computer.uuid, f"{parent.get_remote_path()}/{name}", name)
                for name in (self.STATE_FILENAME, "checkpoints", "results")
            ]
        texts = {
            self.CONFIG_FILENAME: yaml.safe_dump(config, sort_keys=True),
            self.JOB_FILENAME: json.dumps(job, indent=1, sort_keys=True),
        }
        write_texts(folder, texts)
        write_texts(folder, {name: program_text(name) for name in self.PROGRAM_FILENAMES})
        calc_info.provenance_exclude_list = derived
        calc_info.retrieve_list += [
            self.MODEL_FILENAME,
            self.PASSPORT_FILENAME,
            self.E0S_FILENAME,
            self.RECORD_FILENAME,
            self.LOSS_FILENAME,
            self.STATUS_FILENAME,
            self.PROGRESS_FILENAME,
            *(item["labels"] for item in predict),
        ]
        return calc_info

    @staticmethod
    def predictions_filename(head: str, name: str) -> str:
        """Return the file of the predictions by a head for one of its sets."""
        return f"predictions_{file_of(head, name, 'npz')}"

    @staticmethod
    def heads(inputs: Any) -> list[HeadSets]:
        """Return the heads that the inputs ask for with their frames, that of the target level last."""
        return training_heads.training_heads(
            {name: inputs[name].frames for name in ("train", "valid", "test") if name in inputs},
            inputs.level.value,
            inputs.parameters.get_dict(),
            inputs.heads.get_dict() if "heads" in inputs else None,
            inputs.replay.frames if "replay" in inputs else None,
            inputs.foundation.passport if "foundation" in inputs else None,
        )

    @classmethod
    def requested_e0s(cls, inputs: Any) -> dict[str, dict[str, float] | None]:
        """Return the reference energies in eV that the inputs ask for, by head; None if only the job can find them."""
        heads = cls.heads(inputs)
        foundation = inputs.foundation.passport if "foundation" in inputs else None
        parameters, e0s = inputs.parameters.get_dict(), inputs.e0s.get_dict()
        elements = training_input.all_elements(heads)
        return {head.name: training_input.resolve_e0s(head, elements, parameters, e0s, foundation) for head in heads}


def _usable_seconds(wall: float | None) -> float | None:
    """Return how long the program may run before it saves and stops; None without a limit."""
    if wall is None:
        return None
    return max(0.5 * wall, wall - max(WALL_MARGIN[0], WALL_MARGIN[1] * wall))

"""Parser of ``mlfinetune.mace_train``."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.parsers.raw.mace_log import parse_loss_curve
from aiida_mlfinetune.science.atomic_energies import describe_rank, estimate_atomic_energies
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.science.levels import Labels
from aiida_mlfinetune.science.metrics import label_errors
from aiida_mlfinetune.science.model_levels import model_level
from aiida_mlfinetune.science.passport import Passport
from aiida_mlfinetune.science.training_input import HEAD

E0_TOLERANCE = {"float64": 1e-9, "float32": 1e-6}
"""Allowed relative difference between a reference energy asked for and the one in the file, by its precision."""


class MaceTrainParser(Parser):
    """Attach model, loss curve, errors and predictions, then judge the run."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Parse the retrieved folder."""
        calculation = MaceTrainCalculation
        status = self._json(calculation.STATUS_FILENAME) or {}
        if (text := self._text(calculation.LOSS_FILENAME)) is not None:
            self._attach_loss_curve(text)
        found = self._json(calculation.E0S_FILENAME)
        requested = calculation.requested_e0s(self.node.inputs)
        self._attach_e0s(requested, found)
        if status.get("status") != "finished":
            return self._failure(status)
        content = self._bytes(calculation.MODEL_FILENAME)
        described = self._json(calculation.PASSPORT_FILENAME)
        if content is None or described is None or "loss_curve" not in self.outputs:
            return self._incomplete("the model, its passport or the loss curve is missing")
        try:
            predicted = self._predictions(described["sha256"], described)
            errors = {
                name: label_errors(
                    frames,
                    frames.labels(self.node.inputs.level.value),
                    labels,
                    self.node.inputs.parameters.get_dict().get("molecule"),
                )
                for name, (frames, labels) in predicted.items()
            }
            passport = self._passport(described, errors)
            model = MaceModelData(content, passport)
        except (MlFinetuneError, KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            return self._incomplete(f"{type(error).__name__}: {error}")
        self.out("model", model)
        self.out("errors", orm.Dict(errors))
        self.out("parity", self._parity(predicted))
        wanted = requested if requested is not None else (found or {}).get("values")
        return self._judge(passport, wanted)

    # attaching --------------------------------------------------------------------------------------------------

    def _attach_loss_curve(self, text: str) -> None:
        curve = parse_loss_curve(text)
        if len(curve["epoch"]):
            node = orm.ArrayData()
            for name, values in curve.items():
                node.set_array(name, values)
            self.out("loss_curve", node)

    def _attach_e0s(self, requested: dict[str, float] | None, found: dict[str, Any] | None) -> None:
        """Attach the reference energies asked for, and what the labels determine of them where they were estimated."""
        source = self.node.inputs.e0s["source"]
        if found is not None:  # by the job, of a foundation
            content = {**found, "source": source}
            if "rank" in found:
                content["determined"] = describe_rank(found["rank"], list(found["values"]))
        elif source == "estimated" and requested is not None:
            frames = self.node.inputs.train.frames
            energies = frames.labels(self.node.inputs.level.value).energy
            content = {"source": source, **estimate_atomic_energies(frames, energies).to_dict()}
        elif requested is not None:
            content = {"source": source, "values": requested}
        else:
            return
        self.out("e0s", orm.Dict(content))

    def _predictions(self, sha256: str, described: dict[str, Any]) -> dict[str, tuple[Frames, Labels]]:
        """Return frames and the model's labels of the sets that it was not trained on."""
        level = model_level(sha256, described["heads"][-1], described["dtype"], described["mace_version"])
        predicted = {}
        for name in ("valid", "test"):
            if name not in self.node.inputs:
                continue
            frames = self.node.inputs[name].frames
            with np.load(
                io.BytesIO(self._bytes(MaceTrainCalculation.PREDICTIONS_FILENAME.format(name)) or b"")
            ) as file:
                arrays = dict(file)
            predicted[name] = (
                frames,
                Labels.build(level, frames.offsets, arrays["energy"], arrays["forces"], arrays["stress"]),
            )
        return predicted

    def _passport(self, described: dict[str, Any], errors: dict[str, Any]) -> Passport:
        inputs = self.node.inputs
        parameters = inputs.parameters.get_dict()
        return Passport(
            **described,
            levels={described["heads"][-1]: inputs.level.value},
            parent_sha256=inputs.foundation.sha256 if "foundation" in inputs else None,
            seeds=[parameters["seed"]],
            errors={described["heads"][-1]: errors},
            settings={
                "parameters": parameters,
                "e0s": inputs.e0s.get_dict(),
                "training_content_hash": inputs.train.content_hash,
                "n_train": inputs.train.n_frames,
                "n_valid": inputs.valid.n_frames,
            },
        )

    def _parity(self, predicted: dict[str, tuple[Frames, Labels]]) -> DatasetData:
        level = self.node.inputs.level.value
        parts = []
        for frames, labels in predicted.values():
            reference = replace(frames, labels_by_level={level: frames.labels(level)})
            parts.append(reference.with_labels(labels))
            own = labels.level.key
        sources = {level: self.node.inputs.valid.level_sources.get(level, []), own: [self.node.uuid]}
        return DatasetData(Frames.concatenate(parts), level_sources=sources)

    # judging ----------------------------------------------------------------------------------------------------

    def _failure(self, status: dict[str, Any]) -> ExitCode:
        codes = self.exit_codes
        by_status = {
            "loss_nan": codes.ERROR_LOSS_NAN,
            "loss_exploded": codes.ERROR_LOSS_EXPLODED,
            "restart_failed": codes.ERROR_RESTART_FAILED,
            "out_of_memory": codes.ERROR_OUT_OF_MEMORY,
            "failed": codes.ERROR_MACE_FAILED,
        }
        if status.get("status") == "out_of_time":
            return codes.ERROR_OUT_OF_WALLTIME
        if status.get("status") in by_status:
            return by_status[status["status"]].format(details=status.get("message", ""))
        if self._json(MaceTrainCalculation.PROGRESS_FILENAME) is not None:
            return codes.ERROR_INTERRUPTED
        return codes.ERROR_NO_MODEL

    def _judge(self, passport: Passport, wanted: dict[str, float] | None) -> ExitCode | None:
        elements = self.node.inputs.train.frames.elements
        if passport.heads != [HEAD] or passport.elements != elements:
            return self.exit_codes.ERROR_MODEL_MISMATCH.format(
                details=f"heads {passport.heads}, elements {passport.elements} instead of {[HEAD]}, {elements}"
            )
        if wanted is None:
            return self._incomplete("the estimated reference energies are missing")
        stored = passport.e0s[HEAD]
        tolerance = E0_TOLERANCE.get(passport.dtype, 0.0)
        wrong = {e: (wanted[e], stored[e]) for e in elements if abs(stored[e] - wanted[e]) > tolerance * abs(wanted[e])}
        if wrong:
            listed = ", ".join(f"{e}: {a!r} eV asked for, {b!r} eV stored" for e, (a, b) in wrong.items())
            return self.exit_codes.ERROR_E0_MISMATCH.format(details=listed)
        return None

    def _incomplete(self, details: str) -> ExitCode:
        return self.exit_codes.ERROR_OUTPUT_INCOMPLETE.format(details=details)

    # reading ----------------------------------------------------------------------------------------------------

    def _bytes(self, name: str) -> bytes | None:
        if name not in self.retrieved.base.repository.list_object_names():
            return None
        return self.retrieved.base.repository.get_object_content(name, "rb")

    def _text(self, name: str) -> str | None:
        content = self._bytes(name)
        return None if content is None else content.decode("utf-8", errors="replace")

    def _json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON file, None if it is missing or cut short."""
        try:
            return json.loads(self._text(name) or "")
        except json.JSONDecodeError:
            return None

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
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.parsers.raw.mace_log import parse_loss_curve
from aiida_mlfinetune.science.datasets.atomic_energies import describe_rank, estimate_atomic_energies
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.models.levels import model_level
from aiida_mlfinetune.science.models.metrics import label_errors
from aiida_mlfinetune.science.models.passport import Passport
from aiida_mlfinetune.science.training.heads import HEAD, REPLAY_HEAD, HeadSets, head_levels
from aiida_mlfinetune.science.training.inputs import all_elements, e0s_of_head, foundation_head
from aiida_mlfinetune.science.training.record import expected_record, record_differences

E0_TOLERANCE = {"float64": 1e-9, "float32": 1e-6}
"""Allowed relative difference between a reference energy asked for and the one in the file, by its precision."""


Predictions = dict[str, dict[str, tuple[Frames, Labels]]]
"""Frames and what the model's own head predicts for them, by head and set."""


class MaceTrainParser(Parser):
    """Attach model, loss curve, errors and predictions, then judge the run."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Parse the retrieved folder."""
        calculation = MaceTrainCalculation
        status = self._json(calculation.STATUS_FILENAME) or {}
        if (text := self._text(calculation.LOSS_FILENAME)) is not None:
            self._attach_loss_curve(text)
        found = self._json(calculation.E0S_FILENAME)
        heads = calculation.heads(self.node.inputs)
        requested = calculation.requested_e0s(self.node.inputs)
        self._attach_e0s(heads, requested, found)
        if status.get("status") != "finished":
            return self._failure(status)
        content = self._bytes(calculation.MODEL_FILENAME)
        described = self._json(calculation.PASSPORT_FILENAME)
        record = self._json(calculation.RECORD_FILENAME)
        if content is None or described is None or record is None or "loss_curve" not in self.outputs:
            return self._incomplete("the model, its passport, the record of the training or the loss curve is missing")
        try:
            predicted = self._predictions(heads, described)
            errors = self._errors(predicted)
            model = MaceModelData(content, self._passport(heads, described, errors, record))
        except (MlFinetuneError, KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            return self._incomplete(f"{type(error).__name__}: {error}")
        self.out("model", model)
        others = {head: sets for head, sets in errors.items() if head != HEAD}
        self.out("errors", orm.Dict({**errors[HEAD], **({"heads": others} if others else {})}))
        self.out("parity", self._parity(predicted[HEAD]))
        wanted = {name: values or _found_values(found, name) for name, values in requested.items()}
        return self._judge(model.passport, heads, wanted, record)

    # attaching --------------------------------------------------------------------------------------------------

    def _attach_loss_curve(self, text: str) -> None:
        curve = parse_loss_curve(text)
        if len(curve["epoch"]):
            node = orm.ArrayData()
            for name, values in curve.items():
                node.set_array(name, values)
            self.out("loss_curve", node)

    def _attach_e0s(
        self, heads: list[HeadSets], requested: dict[str, dict[str, float] | None], found: dict[str, Any] | None
    ) -> None:
        """Attach the reference energies asked for, and what the labels determine of them where they were estimated."""
        content = {}
        for head in heads:
            own = _found_entry(found, head.name)
            values = requested[head.name]
            if own is not None and "rank" in own:  # found by the job, from what the foundation predicts
                content[head.name] = {**own, "determined": describe_rank(own["rank"], head.train.elements)}
                continue
            if values is None:
                continue
            source = e0s_of_head(self.node.inputs.e0s.get_dict(), head.name)["source"]
            content[head.name] = {"source": source, "values": values}
            if source == "estimated":
                fit = estimate_atomic_energies(head.train, head.train.labels(head.level).energy)
                content[head.name] |= fit.to_dict()
        if HEAD in content:
            others = {name: values for name, values in content.items() if name != HEAD}
            self.out("e0s", orm.Dict({**content[HEAD], **({"heads": others} if others else {})}))

    def _predictions(self, heads: list[HeadSets], described: dict[str, Any]) -> Predictions:
        """Return the model's labels of the sets that it was not trained on."""
        predicted: Predictions = {}
        for head in heads:
            level = model_level(described["sha256"], head.name, described["dtype"], described["mace_version"])
            for name in ("valid", "test"):
                if name not in head.sets:
                    continue
                frames = head.sets[name]
                content = self._bytes(MaceTrainCalculation.predictions_filename(head.name, name)) or b""
                with np.load(io.BytesIO(content)) as file:
                    arrays = dict(file)
                labels = Labels.build(level, frames.offsets, arrays["energy"], arrays["forces"], arrays["stress"])
                predicted.setdefault(head.name, {})[name] = (without_other_levels(frames, head.level), labels)
        return predicted

    def _errors(self, predicted: Predictions) -> dict[str, dict[str, Any]]:
        """Return the errors by head and set."""
        molecule = self.node.inputs.parameters.get_dict().get("molecule")
        errors: dict[str, dict[str, Any]] = {}
        for head, sets in predicted.items():
            for name, (frames, labels) in sets.items():
                (reference,) = frames.labels_by_level.values()
                own = molecule if head != REPLAY_HEAD else None  # replay frames are of other substances too
                errors.setdefault(head, {})[name] = label_errors(frames, reference, labels, own)
        return errors

    def _passport(
        self, heads: list[HeadSets], described: dict[str, Any], errors: dict[str, Any], record: dict[str, Any]
    ) -> Passport:
        inputs = self.node.inputs
        parameters = inputs.parameters.get_dict()
        foundation = inputs.foundation.passport if "foundation" in inputs else None
        start = None if foundation is None else foundation_head(parameters, foundation)
        levels = head_levels(heads, foundation, start)
        settings = {
            "parameters": parameters,
            "e0s": inputs.e0s.get_dict(),
            "training_content_hash": inputs.train.content_hash,
            "n_train": len(heads[-1].train),
            "n_valid": len(heads[-1].valid),
            "trained": record,
        }
        if "replay" in inputs:
            settings["replay"] = {"content_hash": inputs.replay.content_hash, "level": heads[0].level}
        if parameters["mode"] == TrainingMode.DELTA.value:
            settings["baseline"] = baseline_of(heads[-1].train.labels(heads[-1].level).level)
        return Passport(
            **described,
            levels={name: level for name, level in levels.items() if name in described["heads"]},
            parent_sha256=None if foundation is None else foundation.sha256,
            seeds=[parameters["seed"]],
            errors=errors,
            settings=settings,
        )

    def _parity(self, predicted: dict[str, tuple[Frames, Labels]]) -> DatasetData:
        """Return reference and prediction of the target head."""
        parts = []
        for frames, labels in predicted.values():
            parts.append(frames.with_labels(labels))
            own = labels.level.key
        level = self.node.inputs.level.value
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

    def _judge(
        self,
        passport: Passport,
        heads: list[HeadSets],
        wanted: dict[str, dict[str, float] | None],
        record: dict[str, Any],
    ) -> ExitCode | None:
        """Compare the model in the file, and what MACE says it trained, with what was asked for."""
        elements, names = all_elements(heads), [head.name for head in heads]
        if passport.heads != names or passport.elements != elements:
            return self.exit_codes.ERROR_MODEL_MISMATCH.format(
                details=f"heads {passport.heads}, elements {passport.elements} instead of {names}, {elements}"
            )
        tolerance = E0_TOLERANCE.get(passport.dtype, 0.0)
        wrong = []
        for name in names:
            stored, asked = passport.e0s[name], wanted[name]
            if asked is None:
                return self._incomplete(f"the estimated reference energies of head {name!r} are missing")
            head = f"head {name}, " if len(names) > 1 else ""
            wrong += [
                f"{head}{e}: {asked[e]!r} eV asked for, {stored[e]!r} eV stored"
                for e in elements
                if abs(stored[e] - asked[e]) > tolerance * abs(asked[e])
            ]
        if wrong:
            return self.exit_codes.ERROR_E0_MISMATCH.format(details=", ".join(wrong))
        parameters = self.node.inputs.parameters.get_dict()
        expected = expected_record(parameters, heads, fine_tuned="foundation" in self.node.inputs)
        if differences := record_differences(expected, record):
            return self.exit_codes.ERROR_TRAINING_MISMATCH.format(details="; ".join(differences))
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


def _found_entry(found: dict[str, Any] | None, head: str) -> dict[str, Any] | None:
    """Return what the job wrote about the reference energies of a head."""
    if found is None or head == HEAD:
        return found
    return found.get("heads", {}).get(head)


def _found_values(found: dict[str, Any] | None, head: str) -> dict[str, float] | None:
    entry = _found_entry(found, head)
    return None if entry is None else entry.get("values")


def without_other_levels(frames: Frames, level: str) -> Frames:
    """Return frames with the labels of one level."""
    return replace(frames, labels_by_level={level: frames.labels(level)})


def baseline_of(level: Level) -> dict[str, Any]:
    """Return ``level``, and ``sha256`` and ``head`` where it is a model's, of what a difference is taken to."""
    baseline = level.settings["level_b"]
    model = baseline.get("settings", {}) if baseline.get("engine") == "mace" else {}
    return {"level": baseline["key"], "sha256": model.get("sha256"), "head": model.get("head")}

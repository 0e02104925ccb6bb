"""Parser of ``mlfinetune.ase_label``."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_mlfinetune.calculations.ase_label import AseLabelCalculation, ase_level
from aiida_mlfinetune.parsers.label_results import (
    NOT_REACHED,
    FrameFailure,
    FrameLabel,
    failures,
    labelled_dataset,
)
from aiida_mlfinetune.parsers.raw.json_lines import read_json_lines


class AseLabelParser(Parser):
    """Maps the lines that the program wrote, in order, to the frames of the input dataset."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Attach the frames that succeeded and the reasons of the others, then pick an exit code."""
        inputs, files = self.node.inputs, self.retrieved.base.repository
        if AseLabelCalculation.LABELS_FILENAME not in files.list_object_names():
            return self.exit_codes.ERROR_OUTPUT_MISSING.format(details=self._last_words())
        lines = read_json_lines(files.get_object_content(AseLabelCalculation.LABELS_FILENAME))
        frames = inputs.dataset.frames
        refused = lines[0].get("refused") if lines else None
        if refused:
            results: list[FrameLabel | FrameFailure] = [FrameFailure(refused, retry=False)] * len(frames)
        else:
            results = [_result(line) for line in lines[1:]]
            results += [NOT_REACHED] * (len(frames) - len(results))
        self.out("failed", orm.Dict(failures(results)))
        if refused:
            return self.exit_codes.ERROR_CALCULATOR_REFUSED.format(message=refused)
        code = lines[0] if lines else {}
        model = inputs.model if "model" in inputs else None
        level = ase_level(inputs.level.get_dict(), code, model)
        dataset = labelled_dataset(frames, level, results, self.node.uuid)
        if dataset is not None:
            self.out("dataset", dataset)
        return self._exit_code(results)

    def _exit_code(self, results: list[FrameLabel | FrameFailure]) -> ExitCode | None:
        total, done = len(results), sum(result != NOT_REACHED for result in results)
        if done == 0:
            return self.exit_codes.ERROR_NO_FRAME_FINISHED
        if done < total:
            return self.exit_codes.ERROR_INTERRUPTED.format(done=done, total=total)
        reasons = [result.reason for result in results if isinstance(result, FrameFailure)]
        if len(reasons) == total:
            return self.exit_codes.ERROR_NO_FRAME_LABELLED.format(total=total, reason=reasons[0])
        return None

    def _last_words(self) -> str:
        name = self.node.get_option("output_filename")
        if name not in self.retrieved.base.repository.list_object_names():
            return "none"
        lines = self.retrieved.base.repository.get_object_content(name).strip().splitlines()
        return lines[-1] if lines else "none"


def _result(line: dict[str, Any]) -> FrameLabel | FrameFailure:
    if "error" in line:
        return FrameFailure(line["error"], retry=False)
    stress = None if line["stress"] is None else np.array(line["stress"])
    label = FrameLabel(line["energy"], np.array(line["forces"]).reshape(-1, 3), stress)
    if not label.finite:
        return FrameFailure("the calculator's energy, forces or stress are not all numbers", retry=False)
    return label

"""Parser of ``mlfinetune.mace_evaluate``."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_mlfinetune.calculations.mace_evaluate import MaceEvaluateCalculation, level_of
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.levels import Labels


class MaceEvaluateParser(Parser):
    """Attach the dataset with the model's level."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Parse the retrieved folder."""
        dataset, parameters = self.node.inputs.dataset, self.node.inputs.parameters.get_dict()
        files = self.retrieved.base.repository
        if MaceEvaluateCalculation.LABELS_FILENAME not in files.list_object_names():
            return self.exit_codes.ERROR_NO_LABELS.format(details=self._last_words())
        content = files.get_object_content(MaceEvaluateCalculation.LABELS_FILENAME, "rb")
        baseline = self.node.inputs.baseline if "baseline" in self.node.inputs else None
        frames, level = dataset.frames, level_of(self.node.inputs.model, parameters, baseline)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                energy, forces, stress = (arrays[name] for name in ("energy", "forces", "stress"))
            if not (np.isfinite(energy).all() and np.isfinite(forces).all()):
                return self.exit_codes.ERROR_NOT_FINITE.format(details=f"first energies (eV) {energy[:5].tolist()}")
            labelled = frames.with_labels(Labels.build(level, frames.offsets, energy, forces, stress))
        except (MlFinetuneError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            return self.exit_codes.ERROR_OUTPUT_INCOMPLETE.format(details=f"{type(error).__name__}: {error}")
        sources = {**dataset.level_sources, level.key: [self.node.uuid]}
        self.out("dataset", DatasetData(labelled, level_sources=sources))
        return None

    def _last_words(self) -> str:
        name = self.node.get_option("output_filename")
        if name not in self.retrieved.base.repository.list_object_names():
            return "none"
        lines = self.retrieved.base.repository.get_object_content(name).strip().splitlines()
        return lines[-1] if lines else "none"

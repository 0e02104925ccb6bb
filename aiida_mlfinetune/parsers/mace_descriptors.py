"""Parser of ``mlfinetune.mace_descriptors``."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_mlfinetune.calculations.mace_descriptors import MaceDescriptorsCalculation
from aiida_mlfinetune.common.errors import FramesError
from aiida_mlfinetune.science.training.replay import FrameDescriptors


class MaceDescriptorsParser(Parser):
    """Attach the descriptors."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Parse the retrieved folder."""
        files = self.retrieved.base.repository
        if MaceDescriptorsCalculation.DESCRIPTORS_FILENAME not in files.list_object_names():
            return self.exit_codes.ERROR_NO_DESCRIPTORS.format(details=self._last_words())
        content = files.get_object_content(MaceDescriptorsCalculation.DESCRIPTORS_FILENAME, "rb")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                rows = {name: arrays[name] for name in ("frame", "number", "mean")}
            descriptors = FrameDescriptors(rows["frame"], rows["number"], rows["mean"])
            descriptors.check(self.node.inputs.dataset.frames)
        except (FramesError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            return self.exit_codes.ERROR_OUTPUT_INCOMPLETE.format(details=f"{type(error).__name__}: {error}")
        if (bad := np.unique(rows["frame"][~np.isfinite(rows["mean"]).all(axis=1)])).size:
            return self.exit_codes.ERROR_NOT_FINITE.format(frames=bad[:10].tolist())
        self.out("descriptors", orm.ArrayData(rows))
        return None

    def _last_words(self) -> str:
        name = self.node.get_option("output_filename")
        if name not in self.retrieved.base.repository.list_object_names():
            return "none"
        lines = self.retrieved.base.repository.get_object_content(name).strip().splitlines()
        return lines[-1] if lines else "none"

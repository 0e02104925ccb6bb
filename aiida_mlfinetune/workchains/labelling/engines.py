"""The engines behind ``mlfinetune.labelling``: what turns a batch of frames into a job.

An engine needs a CalcJob with the inputs ``dataset`` and ``level`` and the outputs ``dataset`` (the frames that
succeeded, at the new level only) and ``failed`` (by index: ``reason`` and ``retry``), and an entry in ``ENGINES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiida.engine import CalcJob

from aiida_mlfinetune.calculations.cp2k_input import check_level
from aiida_mlfinetune.common.errors import StudyError


@dataclass(frozen=True)
class Engine:
    """A program that labels.

    Attributes:
        name: value of ``engine`` in a level.
        namespace: of the work chain's inputs that holds code and options.
        calculation: the CalcJob of one batch.
        check: raises ``StudyError`` on a level that is not one for this engine.
    """

    name: str
    namespace: str
    calculation: type[CalcJob]
    check: Callable[[Mapping[str, Any]], None]


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("cp2k", "cp2k", Cp2kLabelCalculation, check_level),
        Engine("ase", "python", AseLabelCalculation, check_ase_level),
    )
}


def engine_of(level: Mapping[str, Any]) -> Engine:
    """Return the engine of a level, which is checked.

    Raises:
        StudyError: an unknown engine, or a level that it cannot compute.
    """
    name = level.get("engine")
    if name not in ENGINES:
        raise StudyError(f"the level names the engine {name!r}: there are {list(ENGINES)}")
    ENGINES[name].check(level)
    return ENGINES[name]

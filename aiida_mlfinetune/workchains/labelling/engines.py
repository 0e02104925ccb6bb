"""The engines behind ``mlfinetune.labelling``: what turns a batch of frames into a job.

An engine needs a CalcJob with the inputs ``dataset`` and ``level`` and the outputs ``dataset`` (the frames that
succeeded, at the new level only) and ``failed`` (by index: ``reason`` and ``retry``), levels of theory, and an entry in
``ENGINES``. It may have a ladder too: what is changed, step by step, for frames that do not converge. Then its CalcJob
takes the optional input ``convergence``, one rung of the ladder, and marks such frames in ``failed`` by ``climb``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiida import orm
from aiida.engine import Process

from aiida_mlfinetune.calculations.ase_label import AseLabelCalculation, ase_inputs_problem, check_ase_level
from aiida_mlfinetune.calculations.cp2k_cells import as_labelled, with_grid_cells
from aiida_mlfinetune.calculations.cp2k_checks import level_warning, settle_for
from aiida_mlfinetune.calculations.cp2k_input import check_level
from aiida_mlfinetune.calculations.cp2k_label import Cp2kLabelCalculation, cp2k_inputs_problem
from aiida_mlfinetune.calculations.cp2k_ladder import check_cp2k_rung, cp2k_ladder
from aiida_mlfinetune.calculations.functions.labelling import settle_cp2k
from aiida_mlfinetune.calculations.vasp_input import check_vasp_level
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling.vasp import VaspLabelWorkChain, vasp_inputs_problem
from aiida_mlfinetune.workchains.protocols.ase_levels import available_ase_levels, load_ase_level
from aiida_mlfinetune.workchains.protocols.levels import available_levels, load_level
from aiida_mlfinetune.workchains.protocols.vasp_levels import available_vasp_levels, load_vasp_level


@dataclass(frozen=True)
class Engine:
    """A program that labels.

    Attributes:
        name: value of ``engine`` in a level.
        namespace: of the work chain's inputs that holds code and options.
        calculation: the CalcJob, or the work chain, of one batch.
        check: raises ``StudyError`` on a level that is not one for this engine.
        problem: returns why the inputs of a job do not fit together, or None.
        available: returns a line on each of the engine's levels by name.
        load: returns the level of a name with overrides laid over it.
        mixes_compositions: whether one job takes frames of several compositions.
        own_queue: whether the process takes all frames at once, with the input ``max_concurrent``, and queues them.
        ladder: returns the rungs for a level, each with a ``name``; None for an engine that has none.
        settle: returns a level with what has to be the same for all frames settled by them; None if there is no such.
        settle_node: the same for nodes, as a step of the graph.
        expect: returns a level with what crystals settle, of which there will be frames; None if there is no such.
        check_rung: raises ``StudyError`` on a rung that is not one for this engine, or that may change the labels.
        as_labelled: returns a level with what labels that were made at it share, from their settings; None if there is
            no such.
        warning: returns why labels of frames would be doubtful, or None; None for an engine that does not tell.
    """

    name: str
    namespace: str
    calculation: type[Process]
    check: Callable[[Mapping[str, Any]], None]
    problem: Callable[[Mapping[str, Any]], str | None]
    available: Callable[[], dict[str, str]]
    load: Callable[[str, Mapping[str, Any] | None], dict[str, Any]]
    mixes_compositions: bool = False
    own_queue: bool = False
    ladder: Callable[[Mapping[str, Any]], list[dict[str, Any]]] | None = None
    check_rung: Callable[[Mapping[str, Any]], None] | None = None
    settle: Callable[[Mapping[str, Any], Frames], dict[str, Any]] | None = None
    settle_node: Callable[[orm.Dict, DatasetData], orm.Dict] | None = None
    expect: Callable[[Mapping[str, Any], Frames], dict[str, Any]] | None = None
    as_labelled: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None
    warning: Callable[[Mapping[str, Any], Frames], str | None] | None = None

    def check_ladder(self, ladder: Sequence[Mapping[str, Any]]) -> None:
        """Check the rungs that frames of this engine may climb.

        Raises:
            StudyError: rungs for an engine that has none, two of one name, or one that does not fit.
        """
        if ladder and self.check_rung is None:
            raise StudyError(f"engine {self.name!r} has no ladder for frames that do not converge: leave it out")
        names = [rung.get("name") for rung in ladder]
        if len(set(names)) < len(names):
            raise StudyError(f"the rungs of a ladder need names of their own, got {names}")
        for rung in ladder if self.check_rung else ():
            self.check_rung(rung)


CP2K = Engine(
    "cp2k",
    "cp2k",
    Cp2kLabelCalculation,
    check_level,
    cp2k_inputs_problem,
    available_levels,
    load_level,
    ladder=cp2k_ladder,
    check_rung=check_cp2k_rung,
    settle=settle_for,
    settle_node=settle_cp2k,
    expect=with_grid_cells,
    as_labelled=as_labelled,
    warning=level_warning,
)
ASE = Engine(
    "ase",
    "python",
    AseLabelCalculation,
    check_ase_level,
    ase_inputs_problem,
    available_ase_levels,
    load_ase_level,
    mixes_compositions=True,
)
VASP = Engine(
    "vasp",
    "vasp",
    VaspLabelWorkChain,
    check_vasp_level,
    vasp_inputs_problem,
    available_vasp_levels,
    load_vasp_level,
    mixes_compositions=True,
    own_queue=True,
)
ENGINES = {engine.name: engine for engine in (CP2K, ASE, VASP)}


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


def find_level(name: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the level called ``name`` of whichever engine has it.

    Raises:
        StudyError: an unknown name; the message lists those there are.
    """
    for engine in ENGINES.values():
        if name in engine.available():
            return engine.load(name, overrides)
    known = [level for engine in ENGINES.values() for level in engine.available()]
    raise StudyError(f"unknown level {name!r}: choose from {known}, or give a whole specification")

"""From a study to the builder of its work chain: of one crystal, or of several polymorphs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida_mlfinetune.cli.polymorphs import PolymorphStudy
from aiida_mlfinetune.cli.study import Study
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.crystals.ices import IceSpec, build_ice

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, StructureData

    from aiida_mlfinetune.data.model import MaceModelData

__all__ = ("find_foundation", "quiet", "read_crystal", "study_builder")


def study_builder(study: Study | PolymorphStudy) -> ProcessBuilder:
    """Return the builder of the whole chain for a study.

    Raises:
        StudyError: a code, model or crystal that cannot be found or read, an unknown protocol or override.
    """
    if isinstance(study, PolymorphStudy):
        return _polymorphs_builder(study)
    from aiida.plugins import WorkflowFactory

    chain = WorkflowFactory("mlfinetune.sublimation")
    options: dict[str, Any] = {
        "temperature_K": study.temperature_K,
        "pressure_bar": study.pressure_bar,
        "foundation": None if study.foundation is None else find_foundation(study.foundation),
        "sampling_model": None if study.sampling_model is None else find_foundation(study.sampling_model),
    }
    with quiet():
        builder = chain.get_builder_from_protocol(
            cp2k_code=_code(study, "cp2k"),
            python_code=_code(study, "python"),
            ipi_code=_code(study, "i-pi"),
            crystal=read_crystal(study.crystal),
            protocol=study.protocol,
            overrides=dict(study.overrides),
            **{name: value for name, value in options.items() if value is not None},
        )
    builder.metadata.label = study.label
    return builder


def _polymorphs_builder(study: PolymorphStudy) -> ProcessBuilder:
    """Return the builder of ``mlfinetune.study``."""
    from aiida.plugins import WorkflowFactory

    chain = WorkflowFactory("mlfinetune.study")
    overrides = dict(study.overrides)
    curve = overrides.get("learning_curve") or {}
    for name, other, key, given in (
        ("modes", "overrides", "modes", overrides),
        ("pool", "overrides", "pool", overrides),
        ("foundation", "overrides", "foundation", overrides),
        ("seeds", "overrides.learning_curve", "seeds", curve),
        ("sizes", "overrides.learning_curve.split", "train", curve.get("split") or {}),
    ):
        if (value := getattr(study, name)) is not None:
            _refuse_twice(name, value, other, key, given)
    for name in ("modes", "pool"):
        if getattr(study, name) is not None:
            overrides[name] = getattr(study, name)
    for name in ("target", "production", "runs", "distributions", "upgrade"):
        if own := getattr(study, name):
            given = overrides.get(name) or {}
            for key, value in own.items():
                _refuse_twice(f"{name}.{key}", value, f"overrides.{name}", key, given)
            overrides[name] = {**given, **own}
    models = _set_levels(overrides, study.levels)
    programs = {"python", "i-pi", *study.codes, *chain.programs_of(study.protocol, overrides)}
    programs |= set() if "sampling_model" in models else {"cp2k"}
    options: dict[str, Any] = {
        "temperature_K": study.temperature_K,
        "pressure_bar": study.pressure_bar,
        "foundation": None if study.foundation is None else find_foundation(study.foundation),
        **models,
        "sizes": study.sizes,
        "seeds": study.seeds,
        "experiment": study.experiment or None,
    }
    with quiet():
        builder = chain.get_builder_from_protocol(
            {name: read_crystal(source) for name, source in study.crystals.items()},
            {program: _code(study, program) for program in sorted(programs)},
            protocol=study.protocol,
            overrides=overrides,
            options=study.options,
            **{name: value for name, value in options.items() if value is not None},
        )
    builder.metadata.label = study.label
    return builder


def _set_levels(overrides: dict[str, Any], levels: Mapping[str, Any]) -> dict[str, MaceModelData]:
    """Lay the levels of a study over the overrides; return the models that play the reference, or sample.

    Raises:
        StudyError: a level that the overrides give otherwise, or a model that cannot be found.
    """
    models = {}
    stages = {"sampling": ("sampling_crystal", "sampling_gas"), "reference": ("labelling",)}
    stages["upgrade"] = ("upgrade_labelling",)
    for name, level in levels.items():
        own: dict[str, Any] = {"level": level}
        if isinstance(level, Mapping) and name == "sampling":
            _refuse_twice("levels.sampling.model", level["model"], "overrides", "sampling_model", overrides)
            models["sampling_model"] = find_foundation(str(level["model"]))
            continue
        if isinstance(level, Mapping):
            models["teacher"] = find_foundation(str(level["teacher"]))
            own = {"level": "mace", "level_overrides": {"key": f"{level['teacher']}/mace"}}
        for stage in stages[name]:
            given = overrides.get(stage) or {}
            _refuse_twice(f"levels.{name}", own["level"], f"overrides.{stage}", "level", given)
            overrides[stage] = {**own, **given}
    return models


def _refuse_twice(place: str, value: Any, other: str, key: str, given: Mapping[str, Any]) -> None:
    """Raise ``StudyError`` if ``given``, which stands at ``other``, says something else than what ``place`` says."""
    if given.get(key) not in (None, value):
        raise StudyError(f"{place} is {value!r}, but {other}.{key} is {given[key]!r}: give it once")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back AiiDA's reports while the context lasts: the commands say themselves what a builder will do."""
    logger = logging.getLogger("aiida")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def read_crystal(source: Path | str | IceSpec) -> StructureData:
    """Return the crystal in a file, the one of that name in the package, or an ice.

    Raises:
        StudyError: ASE cannot read the file, or the structure is not periodic in three directions.
    """
    from aiida.orm import StructureData
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError

    from aiida_mlfinetune.science.crystals.crystals import build_crystal

    if isinstance(source, IceSpec):
        return StructureData(ase=build_ice(source))
    if isinstance(source, str):
        return StructureData(ase=build_crystal(source))
    path = source
    try:
        atoms = read(path)
    except (UnknownFileTypeError, ValueError, KeyError, IndexError, StopIteration, AssertionError, OSError) as error:
        raise StudyError(
            f"{path} cannot be read as a structure ({type(error).__name__}: {error}): use a format that ASE knows, "
            "such as CIF, POSCAR or extended XYZ"
        ) from error
    if not all(atoms.pbc) or abs(atoms.cell.volume) < 1.0:
        raise StudyError(f"{path} holds no crystal: it is not periodic in three directions, or its cell has no volume")
    return StructureData(ase=atoms)


def _code(study: Study | PolymorphStudy, program: str) -> AbstractCode:
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    label = study.code(program)
    try:
        return load_code(label)
    except (NotExistent, MultipleObjectsError, ValueError) as error:
        raise StudyError(
            f"there is no code {label!r} for {program}: run `aiida-mlfinetune setup`, or name another one under "
            f"`codes` (`verdi code list` shows them); {error}"
        ) from error


def find_foundation(name: str) -> MaceModelData:
    """Return a foundation model by its name in the table of known ones, or a model node by pk or uuid."""
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node

    from aiida_mlfinetune.data.fetching import OFFICIAL
    from aiida_mlfinetune.data.foundations import FOUNDATIONS, load_foundation
    from aiida_mlfinetune.data.model import MaceModelData

    if name in FOUNDATIONS or name in OFFICIAL:
        return load_foundation(name)
    try:
        node = load_node(int(name) if name.isdigit() else name)
    except (NotExistent, MultipleObjectsError, ValueError) as error:
        raise StudyError(
            f"unknown foundation {name!r}: give one of {list(FOUNDATIONS)}, an official one (`aiida-mlfinetune model "
            "list`), or the pk or uuid of a model"
        ) from error
    if not isinstance(node, MaceModelData):
        raise StudyError(f"foundation {name!r} is no MACE model, but {node.node_type}")
    return node

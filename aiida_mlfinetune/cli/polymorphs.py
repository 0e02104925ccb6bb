"""A study of several polymorphs: crystals, levels, modes, sizes, seeds, conditions and further runs in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from aiida_mlfinetune.cli.study_file import mapping_of, number_of, refuse_unknown, relative_crystal, text_of
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.science.crystals.ices import IceSpec
from aiida_mlfinetune.science.dynamics.md_settings import is_number

__all__ = ("PolymorphStudy", "read_polymorphs")

CODES = ("cp2k", "python", "i-pi", "vasp")
LEVELS = ("sampling", "reference", "upgrade")
MODEL_AS = {"sampling": "model", "reference": "teacher"}
"""Levels that a model may stand for, and the key that names it."""
UPGRADE = ("crystals", "n_frames", "n_gas", "seed", "start", "mode")
MEASURED = ("density", "sublimation_enthalpy")
"""What an experiment may have measured, in g/cm^3 and kJ/mol."""


@dataclass(frozen=True)
class PolymorphStudy:
    """The content of a study file with several crystals.

    Attributes:
        crystals: by name: a file, the name of a crystal of the package, or an ice.
        protocol: name of the protocol, None for the default one.
        temperature_K: temperature in K, None for that of the protocol.
        pressure_bar: pressure in bar, likewise.
        foundation: name of the foundation model, or pk or uuid of a model node, likewise.
        levels: of the ``sampling`` (CP2K), the ``reference`` and the ``upgrade``: a name; for the sampling also
            ``model``, whose dynamics the frames are taken from, and for the reference ``teacher``, which plays it.
        modes: training modes, as ``mlfinetune.learning_curve`` takes them; None for those of the protocol.
        sizes: of the training sets, or the name of published ones, likewise.
        seeds: of the trainings, likewise.
        pool: whether one model is trained for all crystals, likewise.
        target: how far averages may be from the reference.
        production: mode and size of the model that goes into the table.
        runs: further runs of it, by name.
        distributions: pairs of elements and the largest distance of the radial distribution functions.
        upgrade: crystals, n_frames of these, n_gas of the molecule, seed, start and mode of the step to the level
            ``upgrade``.
        experiment: what was measured, by crystal.
        codes: full labels of the codes by program.
        options: scheduler options by program.
        overrides: what differs from the protocol, by the names of its inputs.
        label: name of the run in the database.
    """

    crystals: Mapping[str, Path | str | IceSpec]
    protocol: str | None = None
    temperature_K: float | None = None  # noqa: N815 - the unit is part of the name
    pressure_bar: float | None = None
    foundation: str | None = None
    levels: Mapping[str, Any] = field(default_factory=dict)
    modes: Any = None
    sizes: Any = None
    seeds: Sequence[int] | None = None
    pool: bool | None = None
    target: Mapping[str, Any] = field(default_factory=dict)
    production: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, Any] = field(default_factory=dict)
    upgrade: Mapping[str, Any] = field(default_factory=dict)
    experiment: Mapping[str, Any] = field(default_factory=dict)
    codes: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def code(self, program: str) -> str:
        """Return the full label of a program's code, by default the one that ``setup`` makes."""
        return self.codes.get(program, f"{program}@localhost")


def read_polymorphs(content: Mapping[str, Any], path: Path) -> PolymorphStudy:
    """Check the content of a study file.

    Raises:
        StudyError: an unknown key, names that clash, a value of the wrong kind, no such crystal.
    """
    refuse_unknown(content, [entry.name for entry in fields(PolymorphStudy)], str(path))
    codes = mapping_of(content, "codes", path)
    refuse_unknown(codes, CODES, f"{path}, codes")
    levels = mapping_of(content, "levels", path)
    refuse_unknown(levels, LEVELS, f"{path}, levels")
    for name, level in levels.items():
        if isinstance(level, Mapping) and name in MODEL_AS:
            refuse_unknown(level, (MODEL_AS[name],), f"{path}, levels, {name}")
            if not isinstance(level.get(MODEL_AS[name]), str | int):
                raise StudyError(f"{path}, levels, {name}: name the model, as `{{{MODEL_AS[name]}: ice-xtb}}`")
        elif not isinstance(level, str):
            raise StudyError(f"{path}, levels, {name}: give the name of a level, got {level!r}")
    upgrade = mapping_of(content, "upgrade", path)
    refuse_unknown(upgrade, UPGRADE, f"{path}, upgrade")
    if bool(upgrade) != ("upgrade" in levels):
        raise StudyError(f"{path}: an upgrade needs its level under `levels` and its crystals under `upgrade`, both")
    names = _crystals(content, path)
    upgrade = {**upgrade}
    if upgrade.get("crystals"):
        upgrade["crystals"] = [link_name(str(name)) for name in upgrade["crystals"]]
    return PolymorphStudy(
        crystals=names,
        protocol=text_of(content, "protocol", path),
        temperature_K=number_of(content, "temperature_K", path),
        pressure_bar=number_of(content, "pressure_bar", path),
        foundation=text_of(content, "foundation", path),
        levels=levels,
        modes=content.get("modes"),
        sizes=content.get("sizes"),
        seeds=_seeds(content, path),
        pool=_flag(content, "pool", path),
        target=mapping_of(content, "target", path),
        production=mapping_of(content, "production", path),
        runs=_runs(content, path),
        distributions=mapping_of(content, "distributions", path),
        upgrade=upgrade,
        experiment=_experiment(content, path, names),
        codes={name: str(value) for name, value in codes.items()},
        options=mapping_of(content, "options", path),
        overrides=mapping_of(content, "overrides", path),
        label=text_of(content, "label", path) or path.stem,
    )


def link_name(name: str) -> str:
    """Return what a crystal or a run is called in the graph, where hyphens cannot be."""
    return name.replace("-", "_")


def _crystals(content: Mapping[str, Any], path: Path) -> dict[str, Path | str | IceSpec]:
    """Return the crystals by their names in the graph.

    Raises:
        StudyError: none, two of one name, an ice that cannot be built, a file that is not there.
    """
    given = content["crystals"]
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = _listed(given, path)
    if not isinstance(given, Mapping) or not given:
        raise StudyError(f"{path}: crystals must list names and what they are, such as `ice-ic: ice-ic`, got {given!r}")
    found: dict[str, Path | str | IceSpec] = {}
    for name, value in given.items():
        own = link_name(str(name))
        if own in found:
            raise StudyError(f"{path}: two crystals are called {own!r}, as hyphens count as underscores: rename one")
        if isinstance(value, Mapping):
            refuse_unknown(value, [entry.name for entry in fields(IceSpec)], f"{path}, crystals, {name}")
            if "ice" not in value:
                raise StudyError(f"{path}, crystals, {name}: say which `ice` it is, or give the name of a file")
            try:
                found[own] = IceSpec.from_dict(value)
            except StudyError as error:
                raise StudyError(f"{path}, crystals, {name}: {error}") from error
        elif isinstance(value, str):
            found[own] = relative_crystal(value, path)
        else:
            raise StudyError(f"{path}, crystals, {name}: give a file, a name or `{{ice: Ih}}`, got {value!r}")
    return found


def _listed(given: Sequence[Any], path: Path) -> dict[str, Any]:
    """Return a list of crystals by name: the stem of a file, the name itself, or ``ice-`` and the ice's name."""
    found: dict[str, Any] = {}
    for value in given:
        ice = value.get("ice") if isinstance(value, Mapping) else None
        name = f"ice-{str(ice).lower()}" if ice is not None else Path(str(value)).stem
        if link_name(name) in {link_name(known) for known in found}:
            raise StudyError(f"{path}: two crystals are called {name!r}: give them names, as `name: {value}`")
        found[name] = value
    return found


def _runs(content: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Return the further runs by their names in the graph.

    Raises:
        StudyError: two of one name, an unknown entry, or one of the wrong kind.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, run in mapping_of(content, "runs", path).items():
        own, where = link_name(str(name)), f"{path}, runs, {name}"
        if own in found:
            raise StudyError(f"{path}: two runs are called {own!r}, as hyphens count as underscores: rename one")
        if not isinstance(run, Mapping):
            raise StudyError(f"{where}: say what changes, as `crystal: {{n_beads: 8}}`, got {run!r}")
        refuse_unknown(run, ("crystal", "gas", "repeat"), where)
        for phase in ("crystal", "gas"):
            if phase in run and not isinstance(run[phase], Mapping):
                raise StudyError(f"{where}, {phase}: give names and values of the run's parameters, got {run[phase]!r}")
        found[own] = dict(run)
    return found


def _experiment(content: Mapping[str, Any], path: Path, crystals: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Return what was measured by the names of the crystals in the graph.

    Raises:
        StudyError: a crystal that the study does not have, one of two names, an unknown entry, or one of the wrong
            kind.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for name, value in mapping_of(content, "experiment", path).items():
        own, where = link_name(str(name)), f"{path}, experiment, {name}"
        if own not in crystals:
            raise StudyError(f"{where}: there is no such crystal; the study has {', '.join(crystals)}")
        if own in found:
            raise StudyError(f"{where}: {own!r} is there twice, as hyphens count as underscores")
        if not isinstance(value, Mapping):
            raise StudyError(f"{where}: give `density` and others with their values, got {value!r}")
        refuse_unknown(value, (*MEASURED, "source"), where)
        for key in MEASURED:
            if value.get(key) is not None and not is_number(value[key]):
                raise StudyError(f"{where}: {key} must be a number, got {value[key]!r}")
        if value.get("source") is not None and not isinstance(value["source"], str):
            raise StudyError(f"{where}: source must be a text, got {value['source']!r}")
        found[own] = value
    return found


def _seeds(content: Mapping[str, Any], path: Path) -> Sequence[int] | None:
    seeds = content.get("seeds")
    if seeds is not None and (isinstance(seeds, str) or not isinstance(seeds, Sequence)):
        raise StudyError(f"{path}: seeds must list numbers, such as [1, 2], got {seeds!r}")
    return seeds


def _flag(content: Mapping[str, Any], key: str, path: Path) -> bool | None:
    value = content.get(key)
    if value is not None and not isinstance(value, bool):
        raise StudyError(f"{path}: {key} must be true or false, got {value!r}")
    return value

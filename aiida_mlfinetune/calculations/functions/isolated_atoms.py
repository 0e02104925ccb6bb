"""Isolated atoms: what is computed for each spin state, and the lowest of them as reference energies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from ase import Atoms

from aiida_mlfinetune.calculations.cp2k_input import lay_over, level_metadata
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels

ATOM, LEVEL, LABELLED = "atom_", "level_", "labelled_"


@calcfunction
def make_atoms(level: orm.Dict, multiplicities: orm.Dict) -> dict[str, orm.Data]:
    """Return ``atom_<element>`` and, for each of its multiplicities, ``level_<element>_<multiplicity>``."""
    made: dict[str, orm.Data] = {}
    for element, values in multiplicities.get_dict().items():
        made[ATOM + element] = DatasetData(Frames.from_atoms([Atoms(element, positions=[[0.0, 0.0, 0.0]])]))
        for value in values:
            made[f"{LEVEL}{element}_{value}"] = orm.Dict(spin_level(level.get_dict(), value))
    return made


@calcfunction
def lowest_energies(level: orm.Dict, **labelled: DatasetData) -> dict[str, orm.Data]:
    """Return the lowest energy of each element from ``labelled_<element>_<multiplicity>``.

    ``e0s`` is the input of that name of a training; ``energies`` has the energy (eV) of every spin state; ``dataset``
    holds the atoms with their lowest energies, as labels at ``level``.
    """
    energies: dict[str, dict[str, float]] = {}
    versions: dict[str, str] = {}
    sources: dict[str, str] = {}
    spec = level.get_dict()
    for name in sorted(labelled):
        element, multiplicity = name.removeprefix(LABELLED).split("_")
        labels = labelled[name].frames.labels(spec["key"])
        energies.setdefault(element, {})[multiplicity] = float(labels.energy[0])
        versions[element] = labels.level.code_version
        sources.update(dict.fromkeys(labelled[name].level_sources[spec["key"]], ""))
    values = {element: min(states.values()) for element, states in energies.items()}
    frames = Frames.from_atoms([Atoms(element, positions=[[0.0, 0.0, 0.0]]) for element in values])
    metadata = level_metadata(spec, next(iter(versions.values())))
    labels = Labels.build(metadata, frames.offsets, energy=np.array(list(values.values())))
    return {
        "e0s": orm.Dict({"source": "given", "values": values}),
        "energies": orm.Dict(energies),
        "dataset": DatasetData(frames.with_labels(labels), level_sources={spec["key"]: list(sources)}),
    }


def spin_level(spec: Mapping[str, Any], multiplicity: int) -> dict[str, Any]:
    """Return a level with unrestricted orbitals of one multiplicity, and a minimiser that bears open shells."""
    delta: dict[str, Any] = {"DFT": {"UKS": True, "MULTIPLICITY": multiplicity}}
    if "OT" in spec["parameters"].get("DFT", {}).get("SCF", {}):
        delta["DFT"]["SCF"] = {"OT": {"MINIMIZER": "CG"}}
    return {**spec, "parameters": lay_over(spec["parameters"], delta)}

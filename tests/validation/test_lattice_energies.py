"""Lattice energies of ices at revPBE-D3, against those that were published for the same structures."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import ase.io
import numpy as np
import pytest
from aiida.engine import run_get_node
from aiida_cp2k.utils import Cp2kInput
from ase.units import Hartree

from aiida_mlfinetune.calculations.cp2k_input import force_eval, lay_over
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.protocols.levels import load_level

ICE13 = Path(__file__).parents[3] / "shared" / "data" / "ice13"
SOURCE = "Della Pia et al., J. Chem. Phys. 157, 134701 (2022), doi 10.1063/5.0102645"
MESHES = {"VIII": [3, 3, 2], "XI": [3, 2, 2]}
ABSOLUTE_KJMOL, RELATIVE_KJMOL = 1.5, 0.7
BASIS = "QZV3P-GTH"
LARGE = {
    "key": "revpbe-d3-large/cp2k",
    "basis": f"{BASIS}, GTH-PBE, 800 Ry",
    "kind": {"BASIS_SET": BASIS},
    "parameters": {"DFT": {"MGRID": {"CUTOFF": 800}}},
}
NEIGHBOURS_A, BOX_A, GHOST_CUTOFF_RY = 3.2, 14.0, 400


def molecule_and_neighbours(crystal):
    """Return a molecule of a crystal, and after it the molecules whose oxygens are within NEIGHBOURS_A of its own."""
    block = crystal.repeat(3)
    oxygens, hydrogens = (np.flatnonzero(block.symbols == element) for element in "OH")
    centre = 13 * len(crystal) + int(np.flatnonzero(crystal.symbols == "O")[0])
    distances = np.linalg.norm(block.positions[oxygens] - block.positions[centre], axis=1)
    chosen = []
    for oxygen in oxygens[np.argsort(distances)][: (distances < NEIGHBOURS_A).sum()]:
        bonds = np.linalg.norm(block.positions[hydrogens] - block.positions[oxygen], axis=1)
        chosen += [oxygen, *hydrogens[np.argsort(bonds)[:2]]]
    cluster = block[chosen]
    cluster.positions += BOX_A / 2 - cluster.positions[0]
    return cluster


def superposition_error(code, crystal, folder):
    """Return by how much the basis functions of its neighbours lower the energy of a molecule, in eV."""
    cluster = molecule_and_neighbours(crystal)
    energies = []
    for name, atoms in (("alone", cluster[:3]), ("ghosts", cluster)):
        tree = lay_over(
            force_eval(load_level("revpbe-d3", LARGE), atoms.symbols, periodic=False),
            {
                "DFT": {"MGRID": {"CUTOFF": GHOST_CUTOFF_RY}},
                "SUBSYS": {
                    "CELL": {"ABC": f"{BOX_A} {BOX_A} {BOX_A}"},
                    "TOPOLOGY": {"COORD_FILE_FORMAT": "XYZ", "COORD_FILE_NAME": f"{name}.xyz"},
                },
            },
        )
        tree["SUBSYS"]["KIND"] += [
            {"_": f"{element}_ghost", "ELEMENT": element, "GHOST": True, "BASIS_SET": BASIS} for element in "HO"
        ]
        kinds = [f"{symbol}_ghost" if index > 2 else symbol for index, symbol in enumerate(atoms.symbols)]
        lines = [
            f"{kind} {x:.8f} {y:.8f} {z:.8f}" for kind, (x, y, z) in zip(kinds, atoms.positions.tolist(), strict=True)
        ]
        (folder / f"{name}.xyz").write_text("\n".join([str(len(atoms)), "", *lines, ""]))
        run = {"GLOBAL": {"RUN_TYPE": "ENERGY", "PROJECT": name}, "FORCE_EVAL": tree}
        (folder / f"{name}.inp").write_text(Cp2kInput(run).render())
        done = subprocess.run(
            [code.get_executable(), "-i", f"{name}.inp"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
            capture_output=True,
            text=True,
            check=True,
        )
        (energy,) = re.findall(r"ENERGY\| .*:\s+(\S+)", done.stdout)
        (dispersion,) = re.findall(r"Dispersion energy:\s+(\S+)", done.stdout)
        energies.append((float(energy) - float(dispersion)) * Hartree)
    return energies[0] - energies[1]


def energy_per_molecule(code, atoms, mesh=None):
    """Return the energy in eV, and the version of CP2K."""
    overrides = dict(LARGE)
    if mesh:
        overrides["kpoints"] = {"mesh": mesh}
    builder = LabellingWorkChain.get_builder_from_protocol(
        code,
        DatasetData(Frames.from_atoms([atoms])).store(),
        level=load_level("revpbe-d3", overrides),
        protocol="demo",
        options={
            "resources": {"num_machines": 1, "num_mpiprocs_per_machine": 1},
            "withmpi": False,
            "prepend_text": "export OMP_NUM_THREADS=2",
        },
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    labels = outputs["dataset"].frames.labels(LARGE["key"])
    return labels.energy[0] / (len(atoms) / 3), labels.level.code_version


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not ICE13.is_dir(), reason="the structures of DMC-ICE13 are not part of this repository")
def test_lattice_energies_of_ices_are_those_published(aiida_profile, cp2k_code, validated, tmp_path):
    published = json.loads((ICE13 / "reference_lattice_energies.json").read_text())["revpbe_d3_kJ_per_mol"]
    monomer = ase.io.read(ICE13 / "gas.vasp")
    monomer.center()
    monomer.pbc = False
    monomer.cell = None
    gas, version = energy_per_molecule(cp2k_code, monomer)
    found, superposition = {}, {}
    for name, mesh in MESHES.items():
        crystal = ase.io.read(ICE13 / f"{name}.vasp")
        energy, _ = energy_per_molecule(cp2k_code, crystal, mesh)
        superposition[name] = superposition_error(cp2k_code, crystal, tmp_path) * EV_KJMOL
        found[name] = (energy - gas) * EV_KJMOL + superposition[name]
    rows = [(f"lattice energy of ice {name}", found[name], published[name], ABSOLUTE_KJMOL) for name in MESHES]
    first, second = MESHES
    difference, expected = found[first] - found[second], published[first] - published[second]
    rows.append((f"that of ice {first} minus that of ice {second}", difference, expected, RELATIVE_KJMOL))
    validated(
        "Lattice energies of ices at revPBE-D3",
        f"{BASIS} basis, GTH-PBE pseudopotentials, 800 Ry, k-point meshes "
        + ", ".join(f"{name}: {mesh}" for name, mesh in MESHES.items())
        + "; the molecule in a cube without periodicity; structures as published, not relaxed. Corrected "
        "by counterpoise for the superposition error of the basis: by how much the functions of the molecules with "
        f"oxygens within {NEIGHBOURS_A} Å lower the energy of a molecule of the crystal, at {GHOST_CUTOFF_RY} Ry.",
        {"CP2K": version},
        *(
            {
                "quantity": quantity,
                "value": round(value, 2),
                "unit": "kJ/mol",
                "reference": round(reference, 2),
                "bound": bound,
                "source": SOURCE,
            }
            for quantity, value, reference, bound in rows
        ),
        *(
            {"quantity": f"superposition error in ice {name}", "value": round(value, 2), "unit": "kJ/mol"}
            for name, value in superposition.items()
        ),
    )
    for quantity, value, reference, bound in rows:
        assert abs(value - reference) < bound, quantity

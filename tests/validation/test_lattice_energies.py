"""Lattice energies of ices at revPBE-D3, against those that were published for the same structures."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
from aiida.engine import run_get_node

from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.protocols.levels import load_level

ICE13 = Path(__file__).parents[3] / "shared" / "data" / "ice13"
SOURCE = "Della Pia et al., J. Chem. Phys. 157, 134701 (2022), doi 10.1063/5.0102645"
MESHES = {"VIII": [3, 3, 2], "XI": [3, 2, 2]}
ABSOLUTE_KJMOL, RELATIVE_KJMOL = 1.5, 0.7


def energy_per_molecule(code, atoms, mesh=None):
    """Return the energy in eV, and the version of CP2K."""
    overrides = {
        "key": "revpbe-d3-large/cp2k",
        "basis": "QZV3P-GTH, GTH-PBE, 800 Ry",
        "kind": {"BASIS_SET": "QZV3P-GTH"},
        "parameters": {"DFT": {"MGRID": {"CUTOFF": 800}}},
    }
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
    labels = outputs["dataset"].frames.labels("revpbe-d3-large/cp2k")
    return labels.energy[0] / (len(atoms) / 3), labels.level.code_version


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not ICE13.is_dir(), reason="the structures of DMC-ICE13 are not part of this repository")
def test_lattice_energies_of_ices_are_those_published(aiida_profile, cp2k_code, validated):
    published = json.loads((ICE13 / "reference_lattice_energies.json").read_text())["revpbe_d3_kJ_per_mol"]
    monomer = ase.io.read(ICE13 / "gas.vasp")
    monomer.center()
    monomer.pbc = False
    monomer.cell = None
    gas, version = energy_per_molecule(cp2k_code, monomer)
    found = {}
    for name, mesh in MESHES.items():
        crystal, _ = energy_per_molecule(cp2k_code, ase.io.read(ICE13 / f"{name}.vasp"), mesh)
        found[name] = (crystal - gas) * EV_KJMOL
    rows = [(f"lattice energy of ice {name}", found[name], published[name], ABSOLUTE_KJMOL) for name in MESHES]
    first, second = MESHES
    difference, expected = found[first] - found[second], published[first] - published[second]
    rows.append((f"that of ice {first} minus that of ice {second}", difference, expected, RELATIVE_KJMOL))
    validated(
        "Lattice energies of ices at revPBE-D3",
        "QZV3P-GTH basis, GTH-PBE pseudopotentials, 800 Ry, k-point meshes "
        + ", ".join(f"{name}: {mesh}" for name, mesh in MESHES.items())
        + "; the molecule in a cube without periodicity; structures as published, not relaxed.",
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
    )
    for quantity, value, reference, bound in rows:
        assert abs(value - reference) < bound, quantity

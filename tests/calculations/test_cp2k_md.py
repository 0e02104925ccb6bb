"""Levels and input of CP2K, and the physics of what comes back."""

import os
import subprocess

import numpy as np
import pytest
from aiida_cp2k.utils import Cp2kInput
from ase.build import molecule

from aiida_mlfinetune.calculations.cp2k_input import force_eval, has_stress, lay_over, level_metadata, vacuum_edge_A
from aiida_mlfinetune.calculations.cp2k_md import md_parameters
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.parsers.raw.cp2k_output import parse_stdout, read_forces
from aiida_mlfinetune.science.dynamics.md_settings import MdSettings
from aiida_mlfinetune.workchains.protocols.levels import available_levels, load_level
from tests.fixtures.codes import _executable
from tests.fixtures.waters import two_waters

ONE_STEP = MdSettings.from_dict({"ensemble": "nve", "temperature_K": 100.0, "n_steps": 1, "stride": 1, "seed": 1})


def first_step(atoms, folder):
    """Return energy, forces and stress of the first step of an MD run of ``atoms``, by real CP2K."""
    tree = md_parameters(load_level("gfn1-xtb"), ONE_STEP, atoms)
    tree["GLOBAL"]["PROJECT"] = "aiida"
    subsys = tree["FORCE_EVAL"]["SUBSYS"]
    subsys["CELL"].update(
        {name: " ".join(map(repr, row)) for name, row in zip("ABC", atoms.cell.tolist(), strict=True)}
    )
    subsys["TOPOLOGY"] = {"COORD_FILE_NAME": "start.xyz", "COORD_FILE_FORMAT": "XYZ"}
    folder.mkdir()
    atoms.write(folder / "start.xyz", format="xyz", fmt="%25.16f")
    (folder / "aiida.inp").write_text(Cp2kInput(tree).render())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [_executable("cp2k.psmp"), "-i", "aiida.inp"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=environment)
    evaluation = parse_stdout(run.stdout).evaluations[0]
    return evaluation.energy, read_forces((folder / "aiida-frc-1.xyz").read_text()).values[0], evaluation.stress


def test_forces_and_stress_are_derivatives_of_the_energy(tmp_path):
    crystal = two_waters()
    _, forces, stress = first_step(crystal, tmp_path / "start")
    energies = []
    for sign in (1, -1):
        moved = crystal.copy()
        moved.positions[1, 2] += sign * 0.002
        energies.append(first_step(moved, tmp_path / f"moved{sign}")[0])
    assert forces[1, 2] == pytest.approx(-(energies[0] - energies[1]) / 0.004, abs=1e-3)
    energies = []
    for sign in (1, -1):
        strained = crystal.copy()
        strained.set_cell(crystal.cell.array @ (np.eye(3) + sign * np.diag([0, 0.001, 0])), scale_atoms=True)
        energies.append(first_step(strained, tmp_path / f"strained{sign}")[0])
    slope = (energies[0] - energies[1]) / 0.002 / crystal.get_volume()
    assert abs(slope) > 1e-3  # the sign is tested too
    assert stress[1, 1] == pytest.approx(slope, abs=2e-5)


@pytest.mark.parametrize("name", available_levels())
@pytest.mark.parametrize("periodic", [True, False])
def test_every_level_makes_an_input_for_any_element(name, periodic):
    spec = load_level(name)
    tree = force_eval(spec, ["O", "H", "C", "N", "H"], periodic)
    assert tree["SUBSYS"]["CELL"]["PERIODIC"] == ("XYZ" if periodic else "NONE")
    assert ("STRESS_TENSOR" in tree) == (periodic and has_stress(spec))
    kinds = [kind["_"] for kind in tree["SUBSYS"].get("KIND", [])]
    assert kinds == (["C", "H", "N", "O"] if spec["kind"] or spec["kinds"] else [])
    assert spec == load_level(name), "the specification must not be changed"
    Cp2kInput({"FORCE_EVAL": tree}).render()


def test_an_element_may_have_its_own_kind():
    spec = load_level("revpbe-d3", {"kinds": {"H": {"BASIS_SET": "DZVP-GTH"}}})
    kinds = {kind["_"]: kind for kind in force_eval(spec, ["H", "O"], True)["SUBSYS"]["KIND"]}
    assert kinds["H"]["BASIS_SET"] == "DZVP-GTH"
    assert kinds["H"]["POTENTIAL"] == "GTH-PBE"
    assert kinds["O"]["BASIS_SET"] == "TZV2P-GTH"


def test_a_molecule_is_computed_without_ewald_sums_in_a_vacuum_that_fits():
    spec = load_level("gfn1-xtb")
    assert force_eval(spec, ["H"], True)["DFT"]["QS"]["XTB"]["DO_EWALD"] is True
    assert force_eval(spec, ["H"], False)["DFT"]["QS"]["XTB"]["DO_EWALD"] is False
    assert vacuum_edge_A(spec, [[0, 0, 0], [0, 0, 2.2]]) == 12.5
    tree = md_parameters(spec, ONE_STEP, molecule("H2O"))
    assert tree["FORCE_EVAL"]["SUBSYS"]["CELL"]["ABC"] == "12.0 12.0 12.0"


def test_labels_carry_what_defines_the_level():
    level = level_metadata(load_level("revpbe-d3"), "2023.1")
    assert (level.key, level.engine, level.code, level.code_version) == ("revpbe-d3/cp2k", "cp2k", "CP2K", "2023.1")
    assert level.settings["parameters"]["DFT"]["MGRID"]["CUTOFF"] == 500
    assert level.energy == "free"


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"gass": {}}, "unknown input 'gass'"),
        ({"gas": {"padding": 3}}, "unknown input 'gas.padding'"),
        ({"engine": "vasp"}, "engine 'vasp'"),
        ({"key": "two words"}, "white space"),
        ({"parameters": {"DFT": {"SCF": {"OT": {"MINIMISER": "CG"}}}}}, "did you mean 'MINIMIZER'"),
        ({"parameters": {"DFT": {"Scf": {}}}}, "'Scf' in FORCE_EVAL/DFT"),
        ({"kind": {"BASISSET": "DZVP"}}, "did you mean 'BASIS_SET'"),
        ({"kinds": {"O": {"POTENTAIL": "GTH"}}}, "did you mean 'POTENTIAL'"),
        ({"gas": {"parameters": {"DFT": {"POISON": {}}}}}, "did you mean 'POISSON'"),
    ],
)
def test_misspelt_levels_are_refused(overrides, match):
    with pytest.raises(ValueError, match=match):
        load_level("revpbe-d3", overrides)


def test_unknown_levels_are_refused_with_those_there_are():
    with pytest.raises(StudyError, match="gfn1-xtb"):
        load_level("pbe")


def test_keys_of_newer_releases_are_left_to_cp2k():
    spec = load_level("gfn1-xtb", {"parameters": {"DFT": {"SCF": {"IGNORE_CONVERGENCE_FAILURE": True}}}})
    assert spec["parameters"]["DFT"]["SCF"]["IGNORE_CONVERGENCE_FAILURE"] is True


def test_sections_are_laid_over_each_other():
    base = {"A": {"B": 1, "C": {"D": 2}}}
    assert lay_over(base, {"A": {"C": {"D": 3}, "E": 4}}) == {"A": {"B": 1, "C": {"D": 3}, "E": 4}}
    assert base == {"A": {"B": 1, "C": {"D": 2}}}

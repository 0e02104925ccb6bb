import numpy as np
import pytest
from ase import Atoms

from aiida_mlfinetune.common.errors import LabelsError
from aiida_mlfinetune.common.units import EV_KJMOL
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from aiida_mlfinetune.science.models.metrics import label_errors, molecules_per_frame


def water(n):
    return Atoms("H2O" * n, positions=np.arange(9.0 * n).reshape(-1, 3), cell=[9, 9, 9], pbc=True)


def make(energies, forces, stress=None, key="a"):
    frames = Frames.from_atoms([water(1), water(2)])
    return frames, Labels.build(Level(key), frames.offsets, np.array(energies), np.array(forces), stress)


def test_errors_equal_those_by_hand():
    forces = np.zeros((9, 3))
    forces[2] = [0.3, 0.0, 0.0]  # the first oxygen
    frames, reference = make([-1.0, -4.0], forces, np.array([np.eye(3), 3 * np.eye(3)]))
    _, predicted = make([-0.97, -4.12], forces + 0.003, np.array([np.eye(3), 3 * np.eye(3) + 0.006]), "b")
    errors = label_errors(frames, reference, predicted, "H2O")
    assert errors["energy_rmse_meV_per_atom"] == pytest.approx(np.sqrt((10**2 + 20**2) / 2))
    assert errors["energy_mae_meV_per_atom"] == pytest.approx(15)
    assert errors["energy_bias_meV_per_atom"] == pytest.approx(-5)
    per_molecule = np.sqrt((0.03**2 + 0.06**2) / 2)
    assert errors["energy_rmse_kJ_mol_per_molecule"] == pytest.approx(per_molecule * EV_KJMOL)
    assert errors["energy_std_kJ_mol_per_molecule"] == pytest.approx(0.5 * EV_KJMOL)  # -1 and -2 eV a molecule
    assert errors["energy_rmse_percent"] == pytest.approx(100 * per_molecule / 0.5)
    assert errors["forces_rmse_meV_A"] == pytest.approx(3)
    assert errors["forces_mae_meV_A"] == pytest.approx(3)
    oxygen = errors["forces_by_element"]["O"]
    spread = np.sqrt(0.3**2 / 9)
    assert oxygen["std_meV_A"] == pytest.approx(1e3 * spread)
    assert oxygen["rmse_percent"] == pytest.approx(100 * 0.003 / spread)
    assert "rmse_percent" not in errors["forces_by_element"]["H"]  # all reference forces are zero
    assert errors["stress_rmse_meV_A3"] == pytest.approx(np.sqrt(6**2 / 2))
    assert errors["stress_mae_meV_A3"] == pytest.approx(3)


def test_only_frames_with_both_labels_count():
    forces = np.zeros((9, 3))
    forces[3:] = np.nan
    frames, reference = make([-1.0, np.nan], forces)
    _, predicted = make([-1.3, 5.0], np.full((9, 3), 0.1), key="b")
    errors = label_errors(frames, reference, predicted)
    assert (errors["n_energy"], errors["n_forces"], errors["n_stress"]) == (1, 1, 0)
    assert errors["energy_mae_meV_per_atom"] == pytest.approx(100)
    assert errors["forces_mae_meV_A"] == pytest.approx(100)
    assert not any(name.startswith("stress") for name in errors)


def test_molecules_are_counted_by_formula():
    frames = Frames.from_atoms([water(1), water(3)])
    assert molecules_per_frame(frames)[0] == "H2O"
    assert molecules_per_frame(frames, "OH2")[1].tolist() == [1, 3]
    benzene = Frames.from_atoms([Atoms("C6H6", positions=np.arange(36.0).reshape(12, 3))])
    assert molecules_per_frame(benzene)[1].tolist() == [6]
    assert molecules_per_frame(benzene, "C6H6")[1].tolist() == [1]
    assert molecules_per_frame(Frames.from_atoms([water(1), Atoms("H")])) is None
    with pytest.raises(LabelsError, match="frames \\[1\\] are no whole number of H2O"):
        molecules_per_frame(Frames.from_atoms([water(1), Atoms("HO", positions=[[0, 0, 0], [1, 0, 0]])]), "H2O")
    with pytest.raises(LabelsError, match="hold no \\['C'\\]"):
        molecules_per_frame(frames, "CH4")

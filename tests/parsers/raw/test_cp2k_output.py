"""CP2K's output files, as recorded from real runs."""

from pathlib import Path

import numpy as np
import pytest

from aiida_mlfinetune.common.units import BAR_EV_A3, GPA_EV_A3, HARTREE_BOHR_EV_ANGSTROM, HARTREE_EV
from aiida_mlfinetune.parsers.raw import cp2k_output as raw

RECORDED = Path(__file__).parent.parent / "recorded"


def read(case, name):
    return (RECORDED / f"cp2k_md_{case}" / name).read_text()


def test_every_evaluation_has_energy_convergence_and_the_stress_that_was_printed():
    stdout = raw.parse_stdout(read("npt_flexible", "aiida.out"))
    assert (stdout.version, stdout.ended, stdout.out_of_walltime, stdout.abort_message) == ("2023.1", True, False, "")
    assert (stdout.first_step, stdout.n_warnings, len(stdout.evaluations)) == (0, 2, 7)
    assert all(evaluation.converged for evaluation in stdout.evaluations)
    assert [evaluation.stress is not None for evaluation in stdout.evaluations] == [True, False] * 3 + [True]
    assert stdout.evaluations[0].energy == pytest.approx(-11.543420021469810 * HARTREE_EV, abs=1e-12)


def test_stress_is_converted_to_the_sign_of_ase():
    stress = raw.parse_stdout(read("npt_flexible", "aiida.out")).evaluations[0].stress
    assert stress[0, 0] == pytest.approx(1.09296404163 * GPA_EV_A3, rel=1e-12)
    assert stress[1, 2] == pytest.approx(-3.21612251144e-01 * GPA_EV_A3, rel=1e-12)
    np.testing.assert_allclose(stress, stress.T)


def test_a_stress_in_bar_is_converted_and_one_in_another_unit_refused():
    text = read("npt_flexible", "aiida.out")
    stress = raw.parse_stdout(text.replace("tensor [GPa]", "tensor [bar]")).evaluations[0].stress
    assert stress[0, 0] == pytest.approx(1.09296404163 * BAR_EV_A3, rel=1e-12)
    with pytest.raises(ValueError, match="atm"):
        raw.parse_stdout(text.replace("tensor [GPa]", "tensor [atm]"))


def test_unconverged_steps_are_found_though_cp2k_ends_normally():
    stdout = raw.parse_stdout(read("unconverged", "aiida.out"))
    assert stdout.ended
    flags = [evaluation.converged for evaluation in stdout.evaluations]
    assert flags[:2] == [False, False]
    assert True in flags


def test_walltime_is_seen_and_the_energy_that_it_cut_short_counts_as_unconverged():
    stdout = raw.parse_stdout(read("walltime", "aiida.out"))
    assert stdout.out_of_walltime
    assert stdout.ended
    assert [evaluation.converged for evaluation in stdout.evaluations] == [True] * 16 + [False]


def test_message_of_a_refused_input():
    stdout = raw.parse_stdout(read("refused", "aiida.out"))
    assert stdout.abort_message.startswith("found an unknown keyword SCF_GUES in section SCF")
    assert not stdout.evaluations
    assert not stdout.ended


def test_steps_of_a_restarted_run_are_counted_from_where_it_went_on():
    text = read("npt_flexible", "aiida.out").replace("                  1\n", "                  8\n", 1)
    assert raw.parse_stdout(text).first_step == 7


def test_trajectories_agree_with_the_table_of_energies():
    positions = raw.read_positions(read("npt_flexible", "aiida-pos-1.xyz"))
    forces = raw.read_forces(read("npt_flexible", "aiida-frc-1.xyz"))
    energies = raw.read_energies(read("npt_flexible", "aiida-1.ener"))
    assert positions.symbols == ("O", "H", "H", "O", "H", "H")
    assert positions.steps.tolist() == forces.steps.tolist() == [0, 2, 4, 6]
    assert positions.values.shape == forces.values.shape == (4, 6, 3)
    np.testing.assert_allclose(positions.energies, energies.potential[::2], atol=1e-7)
    np.testing.assert_allclose(positions.times_fs, energies.times_fs[::2])
    first = [float(word) for word in read("npt_flexible", "aiida-frc-1.xyz").split("\n")[2].split()[1:]]
    np.testing.assert_allclose(forces.values[0, 0], np.array(first) * HARTREE_BOHR_EV_ANGSTROM, rtol=1e-14)
    np.testing.assert_allclose(forces.values.sum(axis=1), 0, atol=1e-3)


def test_temperature_follows_from_kinetic_energy():
    energies = raw.read_energies(read("npt_flexible", "aiida-1.ener"))
    ratio = energies.kinetic / energies.temperatures_K
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_cells_are_rows_of_vectors():
    steps, cells = raw.read_cells(read("npt_flexible", "aiida-1.cell"))
    assert steps.tolist() == [0, 2, 4, 6]
    np.testing.assert_allclose(cells[0], [[4.4, 0, 0], [0.3, 4.5, 0], [0.1, 0.2, 4.6]], atol=1e-9)
    volumes = [float(line.split()[-1]) for line in read("npt_flexible", "aiida-1.cell").strip().split("\n")[1:]]
    np.testing.assert_allclose(np.linalg.det(cells), volumes, rtol=1e-8)


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_last_frame_that_is_cut_off_is_left_out(cut):
    text = read("npt_flexible", "aiida-pos-1.xyz")
    assert raw.read_positions(text[:-cut]).steps.tolist() == [0, 2, 4]


@pytest.mark.parametrize("cut", [1, 30])
def test_a_last_line_that_is_cut_off_is_left_out(cut):
    assert raw.read_cells(read("npt_flexible", "aiida-1.cell")[:-cut])[0].tolist() == [0, 2, 4]
    assert raw.read_energies(read("npt_flexible", "aiida-1.ener")[:-cut]).steps.tolist() == [0, 1, 2, 3, 4, 5]


def test_overflown_numbers_are_nan():
    text = read("gas", "aiida-pos-1.xyz")
    number = text.split("\n")[2].split()[1]
    assert np.isnan(raw.read_positions(text.replace(number, "*" * len(number), 1)).values).sum() == 1


@pytest.mark.parametrize("text", ["", "\n", "3\n i = 0\nO 0 0 0\n"])
def test_no_complete_frame_is_an_error(text):
    with pytest.raises(ValueError, match="no complete frame"):
        raw.read_positions(text)


def test_frames_of_different_atoms_are_an_error():
    text = read("gas", "aiida-pos-1.xyz")
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    with pytest.raises(ValueError, match="different atoms"):
        raw.read_positions(head + tail.replace("  O ", "  C ", 1))


def test_a_table_without_a_line_is_an_error():
    with pytest.raises(ValueError, match="no complete line"):
        raw.read_energies("# Step\n 1 2 3")


def test_step_of_a_restart_file():
    assert raw.read_restart_step(read("walltime", "aiida-1.restart")) == 14
    assert raw.read_restart_step("&MOTION") == 0

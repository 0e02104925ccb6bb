"""Extended XYZ: nothing is lost, and nothing is guessed."""

from __future__ import annotations

import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from aiida_mlfinetune.common.enums import EnergyKind
from aiida_mlfinetune.common.errors import FramesError, LabelsError
from aiida_mlfinetune.science.datasets.extxyz import (
    KeyStyle,
    level_prefixes,
    read_extxyz,
    write_extxyz,
    write_mace_extxyz,
)
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level
from tests.fixtures.frames import PBE, XTB

FREE = Level("pbe/vasp")
SIGMA0 = Level("pbe/vasp", energy=EnergyKind.SIGMA0)
H2 = "Properties=species:S:1:pos:R:3"


def assert_same(read: Frames, written: Frames) -> None:
    assert read.content_hash() == written.content_hash()
    assert [read.sources[i] for i in read.source_index] == [written.sources[i] for i in written.source_index]
    assert {key: labels.level for key, labels in read.labels_by_level.items()} == {
        key: labels.level for key, labels in written.labels_by_level.items()
    }


def h2_file(tmp_path, info: str, columns: str = "", rows: tuple[str, str] = ("", "")):
    path = tmp_path / "h2.xyz"
    path.write_text(f"2\n{H2}{columns} {info}\nH 0 0 0 {rows[0]}\nH 0 0 0.74 {rows[1]}\n")
    return path


def test_all_levels_steps_and_sources_come_back_bit_by_bit(tmp_path, labelled_frames):
    write_extxyz(tmp_path / "all.xyz", labelled_frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(read_extxyz(tmp_path / "all.xyz"), labelled_frames)


@pytest.mark.parametrize("style", [KeyStyle.ASE, KeyStyle.MACE])
@pytest.mark.parametrize("level", [XTB, PBE])
def test_one_level_comes_back_bit_by_bit(tmp_path, labelled_frames, style, level):
    write_extxyz(tmp_path / "one.xyz", labelled_frames, style, level.key)
    (other,) = {XTB.key, PBE.key} - {level.key}
    assert_same(read_extxyz(tmp_path / "one.xyz"), labelled_frames.without_level(other))


def test_frames_without_labels_come_back(tmp_path, plain_frames):
    for style in KeyStyle:
        write_extxyz(tmp_path / "plain.xyz", plain_frames, style)
        assert_same(read_extxyz(tmp_path / "plain.xyz"), plain_frames)


def test_metadata_survive_any_characters(tmp_path):
    level = Level("odd/key", method='a "quoted" \\ back {slash}\nÅ = 1', settings={"x": [1, {"y": "'"}]})
    frames = Frames.from_atoms([molecule("H2O")], source='my "run" 7')
    frames = frames.with_labels(Labels.build(level, frames.offsets, np.array([-1.5])))
    for style in KeyStyle:
        write_extxyz(tmp_path / "odd.xyz", frames, style)
        assert_same(read_extxyz(tmp_path / "odd.xyz"), frames)


def test_a_source_that_looks_like_a_number_stays_a_name(tmp_path):
    frames = Frames.from_atoms([molecule("H2")], source="007")
    write_extxyz(tmp_path / "n.xyz", frames)
    assert read_extxyz(tmp_path / "n.xyz").sources == ("007",)


def test_ase_reads_what_we_write(tmp_path, labelled_frames):
    write_extxyz(tmp_path / "ase.xyz", labelled_frames, KeyStyle.ASE, XTB.key)
    labels = labelled_frames.labels(XTB.key)
    for index, image in enumerate(ase.io.read(tmp_path / "ase.xyz", ":")):
        own = labelled_frames.slice(index)
        np.testing.assert_array_equal(image.positions, labelled_frames.positions[own])
        np.testing.assert_array_equal(image.pbc, labelled_frames.pbc[index])
        np.testing.assert_array_equal(image.cell.array, labelled_frames.cells[index])
        np.testing.assert_array_equal(image.get_forces(), labels.forces[own])
        assert image.get_potential_energy() == labels.energy[index]
        if labels.has_stress[index]:
            np.testing.assert_array_equal(image.get_stress(voigt=False), labels.stress[index])


def test_we_read_what_ase_writes(tmp_path):
    image = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.75]], cell=[3, 4, 5], pbc=[True, True, False])
    stress = np.array([1.0, 2, 3, 4, 5, 6]) / 64
    image.calc = SinglePointCalculator(
        image, energy=-1.25, free_energy=-1.5, forces=np.array([[0, 0, 0.5], [0, 0, -0.5]]), stress=stress
    )
    ase.io.write(tmp_path / "ase.xyz", [image, image], format="extxyz")
    frames = read_extxyz(tmp_path / "ase.xyz", FREE)
    labels = frames.labels("pbe/vasp")
    np.testing.assert_array_equal(labels.energy, [-1.5, -1.5])
    np.testing.assert_array_equal(labels.forces[:2], image.get_forces())
    np.testing.assert_array_equal(
        labels.stress[0], [[1 / 64, 6 / 64, 5 / 64], [6 / 64, 2 / 64, 4 / 64], [5 / 64, 4 / 64, 3 / 64]]
    )
    np.testing.assert_array_equal(frames.pbc[0], [True, True, False])


def test_energy_against_free_energy_goes_with_the_level(tmp_path):
    path = h2_file(tmp_path, "energy=-1.0 free_energy=-1.1")
    assert read_extxyz(path, FREE).labels("pbe/vasp").energy[0] == -1.1
    assert read_extxyz(path, SIGMA0).labels("pbe/vasp").energy[0] == -1.0


def test_a_lone_energy_serves_either_kind_but_a_lone_free_energy_does_not(tmp_path):
    assert read_extxyz(h2_file(tmp_path, "energy=-1.0"), FREE).labels("pbe/vasp").energy[0] == -1.0
    path = h2_file(tmp_path, "free_energy=-1.1")
    assert read_extxyz(path, FREE).labels("pbe/vasp").energy[0] == -1.1
    with pytest.raises(LabelsError, match=r"frame 0: level 'pbe/vasp' wants the energy extrapolated"):
        read_extxyz(path, SIGMA0)


@pytest.mark.parametrize("key", ["stress", "REF_stress"])
@pytest.mark.parametrize("numbers", ["1 2 3 4 5 6", "1 6 5 6 2 4 5 4 3"])
def test_a_stress_has_six_or_nine_numbers(tmp_path, key, numbers):
    frames = read_extxyz(h2_file(tmp_path, f'{key}="{numbers}"'), FREE)
    np.testing.assert_array_equal(frames.labels("pbe/vasp").stress[0], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_mace_files_hold_only_what_a_training_job_reads(tmp_path, labelled_frames):
    write_mace_extxyz(tmp_path / "train.xyz", labelled_frames, PBE.key, head="pbe")
    labels = labelled_frames.labels(PBE.key)
    images = ase.io.read(tmp_path / "train.xyz", ":")
    for index, image in enumerate(images):
        assert ("REF_energy" in image.info) == labels.has_energy[index]
        assert ("REF_forces" in image.arrays) == labels.has_forces[index]
        assert ("REF_stress" in image.info) == labels.has_stress[index]
        assert image.info["head"] == "pbe"
        assert image.calc is None
        assert set(image.info) <= {"REF_energy", "REF_stress", "head"}
    with pytest.warns(UserWarning, match="head"):
        read = read_extxyz(tmp_path / "train.xyz", PBE).labels(PBE.key)
    np.testing.assert_array_equal(read.forces, labels.forces)
    np.testing.assert_array_equal(read.stress, labels.stress)


def test_mace_itself_reads_the_labels(tmp_path, labelled_frames):
    from mace.data import KeySpecification, load_from_xyz

    write_mace_extxyz(tmp_path / "train.xyz", labelled_frames, XTB.key)
    _, configurations = load_from_xyz(str(tmp_path / "train.xyz"), KeySpecification.from_defaults())
    labels = labelled_frames.labels(XTB.key)
    assert [c.properties["energy"] for c in configurations] == labels.energy.tolist()
    np.testing.assert_array_equal(np.concatenate([c.properties["forces"] for c in configurations]), labels.forces)
    assert [c.property_weights["stress"] for c in configurations] == labels.has_stress.astype(float).tolist()


def test_a_single_atom_and_a_single_frame_come_back(tmp_path):
    frames = Frames.from_atoms([Atoms("He")])
    frames = frames.with_labels(Labels.build(FREE, frames.offsets, np.array([-2.0]), np.zeros((1, 3))))
    write_extxyz(tmp_path / "he.xyz", frames)
    assert_same(read_extxyz(tmp_path / "he.xyz"), frames)


@pytest.mark.parametrize(
    ("info", "columns", "rows", "name"),
    [
        ("energy=nan", "", ("", ""), "energy is NaN"),
        ("REF_energy=NaN", "", ("", ""), "REF_energy is NaN"),
        ("energy=inf", "", ("", ""), "energy is infinite"),
        ('stress="1 2 nan 4 5 6"', "", ("", ""), "stress is NaN"),
        ("energy=-1", ":forces:R:3", ("0 0 nan", "0 0 0"), "forces is NaN"),
        ("energy=low", "", ("", ""), "energy is 'low', which is no number"),
        ('REF_stress="1 2 3"', "", ("", ""), r"REF_stress has the shape \(3,\)"),
    ],
)
def test_labels_that_are_no_numbers_are_refused_by_frame(tmp_path, info, columns, rows, name):
    path = h2_file(tmp_path, info, columns, rows)
    path.write_text(f"1\n{H2} energy=-3.0\nHe 0 0 0\n" * ("REF" not in info) + path.read_text())
    index = 0 if "REF" in info else 1
    with pytest.raises(LabelsError, match=rf"h2.xyz: frame {index}: {name}"):
        read_extxyz(path, FREE)


def test_labels_whose_level_nobody_declares_are_refused(tmp_path):
    for info in ("energy=-1.0", "REF_energy=-1.0"):
        with pytest.raises(LabelsError, match="labels whose level is not declared: say at which level"):
            read_extxyz(h2_file(tmp_path, info))


def test_declarations_that_contradict_the_file_are_refused(tmp_path, labelled_frames):
    write_extxyz(tmp_path / "a.xyz", labelled_frames, KeyStyle.ASE, XTB.key)
    with pytest.raises(LabelsError, match="levels declared differ"):
        read_extxyz(tmp_path / "a.xyz", FREE)
    write_extxyz(tmp_path / "b.xyz", labelled_frames)
    with pytest.raises(LabelsError, match="leave the level out"):
        read_extxyz(tmp_path / "b.xyz", FREE)
    with pytest.raises(LabelsError, match="no labels: leave the level out"):
        read_extxyz(h2_file(tmp_path, ""), FREE)


def test_two_styles_in_one_file_need_a_choice(tmp_path):
    path = h2_file(tmp_path, "energy=-1.0 REF_energy=-2.0")
    with pytest.raises(LabelsError, match=r"several styles \(ase, mace\): say which"):
        read_extxyz(path, FREE)
    with pytest.warns(UserWarning, match="not read: REF_energy"):
        assert read_extxyz(path, FREE, KeyStyle.ASE).labels("pbe/vasp").energy[0] == -1.0
    with pytest.raises(LabelsError, match="no labels in the style 'full'"):
        read_extxyz(path, FREE, KeyStyle.FULL)


def test_a_style_with_one_level_needs_a_choice_of_level(tmp_path, labelled_frames):
    with pytest.raises(LabelsError, match="say which, or use the style 'full'"):
        write_extxyz(tmp_path / "x.xyz", labelled_frames, KeyStyle.MACE)


def test_what_is_not_read_is_named(tmp_path):
    path = h2_file(tmp_path, "energy=-1 dipole_moment=3 config_type=bulk")
    with pytest.warns(UserWarning, match="not read: config_type, dipole_moment"):
        read_extxyz(path, FREE)


def test_a_file_that_is_no_xyz_is_refused(tmp_path):
    path = tmp_path / "x.xyz"
    path.write_text("not a structure\n")
    with pytest.raises(FramesError, match=r"x.xyz cannot be read as extended XYZ"):
        read_extxyz(path)
    with pytest.raises(FramesError, match="cannot be read"):
        read_extxyz(tmp_path / "missing.xyz")
    path.write_text("")
    with pytest.raises(FramesError):
        read_extxyz(path)


def test_prefixes_are_legible_and_unique():
    assert level_prefixes(["pbe-d3/vasp", "pbe/d3/vasp", "2nd/x"]) == {
        "2nd/x": "level_2nd_x",
        "pbe-d3/vasp": "pbe_d3_vasp",
        "pbe/d3/vasp": "pbe_d3_vasp_2",
    }

"""What VASP gets, and what is refused before anything is submitted: each names the offender and the remedy."""

import numpy as np
import pytest
from aiida import orm
from ase import Atoms
from ase.build import molecule

from aiida_mlfinetune.calculations.vasp_input import check_vasp_level, frame_mesh, frame_structure, species_order
from aiida_mlfinetune.calculations.vasp_potentials import potentials_problem
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.labelling.vasp import VaspLabelWorkChain, vasp_inputs_problem
from aiida_mlfinetune.workchains.protocols.vasp_levels import available_vasp_levels, load_vasp_level
from tests.fixtures.vasp import FAMILY, upload_family
from tests.fixtures.waters import two_waters


def level(**overrides):
    return load_vasp_level("kaur2025-vasp", {"potentials": {"family": FAMILY}, **overrides})


def test_kaur2025_is_the_published_level():
    """Science: revPBE-D3 (zero damping), hard PAW for PBE, 1000 eV, Gamma, PREC = High, tight EDIFF; nothing stray."""
    spec = load_vasp_level("kaur2025-vasp")
    incar = spec["incar"]
    assert (incar["gga"], incar["ivdw"], incar["encut"], incar["prec"].lower()) == ("RE", 11, 1000, "high")
    assert incar["ediff"] <= 1e-6
    assert (incar["isym"], incar["nsw"], incar["ibrion"], incar["isif"]) == (-1, 0, -1, 2)
    assert (incar["lwave"], incar["lcharg"]) == (False, False)
    assert spec["kpoints"] == {"mesh": [1, 1, 1]}
    assert spec["potentials"]["functional"] == "PBE"
    assert (spec["potentials"]["mapping"]["H"], spec["potentials"]["mapping"]["O"]) == ("H_h", "O_h")
    assert spec["energy"] == "free"


def test_levels_have_names_of_their_own_and_pass_their_checks():
    assert set(available_vasp_levels()) == {"kaur2025-vasp", "pbe-d3-vasp"}
    assert len({load_vasp_level(name)["key"] for name in available_vasp_levels()}) == 2


@pytest.mark.parametrize(
    ("incar", "offender", "remedy"),
    [
        ({"isym": 2}, "ISYM = 2", "set ISYM = -1"),
        ({"ibrion": 2}, "IBRION = 2", "set it to -1"),
        ({"nsw": 10}, "NSW = 10", "leave it out"),
        ({"pstress": 5.0}, "PSTRESS = 5.0", "leave it out"),
        ({"isif": 0}, "ISIF = 0", "set it to 2"),
        ({"isif": 1}, "ISIF = 1", "set it to 2"),
        ({"encutt": 500}, "no tag ENCUTT", "is ENCUT meant"),
        ({"GGA": "PE"}, "the tag GGA", "lower case"),
        ({"kspacing": 0.3}, "KSPACING", "give the spacing there"),
        ({"magmom": "6*0"}, "MAGMOM", "not supported"),
        ({"lwave": True}, "WAVECAR", "LWAVE = .FALSE."),
        ({"lcharg": True}, "CHGCAR", "LCHARG = .FALSE."),
        ({"istart": 1}, "ISTART = 1", "leave it out"),
        ({"icharg": 11}, "ICHARG = 11", "leave it out"),
    ],
)
def test_incar_tags_that_break_a_label(incar, offender, remedy):
    with pytest.raises(StudyError) as error:
        level(incar=incar)
    assert offender in str(error.value)
    assert remedy in str(error.value)


def test_symmetry_and_stress_must_be_said():
    """VASP's own defaults: symmetry on; no stress with exact exchange."""
    spec = level()
    with pytest.raises(StudyError, match="without ISYM, symmetry is on"):
        check_vasp_level({**spec, "incar": {k: v for k, v in spec["incar"].items() if k != "isym"}})
    hybrid = {**{k: v for k, v in spec["incar"].items() if k != "isif"}, "lhfcalc": True}
    with pytest.raises(StudyError, match="LHFCALC, VASP leaves out the stress"):
        check_vasp_level({**spec, "incar": hybrid})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"kpoints": {}}, "either mesh"),
        ({"kpoints": {"mesh": [1, 1, 1], "spacing_inv_A": 0.5}}, "not both"),
        ({"kpoints": {"mesh": [1, 0, 1]}}, "three whole numbers above zero"),
        ({"kpoints": {"spacing_inv_A": -1.0}}, "above zero"),
        ({"engine": "cp2k"}, "is for engine 'cp2k'"),
        ({"potentials": {"mapping": "hard"}}, "must hold"),
        ({"incra": {}}, "unknown input 'incra'"),
    ],
)
def test_levels_that_cannot_be(overrides, message):
    with pytest.raises(StudyError, match=message):
        level(**overrides)


def test_unknown_level():
    with pytest.raises(StudyError, match="choose from"):
        load_vasp_level("kaur2052-vasp")


def test_poscar_groups_species_whatever_the_order_in_the_frame():
    atoms = two_waters()
    mixed = atoms[[1, 0, 3, 2, 5, 4]]
    frames = Frames.from_atoms([atoms, mixed])
    for index in (0, 1):
        structure = frame_structure(level(), frames, index)
        assert [site.kind_name for site in structure.sites] == ["H"] * 4 + ["O"] * 2
        own = frames.slice(index)
        order = species_order(frames.numbers[own])
        np.testing.assert_allclose([site.position for site in structure.sites], frames.positions[own][order])
        np.testing.assert_allclose(structure.cell, atoms.cell.array)


def test_meshes_of_kpoints():
    atoms = two_waters()
    frames = Frames.from_atoms([atoms, molecule("H2O")])
    assert frame_mesh(level(), frames, 0) == (1, 1, 1)
    assert frame_mesh(level(kpoints={"mesh": [2, 3, 2]}), frames, 0) == (2, 3, 2)
    dense = level(kpoints={"spacing_inv_A": 0.5})
    # |b| = 2 pi / height: 1.43, 1.40, 1.37 for cell edges of about 4.4, 4.5 and 4.6 A
    assert frame_mesh(dense, frames, 0) == (3, 3, 3)
    assert frame_mesh(dense, frames, 1) == (1, 1, 1)


def test_potentials_are_checked_with_the_files_in_the_profile(potcars, tmp_path):
    upload_family(tmp_path, "made-up-lda", functional="LDA")
    upload_family(tmp_path, "made-up-soft", ("H", "O"))
    spec = level()
    assert potentials_problem(spec, ["H", "O"]) is None
    for potentials, elements, offender, remedy in (
        ({"family": "nowhere"}, ["H"], "no family of potentials 'nowhere'", "aiida-vasp potcar uploadfamily"),
        ({}, ["H", "O", "C"], "no potential C_h for C", "upload it with"),
        ({}, ["S"], "names no potential for S", "potentials.mapping"),
        ({"family": "made-up-soft"}, ["H"], "no potential H_h for H, only H", "choose another one"),
        ({"family": "made-up-lda"}, ["O"], "made for Perdew-Zunger81", "name a family for PBE"),
        ({"mapping": {"H": "O_h"}}, ["H"], "is for O, not for H", "correct `potentials.mapping`"),
    ):
        problem = potentials_problem(level(potentials={"family": FAMILY, **potentials}), elements)
        assert offender in problem
        assert remedy in problem
    assert potentials_problem(level(potentials={"family": "made-up-lda", "functional": "LDA"}), ["H"]) is None


def test_a_potential_whose_file_is_elsewhere(potcars, monkeypatch):
    """As after the import of an archive, which carries names and hashes only."""
    from aiida_vasp.data.potcar import PotcarFileData

    monkeypatch.setattr(PotcarFileData, "exists", classmethod(lambda cls, **_: False))
    problem = potentials_problem(level(), ["H"])
    assert "is not in this profile, only its name and hash" in problem


@pytest.mark.parametrize("chain", [VaspLabelWorkChain, LabellingWorkChain])
def test_builders_refuse_before_anything_is_submitted(chain, vasp, potcars):
    dataset = DatasetData(Frames.from_atoms([two_waters()]))
    with pytest.raises(StudyError, match="no family of potentials 'nowhere'"):
        chain.get_builder_from_protocol(vasp.code, dataset, level(potentials={"family": "nowhere"}))
    builder = chain.get_builder_from_protocol(vasp.code, dataset, level())
    options = builder.vasp.options if chain is LabellingWorkChain else builder.options
    assert options["withmpi"] is (chain is VaspLabelWorkChain)


def test_a_code_that_is_not_vasp(python_code, potcars):
    with pytest.raises(ValueError, match="not the right program"):
        VaspLabelWorkChain.get_builder_from_protocol(
            python_code, DatasetData(Frames.from_atoms([two_waters()])), level()
        )


@pytest.mark.parametrize("pattern", ["POTCAR", "*", "POT*", ("run/POTCAR", ".", 1)])
def test_options_that_would_retrieve_a_potential(vasp, potcars, pattern):
    with pytest.raises(ValueError, match="licensed"):
        VaspLabelWorkChain.get_builder_from_protocol(
            vasp.code,
            DatasetData(Frames.from_atoms([two_waters()])),
            level(),
            options={"additional_retrieve_list": [pattern]},
        )


def test_frames_that_vasp_cannot_do(vasp, potcars):
    slab = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.8]], cell=[3, 3, 9], pbc=(True, True, False))
    with pytest.raises(ValueError, match="frame 0 is periodic along some directions only"):
        VaspLabelWorkChain.get_builder_from_protocol(vasp.code, DatasetData(Frames.from_atoms([slab])), level())


def test_a_key_that_the_dataset_has_already(potcars):
    from aiida_mlfinetune.calculations.vasp_input import vasp_level

    frames = Frames.from_atoms([two_waters()])
    labelled = frames.with_labels(Labels.build(vasp_level(level()), frames.offsets, np.zeros(1)))
    problem = vasp_inputs_problem({"dataset": DatasetData(labelled), "level": orm.Dict(level())})
    assert "already: drop them, or use another key" in problem

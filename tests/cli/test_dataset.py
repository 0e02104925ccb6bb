"""``aiida-mlfinetune dataset``: import, export, show."""

from __future__ import annotations

import re

import numpy as np
import pytest
from aiida import orm
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.extxyz import KeyStyle, write_extxyz
from tests.fixtures.frames import PBE, XTB, make_frames

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")

H2 = "2\nProperties=species:S:1:pos:R:3 {info}\nH 0 0 0\nH 0 0 {z}\n"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["dataset", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def imported(*arguments: object) -> DatasetData:
    return orm.load_node(int(re.search(r"Dataset (\d+):", run("import", *arguments)).group(1)))


def test_a_file_goes_in_and_out_without_loss(tmp_path, labelled_frames):
    write_extxyz(tmp_path / "a.xyz", labelled_frames)
    node = imported(tmp_path / "a.xyz", "--label", "ices")
    assert node.label == "ices"
    assert node.content_hash == labelled_frames.content_hash()
    run("export", node.pk, tmp_path / "b.xyz")
    assert (tmp_path / "b.xyz").read_text() == (tmp_path / "a.xyz").read_text()


def test_the_same_file_is_stored_once(tmp_path, labelled_frames):
    write_extxyz(tmp_path / "a.xyz", labelled_frames)
    node = imported(tmp_path / "a.xyz")
    assert f"is dataset {node.pk} already" in run("import", tmp_path / "a.xyz")
    assert orm.QueryBuilder().append(DatasetData).count() == 1


def test_the_level_is_declared_by_the_user(tmp_path):
    path = tmp_path / "h2.xyz"
    path.write_text(H2.format(info="energy=-1.0 free_energy=-1.1", z=0.74))
    node = imported(
        path, "--level", "pbe/vasp", "--engine", "vasp", "--method", "PBE", "--basis", "500 eV", "--energy", "sigma0"
    )
    level = node.levels["pbe/vasp"]["level"]
    assert (level["engine"], level["method"], level["basis"], level["energy"]) == ("vasp", "PBE", "500 eV", "sigma0")
    assert node.frames.labels("pbe/vasp").energy.tolist() == [-1.0]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (H2.format(info="energy=-1", z=0.74), [], "labels whose level is not declared"),
        (H2.format(info="energy=nan", z=0.74), ["--level", "x"], "frame 0: energy is NaN"),
        (H2.format(info="energy=-1", z=0.3), ["--level", "x"], "frame 0: atoms 0 \\(H\\) and 1 \\(H\\) are 0.300"),
        (H2.format(info='pbc="T T T"', z=0.74), [], "frame 0: the cell has no volume"),
        (H2.format(info="energy=-1 REF_energy=-2", z=0.74), ["--level", "x"], "say which style"),
        ("nonsense\n", [], "cannot be read as extended XYZ"),
        (H2.format(info="energy=-1", z=0.74), ["--method", "PBE"], "name it with --level KEY"),
        (H2.format(info="energy=-1", z=0.74), ["--level", "a b"], "white space"),
    ],
)
def test_bad_files_are_refused_without_a_traceback(tmp_path, text, arguments, message):
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    output = run("import", path, *arguments, code=2 if arguments[:1] == ["--method"] else 1)
    assert re.search(message, output)
    assert "Traceback" not in output
    assert orm.QueryBuilder().append(DatasetData).count() == 0


def test_what_is_not_read_is_said(tmp_path):
    path = tmp_path / "h2.xyz"
    path.write_text(H2.format(info="config_type=gas", z=0.74))
    assert "not read: config_type" in run("import", path)


def test_one_level_is_exported_for_ase_and_for_mace(tmp_path, labelled_frames):
    import ase.io

    node = DatasetData(labelled_frames).store()
    run("export", node.pk, tmp_path / "mace.xyz", "--format", "mace", "--level", PBE.key)
    assert ase.io.read(tmp_path / "mace.xyz", 1).info["REF_energy"] == labelled_frames.labels(PBE.key).energy[1]
    run("export", node.uuid, tmp_path / "ase.xyz", "--format", KeyStyle.ASE.value, "--level", XTB.key)
    image = ase.io.read(tmp_path / "ase.xyz", 4)
    np.testing.assert_array_equal(image.get_forces(), labelled_frames.labels(XTB.key).forces[48:51])


def test_exports_that_make_no_sense_are_refused(tmp_path, labelled_frames):
    node = DatasetData(labelled_frames).store()
    target = tmp_path / "x.xyz"
    assert "say which" in run("export", node.pk, target, "--format", "mace", code=1)
    assert "no labels at level 'typo'" in run("export", node.pk, target, "--level", "typo", code=1)
    assert not target.exists()
    target.write_text("precious")
    assert "--force" in run("export", node.pk, target, code=1)
    assert target.read_text() == "precious"
    run("export", node.pk, target, "--force")
    number = orm.Int(1).store()
    assert "is a Int, not a dataset" in run("export", number.pk, tmp_path / "y.xyz", code=1)
    assert "no node '99999'" in run("show", 99999, code=1)


def test_a_dataset_is_shown(labelled_frames):
    node = DatasetData(labelled_frames).store()
    output = run("show", node.pk)
    for text in (f"Dataset {node.pk}", "7, of 3 to 12 atoms; elements C O", "4 x C4O8, 3 x CO2", XTB.key, "sigma0"):
        assert text in output
    view = DatasetData.subset(node, [0, 1]).store()
    assert f"Subset of  dataset {node.pk}" in run("show", view.pk)
    bare = DatasetData(make_frames(1, 0)).store()
    assert "none: label the frames" in run("show", bare.pk)


def test_levels_are_compared_and_labels_judged(labelled_frames):
    node = DatasetData(labelled_frames).store()
    assert "force / (meV/Å)" in run("compare", node.pk, XTB.key, PBE.key)
    assert "no labels at level 'typo'" in run("compare", node.pk, XTB.key, "typo", code=1)
    assert "say which one with --level" in run("assess", node.pk, code=1)
    assert "label_net_force" in run("assess", node.pk, "--level", XTB.key)
    assert "Quality    of the labels at" in run("show", node.pk)


@pytest.mark.parametrize("command", [[], ["import"], ["export"], ["show"]])
def test_help_tells_what_to_do_next(command):
    output = run(*command, "--help")
    assert "Next:" in output or "New here?" in output

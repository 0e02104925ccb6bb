"""``aiida-mlfinetune model``: list, fetch, show, diff, export and import."""

from __future__ import annotations

import hashlib
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from aiida import orm
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.data import fetching, foundations
from aiida_mlfinetune.data.foundations import Foundation, load_foundation
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.extxyz import read_extxyz
from tests.data.test_foundations import Bomb
from tests.fixtures.trained import MACE_INPUT, train_on_paper
from tests.report.synthetic import TARGET

pytestmark = pytest.mark.usefixtures("aiida_profile_clean")


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["model", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def trained(tmp_path, python_code):
    """A function that makes the nodes of a training."""
    foundation = load_foundation("ice-xtb")

    def make(**values):
        return train_on_paper(tmp_path / "made.model", python_code, foundation, **values)

    return make


@pytest.fixture
def official(release, tiny_model_file, tmp_path, monkeypatch):
    """A server that has the small MACE-MP-0, and an empty folder for what is fetched."""
    release.content = tiny_model_file.read_bytes()
    for name in ("mace-mp-0-small", "mace-off23-small"):
        monkeypatch.setitem(fetching.OFFICIAL, name, replace(fetching.OFFICIAL[name], url=release.url))
    monkeypatch.setattr(fetching, "foundations_folder", lambda: tmp_path / "folder")
    return release


# import -------------------------------------------------------------------------------------------------------------


def test_an_unknown_file_is_refused_unless_trusted(tiny_model_file):
    output = run("import", tiny_model_file, code=1)
    assert "not that of a known foundation" in output
    assert "--trust" in output
    assert orm.QueryBuilder().append(MaceModelData).count() == 0
    output = run("import", tiny_model_file, "--trust", "--level", "gfn1-xtb/cp2k", "--label", "mine")
    node = orm.load_node(int(re.search(r"Model (\d+):", output).group(1)))
    assert node.label == "mine"
    assert node.passport.levels == {"Default": "gfn1-xtb/cp2k"}


def test_levels_are_given_by_head(tiny_model_file):
    run("import", tiny_model_file, "--trust", "--level", "Default=pbe/vasp")
    assert orm.QueryBuilder().append(MaceModelData).first(flat=True).passport.levels == {"Default": "pbe/vasp"}
    assert "names no head" in run("import", tiny_model_file, "--trust", "--level", "pbe/vasp", "--level", "a=b", code=2)
    assert "that the model lacks" in run("import", tiny_model_file, "--trust", "--level", "other=pbe/vasp", code=1)


# show ---------------------------------------------------------------------------------------------------------------


def test_the_passport_of_a_node_is_shown(tiny_model):
    tiny_model.store()
    output = run("show", tiny_model.pk)
    for text in (
        tiny_model.sha256,
        "ScaleShiftMACE",
        "cutoff 3.5 angstrom",
        "gfn1-xtb/cp2k",
        "-102.712388",
        "imported",
    ):
        assert text in output


def test_a_trained_model_tells_how_exactly_it_was_made(trained):
    nodes = trained()
    output = run("show", nodes.model.pk)
    for text in (
        f"MaceTrainCalculation <{nodes.job.pk}>",
        f"TrainingWorkChain <{nodes.chain.pk}>",
        "aiida-core 2.9.4",
        "parameters.lr",
        "split.seed",
        f"{TARGET} (6, 6, 0)",
        nodes.train.content_hash[:12],
        "Parent model: foundation",
        "ice-xtb",
        nodes.foundation.sha256,
        "energy_rmse_meV_per_atom",
    ):
        assert text in output, text


def test_a_foundation_is_shown_by_its_name(tiny_model, tiny_model_file, monkeypatch):
    entry = Foundation("tiny", tiny_model_file, tiny_model.passport, "MIT")
    monkeypatch.setitem(foundations.FOUNDATIONS, "tiny", entry)
    output = run("show", "tiny")
    assert "Foundation tiny, shipped" in output
    assert re.search(r"Licence +MIT", output)
    assert orm.QueryBuilder().append(MaceModelData).count() == 0


def test_a_file_is_shown_by_its_checksum_and_never_opened(tiny_model, tiny_model_file, tmp_path):
    trace, bomb = tmp_path / "trace", tmp_path / "bomb.model"
    bomb.write_bytes(pickle.dumps(Bomb(trace)))
    output = run("show", bomb, code=1)
    assert hashlib.sha256(bomb.read_bytes()).hexdigest() in output
    assert "--trust" in output
    assert not trace.exists()
    tiny_model.store()
    assert f"Model {tiny_model.pk}" in run("show", tiny_model_file)
    assert "Foundation ice-xtb" in run("show", foundations.FOUNDATIONS["ice-xtb"].path)


def test_what_is_no_model_is_refused():
    assert "no foundation 'huge' is known" in run("show", "huge", code=1)
    number = orm.Int(1).store()
    assert "is a Int, not a model" in run("show", number.pk, code=1)
    assert "no node '99999'" in run("show", 99999, code=1)


# diff ---------------------------------------------------------------------------------------------------------------


def test_diff_names_inputs_that_differ_and_errors_that_moved(trained):
    first, second = trained(), trained(n_train=8, lr=5e-4)
    output = run("diff", first.model.pk, second.model.pk)
    inputs, rest = output.split("What is in the files")
    assert re.search(r"parameters.lr +0.001 +0.0005", inputs)
    assert re.search(r"split.train +6 +8", inputs)
    assert re.search(r"data.train +6 frames, hash \w+, 6 shared +8 frames, hash \w+, 6 shared", inputs)
    assert "seed" not in inputs
    assert re.search(r"energy_rmse_meV_per_atom +3 +2.25 +-25.0 %", rest)
    assert "other frames" not in rest
    assert "2 more are the same" in rest


def test_diff_of_a_foundation_and_its_child(trained):
    nodes = trained()
    output = run("diff", "ice-xtb", nodes.model.pk)
    assert "parameters.max_num_epochs" in output
    assert "E0 of O" in output
    assert "is only a name so far" in run("diff", "mace-mp-0-small", nodes.model.pk, code=1)


# export -------------------------------------------------------------------------------------------------------------


def test_export_writes_file_card_and_sets(trained, tmp_path):
    nodes, folder = trained(), tmp_path / "out"
    output = run("export", nodes.model.pk, folder)
    names = {"ice-fine-tuned.model", "MODEL_CARD.md", "train.xyz", "valid.xyz", "test.xyz", "mace.yaml"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(name in output for name in names)
    assert (folder / "ice-fine-tuned.model").read_bytes() == nodes.model.content()
    assert (folder / "mace.yaml").read_bytes() == MACE_INPUT
    assert read_extxyz(folder / "train.xyz").content_hash() == nodes.train.content_hash
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# ice, fine-tuned\n")
    for path in folder.iterdir():
        if path.suffix != ".md":
            assert f"| `{path.name}` | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |" in card
    inputs = yaml.safe_load(re.search(r"Inputs:\n\n```yaml\n(.*?)```", card, re.DOTALL).group(1))
    assert inputs["parameters"] == nodes.job.inputs.parameters.get_dict()
    assert "ice-xtb" in card
    assert "(foundation), which it was made from: MIT" in card
    assert str(nodes.model.uuid) in card
    node = re.search(r"Model (\d+)", run("import", folder / "ice-fine-tuned.model"))
    assert int(node.group(1)) == nodes.model.pk


def test_a_foundation_is_exported_by_its_name(tmp_path):
    run("export", "ice-xtb", tmp_path / "out")
    assert (tmp_path / "out" / "ice-xtb.model").read_bytes() == foundations.FOUNDATIONS["ice-xtb"].path.read_bytes()
    assert "Of this file: MIT" in (tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_export_does_not_write_over_other_files(trained, tmp_path):
    nodes = trained()
    (tmp_path / "notes.txt").touch()
    assert "is not empty" in run("export", nodes.model.pk, tmp_path, code=1)
    run("export", nodes.model.pk, tmp_path, "--force", "--name", "a b/c")
    assert (tmp_path / "a-b-c.model").exists()


# list and fetch -----------------------------------------------------------------------------------------------------


def test_the_list_tells_names_licences_and_what_is_here(official):
    output = run("list")
    assert re.search(r"ice-xtb +gfn1-xtb/cp2k +H, O +MIT +shipped", output)
    assert re.search(r"mace-off23-small +wB97M-D3 .* ASL\n", output)
    run("fetch", "mace-mp-0-small")
    assert re.search(r"mace-mp-0-small .* MIT +fetched \d{4}-", run("list"))


def test_fetch_shows_the_checksum_and_what_comes_next(official):
    output = run("fetch", "mace-mp-0-small")
    digest = hashlib.sha256(official.content).hexdigest()
    assert f"sha256 {digest}" in output
    assert "No official source states a checksum: this one was recorded just now" in output
    assert "foundation: mace-mp-0-small" in output
    again = run("fetch", "mace-mp-0-small")
    assert "the checksum that was recorded on" in again
    assert len(official.requests) == 1
    path = Path(re.search(r"model import (\S+)", output).group(1))
    assert "Official foundation mace-mp-0-small" in run("show", path)
    made = run("import", path)
    assert "elements H O" in made
    shown = run("show", "mace-mp-0-small")
    assert "the official release at" in shown
    assert "pbe+u/mptrj" in shown


def test_fetch_without_connection_or_with_a_broken_one_says_what_to_do(official, closed_port, monkeypatch, tmp_path):
    official.cut_after = 100
    assert "run the command again to go on" in run("fetch", "mace-mp-0-small", code=1)
    entry = fetching.OFFICIAL["mace-mp-0-small"]
    offline = f"http://127.0.0.1:{closed_port}/small.model"
    monkeypatch.setitem(fetching.OFFICIAL, "mace-mp-0-small", replace(entry, url=offline))
    output = run("fetch", "mace-mp-0-small", code=1)
    assert f"there is no connection to 127.0.0.1:{closed_port}" in output
    assert "model fetch NAME --from FILE" in output
    brought = tmp_path / "small.model"
    brought.write_bytes(official.content)
    assert "recorded just now" in run("fetch", "mace-mp-0-small", "--from", brought)


def test_a_licence_has_to_be_accepted(official):
    output = run("fetch", "mace-off23-small", code=1)
    assert "Academic Software License (ASL)" in output
    assert "https://github.com/gabor1/ASL" in output
    assert "--accept-licence" in output
    assert not official.requests
    assert "recorded just now" in run("fetch", "mace-off23-small", "--accept-licence")


def test_an_official_model_is_described_before_it_is_here(official):
    output = run("show", "mace-off23-small")
    for text in (
        "wB97M-D3",
        "no commercial use",
        "H C N O F P S Cl Br I",
        "arXiv:2312.15211",
        official.url,
        "Next: aiida-mlfinetune model fetch mace-off23-small",
    ):
        assert text in output, text
    assert "not stated by an official source" in output


def test_a_study_names_a_fetched_foundation(official):
    from aiida_mlfinetune.cli.build import find_foundation

    run("fetch", "mace-mp-0-small")
    assert find_foundation("mace-mp-0-small").passport.settings["foundation"] == "mace-mp-0-small"


@pytest.mark.parametrize("command", [[], ["import"], ["show"], ["diff"], ["export"], ["fetch"], ["list"]])
def test_help_tells_what_to_do_next(command):
    output = run(*command, "--help")
    assert "Next:" in output or "New here?" in output

"""``learning-curve`` checks everything before it submits, and says what it will do."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiida import orm
from click.testing import CliRunner

from aiida_mlfinetune.cli import main
from aiida_mlfinetune.cli.learning_curve import read_settings
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from tests.fixtures.water import XTB


@pytest.fixture
def run(python_code, water_frames):
    node = DatasetData(frames=water_frames).store()

    def invoke(*options: object, dataset=node.pk):
        arguments = [dataset, "--level", XTB.key, "--code", python_code.full_label, "--protocol", "demo", "--dry-run"]
        return CliRunner().invoke(main, ["learning-curve", *map(str, arguments), *map(str, options)])

    return invoke


def test_a_dry_run_says_what_would_be_trained_and_submits_nothing(run, tiny_model):
    tiny_model.store()
    before = orm.QueryBuilder().append(orm.ProcessNode).count()
    done = run(
        *("--mode", "scratch", "--mode", "naive", "--foundation", tiny_model.pk),
        *("--sizes", "4,8", "--valid", 4, "--seeds", "1,2,3", "--separation", 0, "--target", "forces_meV_A=50"),
    )
    assert done.exit_code == 0, done.output
    assert "12 trainings at gfn1-xtb/tblite: naive, scratch; on 4, 8 frames; seeds 1, 2, 3" in done.output
    assert "4 frames for validation, 0 for the test, of 16; separation 0 steps" in done.output
    assert orm.QueryBuilder().append(orm.ProcessNode).count() == before


def test_a_foundation_alone_asks_for_both_modes_of_kaur(run, tiny_model):
    done = run("--foundation", tiny_model.store().pk, "--sizes", "0.25,0.5", "--valid", 0.25)
    assert "naive, scratch; on 4, 8 frames" in done.output
    assert "separation none, as the runs are not known" in done.output


def test_settings_describe_modes_and_overrides(run, tiny_model, tmp_path: Path):
    file = tmp_path / "curve.yaml"
    file.write_text(
        "modes:\n"
        f"  tuned: {{mode: naive, foundation: {tiny_model.store().pk}, overrides: {{naive: {{lr: 0.002}}}}}}\n"
        "  nothing: {mode: scratch}\n"
        "seeds: [7]\nsplit: {train: [4], valid: 3}\nmax_concurrent: 1\n"
        "training: {parameters: {max_num_epochs: 3}}\n",
        encoding="utf-8",
    )
    done = run("--settings", file, "--sizes", "4,6")
    assert done.exit_code == 0, done.output
    assert "4 trainings at gfn1-xtb/tblite: nothing, tuned; on 4, 6 frames; seeds 7" in done.output
    assert "tuned: mode naive, from the model with sha256" in done.output
    assert "at most 3 epochs" in done.output


def test_published_sizes_need_as_many_frames(run):
    done = run("--sizes", "caco3")
    assert done.exit_code == 1
    assert "wants 110 frames" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "1,1"), "are used twice"),
        (("--seeds", "one"), "--seeds takes whole numbers"),
        (("--sizes", "4,x"), "--sizes takes numbers"),
        (("--target", "forces_meV_A"), "--target takes QUANTITY=VALUE"),
        (("--target", "forces=3"), "unknown quantity 'forces'"),
        (("--mode", "naive", "--sizes", "4,8", "--valid", 4), "foundation"),
        (("--mode", "tune"), "unknown training mode 'tune'"),
        (("--foundation", "no-such-model"), "unknown foundation"),
    ],
)
def test_what_cannot_be_is_refused(run, options, message):
    done = run(*options)
    assert done.exit_code != 0
    assert message in done.output


def test_a_node_that_is_no_dataset_is_refused(run):
    done = run(dataset=orm.Int(1).store().pk)
    assert "not a dataset" in done.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sizes: [1]\n", "unknown key 'sizes'"),
        ("modes: {a: {mod: naive}}\n", "did you mean 'mode'"),
        ("modes: {a: naive}\n", "must hold keys and values"),
        ("- 1\n", "must hold keys and values"),
        ("seeds: [1\n", "not valid YAML"),
    ],
)
def test_settings_are_checked(text, message, tmp_path: Path):
    (tmp_path / "curve.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=message):
        read_settings(tmp_path / "curve.yaml")


def test_modes_are_given_once(run, tmp_path: Path):
    (tmp_path / "curve.yaml").write_text("modes: {a: {mode: scratch}}\n", encoding="utf-8")
    done = run("--settings", tmp_path / "curve.yaml", "--mode", "scratch")
    assert "modes are given twice" in done.output

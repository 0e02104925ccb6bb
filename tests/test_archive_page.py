"""The shipped archive comes into an empty profile, and the page's queries print what the page says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from aiida.orm import load_group
from aiida.tools.archive import import_archive

from aiida_mlfinetune.workchains.learning_curve import LearningCurveWorkChain

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorials" / "ice-xi-archive.md"
ARCHIVE = ROOT / "examples" / "ice_xi" / "ice-xi.aiida"
QUESTIONS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def archive(aiida_profile):
    """The profile of the tests with the archive, and with nothing else."""
    aiida_profile.reset_storage()
    import_archive(ARCHIVE)
    yield
    aiida_profile.reset_storage()


def test_the_page_asks_five_questions():
    assert len(QUESTIONS) == 5


@pytest.mark.parametrize(("question", "answer"), QUESTIONS)
def test_a_query_prints_what_the_page_says(archive, capsys, question, answer):
    exec(compile(question, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == answer


def test_every_frame_is_there_with_its_labels(archive):
    (labelled,) = load_group("ice-xi/labelled").nodes
    (hybrid,) = load_group("ice-xi/hybrid").nodes
    assert {key: level["counts"] for key, level in labelled.levels.items()} == {
        key: {"energy": 160, "forces": 160, "stress": 160} for key in ("gfn1-xtb/cp2k", "revpbe-d3-quick/cp2k")
    }
    frames = labelled.frames
    assert len(set(frames.content_hashes())) == 160
    assert set(hybrid.frames.content_hashes()) <= set(frames.content_hashes())
    assert hybrid.levels["pbe0-admm/cp2k"]["counts"]["forces"] == 12


def test_its_learning_curve_is_accepted(archive, python_code):
    settings = runpy.run_path(str(ARCHIVE.with_name("settings.py")))
    builder = settings["learning_curve"](python_code, (10, 20, 40, 80), {"forces_meV_A": 50.0})
    assert LearningCurveWorkChain.describe(builder).startswith("24 trainings at revpbe-d3")

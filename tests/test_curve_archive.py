"""The shipped learning curve of ice XI comes into an empty profile and is made again without a calculation."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching
from aiida.orm import CalcJobNode, Node, QueryBuilder, load_group
from aiida.tools.archive import import_archive

from aiida_mlfinetune.calculations.functions.learning_curve import curves_of
from aiida_mlfinetune.plotting.style import INK
from aiida_mlfinetune.report.sections.learning_curve import learning_curve_svg

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "ice_xi"
FIGURE = ROOT / "docs" / "how-to" / "learning-curve-ice-xi.svg"
SIZES = (10, 20, 40, 80)


@pytest.fixture(scope="module")
def chain(aiida_profile):
    """The learning curve in the profile of the tests, which holds nothing but the two archives of ice XI."""
    aiida_profile.reset_storage()
    for name in ("ice-xi.aiida", "ice-xi-learning-curve.aiida"):
        import_archive(FOLDER / name)
    (node,) = load_group("ice-xi/learning-curve").nodes
    yield node
    aiida_profile.reset_storage()


def test_it_has_all_modes_sizes_and_seeds(chain):
    curves = curves_of(chain.outputs.curve)
    assert set(curves) == {"scratch", "naive"}
    for curve in curves.values():
        forces = curve["forces_meV_A"]
        assert forces.sizes.tolist() == list(SIZES)
        assert (forces.error > 0).all()  # over the seeds
    assert not chain.outputs.curve.details["failed"]


def test_the_figure_of_the_documentation_is_its(chain):
    assert FIGURE.read_text(encoding="utf-8") == learning_curve_svg(chain.outputs.curve).replace("currentColor", INK)


def test_it_is_made_again_from_the_cache(chain):
    for (node,) in QueryBuilder().append(Node).iterall():
        node.base.caching.rehash()  # as `verdi node rehash` does
    with enable_caching():
        outputs, node = run_get_node(chain.get_builder_restart())
    assert node.is_finished_ok, node.exit_message
    assert len([each for each in node.called if each.process_label == "TrainingWorkChain"]) == 24
    jobs = [each for each in node.called_descendants if isinstance(each, CalcJobNode)]
    assert len(jobs) >= 24  # some were killed, and went on in a second job
    assert all(each.base.caching.is_created_from_cache for each in jobs)
    for name, expected in chain.outputs.curve.arrays().items():
        assert outputs["curve"].arrays()[name] == pytest.approx(expected)

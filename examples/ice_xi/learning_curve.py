"""The learning curve of the ice XI archive: from scratch, and fine-tuned from ice-xtb, at revPBE-D3.

    verdi archive import ice-xi.aiida
    verdi run learning_curve.py run      # modes x sizes x seeds on the same nested sets
    verdi run learning_curve.py export   # ice-xi-learning-curve.aiida, and the figure for the documentation

in this folder (`verdi run` does not tell a script where it lies). Needs a profile with a running daemon, caching
switched on and the code `python@localhost` (`aiida-mlfinetune setup`, `verdi daemon start 2`). Repeated, with a size or
a seed more, it computes only what is new. The curve that was shipped is made again without a training:

    verdi archive import ice-xi.aiida ice-xi-learning-curve.aiida
    verdi node rehash --force            # an imported node has no hash, by which the cache would find it
    verdi run learning_curve.py again    # with the inputs of the imported curve, its code included
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from aiida import orm
from aiida.engine import ProcessBuilder, submit
from aiida.tools.archive import create_archive
from settings import learning_curve

from aiida_mlfinetune.plotting.style import INK
from aiida_mlfinetune.report.sections.learning_curve import learning_curve_svg
from aiida_mlfinetune.workchains.learning_curve import LearningCurveWorkChain

GROUP = "ice-xi/learning-curve"
HERE = Path(__file__).resolve().parent
ARCHIVE = HERE / "ice-xi-learning-curve.aiida"
FIGURE = HERE.parents[1] / "docs" / "how-to" / "learning-curve-ice-xi.svg"
SIZES = (10, 20, 40, 80)
TARGET = {"forces_meV_A": 50.0}


def finish(builder: ProcessBuilder) -> orm.WorkChainNode:
    """Submit, wait, print what the curve says, and return its node."""
    node = submit(builder)
    print(LearningCurveWorkChain.describe(builder), f"\nprocess {node.pk}", flush=True)
    while not node.is_terminated:
        time.sleep(5)
    if not node.is_finished_ok:
        raise SystemExit(f"[{node.exit_status}] {node.exit_message}")
    print(node.outputs.curve.details["sentence"])
    return node


def run() -> None:
    """Make the curve, and remember it in its group."""
    builder = learning_curve(orm.load_code("python@localhost"), SIZES, TARGET)
    builder.metadata.label = "Learning curve of ice XI at revPBE-D3"
    node = finish(builder)
    group, _ = orm.Group.collection.get_or_create(GROUP)
    group.clear()
    group.add_nodes(node)


def again() -> None:
    """Make the curve of the group again."""
    (node,) = orm.load_group(GROUP).nodes
    finish(node.get_builder_restart())


def export() -> None:
    """Write the archive of the curve, without the calculations of ``ice-xi.aiida`` that led to it, and its figure."""
    (node,) = orm.load_group(GROUP).nodes
    create_archive([orm.load_group(GROUP)], filename=ARCHIVE, overwrite=True, compression=9, create_backward=False)
    FIGURE.write_text(learning_curve_svg(node.outputs.curve).replace("currentColor", INK), encoding="utf-8")
    print(ARCHIVE, f"{ARCHIVE.stat().st_size / 2**20:.1f} MiB")
    print(FIGURE)


STEPS = {function.__name__: function for function in (run, export, again)}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()

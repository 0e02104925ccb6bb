"""Label what the model itself runs into: frames of its NPT runs, by CP2K, for another round of training.

    verdi run refine.py

takes the runs of ``assess.py stability`` (from the cache where they are done), labels 20 frames of each, more of them
early than late, and adds them to the group ``ice-xtb/frames``. The first round of `ice-xtb` needed it: trained on ices
and liquids between 0.75 and 1.9 g/cm^3 that CP2K had run for 150 fs at most, the model found a glass of 1.6 g/cm^3
that it took to be 70 meV a molecule more stable than CP2K does, and every ice went there within 3 ps.
"""

from __future__ import annotations

import numpy as np
from aiida import orm
from assess import finish, stability_runs
from generate import GROUP, LEVEL

from aiida_mlfinetune.calculations.functions.dataset import subset
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain

N_FRAMES = 20


def main() -> None:
    """Label and collect."""
    code = orm.load_code("cp2k@localhost")
    runs = finish(stability_runs())
    labellings = {}
    for name, run in runs.items():
        trajectory = run.outputs.trajectory
        indices = np.unique(np.geomspace(5, trajectory.n_frames - 1, N_FRAMES).astype(int)).tolist()
        frames = subset(trajectory, orm.List(indices))
        labellings[name] = LabellingWorkChain.get_builder_from_protocol(code, frames, level=LEVEL, protocol="fast")
    group = orm.load_group(GROUP)
    for node in finish(labellings).values():
        group.add_nodes(node.outputs.dataset)


if __name__ == "__main__":
    main()

"""Label what the model itself runs into: frames of its NPT runs, by CP2K, for another round of training.

    verdi run refine.py

takes those runs of ``assess.py stability`` whose cells CP2K can do at the Gamma point (ices Ih and II; the cells of
VI and VIII there are for the model alone), labels frames of each, more of them early than late, and adds them to the
group ``ice-xtb/frames``. The first round of `ice-xtb` needed it: it had few frames above 1.4 g/cm^3, and found a glass
of 1.6 g/cm^3 that it took to be 50 to 85 meV a molecule more stable than CP2K does; every ice went there within 3 ps.
"""

from __future__ import annotations

import numpy as np
from aiida import orm
from assess import finish, stability_runs
from generate import GROUP, LEVEL

from aiida_mlfinetune.calculations.functions.dataset import subset
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain

N_FRAMES = {"Ih": 54, "II": 27}


def main() -> None:
    """Label and collect."""
    code = orm.load_code("cp2k@localhost")
    runs = finish({name: builder for name, builder in stability_runs().items() if name in N_FRAMES})
    labellings = {}
    for name, run in runs.items():
        trajectory = run.outputs.trajectory
        indices = np.unique(np.geomspace(5, trajectory.n_frames - 1, N_FRAMES[name]).astype(int)).tolist()
        frames = subset(trajectory, orm.List(indices))
        labellings[name] = LabellingWorkChain.get_builder_from_protocol(code, frames, level=LEVEL, protocol="fast")
    group = orm.load_group(GROUP)
    for node in finish(labellings).values():
        group.add_nodes(node.outputs.dataset)


if __name__ == "__main__":
    main()

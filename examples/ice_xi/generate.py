"""Generate the ice XI archive: 160 frames at GFN1-xTB and revPBE-D3, 12 of them at PBE0 too, with CP2K.

    verdi run generate.py sample    # 4 runs of 0.6 ps at 100 to 250 K; 40 frames of each, over a range of volumes
    verdi run generate.py label     # all 160 frames at GFN1-xTB and at revPBE-D3
    verdi run generate.py hybrid    # every 14th frame at PBE0 with ADMM
    verdi run generate.py export    # ice-xi.aiida

in this folder (`verdi run` does not tell a script where it lies). Needs a profile with a running daemon and the code
`cp2k@localhost` (`aiida-mlfinetune setup`, `verdi daemon start 2`). What has finished comes from the cache when a step
is repeated. The daemon goes on where the script is ended: then wait for the work chain, and put its dataset into the
group with ``remember``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.engine import ProcessBuilder, submit
from aiida.tools.archive import create_archive
from ase import Atoms
from ase.build import cut

from aiida_mlfinetune.calculations.functions.dataset import join, subset
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.crystals.crystals import ice_xi
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.protocols.levels import load_level
from aiida_mlfinetune.workchains.sampling import SamplingWorkChain

GROUP = "ice-xi"
ARCHIVE = Path(__file__).with_name("ice-xi.aiida")
TEMPERATURES_K = (100.0, 150.0, 200.0, 250.0)
FRAMES_PER_TEMPERATURE = 40
QUICK = {
    "key": "revpbe-d3-quick/cp2k",
    "parameters": {"DFT": {"MGRID": {"REL_CUTOFF": 30, "NGRIDS": 5}, "QS": {"EPS_DEFAULT": 1.0e-8}}},
}
"""Over ``revpbe-d3-light``, for half of its time: forces differ by 2 meV/A, stress by 8 MPa."""
HYBRID = "pbe0-admm"
HYBRID_STRIDE = 14
HYBRID_FRAMES = 12


def crystal() -> Atoms:
    """Return 12 molecules of ice XI in the cell (3a + b)/2, b, c, with 6.7 angstrom between opposite faces.

    All levels are computed at the Gamma point. In the orthorhombic cell of 8 molecules, with a of 4.5 angstrom, forces
    at revPBE-D3 are off by 80 meV/A (RMS, against 3 x 2 x 2 k-points).
    """
    return cut(ice_xi(), a=(1.5, 0.5, 0.0), b=(0.0, 1.0, 0.0), c=(0.0, 0.0, 1.0))


def finish(**builders: ProcessBuilder) -> dict[str, orm.ProcessNode]:
    """Submit all, wait, and return the processes; end the script where one failed."""
    nodes = {name: submit(builder) for name, builder in builders.items()}
    while not all(node.is_terminated for node in nodes.values()):
        time.sleep(2)
    for name, node in nodes.items():
        print(time.strftime("%H:%M:%S"), name, node.pk, node.exit_status, node.exit_message, flush=True)
    if not all(node.is_finished_ok for node in nodes.values()):
        raise SystemExit(1)
    return nodes


def remember(name: str, node: orm.Data) -> None:
    """Put a node into the group of that name, in place of what is there."""
    group, _ = orm.Group.collection.get_or_create(f"{GROUP}/{name}")
    group.clear()
    group.add_nodes(node)


def recall(name: str) -> DatasetData:
    """Return the node of a group."""
    (node,) = orm.load_group(f"{GROUP}/{name}").nodes
    return node


def sample() -> None:
    """Run the dynamics, and join what was selected."""
    structure = orm.StructureData(ase=crystal()).store()
    builders = {}
    for number, temperature in enumerate(TEMPERATURES_K):
        builder = SamplingWorkChain.get_builder_from_protocol(
            orm.load_code("cp2k@localhost"),
            structure,
            protocol="fast",
            overrides={
                "md": {"n_steps": 600, "timestep_fs": 1.0, "stride": 5, "seed": 100 + number},
                "selection": {
                    "n_frames": FRAMES_PER_TEMPERATURE,
                    "method": "stride",
                    "seed": 200 + number,
                    "equilibration": 0.15,
                    "volume_range": [0.9, 1.12],
                },
            },
            ensemble="nvt",
            temperature_K=temperature,
            level="gfn1-xtb",
        )
        builder.metadata.label = f"ice XI, GFN1-xTB, {temperature:.0f} K"
        builders[f"t{temperature:.0f}K"] = builder
    nodes = finish(**builders)
    remember("sampled", join(**{name: node.outputs.dataset for name, node in nodes.items()}))


def labelled(dataset: DatasetData, level: dict[str, Any], frames_per_job: int) -> DatasetData:
    """Return the frames of ``dataset`` that got labels at ``level``."""
    builder = LabellingWorkChain.get_builder_from_protocol(
        orm.load_code("cp2k@localhost"),
        dataset,
        level=level,
        protocol="fast",
        overrides={"frames_per_job": frames_per_job},
    )
    builder.metadata.label = f"ice XI, {level['key']}"
    return finish(labels=builder)["labels"].outputs.dataset


def label() -> None:
    """Label all frames at the levels that every frame gets."""
    dataset = recall("sampled")
    for level in (load_level("gfn1-xtb"), load_level("revpbe-d3-light", QUICK)):
        dataset = labelled(dataset, level, 80)
    remember("labelled", dataset)


def hybrid() -> None:
    """Label every 14th frame at the hybrid functional."""
    chosen = subset(recall("labelled"), orm.List(list(range(0, HYBRID_STRIDE * HYBRID_FRAMES, HYBRID_STRIDE))))
    remember("hybrid", labelled(chosen, load_level(HYBRID), HYBRID_FRAMES))


def export() -> None:
    """Write the archive: the groups and all that led to their nodes."""
    groups = [orm.load_group(f"{GROUP}/{name}") for name in ("sampled", "labelled", "hybrid")]
    create_archive(groups, filename=ARCHIVE, overwrite=True, compression=9)
    print(ARCHIVE, f"{ARCHIVE.stat().st_size / 2**20:.1f} MiB")


STEPS = {function.__name__: function for function in (sample, label, hybrid, export)}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()

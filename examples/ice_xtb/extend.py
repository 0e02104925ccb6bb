"""More frames for `ice-xtb`: dynamics of ices with the shipped model, labelled by CP2K (GFN1-xTB).

    verdi run extend.py [PROCESSES AT A TIME]

needs a running daemon (`aiida-mlfinetune setup`, `verdi daemon start 2`). What comes of it ends up in the group
``ice-xtb/by-model``, which ``train.py`` joins with the frames of ``generate.py``. A second run answers from the cache.
"""

from __future__ import annotations

import sys
import time

from aiida import orm
from aiida.engine import ProcessBuilder, submit
from systems import ice

from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.model_sampling import ModelSamplingWorkChain

LEVEL = "gfn1-xtb"
GROUP = "ice-xtb/by-model"
CRYSTALS = (("Ih", 21), ("Ih", 22), ("Ic", 23), ("Ic", 24), ("II", 25), ("VI", 26), ("VII", 27), ("VIII", 28))
TEMPERATURES_K = (100.0, 200.0, 300.0)
FRAMES_PER_RUN = 36
VOLUMES = [0.88, 1.14]
MAX_RUNNING = 2


def sampling(code: orm.AbstractCode, crystal: str, seed: int, temperature_K: float) -> ProcessBuilder:  # noqa: N803 - the unit
    """Return 1.2 ps of NVT with the model, and the selection from it, over a range of volumes."""
    number = seed * 1000 + int(temperature_K)
    builder = ModelSamplingWorkChain.get_builder_from_protocol(
        code,
        orm.StructureData(ase=ice(crystal, seed)).store(),
        load_foundation("ice-xtb"),
        "demo",
        {
            "dynamics": {
                "parameters": {"n_steps": 1200, "timestep_fs": 1.0, "stride": 5, "seed": number, "dtype": "float32"}
            },
            "selection": {
                "n_frames": FRAMES_PER_RUN,
                "method": "stride",
                "seed": number,
                "equilibration": 0.2,
                "volume_range": VOLUMES,
            },
        },
        ensemble="nvt",
        temperature_K=temperature_K,
    )
    builder.metadata.label = f"sample {crystal}-{seed}-{temperature_K:.0f}K"
    return builder


def labelling(code: orm.AbstractCode, node: orm.ProcessNode) -> ProcessBuilder:
    """Return the labelling of what a run gave."""
    builder = LabellingWorkChain.get_builder_from_protocol(code, node.outputs.dataset, level=LEVEL, protocol="fast")
    builder.metadata.label = f"label {node.label}"
    return builder


def main(max_running: int) -> None:
    """Run all crystals at all temperatures, and label what was selected."""
    group, _ = orm.Group.collection.get_or_create(GROUP)
    ipi, cp2k = orm.load_code("i-pi@localhost"), orm.load_code("cp2k@localhost")
    waiting = [(*crystal, temperature) for crystal in CRYSTALS for temperature in TEMPERATURES_K]
    runs: list[orm.ProcessNode] = []
    labels: list[orm.ProcessNode] = []
    while waiting or any(not node.is_terminated for node in (*runs, *labels)):
        for node in [node for node in runs if node.is_terminated]:
            runs.remove(node)
            print(time.strftime("%H:%M:%S"), node.label, node.pk, node.exit_status, node.exit_message, flush=True)
            labels.append(submit(labelling(cp2k, node)))
        if waiting and sum(not node.is_terminated for node in (*runs, *labels)) < max_running:
            runs.append(submit(sampling(ipi, *waiting.pop(0))))
        time.sleep(2)
    for node in labels:
        print(node.label, node.pk, node.exit_status, node.exit_message)
    group.add_nodes([node.outputs.dataset for node in labels if node.is_finished_ok])
    print({node.pk: node.n_frames for node in group.nodes})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MAX_RUNNING)

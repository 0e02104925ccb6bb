"""Generate the frames behind `ice-xtb` with the project's own work chains (CP2K, GFN1-xTB).

    verdi run generate.py [--smoke]

needs a running daemon (`aiida-mlfinetune setup`, `verdi daemon start 2`). For every system it runs short NVT dynamics
(``mlfinetune.sampling``), spreads frames over a range of volumes, and labels these (``mlfinetune.labelling``); clusters
are cut from the liquids and labelled, and so are pairs of molecules that are pushed together. The uuids of all datasets
end up in the group ``ice-xtb/frames``, which ``train.py`` joins. A second run answers from the cache.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
from aiida import orm
from aiida.engine import submit
from ase import Atoms
from ase.build import molecule
from systems import TRAINING_ICES, cluster, contact, ice, liquid

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.sampling import SamplingWorkChain

LEVEL = "gfn1-xtb"
GROUP = "ice-xtb/frames"
MAX_RUNNING = 3
N_CONTACTS = 240


@dataclass(frozen=True)
class Run:
    """One sampling run: the start, its temperature (K), number of steps of 1 fs, frames taken, range of volumes."""

    name: str
    atoms: Atoms
    temperature_K: float  # noqa: N815 - the unit
    n_steps: int
    n_frames: int
    volume_range: tuple[float, float] | None
    seed: int


def runs(smoke: bool) -> list[Run]:
    """Return all sampling runs."""
    if smoke:
        return [
            Run("Ic-100K", ice("Ic", 1), 100.0, 8, 4, (0.9, 1.1), 1),
            Run("gas", molecule("H2O", pbc=False), 500.0, 8, 4, None, 2),
        ]
    steps = {"Ih": 150, "Ic": 120, "II": 80, "VI": 60, "VIII": 72}
    chosen = []
    for number, name in enumerate(TRAINING_ICES):
        low = 0.8 if name in ("Ih", "Ic") else 0.88
        for temperature in (150.0, 400.0):
            seed = 100 * number + int(temperature)
            chosen.append(
                Run(f"{name}-{temperature:.0f}K", ice(name, seed), temperature, steps[name], 18, (low, 1.25), seed)
            )
    for number, density in enumerate((0.9, 1.0, 1.15)):
        chosen.append(
            Run(f"liquid-{density}", liquid(12, density, 7 + number), 450.0, 120, 30, (0.85, 1.2), 900 + number)
        )
    chosen += [Run(f"gas-{t:.0f}K", molecule("H2O"), t, 200, 30, None, 700 + int(t)) for t in (100.0, 400.0, 1200.0)]
    return chosen


def wait(nodes: list[orm.ProcessNode], most: int) -> None:
    """Wait until at most ``most`` of ``nodes`` are unfinished."""
    while sum(not node.is_terminated for node in nodes) > most:
        time.sleep(1)


def checked(node: orm.ProcessNode) -> orm.ProcessNode:
    """Return the node if it finished well."""
    if not node.is_finished_ok:
        print(f"FAILED {node.label} <{node.pk}> {node.exit_status} {node.exit_message}", flush=True)
    return node


def main(smoke: bool) -> None:
    """Run everything."""
    code = orm.load_code("cp2k@localhost")
    group, _ = orm.Group.collection.get_or_create(GROUP + ("-smoke" if smoke else ""))
    samplings: list[orm.ProcessNode] = []
    labellings: list[orm.ProcessNode] = []
    pending: dict[str, orm.ProcessNode] = {}

    def label(name: str, dataset: DatasetData) -> None:
        builder = LabellingWorkChain.get_builder_from_protocol(code, dataset, level=LEVEL, protocol="fast")
        builder.metadata.label = f"label {name}"
        labellings.append(submit(builder))

    for run in runs(smoke):
        wait(samplings + labellings, MAX_RUNNING - 1)
        overrides = {
            "md": {
                "n_steps": run.n_steps,
                "timestep_fs": 1.0 if run.temperature_K < 1000 else 0.5,
                "stride": 3,
                "seed": run.seed,
            },
            "selection": {
                "n_frames": run.n_frames if not smoke else 2,
                "method": "random",
                "seed": run.seed,
                "equilibration": 0.1,
                "volume_range": list(run.volume_range) if run.volume_range else None,
            },
        }
        builder = SamplingWorkChain.get_builder_from_protocol(
            code,
            orm.StructureData(ase=run.atoms),
            protocol="fast",
            overrides=overrides,
            ensemble="nvt",
            temperature_K=run.temperature_K,
            level=LEVEL,
        )
        builder.metadata.label = f"sample {run.name}"
        node = submit(builder)
        samplings.append(node)
        pending[run.name] = node
        print(time.strftime("%H:%M:%S"), "submitted", run.name, node.pk, flush=True)
        for name, done in list(pending.items()):
            if done.is_terminated and checked(pending.pop(name)).is_finished_ok and name.partition("-")[0] != "gas":
                label(name, done.outputs.dataset)
    wait(samplings, 0)
    for name, done in list(pending.items()):
        if checked(done).is_finished_ok and name.partition("-")[0] != "gas":
            wait(labellings, MAX_RUNNING - 1)
            label(name, done.outputs.dataset)

    liquids = [s for s in samplings if s.label.startswith("sample liquid") and s.is_finished_ok]
    if liquids:
        clusters = []
        rng = np.random.default_rng(5)
        for number in range(90):
            trajectory = liquids[number % len(liquids)].outputs.trajectory.frames
            atoms = trajectory.atoms(int(rng.integers(len(trajectory))))
            cut = cluster(atoms, 2 + number % 6, number)
            centres = cut.positions[0::3].repeat(3, axis=0)
            cut.positions += (rng.uniform(0.9, 1.5 if number % 3 else 2.4) - 1.0) * (centres - centres[0])
            clusters.append(cut)
        wait(labellings, MAX_RUNNING - 1)
        label("clusters", DatasetData(Frames.from_atoms(clusters)).store())
    wait(labellings, MAX_RUNNING - 1)
    contacts = [contact(seed) for seed in range(4 if smoke else N_CONTACTS)]
    label("contacts", DatasetData(Frames.from_atoms(contacts)).store())
    wait(labellings, 0)
    for node in samplings:
        if node.is_finished_ok:
            group.add_nodes(node.outputs.trajectory)
    for node in labellings:
        if checked(node).is_finished_ok:
            group.add_nodes(node.outputs.dataset)
    print({node.pk: node.n_frames for node in group.nodes})


if __name__ == "__main__":
    main("--smoke" in sys.argv)

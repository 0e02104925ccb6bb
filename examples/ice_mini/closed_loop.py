"""What it takes for the ices of ``studies/ice-mini.yaml`` to agree with their reference: the loop, closed on each.

    verdi run closed_loop.py labels PK  # ice-mini-labels.aiida: every frame that the study PK labelled; shipped
    verdi run closed_loop.py loop       # train, run, reweight and train again, until the target is met
    verdi run closed_loop.py page       # the figures of the documentation

in this folder (`verdi run` does not tell a script where it lies). The loop goes on where the study ended: the first
round trains on every frame that it labelled, those of its runs included. Needs a profile with a running daemon
(``verdi daemon start 2``) and the codes of ``aiida-mlfinetune setup``; the first step needs that of the study. Levels,
state, runs and targets are those of the study file.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import yaml
from aiida import orm
from aiida.engine import ProcessBuilder, submit
from aiida.tools.archive import create_archive, import_archive
from ase import Atoms

from aiida_mlfinetune.calculations.functions.closed_loop import grown_dataset
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.plotting.style import INK
from aiida_mlfinetune.report import collect
from aiida_mlfinetune.science.crystals.crystals import ice_ic
from aiida_mlfinetune.science.crystals.ices import IceSpec, build_ice
from aiida_mlfinetune.science.crystals.molecules import gas_molecule
from aiida_mlfinetune.workchains.closed_loop import ClosedLoopWorkChain
from aiida_mlfinetune.workchains.reweighting import ReweightingWorkChain

ROOT = Path(__file__).resolve().parents[2]
STUDY = yaml.safe_load((ROOT / "studies" / "ice-mini.yaml").read_text(encoding="utf-8"))
ARCHIVE = Path(__file__).with_name("ice-mini-labels.aiida")
LABELS, GROUP = "ice-mini/labels", "ice-mini/closed-loop"
CRYSTALS: dict[str, Atoms] = {"ice-ic": ice_ic(), "ice-ix": build_ice(IceSpec("IX", seed=1))}
BUDGET = {"max_rounds": 4, "max_labels": 400}
EPOCHS = {"max_num_epochs": 60, "lr_scheduler_gamma": 0.926}
"""Of more frames than the study's sets have: as many steps of the optimiser as those take."""
FRAMES_OF_A_ROUND = {"n_frames": 40, "n_train": 40}
"""All frames that a round labels are trained on by the next."""


def finish(builders: dict[str, Any]) -> dict[str, orm.ProcessNode]:
    """Submit all, wait, put those that ended well into groups, and return them; end the script where one failed."""
    nodes = {name: submit(builder) for name, builder in builders.items()}
    for name, node in nodes.items():
        print(f"{name}: {node.process_label}<{node.pk}>", flush=True)
    while not all(node.is_terminated for node in nodes.values()):
        time.sleep(5)
    for name, node in nodes.items():
        print(name, node.exit_status, node.exit_message or "")
        if node.is_finished_ok:
            group, _ = orm.Group.collection.get_or_create(f"{GROUP}/{name}")
            group.clear()
            group.add_nodes(node)
    if not all(node.is_finished_ok for node in nodes.values()):
        raise SystemExit(1)
    return nodes


def recall(name: str) -> Any:
    """Return the loop of a crystal that ended well."""
    (node,) = orm.load_group(f"{GROUP}/{name}").nodes
    return node


def state() -> dict[str, Any]:
    """Return temperature and pressure."""
    return {name: float(STUDY[name]) for name in ("temperature_K", "pressure_bar")}


def closing(name: str, frames: DatasetData, **codes: orm.AbstractCode) -> ProcessBuilder:
    """Return the loop on a crystal that starts from ``frames``; ``codes`` as its builder takes them."""
    atoms, overrides = CRYSTALS[name], STUDY["overrides"]
    runs = {
        stage: {"protocol": STUDY["protocol"], **overrides[stage]} for stage in ("dynamics_crystal", "dynamics_gas")
    }
    return ClosedLoopWorkChain.get_builder_from_protocol(
        dataset=frames,
        crystal=orm.StructureData(ase=atoms),
        molecule=orm.StructureData(ase=gas_molecule(atoms)),
        protocol=STUDY["protocol"],
        overrides={
            "training": {"protocol": STUDY["protocol"], "parameters": EPOCHS, "naive": {"lr": 0.03}},
            "averages": {
                "protocol": STUDY["protocol"],
                **runs,
                "reweighting": {"protocol": STUDY["protocol"], "settings": FRAMES_OF_A_ROUND},
            },
        },
        foundation=load_foundation(STUDY["foundation"]),
        reference_level=STUDY["levels"]["reference"],
        target=STUDY["target"],
        budget=BUDGET,
        **codes,
        **state(),
    )


def labels(pk: str) -> None:
    """Write the archive of all frames that a study labelled: the sampled ones, and those of its runs."""
    study = orm.load_node(pk)
    of_runs = [node for node in study.called_descendants if node.process_class is ReweightingWorkChain]
    parts = {f"run_{number}": node.outputs.dataset for number, node in enumerate(of_runs)}
    level = orm.Str(f"{STUDY['levels']['reference']}/cp2k")
    frames = grown_dataset(level, sampled=study.outputs.dataset, **parts)
    group, _ = orm.Group.collection.get_or_create(LABELS)
    group.clear()
    group.add_nodes(frames)
    alone = {"call_calc_backward": False, "call_work_backward": False}  # what made the frames, but not the whole study
    create_archive([group], filename=ARCHIVE, overwrite=True, compression=9, **alone)
    print(ARCHIVE, f"{frames.n_frames} frames, {ARCHIVE.stat().st_size / 2**20:.1f} MiB")


def labelled() -> DatasetData:
    """Return the frames of the archive."""
    import_archive(ARCHIVE)
    (frames,) = orm.load_group(LABELS).nodes
    return frames


def loop() -> None:
    """Close the loop on each crystal, with the molecule."""
    frames = labelled()
    codes = {"python_code": "python", "ipi_code": "i-pi", "reference_code": "cp2k"}
    loaded = {name: orm.load_code(f"{program}@localhost") for name, program in codes.items()}
    nodes = finish({name: closing(name, frames, **loaded) for name in CRYSTALS})
    for name, node in nodes.items():
        for number, record in sorted(node.outputs.rounds.items()):
            print(name, number, {**record.get_dict()})


def page() -> None:
    """Write the figures of both loops, and print their captions."""
    for name in CRYSTALS:
        sections = collect(recall(name)).sections
        figures = [figure for section in sections if "round" in section.title for figure in section.figures]
        for number, figure in enumerate(figures, start=1):
            path = ROOT / "docs" / "tutorials" / f"closed-loop-{name}-{number}.svg"
            path.write_text(figure.svg.replace("currentColor", INK), encoding="utf-8")
            print(path, figure.caption)


STEPS = {function.__name__: function for function in (labels, loop, page)}

if __name__ == "__main__":
    STEPS[sys.argv[1]](*sys.argv[2:])

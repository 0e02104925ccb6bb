"""Train `ice-xtb` on the frames that ``generate.py`` and ``extend.py`` made, and write it into the package.

    verdi run train.py [--epochs N] [--shipped] [--start PK] [--draft]

With ``--shipped`` the frames that come with the package take the place of those of ``generate.py``; with ``--start``
the model of an earlier call is trained on; a ``--draft`` stays in the profile. The shipped one came by
``--shipped --epochs 35``, when 730 frames were shipped, and then ``--shipped --epochs 30 --start PK``; both were
interrupted, and went on from their saved states.

Trajectories are thinned, sets are joined and split by calcfunctions, and ``mlfinetune.mace_train`` does the rest, so
that the graph leads from the model back to every CP2K run. Writes ``ice-xtb.model``, ``ice-xtb.json`` (passport) and
``ice-xtb.npz`` (dataset; its levels in ``ice-xtb.levels.yaml``) into ``aiida_mlfinetune/foundations``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from aiida import orm
from aiida.engine import run_get_node

import aiida_mlfinetune
from aiida_mlfinetune.calculations.functions.dataset import join, split, subset
from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.replay_sets import load_replay_set
from aiida_mlfinetune.science.datasets.checks import unique_indices

LEVEL = "gfn1-xtb/cp2k"
GROUPS = ("ice-xtb/frames", "ice-xtb/by-model")
CP2K_RUN = "Cp2kMdCalculation"
THINNING = 3
MAX_FORCE_EV_A = 25.0
LAST_RATE = 0.02
"""Rate of the last epoch over that of the first."""
FOUNDATIONS = Path(aiida_mlfinetune.__file__).parent / "foundations"
ARCHITECTURE = {
    "r_max": 5.0,
    "num_channels": 64,
    "max_L": 0,
    "max_ell": 2,
    "correlation": 3,
    "num_interactions": 2,
    "num_radial_basis": 8,
    "radial_MLP": "[32, 32]",
}
PARAMETERS = {
    "seed": 20261121,
    "loss": "stress",
    "energy_weight": 1000.0,
    "forces_weight": 100.0,
    "stress_weight": 100.0,
    "batch_size": 4,
    "valid_batch_size": 16,
    "scheduler": "ExponentialLR",
    "ema": True,
    "ema_decay": 0.995,
    "molecule": "H2O",
    "default_dtype": "float32",
}


def usable(dataset: DatasetData) -> DatasetData:
    """Return every third frame of a CP2K run, or all frames of any other set, without extreme forces."""
    frames = dataset.frames
    forces = frames.labels(LEVEL).forces
    step = THINNING if dataset.creator is not None and dataset.creator.process_label == CP2K_RUN else 1
    kept = [
        index
        for index in range(0, len(frames), step)
        if np.linalg.norm(forces[frames.slice(index)], axis=1).max() < MAX_FORCE_EV_A
    ]
    return subset(dataset, orm.List(kept))


def main() -> None:
    """Train and write the files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--shipped", action="store_true", help="the shipped frames in the place of the group's")
    parser.add_argument("--start", type=int, help="pk of the model to train on")
    parser.add_argument("--draft", action="store_true", help="write nothing into the package")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    groups = GROUPS[1:] if arguments.shipped else GROUPS
    members = orm.QueryBuilder().append(orm.Group, filters={"label": {"in": groups}}, tag="group")
    nodes = sorted(members.append(DatasetData, with_group="group").all(flat=True), key=lambda node: node.pk)
    if arguments.shipped:
        nodes.insert(0, load_replay_set("ice-xtb"))
    joined = join(**{f"set_{number:03d}": usable(node) for number, node in enumerate(nodes)})
    joined = subset(joined, orm.List(unique_indices(joined.frames)))
    sets = split(joined, orm.Dict({"valid": 0.08, "seed": 1}))
    print({name: node.n_frames for name, node in sets.items()}, joined.base.attributes.get("formulas"), flush=True)

    builder = MaceTrainCalculation.get_builder()
    builder.code = orm.load_code("python@localhost")
    builder.train, builder.valid = sets["train"], sets["valid"]
    builder.level = orm.Str(LEVEL)
    falling = {"lr_scheduler_gamma": round(LAST_RATE ** (1 / arguments.epochs), 5), "max_num_epochs": arguments.epochs}
    if arguments.start is None:
        stage = {"mode": "scratch", **ARCHITECTURE, "lr": 0.01}
    else:
        stage = {"mode": "naive", "lr": 0.03}
        builder.foundation = orm.load_node(arguments.start)
    builder.parameters = orm.Dict({**PARAMETERS, **stage, **falling})
    builder.e0s = orm.Dict({"source": "estimated"})
    builder.metadata.options.max_wallclock_seconds = 4 * 3600
    builder.metadata.options.prepend_text = f"export OMP_NUM_THREADS={arguments.threads}"
    outputs, node = run_get_node(builder)
    print(node.pk, node.exit_status, node.exit_message, flush=True)
    model = outputs["model"]
    print(model.pk, model.sha256)
    print(json.dumps(outputs["errors"].get_dict(), indent=1))
    if arguments.draft:
        return

    passport = replace(
        model.passport,
        settings={**model.passport.settings, "licence": "MIT", "frames": joined.n_frames},
    )
    (FOUNDATIONS / "ice-xtb.model").write_bytes(model.content())
    (FOUNDATIONS / "ice-xtb.json").write_text(json.dumps(passport.to_dict(), indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(FOUNDATIONS / "ice-xtb.npz", **joined.frames.with_source("").to_arrays())
    levels = [joined.frames.labels(key).level.to_dict() for key in sorted(joined.frames.labels_by_level)]
    (FOUNDATIONS / "ice-xtb.levels.yaml").write_text(yaml.safe_dump(levels, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()

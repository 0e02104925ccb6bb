"""How the models of the ice XI archive are trained, for its learning curve and for the benchmark of data efficiency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aiida import orm
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.workchains.learning_curve import LearningCurveWorkChain

ARCHIVE = Path(__file__).with_name("ice-xi.aiida")
METHOD = "revpbe-d3"
FOUNDATION = "ice-xtb"
N_VALID = 40
SEEDS = (1, 2, 3)
EPOCHS = 150
RATE = 0.03
LAST_RATE = 0.01
"""Rate of the last epoch over that of the first."""
SCHEDULE = {"max_num_epochs": EPOCHS, "lr": RATE, "lr_scheduler_gamma": round(LAST_RATE ** (1 / EPOCHS), 5)}
"""The same for both modes."""
TRAINING = {
    "protocol": "fast",
    "parameters": {
        "default_dtype": "float32",
        "batch_size": 2,
        "eval_interval": 5,
        "scheduler": "ExponentialLR",
        "scheduler_patience": None,
        "lr_factor": None,
        "patience": None,
    },
    # The architecture of ice-xtb, so that the start is all that the modes differ in
    "scratch": {
        "num_channels": 64,
        "max_ell": 2,
        "correlation": 3,
        "radial_MLP": "[32, 32]",
        **SCHEDULE,
    },
    "naive": SCHEDULE,
}
"""Whether the epochs suffice is what ``settling`` of the benchmark tells."""


def learning_curve(code: orm.AbstractCode, sizes: Sequence[int], target: dict[str, float]) -> ProcessBuilder:
    """Return the learning curve of models from scratch and of those fine-tuned from ``ice-xtb``, at revPBE-D3."""
    (dataset,) = orm.load_group("ice-xi/labelled").nodes
    (level,) = [key for key in dataset.levels if key.startswith(METHOD)]
    return LearningCurveWorkChain.get_builder_from_protocol(
        code,
        dataset,
        level,
        modes=["scratch", "naive"],
        foundation=load_foundation(FOUNDATION),
        overrides={"split": {"valid": N_VALID, "test": 0}, "training": TRAINING},
        sizes=sizes,
        seeds=SEEDS,
        target=target,
    )

"""The arguments of ``mace_run_train`` that a user may set, with MACE's own names, kinds and choices.

Kept here so that inputs are checked without importing torch; a test compares the table with the installed MACE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

INTERACTIONS = (
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
)
LOSSES_WITH_STRESS = ("stress", "universal", "huber")
LOSSES = ("weighted", "l1l2energyforces", *LOSSES_WITH_STRESS)
"""MACE knows ``ef`` too, but gives it the weights 1 and 1 whatever it is told."""
LOSSES_WITHOUT_MASK = ("huber", "l1l2energyforces")
"""Losses that take missing labels for zeros."""
LOSSES_OF_STAGE_TWO = ("weighted", "stress", "universal")
"""Losses that MACE keeps in stage two; with the others it silently takes ``weighted``."""
FROZEN_BY = {"embedding": 1, "interactions_decay": 5, "interactions_no_decay": 5, "products": 6}
"""Groups of weights that the argument ``freeze`` freezes, by its lowest value that does; 7 would freeze all."""


@dataclass(frozen=True)
class Argument:
    """An argument of MACE.

    Attributes:
        kind: ``int``, ``float``, ``str`` or ``bool``.
        choices: allowed values, if they are few.
        minimum: smallest allowed value of a number.
        architecture: whether it shapes the network, so that a foundation fixes it.
        fine_tuning: whether it needs a foundation.
        needs: name and values of another argument without which MACE ignores this one.
    """

    kind: type
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    architecture: bool = False
    fine_tuning: bool = False
    needs: tuple[str, tuple[Any, ...]] | None = None


_STAGE_TWO = ("swa", (True,))
_EMA = ("ema", (True,))
_PLATEAU = ("scheduler", ("ReduceLROnPlateau",))
_STRESS = ("loss", LOSSES_WITH_STRESS)

ARGUMENTS: Mapping[str, Argument] = {
    # training
    "seed": Argument(int, minimum=0),
    "max_num_epochs": Argument(int, minimum=1),
    "batch_size": Argument(int, minimum=1),
    "valid_batch_size": Argument(int, minimum=1),
    "eval_interval": Argument(int, minimum=1),
    "patience": Argument(int, minimum=1),
    "device": Argument(str, ("cpu", "cuda", "mps", "xpu")),
    "default_dtype": Argument(str, ("float32", "float64")),
    "enable_cueq": Argument(bool),
    # optimiser
    "optimizer": Argument(str, ("adam", "adamw")),
    "beta": Argument(float, minimum=0),
    "lr": Argument(float, minimum=0),
    "weight_decay": Argument(float, minimum=0),
    "clip_grad": Argument(float, minimum=0),
    "scheduler": Argument(str, ("ReduceLROnPlateau", "ExponentialLR")),
    "lr_factor": Argument(float, minimum=0, needs=_PLATEAU),
    "scheduler_patience": Argument(int, minimum=0, needs=_PLATEAU),
    "lr_scheduler_gamma": Argument(float, minimum=0, needs=("scheduler", ("ExponentialLR",))),
    "ema": Argument(bool),
    "ema_decay": Argument(float, minimum=0, needs=_EMA),
    # loss
    "loss": Argument(str, LOSSES),
    "energy_weight": Argument(float, minimum=0),
    "forces_weight": Argument(float, minimum=0),
    "stress_weight": Argument(float, minimum=0, needs=_STRESS),
    "huber_delta": Argument(float, minimum=0, needs=("loss", ("huber", "universal"))),
    "swa": Argument(bool),
    "start_swa": Argument(int, minimum=1, needs=_STAGE_TWO),
    "swa_lr": Argument(float, minimum=0, needs=_STAGE_TWO),
    "swa_energy_weight": Argument(float, minimum=0, needs=_STAGE_TWO),
    "swa_forces_weight": Argument(float, minimum=0, needs=_STAGE_TWO),
    "swa_stress_weight": Argument(float, minimum=0, needs=_STAGE_TWO),
    # fine-tuning
    "freeze": Argument(int, (1, 5, 6), fine_tuning=True),
    "lora": Argument(bool, fine_tuning=True),
    "lora_rank": Argument(int, minimum=1, fine_tuning=True, needs=("lora", (True,))),
    "lora_alpha": Argument(float, minimum=0, fine_tuning=True, needs=("lora", (True,))),
    # network
    "model": Argument(str, ("MACE", "ScaleShiftMACE"), architecture=True),
    "r_max": Argument(float, minimum=0.5, architecture=True),
    "num_channels": Argument(int, minimum=1, architecture=True),
    "max_L": Argument(int, minimum=0, architecture=True),
    "hidden_irreps": Argument(str, architecture=True),
    "max_ell": Argument(int, minimum=0, architecture=True),
    "correlation": Argument(int, minimum=1, architecture=True),
    "num_interactions": Argument(int, minimum=1, architecture=True),
    "num_radial_basis": Argument(int, minimum=1, architecture=True),
    "num_cutoff_basis": Argument(int, minimum=1, architecture=True),
    "radial_type": Argument(str, ("bessel", "gaussian", "chebyshev"), architecture=True),
    "radial_MLP": Argument(str, architecture=True),
    "distance_transform": Argument(str, ("None", "Agnesi", "Soft"), architecture=True),
    "pair_repulsion": Argument(bool, architecture=True),
    "interaction": Argument(str, INTERACTIONS, architecture=True),
    "interaction_first": Argument(str, INTERACTIONS, architecture=True),
    "MLP_irreps": Argument(str, architecture=True),
    "gate": Argument(str, ("silu", "tanh", "abs", "None"), architecture=True),
    "scaling": Argument(str, ("std_scaling", "rms_forces_scaling", "no_scaling"), architecture=True),
}

DEFAULTS: Mapping[str, Any] = {
    "device": "cpu",
    "default_dtype": "float64",
    "loss": "weighted",
    "scheduler": "ReduceLROnPlateau",
    "ema": False,
    "swa": False,
    "lora": False,
    "lr": 0.01,
    "ema_decay": 0.99,
    "eval_interval": 1,
    "max_num_epochs": 2048,
    "batch_size": 10,
    "valid_batch_size": 10,
    "energy_weight": 1.0,
    "forces_weight": 100.0,
    "stress_weight": 1.0,
    "swa_energy_weight": 1000.0,
    "swa_forces_weight": 100.0,
    "swa_stress_weight": 10.0,
    "scaling": "rms_forces_scaling",
}
"""MACE's own defaults of the arguments that checks depend on."""

SET_BY_US: Mapping[str, str] = {
    "name": "is fixed",
    "E0s": "is the input 'e0s'",
    "foundation_model": "is the input 'foundation'",
    "train_file": "is the input 'train'",
    "valid_file": "is the input 'valid'",
    "test_file": "is the input 'test'",
    "valid_fraction": "is replaced by the input 'valid'",
    "multiheads_finetuning": "follows from 'mode'",
    "restart_latest": "is the input 'parent_folder'",
    "amsgrad": "cannot be switched off in MACE",
    "heads": "is the input 'heads'",
    "pt_train_file": "is the input 'replay'",
    "pt_valid_file": "is a part of the input 'replay', set by 'replay_valid'",
    "pseudolabel_replay": "follows from 'replay_level', which is absent for pseudolabels",
    "force_mh_ft_lr": "is not needed: the rate, the loss and the averages of the parameters hold in every mode",
    "start_stage_two": "is called 'start_swa'",
    "stage_two": "is called 'swa'",
}


def argument_problem(name: str, value: Any, known: tuple[str, ...] = ()) -> str | None:
    """Return what is wrong with one argument, or None.

    Args:
        name: of the argument.
        value: its value.
        known: further names to suggest where ``name`` is unknown.
    """
    if name in SET_BY_US:
        return f"{name!r} cannot be set in the parameters: it {SET_BY_US[name]}"
    if name not in ARGUMENTS:
        close = get_close_matches(name, [*ARGUMENTS, *known], n=1)
        hint = f": did you mean {close[0]!r}?" if close else f"; known are {sorted([*ARGUMENTS, *known])}"
        return f"unknown parameter {name!r}{hint}"
    argument = ARGUMENTS[name]
    wrong_kind = isinstance(value, bool) != (argument.kind is bool) or not isinstance(
        value, (int, float) if argument.kind is float else argument.kind
    )
    if wrong_kind:
        return f"{name!r} must be of type {argument.kind.__name__}, got {value!r}"
    if argument.choices and value not in argument.choices:
        return f"{name!r} must be one of {list(argument.choices)}, got {value!r}"
    if argument.minimum is not None and not value >= argument.minimum:
        return f"{name!r} must be at least {argument.minimum}, got {value!r}"
    return None

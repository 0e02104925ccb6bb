"""What a training needs beside frames, made of its inputs by calcfunctions: no edge of the graph is cut."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.calculations.mace_evaluate import DEFAULT_PARAMETERS
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.comparison import difference_level
from aiida_mlfinetune.science.datasets.levels import Level
from aiida_mlfinetune.science.models.levels import model_level_key
from aiida_mlfinetune.science.training.inputs import foundation_head
from aiida_mlfinetune.science.training.mace_arguments import DEFAULTS

RATES = ("lr", "swa_lr")
RATE_FACTOR = 0.3
BATCHES = ("batch_size", "valid_batch_size")


@calcfunction
def prediction_parameters(parameters: orm.Dict, model: MaceModelData) -> orm.Dict:
    """Return the parameters of ``mlfinetune.mace_evaluate`` that labels frames for a training.

    The head is the one that the training starts from (multihead-replay), or that its baseline predicts with (delta).
    """
    return orm.Dict(
        {
            **DEFAULT_PARAMETERS,
            "head": labelling_head(parameters.get_dict(), model),
            "device": parameters.get("device", DEFAULT_PARAMETERS["device"]),
            "batch_size": parameters.get("valid_batch_size", DEFAULT_PARAMETERS["batch_size"]),
        }
    )


@calcfunction
def delta_levels(level: orm.Str, parameters: orm.Dict, **models: MaceModelData) -> dict[str, orm.Str]:
    """Return the keys of the level that is subtracted from ``level``, ``baseline``, and of their ``difference``.

    The first is that of the model ``baseline`` where there is one, else the parameter ``baseline_level``.
    """
    key = parameters["baseline_level"] if not models else model_level_key(models["baseline"].sha256)
    return {
        "baseline": orm.Str(key),
        "difference": orm.Str(difference_level(Level(level.value), Level(key)).key),
    }


@calcfunction
def with_lower_rate(parameters: orm.Dict) -> orm.Dict:
    """Return the parameters of a training with learning rates lower by ``RATE_FACTOR``."""
    values = {"lr": DEFAULTS["lr"], **parameters.get_dict()}
    return orm.Dict({name: RATE_FACTOR * value if name in RATES else value for name, value in values.items()})


@calcfunction
def with_smaller_batches(parameters: orm.Dict) -> orm.Dict:
    """Return the parameters of a training with batches of half the size."""
    values = {name: DEFAULTS[name] for name in BATCHES} | parameters.get_dict()
    return orm.Dict({name: max(1, value // 2) if name in BATCHES else value for name, value in values.items()})


def labelling_head(parameters: dict[str, object], model: MaceModelData) -> str:
    """Return the head of a model that labels frames for a training.

    Raises:
        ModelError: the model has no such head, or several and none is named.
    """
    if parameters["mode"] == TrainingMode.DELTA.value:
        named = parameters.get("baseline_head", model.heads[-1])
        return foundation_head({"foundation_head": named}, model.passport)
    return foundation_head(parameters, model.passport)

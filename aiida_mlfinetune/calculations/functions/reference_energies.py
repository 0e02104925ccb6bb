"""Reference energies (E0): what a training set determines of them, and whether a model has them for isolated atoms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from ase import Atoms

from aiida_mlfinetune.common.errors import LabelsError, ModelError
from aiida_mlfinetune.common.units import EV_MEV
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.datasets.atomic_energies import determination, estimate_atomic_energies, residual_rmse
from aiida_mlfinetune.science.datasets.checks import check_disjoint, unique_indices
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray
from aiida_mlfinetune.science.datasets.merging import drop_levels

DISSOCIATION_TOLERANCE_EV = 1e-3
"""A model whose isolated atoms are further than this from their reference energies does not dissociate to them."""
SPLIT_KEPT = (
    "{sentence}. The split between elements is that of the start, shifted as little as possible (least squares of "
    "smallest norm): totals of these compositions are right, energies of reactions and of atoms are not"
)


@calcfunction
def frames_to_predict(train: DatasetData, valid: DatasetData) -> DatasetData:
    """Return the training frames, the validation frames, and each of their elements as an isolated atom, unlabelled."""
    plain = [drop_levels(each.frames, list(each.frames.labels_by_level)) for each in (train, valid)]
    elements = Frames.concatenate(plain).elements
    together = Frames.concatenate([*plain, Frames.from_atoms([lone_atom(element) for element in elements])])
    return DatasetData(together.select(unique_indices(together)))


@calcfunction
def diagnose_reference_energies(
    train: DatasetData,
    valid: DatasetData,
    level: orm.Str,
    model: MaceModelData | None = None,
    predicted: DatasetData | None = None,
    parameters: orm.Dict | None = None,
) -> ObservableData:
    """Say what the labels of a training set determine of the reference energies, and what re-estimating them brings.

    Without ``model`` the energies start at zero, as for a training from scratch; with one, at those of its head
    (``head`` in ``parameters``), and ``predicted`` holds its energies of the frames of both sets and of isolated atoms
    (``frames_to_predict``), as its only level. The value is the root mean square error of the energies of the
    validation set (meV/atom) after the re-estimation on the training set: that of a fine-tuning's first validation.
    """
    check_disjoint(train.frames, valid.frames)
    sets = {"train": train.frames, "valid": valid.frames}
    labels = {name: frames.labels(level.value).energy for name, frames in sets.items()}
    start: dict[str, float] | None = None
    details: dict[str, Any] = {"start": "zero"}
    model_energies: dict[str, FloatArray | None] = {"train": None, "valid": None}
    warnings: list[str] = []
    if model is not None:
        name = _head(model, None if parameters is None else parameters.get_dict().get("head"))
        start = {element: float(value) for element, value in model.passport.e0s[name].items()}
        table = _energies(predicted)
        model_energies = {each: _lookup(table, frames, each) for each, frames in sets.items()}
        check = _dissociation(table, sets, start)
        details = {"start": f"head {name!r} of the model with sha256 {model.sha256}", "dissociation": check}
        if not check["passed"]:
            warnings.append(
                f"the model gives isolated atoms other energies than its reference energies, by up to "
                f"{check['largest_meV']:.3g} meV: it does not dissociate to them"
            )
    found = estimate_atomic_energies(sets["train"], labels["train"], start, model_energies["train"])
    known = determination(_labelled(sets["train"], labels["train"]))
    if not known.is_complete:
        warnings.append(SPLIT_KEPT.format(sentence=known.in_words()))
    if unseen := sorted(set(sets["valid"].elements) - set(sets["train"].elements)):
        warnings.append(f"validation frames hold {unseen}, which no training frame does: they keep their start")
    predictions = model_energies["valid"]
    if predictions is None:
        predictions = np.zeros(len(sets["valid"]))
    before = residual_rmse(sets["valid"], labels["valid"], predictions, {})
    after = residual_rmse(sets["valid"], labels["valid"], predictions, found.shift)
    n = int(np.isfinite(labels["valid"]).sum())
    return ObservableData(
        name="reference_energies",
        value=after * EV_MEV,
        error=after * EV_MEV / math.sqrt(2 * n),
        unit="meV/atom",
        conditions={"level": level.value},
        method="root mean square error of the validation energies after the reference energies were re-estimated by "
        "least squares on the training set; error: of a root mean square of independent normal deviations",
        n_independent=float(n),
        warnings=warnings,
        details={
            **details,
            "determination": known.to_dict(),
            "freedom": known.freedom_in_words(),
            "values_eV": dict(found.values),
            "shift_eV": dict(found.shift),
            "first_validation_meV_per_atom": {"before": before * EV_MEV, "after": after * EV_MEV},
            "training_meV_per_atom": {"before": found.rmse_before * EV_MEV, "after": found.rmse_after * EV_MEV},
        },
    )


def lone_atom(element: str) -> Atoms:
    """Return an isolated atom at the origin."""
    return Atoms(element, positions=[[0.0, 0.0, 0.0]])


def _head(model: MaceModelData, head: str | None) -> str:
    heads = model.heads
    if head is None and len(heads) > 1:
        raise ModelError(f"the model has the heads {heads}: say which one the reference energies are of")
    if head is not None and head not in heads:
        raise ModelError(f"the model has no head {head!r}: it has {heads}")
    return head or heads[0]


def _energies(predicted: DatasetData | None) -> dict[str, float]:
    """Return the predicted energies by content hash.

    Raises:
        LabelsError: there are none, or they are of several levels.
    """
    if predicted is None:
        raise LabelsError("a model needs its energies of the frames, in 'predicted'")
    levels = list(predicted.frames.labels_by_level)
    if len(levels) != 1:
        raise LabelsError(f"'predicted' must hold the model's level alone, got {levels}")
    energies = predicted.frames.labels(levels[0]).energy.tolist()
    return dict(zip(predicted.frames.content_hashes(), energies, strict=True))


def _lookup(table: dict[str, float], frames: Frames, name: str) -> FloatArray:
    missing = [index for index, digest in enumerate(frames.content_hashes()) if digest not in table]
    if missing:
        raise LabelsError(f"the model's energies of {len(missing)} frames of the set {name!r} are missing")
    return np.array([table[digest] for digest in frames.content_hashes()])


def _labelled(frames: Frames, energies: FloatArray) -> Frames:
    return frames.select(np.flatnonzero(np.isfinite(energies)))


def _dissociation(table: dict[str, float], sets: dict[str, Frames], start: dict[str, float]) -> dict[str, Any]:
    """Compare the energies of isolated atoms with the reference energies."""
    elements = sorted({element for frames in sets.values() for element in frames.elements})
    atoms = Frames.from_atoms([lone_atom(element) for element in elements])
    energies = dict(zip(elements, _lookup(table, atoms, "isolated atoms").tolist(), strict=True))
    difference = {element: (energies[element] - start[element]) * EV_MEV for element in elements}
    largest = max(abs(value) for value in difference.values())
    return {
        "atom_minus_e0_meV": difference,
        "largest_meV": largest,
        "tolerance_meV": DISSOCIATION_TOLERANCE_EV * EV_MEV,
        "passed": largest <= DISSOCIATION_TOLERANCE_EV * EV_MEV,
    }

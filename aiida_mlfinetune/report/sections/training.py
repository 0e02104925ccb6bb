"""The training: loss curve, errors and parity on held-out frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm
from ase.data import chemical_symbols

from aiida_mlfinetune.common.units import EV_KJMOL, EV_MEV
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.plotting import new_figure, plot_loss, plot_parity, plot_rmse, to_svg
from aiida_mlfinetune.report.graph import chains, role
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.trajectories import array
from aiida_mlfinetune.report.text import number, settings_rows
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.models.levels import KEY_SUFFIX
from aiida_mlfinetune.science.models.metrics import molecules_per_frame

__all__ = ("training_section",)

MOST_FORCES = 3000
UNITS = {
    "meV_per_atom": "meV/atom",
    "kJ_mol_per_molecule": "kJ/mol per molecule",
    "meV_A3": "meV/Å³",
    "meV_A": "meV/Å",
    "percent": "% of the spread",
}


def training_section(node: orm.ProcessNode) -> Section:
    """Return the section about all trainings of a process."""
    paragraphs: list[str] = []
    tables: list[Table] = []
    figures: list[Figure] = []
    for chain in chains(node, "training"):
        name = role(chain) or f"training {chain.pk}"
        settings = chain.inputs.parameters.get_dict() if "parameters" in chain.inputs else {}
        paragraphs.append(_sentence(chain, settings))
        outputs = chain.outputs
        if "errors" in outputs:
            errors = outputs.errors.get_dict()
            further = errors.pop("heads", {})
            tables += _error_tables(errors)
            for head, sets in further.items():
                tables += _error_tables(sets, f", head {head}")
        if "e0s" in outputs:
            found = outputs.e0s.get_dict()
            rows = tuple((element, f"{value:.4f}") for element, value in found.get("values", {}).items())
            tables.append(Table(("element", "eV"), rows, f"Reference energies ({found.get('source', 'given')})"))
        caption = f"Settings of the {name}"
        tables.append(Table(("setting", "value"), tuple(settings_rows(settings)), caption, folded=True))
        if "loss_curve" in outputs:
            figures.append(Figure(_loss_figure(outputs.loss_curve, f"loss{chain.pk}"), "Loss and validation errors."))
        if "parity" in outputs:
            svg = _parity_figure(outputs.parity, f"parity{chain.pk}")
            if svg:
                figures.append(Figure(svg, "Model against reference, frames not used to fit weights."))
    return Section("Training", tuple(paragraphs), tuple(tables), tuple(figures))


def _sentence(chain: orm.ProcessNode, settings: Mapping[str, Any]) -> str:
    """Return what was trained on what, in words."""
    counts = []
    for name, word in (("train", "training"), ("valid", "validation"), ("test", "test")):
        dataset = _dataset(chain, name)
        if dataset is not None:
            counts.append(f"{dataset.n_frames} {word}")
    fine_tuned = "foundation" in chain.inputs
    mode = settings.get("mode", "scratch")
    start = "fine-tuned from its foundation" if fine_tuned else "trained from scratch"
    start += "" if mode == "scratch" else f" (mode {mode})"
    level = chain.inputs.level.value if "level" in chain.inputs else "the target level"
    text = f"A MACE model was {start} on labels at {level}"
    return text + (f": {', '.join(counts)} frames." if counts else ".")


def _dataset(chain: orm.ProcessNode, name: str) -> DatasetData | None:
    for place in (chain.outputs, chain.inputs):
        if name in place and isinstance(place[name], DatasetData):
            return place[name]
    return None


def _error_tables(errors: Mapping[str, Any], head: str = "") -> list[Table]:
    """Return the errors by set and quantity, and those of the forces by set and element."""
    sets = [name for name, values in errors.items() if isinstance(values, Mapping)]
    names = [
        name
        for name in dict.fromkeys(key for each in sets for key in errors[each])
        if any(isinstance(errors[each].get(name), float) for each in sets)
    ]
    rows = tuple((_title(name), *(number(errors[each].get(name)) for each in sets)) for name in names)
    tables = [Table(("error", *sets), rows, f"Errors of the final model, recomputed on all frames of each set{head}")]
    by_element: dict[tuple[str, str], dict[str, Any]] = {}
    for each in sets:
        for element, values in (errors[each].get("forces_by_element") or {}).items():
            for key, value in values.items():
                by_element.setdefault((element, key), {})[each] = value
    if by_element:
        rows = tuple(
            (element, _title(f"forces_{key}"), *(number(values.get(each)) for each in sets))
            for (element, key), values in by_element.items()
        )
        tables.append(Table(("element", "error", *sets), rows, f"Forces by element{head}"))
    return tables


def _title(key: str) -> str:
    """Return such as ``energy RMSE / (meV/atom)`` for ``energy_rmse_meV_per_atom``."""
    for ending, unit in UNITS.items():
        if key.endswith(ending):
            words = key.removesuffix(ending).strip("_").replace("_", " ")
            for short in ("rmse", "mae"):
                words = words.replace(short, short.upper())
            return f"{words.replace(' std', ' spread')} / ({unit})"
    return key.replace("_", " ")


def _loss_figure(curve: orm.ArrayData, name: str) -> str:
    epoch = array(curve, "epoch")
    train, valid = array(curve, "train_loss"), array(curve, "valid_loss")
    energy = array(curve, "valid_rmse_energy_eV_per_atom")
    forces = array(curve, "valid_rmse_forces_eV_A")
    length = max((len(values) for values in (train, valid, energy, forces) if values is not None), default=0)
    epochs = np.arange(length, dtype=np.float64) if epoch is None else epoch
    figure, (left, right) = new_figure(2)
    plot_loss(left, epochs, train, valid)
    plot_rmse(right, epochs, None if energy is None else energy * EV_MEV, None if forces is None else forces * EV_MEV)
    return to_svg(figure, name)


def _parity_figure(parity: DatasetData, name: str) -> str:
    """Return parity of energies per molecule (or atom) and of force components; empty without both levels."""
    frames = parity.frames
    keys = sorted(frames.labels_by_level)
    models = [key for key in keys if key.endswith(KEY_SUFFIX) and frames.labels(key).level.engine == "mace"]
    references = [key for key in keys if key not in models]
    if len(models) > 1 and not references:
        references = models[:1]
    if not models or not references:
        return ""
    reference, predicted = frames.labels(references[0]), frames.labels(models[-1])
    figure, (left, right) = new_figure(2, width=3.9, height=3.6)
    x, y, unit = _energies(frames, reference.energy, predicted.energy)
    plot_parity(left, x, y, unit, "energy − mean", np.array(frames.formulas))
    chosen = np.arange(0, 3 * len(frames.numbers), max(1, -(-3 * len(frames.numbers) // MOST_FORCES)))
    elements = np.array(chemical_symbols)[frames.numbers]
    plot_parity(
        right,
        reference.forces.ravel()[chosen],
        predicted.forces.ravel()[chosen],
        "eV/Å",
        "force",
        np.repeat(elements, 3)[chosen],
    )
    return to_svg(figure, name)


def _energies(frames: Frames, reference: Any, predicted: Any) -> tuple[Any, Any, str]:
    """Return both energies relative to the mean of the reference, per molecule if the frames are made of one kind."""
    found = molecules_per_frame(frames)
    counts, unit = (frames.n_atoms, "meV/atom") if found is None else (found[1], "kJ/mol")
    factor = EV_MEV if found is None else EV_KJMOL
    x, y = reference / counts * factor, predicted / counts * factor
    return x - np.nanmean(x), y - np.nanmean(x), unit

"""What was done, in a paragraph and a table."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.report.graph import chains
from aiida_mlfinetune.report.page import Section, Table
from aiida_mlfinetune.report.sections.results import observables
from aiida_mlfinetune.report.text import number, with_error

__all__ = ("crystal_of", "method_section")

SUBLIMATION = (
    "The sublimation enthalpy is ΔH = H(gas) − H(crystal) per mole of molecules: positive for a stable crystal, the "
    "heat that it takes to make gas of it. (Tables of lattice energies often list the negative of it.) "
    "H(crystal) is the mean of potential energy and pressure times volume per molecule; H(gas) that of the potential "
    "energy of one molecule plus kT for the ideal gas. Nuclei are classical where the conditions say so: the kinetic "
    "energies of crystal and gas are then equal and cancel, and quantum effects of the nuclei are not in the number. "
    "Errors are those of averages over time with this model; how far it is from its labels is said under Training."
)
FOUNDATION = (
    "The model was fine-tuned from a foundation model. The foundation ice-xtb of this package knows H and O only and "
    "was trained at GFN1-xTB: a start for ices, no general foundation model."
)


def crystal_of(node: orm.ProcessNode) -> orm.StructureData | None:
    """Return the crystal that a process was given, None if it has none."""
    for name in ("crystal", "structure"):
        if name in node.inputs and isinstance(node.inputs[name], orm.StructureData):
            return node.inputs[name]
    return None


def method_section(node: orm.ProcessNode) -> Section:
    """Return the section about conditions and method."""
    rows: list[tuple[str, str]] = []
    crystal = crystal_of(node)
    if crystal is not None:
        lengths, angles = crystal.cell_lengths, crystal.cell_angles
        rows.append(("Crystal", f"{crystal.get_formula(mode='hill')}, node {crystal.pk}"))
        rows.append(("Cell at the start", f"{', '.join(f'{value:.3f}' for value in lengths)} Å"))
        rows.append(("Angles", f"{', '.join(f'{value:.2f}' for value in angles)} °"))
        rows.append(("Volume at the start", f"{crystal.get_cell_volume():.2f} Å³"))
    found = observables(node)
    for name, title in (("enthalpy_crystal", "H(crystal)"), ("enthalpy_gas", "H(gas)")):
        if name in found:
            own = found[name]
            rows.append((title, f"{with_error(own.value, own.error)} {own.unit}, on the model's energy scale"))
            rows += [(f"{title}: warning", warning) for warning in own.warnings]
    paragraphs = [SUBLIMATION] if "sublimation_enthalpy" in found else []
    foundation = _foundation(node)
    if foundation is not None:
        rows += _model_rows("Foundation model", foundation)
        paragraphs.append(FOUNDATION)
    return Section(
        title="Conditions and method",
        paragraphs=tuple(paragraphs),
        tables=(Table((), tuple(rows)),) if rows else (),
    )


def _foundation(node: orm.ProcessNode) -> MaceModelData | None:
    for process in [node, *chains(node, "training")]:
        if "foundation" in process.inputs:
            return process.inputs.foundation
    return None


def _model_rows(title: str, model: MaceModelData) -> list[tuple[str, str]]:
    passport = model.passport
    levels = ", ".join(passport.levels.values()) or "not stated"
    return [
        (title, f"node {model.pk}, sha256 {passport.sha256[:16]}…"),
        (f"{title}: level", levels),
        (f"{title}: elements", number(passport.elements)),
        (f"{title}: cutoff", f"{number(passport.r_max)} Å, {passport.n_parameters} parameters"),
    ]

"""The diagnosis of reference energies: what the labels determine, and what re-estimating brings."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.report.page import Section, Table
from aiida_mlfinetune.report.sections.results import observables
from aiida_mlfinetune.report.text import number

__all__ = ("reference_energies_section",)

NAME = "reference_energies"


def reference_energies_section(process: orm.ProcessNode) -> Section:
    """Return the section about the diagnosis that a process returned; empty where it returned none."""
    diagnosis = observables(process).get(NAME)
    if diagnosis is None:
        return Section("Reference energies")
    details = diagnosis.details
    known, first = details["determination"], details["first_validation_meV_per_atom"]
    rows = [
        ("start", details["start"]),
        ("rank of the compositions", f"{known['rank']} of {len(known['elements'])} elements"),
        ("condition of the composition matrix", number(known["condition"])),
        ("determined", ", ".join(known["determined"])),
        ("not determined", details["freedom"] or "nothing"),
        ("first validation before / (meV/atom)", number(first["before"])),
        ("first validation after / (meV/atom)", number(first["after"])),
    ]
    check = details.get("dissociation")
    if check is not None:
        worst = number(check["largest_meV"])
        rows.append(("isolated atoms have their E0", f"{number(check['passed'])}, largest difference {worst} meV"))
    lone = check["atom_minus_e0_meV"] if check is not None else {}
    energies = tuple(
        (element, f"{value:.6f}", f"{details['shift_eV'][element]:+.6f}", number(lone.get(element)))
        for element, value in details["values_eV"].items()
    )
    header = ("element", "E0 / eV", "shift / eV", "atom minus old E0 / meV")
    tables = (Table((), tuple(rows)), Table(header, energies, "Re-estimated on the training set"))
    return Section("Reference energies", (f"{known['sentence']}.",), tables)

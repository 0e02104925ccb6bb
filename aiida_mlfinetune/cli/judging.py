"""``aiida-mlfinetune dataset compare`` and ``assess``: levels against each other, and labels by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aiida_mlfinetune.cli.session import load_dataset, require_profile

if TYPE_CHECKING:
    from aiida_mlfinetune.data.dataset import DatasetData
    from aiida_mlfinetune.data.observable import ObservableData

__all__ = ("assess", "compare")

ENERGIES, FORCES, STRESS, PRESSURE = "energy / (kJ/mol)", "force / (meV/Å)", "stress / (meV/Å³)", "pressure / GPa"


@click.command("compare")
@click.argument("identifier", metavar="PK")
@click.argument("level_a", metavar="LEVEL_A")
@click.argument("level_b", metavar="LEVEL_B")
@click.option("--subtract", is_flag=True, help="Also make a dataset whose labels are LEVEL_A minus LEVEL_B.")
def compare(identifier: str, level_a: str, level_b: str, subtract: bool) -> None:
    """Compare two levels of the dataset PK, on the frames that carry both.

    Mean shift of LEVEL_A minus LEVEL_B, root mean square of the difference with and without the shift, and correlation:
    of energies per formula unit (kJ/mol), of forces per element (meV/Å), of stress (meV/Å³) and pressure (GPa). The
    numbers are stored as observables.

    Next: `aiida-mlfinetune report PK` shows the dataset with its labels as a page; train on the difference of two
    levels with the dataset that --subtract makes.
    """
    from aiida import orm
    from rich.console import Console
    from rich.table import Table

    require_profile()
    node = load_dataset(identifier)
    _check_levels(node, level_a, level_b)
    from aiida_mlfinetune.calculations.functions.levels import compare_levels, subtract_levels

    levels = orm.Str(level_a), orm.Str(level_b)
    found = compare_levels(node, *levels)
    console = Console(width=max(100, Console().width))
    table = Table("quantity", "of", "values", "mean shift", "RMSE", "RMSE about shift", "correlation")
    for row in comparison_rows(found):
        table.add_row(*row)
    console.print(f"[bold]{level_a} minus {level_b}[/bold], dataset {node.pk}")
    console.print(table)
    if "energy" in found:
        console.print(_element_shifts(found["energy"].details))
    for observable in found.values():
        for warning in observable.warnings:
            click.echo(f"Warning: {warning}", err=True)
    stored = ", ".join(f"{observable.pk} ({name})" for name, observable in found.items())
    click.echo(f"Observables: {stored}.")
    if subtract:
        difference = subtract_levels(node, *levels)
        (key,) = difference.levels
        click.echo(f"Dataset {difference.pk}: {difference.n_frames} frames, level {key}.")


@click.command("assess")
@click.argument("identifier", metavar="PK")
@click.option("--level", "key", metavar="KEY", help="Level whose labels to judge; needed where there are several.")
@click.option(
    "--sampled",
    multiple=True,
    metavar="PK",
    help="Dataset that the labelled frames were chosen from, to compare energies and volumes with; may be repeated.  "
    "[default: found in the graph]",
)
def assess(identifier: str, key: str | None, sampled: tuple[str, ...]) -> None:
    """Judge the labels of the dataset PK, and store what is found as observables.

    The net force of each frame (the noise of the forces), energies that are outliers, frames that are in the set twice,
    smallest distances, distribution of forces, and the spread of energies and volumes against that of the sampled set.

    Next: `aiida-mlfinetune report PK` shows all of it with plots; `verdi node attributes PK` a single observable.
    """
    from aiida import orm

    from aiida_mlfinetune.common.errors import LabelsError

    require_profile()
    node = load_dataset(identifier)
    if key is None:
        if len(node.levels) != 1:
            raise LabelsError(f"dataset {node.pk} holds the levels {sorted(node.levels)}: say which one with --level")
        (key,) = node.levels
    _check_levels(node, key)
    from aiida_mlfinetune.calculations.functions.quality import assess_labels
    from aiida_mlfinetune.report.origins import origins

    chosen = [load_dataset(each) for each in sampled] or origins(node)
    found = assess_labels(node, orm.Str(key), **{f"sampled_{number}": each for number, each in enumerate(chosen)})
    click.echo(f"Labels at {key}, dataset {node.pk}")
    for observable in found.values():
        click.echo(f"{observable.pk:>8}  {observable}")
    for observable in found.values():
        for warning in observable.warnings:
            click.echo(f"Warning: {warning}", err=True)


def comparison_rows(found: dict[str, ObservableData]) -> list[tuple[str, ...]]:
    """Return the deviations of all quantities as rows of texts."""
    rows: list[tuple[str, ...]] = []
    if "energy" in found:
        details = found["energy"].details
        rows += [
            _row(ENERGIES, f"{name} (molecule)", "kJ_mol", entry) for name, entry in details["per_molecule"].items()
        ]
        rows += [_row(ENERGIES, f"frames of {name}", "kJ_mol", entry) for name, entry in details["by_formula"].items()]
        rows.append(_row("energy / (meV/atom)", "all", "meV_per_atom", details["per_atom"]))
    if "forces" in found:
        details = found["forces"].details
        rows.append(_row(FORCES, "all", "meV_A", details["components"]))
        rows += [_row(FORCES, name, "meV_A", entry) for name, entry in details["by_element"].items()]
    if "stress" in found:
        details = found["stress"].details
        rows.append(_row(STRESS, "components", "meV_A3", details["components"]))
        rows.append(_row(PRESSURE, "", "GPa", details["pressure"]))
    return rows


def _row(quantity: str, of: str, unit: str, entry: dict[str, Any]) -> tuple[str, ...]:
    numbers = [f"{entry[f'{name}_{unit}']:.5g}" for name in ("shift", "rmse", "rmse_about_shift")]
    correlation = entry["correlation"]
    return quantity, of, str(entry["n"]), *numbers, "–" if correlation is None else f"{correlation:.5f}"


def _element_shifts(details: dict[str, Any]) -> str:
    shifts = details["element_shift_eV"]
    text = "Shift by element: " + ", ".join(f"{element} {value:+.4f} eV" for element, value in shifts.items())
    if details["element_rank"] < len(shifts):
        text += "; only their sum per formula unit is determined, not the split"
    return text


def _check_levels(node: DatasetData, *levels: str) -> None:
    """Refuse an unknown level before a process is made of it."""
    for key in levels:
        node.frames.labels(key)

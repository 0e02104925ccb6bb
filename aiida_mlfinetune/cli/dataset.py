"""``aiida-mlfinetune dataset``: frames and labels into the profile, out of it, and on the screen."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiida_mlfinetune.cli.judging import assess, compare
from aiida_mlfinetune.cli.session import load_dataset, require_profile
from aiida_mlfinetune.common.enums import EnergyKind

if TYPE_CHECKING:
    from rich.console import Console

    from aiida_mlfinetune.data.dataset import DatasetData
    from aiida_mlfinetune.science.datasets.levels import Level

__all__ = ("dataset",)

STYLES = ("full", "ase", "mace")
MOST_JUDGED = 2000
"""Labels of more frames than this take seconds to judge, and are left to a command of their own."""


@click.group()
def dataset() -> None:
    """Frames with labels: import a file, export one, show what is in a node, judge and compare labels.

    \b
    New here?
      aiida-mlfinetune dataset import frames.xyz --level pbe-d3/vasp
      aiida-mlfinetune dataset show PK
      aiida-mlfinetune dataset assess PK
      aiida-mlfinetune dataset compare PK pbe0/cp2k pbe-d3/cp2k
      aiida-mlfinetune dataset export PK train.xyz --format mace --level pbe-d3/vasp
    """  # noqa: D301 - click reads the control character


dataset.add_command(assess)
dataset.add_command(compare)


@dataset.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--level", "key", metavar="KEY", help="Level of theory of the labels, such as 'pbe-d3/vasp'.")
@click.option("--engine", default="", help="Program family behind the labels, such as 'vasp'.")
@click.option("--method", default="", help="Functional or Hamiltonian, such as 'PBE-D3(BJ)'.")
@click.option("--basis", default="", help="Basis set or cutoff, such as '500 eV'.")
@click.option("--code-version", default="", help="Version of the program that computed the labels.")
@click.option(
    "--energy",
    type=click.Choice([kind.value for kind in EnergyKind]),
    default=EnergyKind.FREE.value,
    show_default=True,
    help="Which energy to take where the file holds 'energy' and 'free_energy': the free energy, which forces are "
    "derivatives of, or 'energy', the one extrapolated to zero smearing.",
)
@click.option("--style", type=click.Choice(STYLES), help="Names to read, where a file holds labels under several.")
@click.option("--label", default="", help="Label of the node.")
def import_(
    file: Path,
    key: str | None,
    engine: str,
    method: str,
    basis: str,
    code_version: str,
    energy: str,
    style: str | None,
    label: str,
) -> None:
    """Import FILE, in extended XYZ, as one node.

    Labels are read under ASE's names (energy, free_energy, forces, stress), MACE's (REF_energy, REF_forces,
    REF_stress), or this package's own (all levels of a file written by `dataset export`). Units are eV, angstrom,
    eV/angstrom and eV/angstrom^3 with ASE's sign. A file that does not say at which level of theory its labels were
    computed needs --level. Content that the profile holds already is not stored again.

    Next: `aiida-mlfinetune dataset show PK`, then use the node as the dataset of a labelling or training.
    """
    from aiida_mlfinetune.science.datasets.checks import check_frames
    from aiida_mlfinetune.science.datasets.extxyz import KeyStyle, read_extxyz

    require_profile()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        level = _level(key, engine, method, basis, energy, code_version)
        frames = read_extxyz(file, level, None if style is None else KeyStyle(style))
        check_frames(frames)
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)
    from aiida_mlfinetune.data.dataset import DatasetData

    node = DatasetData(frames=frames)
    found = _equal(node)
    if found is not None:
        click.echo(f"{file} is dataset {found.pk} already: {found.n_frames} frames. Nothing was stored.")
        return
    node.label = label
    node.store()
    click.echo(f"Dataset {node.pk}: {node.n_frames} frames, levels {', '.join(node.levels) or 'none'}.")
    click.echo(f"Next: aiida-mlfinetune dataset show {node.pk}")


@dataset.command("export")
@click.argument("identifier", metavar="PK")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "style",
    type=click.Choice(STYLES),
    default="full",
    show_default=True,
    help="full: every level under a name of its own, nothing is lost; ase: energy, forces, stress of one level, as "
    "ase.io reads them; mace: REF_energy, REF_forces, REF_stress of one level, as mace_run_train reads them.",
)
@click.option("--level", "key", metavar="KEY", help="Level to export; needed where there are several, but for 'full'.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def export(identifier: str, file: Path, style: str, key: str | None, force: bool) -> None:
    """Export the dataset PK to FILE, in extended XYZ, at full precision.

    Next: open FILE with ase.io.read or OVITO, train with mace_run_train, or import it elsewhere with
    `aiida-mlfinetune dataset import FILE`.
    """
    from aiida_mlfinetune.science.datasets.extxyz import KeyStyle, write_extxyz

    require_profile()
    node = load_dataset(identifier)
    if file.exists() and not force:
        raise click.ClickException(f"{file} exists: choose another name, or say --force")
    write_extxyz(file, node.frames, KeyStyle(style), key)
    click.echo(f"{file}: {node.n_frames} frames of dataset {node.pk}.")


@dataset.command("show")
@click.argument("identifier", metavar="PK")
def show(identifier: str) -> None:
    """Show what the dataset PK holds: frames, compositions, labels at each level, their quality, where they come from.

    Next: `aiida-mlfinetune report PK` for the same with plots, or `aiida-mlfinetune dataset export PK FILE`.
    """
    from rich.console import Console
    from rich.table import Table

    require_profile()
    node = load_dataset(identifier)
    console = Console(width=max(100, Console().width))
    formulas = node.base.attributes.get("formulas")
    sizes = (node.base.attributes.get("n_atoms_min"), node.base.attributes.get("n_atoms_max"))
    console.print(f"[bold]Dataset {node.pk}[/bold] {node.label}  ({node.uuid})")
    console.print(f"Frames     {node.n_frames}, of {sizes[0]} to {sizes[1]} atoms; elements {' '.join(node.elements)}")
    console.print("Formulas   " + ", ".join(f"{count} x {formula}" for formula, count in formulas.items()))
    if node.is_subset:
        console.print(f"Subset of  dataset {node.parent.pk}")
    creator = node.creator
    console.print("Made by    " + ("import or hand" if creator is None else f"{creator.process_label} ({creator.pk})"))
    sources = [source for source in node.frame_sources if source]
    if sources:
        console.print("Sources    " + ", ".join(sources[:4]) + (f" and {len(sources) - 4} more" * (len(sources) > 4)))
    table = Table("level", "method", "energy", "energies", "forces", "stress", "eV/atom", "+-")
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for key, entry in node.levels.items():
        counts, statistics = entry["counts"], entry["energy_eV_per_atom"]
        numbers = [f"{statistics[name]:.6f}" if statistics else "" for name in ("mean", "std")]
        own = entry["level"]
        labelled = (str(counts[kind]) for kind in ("energy", "forces", "stress"))
        table.add_row(key, own["method"], own["energy"], *labelled, *numbers)
    if node.levels:
        console.print(table)
        _show_quality(node, console)
    else:
        console.print("Labels     none: label the frames with the work chain mlfinetune.labelling")


def _show_quality(node: DatasetData, console: Console) -> None:
    """Print what the labels of each level tell about themselves; of many frames, only the command that does."""
    from aiida_mlfinetune.report.sections.quality import quality_rows
    from aiida_mlfinetune.science.datasets.label_quality import assess_labels, quality_warnings

    if node.n_frames > MOST_JUDGED:
        console.print(f"Quality    of so many labels: aiida-mlfinetune dataset assess {node.pk} --level KEY")
        return
    for key, entry in node.levels.items():
        if not any(entry["counts"].values()):
            continue
        quality = assess_labels(node.frames, key)
        console.print(f"[bold]Quality[/bold]    of the labels at {key}")
        for what, text in quality_rows(quality)[1:]:
            console.print(f"  {what}: {text}", highlight=False)
        for text in quality_warnings(quality).values():
            console.print(f"  [yellow]Warning[/yellow]: {text}", highlight=False)


def _level(key: str | None, engine: str, method: str, basis: str, energy: str, code_version: str) -> Level | None:
    from aiida_mlfinetune.science.datasets.levels import Level

    if key is None:
        given = [name for name, value in (("--engine", engine), ("--method", method), ("--basis", basis)) if value]
        if given:
            raise click.UsageError(f"{' and '.join(given)} describe a level of theory: name it with --level KEY")
        return None
    return Level(key, engine=engine, method=method, basis=basis, energy=EnergyKind(energy), code_version=code_version)


def _equal(node: DatasetData) -> DatasetData | None:
    """Return a stored dataset with the same content and sources, if there is one."""
    from aiida.orm import QueryBuilder

    from aiida_mlfinetune.data.dataset import DatasetData

    filters = {
        f"attributes.{DatasetData.KEY_HASH}": node.content_hash,
        "attributes": {"!has_key": DatasetData.KEY_PARENT},
    }
    candidates = QueryBuilder().append(DatasetData, filters=filters).all(flat=True)
    return next((found for found in candidates if found.frame_sources == node.frame_sources), None)

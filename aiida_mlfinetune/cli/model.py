"""``aiida-mlfinetune model``: the passport of a model, and models of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiida_mlfinetune.cli.session import load_any_node, require_profile

if TYPE_CHECKING:
    from aiida_mlfinetune.science.passport import Passport

__all__ = ("model",)


@click.group()
def model() -> None:
    """MACE models: show a passport, import a file.

    \b
    New here?
      aiida-mlfinetune model show ice-xtb            the foundation that the package ships
      aiida-mlfinetune model import my.model --trust
      aiida-mlfinetune model show PK
    """  # noqa: D301 - click reads the control character


@model.command("show")
@click.argument("identifier", metavar="PK|NAME")
def show(identifier: str) -> None:
    """Show the passport of the model PK, or of the known foundation NAME.

    Next: name the model as the foundation of a study (`foundation: NAME` or its PK), and
    `aiida-mlfinetune run STUDY.yaml`.
    """
    from aiida_mlfinetune.data.foundations import FOUNDATIONS
    from aiida_mlfinetune.data.model import MaceModelData

    if identifier in FOUNDATIONS:
        foundation = FOUNDATIONS[identifier]
        licence = f", licence {foundation.licence}" if foundation.licence else ""
        _print_passport(foundation.passport, f"Foundation {identifier}{licence}")
        return
    if not identifier.isdigit() and "-" not in identifier:
        raise click.ClickException(f"no foundation {identifier!r} is known: there are {sorted(FOUNDATIONS)}")
    require_profile()
    node = load_any_node(identifier)
    if not isinstance(node, MaceModelData):
        raise click.ClickException(f"node {identifier} is a {type(node).__name__}, not a model")
    creator = node.creator
    made = "imported" if creator is None else f"made by {creator.process_label} ({creator.pk})"
    _print_passport(node.passport, f"Model {node.pk} {node.label}, {made}")


@model.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--trust", is_flag=True, help="Open FILE though its checksum is not that of a known foundation: this runs its code."
)
@click.option(
    "--level",
    "levels",
    multiple=True,
    metavar="[HEAD=]KEY",
    help="Level of theory that the model was trained on, such as 'pbe-d3/vasp', or once for each head 'HEAD=KEY'.",
)
@click.option("--label", default="", help="Label of the node.")
def import_(file: Path, trust: bool, levels: tuple[str, ...], label: str) -> None:
    """Import the model FILE, as saved by MACE, as one node.

    Model files are pickles: opening one runs the code in it. A file whose checksum is that of a known foundation is
    imported as it is. Any other file is refused unless you say --trust.

    Next: `aiida-mlfinetune model show PK`, then name PK as the foundation of a study.
    """
    require_profile()
    from aiida_mlfinetune.data.foundations import import_model

    bare = [level for level in levels if "=" not in level]
    if bare and len(levels) > 1:
        raise click.UsageError(f"--level {bare[0]} names no head: say --level HEAD=KEY for each head")
    by_head = bare[0] if bare else dict(level.split("=", 1) for level in levels)
    node = import_model(file, trust=trust, levels=by_head)
    if label:
        node.label = label
    click.echo(f"Model {node.pk}: elements {' '.join(node.elements)}, heads {', '.join(node.heads)}.")
    click.echo(f"Next: aiida-mlfinetune model show {node.pk}")


def _print_passport(passport: Passport, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(100, Console().width))
    console.print(f"[bold]{title}[/bold]")
    console.print(f"sha256        {passport.sha256}")
    console.print(f"Architecture  {passport.architecture.get('class', 'unknown')}, cutoff {passport.r_max} angstrom")
    console.print(f"Parameters    {passport.n_parameters}, {passport.dtype}, mace {passport.mace_version or 'unknown'}")
    console.print(f"Parent        {passport.parent_sha256 or 'none'}")
    console.print(f"Seeds         {', '.join(map(str, passport.seeds)) or 'none'}")
    table = Table("head", "level", "element", "E0 (eV)")
    for head in passport.heads:
        for element in passport.elements:
            table.add_row(head, passport.levels.get(head, "unknown"), element, f"{passport.e0s[head][element]:.6f}")
    console.print(table)
    for head, sets in passport.errors.items():
        console.print(f"Errors        {head}: {sets}")

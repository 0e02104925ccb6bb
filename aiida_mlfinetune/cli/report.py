"""``aiida-mlfinetune report``: the results as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aiida.orm import Node

__all__ = ("report", "write_report")


@click.command()
@click.argument("pk")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.  [default: report-PK.html in the current folder]",
)
@click.option("--profile", help="AiiDA profile.  [default: the default one]")
def report(pk: str, output: Path | None, profile: str | None) -> None:
    """Write the results of the process PK, or the labels of the dataset PK, as one self-contained HTML page.

    PK is the number that `run` printed, a uuid, that of a result such as the density, or that of a dataset. The page
    holds numbers with errors, plots, the provenance and what to cite; it loads nothing from the network and can be sent
    by mail. A run that has not ended, or that failed, gives a page of what there is.

    Next: open the page in a browser.
    """
    from aiida_mlfinetune.cli.session import load_any_node, load_process, require_profile

    require_profile(profile)
    from aiida_mlfinetune.data.dataset import DatasetData

    node = load_any_node(pk)
    if not isinstance(node, DatasetData):
        node = load_process(pk)
    path = write_report(node, output or Path(f"report-{node.pk}.html"))
    click.echo(f"Report: {path}")


def write_report(node: Node, path: Path) -> Path:
    """Write the report of a process or a dataset to ``path`` and return its absolute path.

    Raises:
        click.ClickException: there is no such folder.
    """
    from aiida_mlfinetune.report import collect, render

    if not path.absolute().parent.is_dir():
        raise click.ClickException(f"there is no folder {path.absolute().parent}")
    path.write_text(render(collect(node)), encoding="utf-8")
    return path.absolute()

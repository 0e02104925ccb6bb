"""``aiida-mlfinetune model list, fetch, export``: official foundations, and models to be given away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiida_mlfinetune.cli.session import load_model, require_profile

if TYPE_CHECKING:
    from aiida_mlfinetune.data.fetching import Fetched
    from aiida_mlfinetune.data.model import MaceModelData
    from aiida_mlfinetune.science.models.official import OfficialModel

__all__ = ("export", "fetch", "list_", "official_text", "write_export")

CARD_FILENAME = "MODEL_CARD.md"
MACE_INPUT = "mace.yaml"


@click.command("list")
def list_() -> None:
    """List the foundations that are known: shipped, and official ones with level, licence and whether they are here.

    Next: `aiida-mlfinetune model fetch NAME`, or `aiida-mlfinetune model show NAME` for address, licence and papers.
    """
    from aiida_mlfinetune.data.fetching import OFFICIAL, records
    from aiida_mlfinetune.data.foundations import FOUNDATIONS
    from aiida_mlfinetune.science.models.history import columns, text_of

    rows = [("name", "method", "trained on", "elements", "licence", "here")]
    for name, foundation in FOUNDATIONS.items():
        levels = text_of(list(foundation.passport.levels.values()))
        rows.append((name, levels, "", text_of(foundation.elements), foundation.licence, "shipped"))
    here = records()
    for name, model in OFFICIAL.items():
        elements = ", ".join(model.elements) if 0 < len(model.elements) <= 10 else str(model.n_elements)
        state = f"fetched {here[name].date}" if name in here else ""
        rows.append((name, model.method, model.dataset, elements, model.licence.name, state))
    click.echo("\n".join(columns(rows)))


@click.command("fetch")
@click.argument("name")
@click.option("--accept-licence", is_flag=True, help="Accept a licence that does not allow commercial use.")
@click.option(
    "--from",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take this FILE, fetched from the official address on another machine, instead of the network.",
)
def fetch(name: str, accept_licence: bool, source: Path | None) -> None:
    """Fetch the official foundation NAME from the release of its authors, once; go on if it was interrupted.

    The file and its checksum are kept in the configuration folder of AiiDA. The authors state no checksums: the one of
    the first fetch is recorded and shown, and the file is checked against it whenever it is used. The file is not
    opened here; naming it in a study, or importing it, opens it.

    Next: `foundation: NAME` in a study, or `aiida-mlfinetune model import FILE` for its node.
    """
    require_profile()
    from aiida_mlfinetune.data import fetching

    model = fetching.official_model(name)
    licence = model.licence
    click.echo(f"{model.title}: {model.method}, trained on {model.dataset}, {licence.title} ({licence.name}).")
    if not licence.commercial:
        derived = ", and holds for what is derived from the model" if licence.reciprocal else ""
        click.echo(f"This licence does not allow commercial use{derived}: {licence.address}")
    with _progress(name) as report:
        path, record, first = fetching.fetch(name, accept_licence=accept_licence, source=source, report=report)
    click.echo(f"{path}: {record.size} bytes")
    click.echo(f"sha256 {record.sha256}")
    if first and not model.sha256:
        click.echo("No official source states a checksum: this one was recorded just now, and is checked from now on.")
        click.echo("Compare it with that of a colleague if you can.")
    elif not first:
        click.echo(f"That is the checksum that was recorded on {record.date}.")
    click.echo(f"Next: `foundation: {name}` in a study, or aiida-mlfinetune model import {path}")


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show how far a download is, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    shown = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*shown, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def official_text(model: OfficialModel, record: Fetched | None) -> str:
    """Return what is known of an official foundation before it is in the profile."""
    from aiida_mlfinetune.science.models.history import columns

    licence = model.licence
    use = "" if licence.commercial else ", no commercial use"
    elements = " ".join(model.elements) or f"{model.n_elements}; which ones is read from the file"
    levels = ", ".join(f"{head}: {key}" if head else key for head, key in model.levels.items())
    checksum = "not stated by an official source; that of the first fetch is recorded"
    rows = [
        ("Method", model.method),
        ("Level", levels),
        ("Trained on", model.dataset),
        ("Elements", elements),
        ("Licence", f"{licence.title} ({licence.name}){use}, {licence.address}"),
        ("Address", model.url),
        ("Name in MACE", model.mace_name or "none"),
        ("sha256", (record.sha256 if record is not None else model.sha256) or checksum),
        ("Fetched", "no" if record is None else f"{record.date}, {record.size} bytes, from {record.source}"),
        *([("Note", model.note)] if model.note else []),
        *(("Cite", reference) for reference in model.references),
    ]
    step = f"aiida-mlfinetune model fetch {model.name}" if record is None else f"`foundation: {model.name}` in a study"
    return "\n".join([f"Official foundation {model.name}: {model.title}", *columns(rows), f"Next: {step}"])


@click.command("export")
@click.argument("identifier", metavar="PK|NAME")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="Name of the model in the card and of its file; by default the label of the node.")
@click.option("--force", is_flag=True, help="Write into FOLDER though it is not empty.")
def export(identifier: str, folder: Path, name: str | None, force: bool) -> None:
    """Export a model to FOLDER: its file, a model card, its datasets in extended XYZ, and MACE's input file.

    The model is a node PK, or a foundation NAME. The card (Markdown) holds what is needed to cite the model and to
    make it again: levels of theory, data and splits, parameters, seeds, versions, errors, checksums, papers, and the
    licences of the models it was made from.

    Next: read MODEL_CARD.md and say under which licence you give the model away.
    """
    require_profile()
    from aiida_mlfinetune.data.fetching import OFFICIAL
    from aiida_mlfinetune.data.foundations import FOUNDATIONS, load_foundation

    is_name = identifier in FOUNDATIONS or identifier in OFFICIAL
    if folder.exists() and any(folder.iterdir()) and not force:
        raise click.ClickException(f"{folder} is not empty: choose another folder, or say --force")
    node = load_foundation(identifier) if is_name else load_model(identifier)
    called = name or (identifier if is_name else node.label) or f"mace-{node.sha256[:8]}"
    for path in write_export(node, folder, called):
        click.echo(str(path))


def write_export(node: MaceModelData, folder: Path, name: str) -> list[Path]:
    """Write a model, its card, its datasets and MACE's input to a folder, and return their paths."""
    from dataclasses import replace

    from aiida_mlfinetune import __version__
    from aiida_mlfinetune.data.fetching import OFFICIAL, sha256_of
    from aiida_mlfinetune.report.model_history import model_datasets, model_history
    from aiida_mlfinetune.science.datasets.extxyz import write_extxyz
    from aiida_mlfinetune.science.models.card import model_card

    folder.mkdir(parents=True, exist_ok=True)
    model_file = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.model"
    model_file.write_bytes(node.content())
    written = [model_file]
    for role, dataset in model_datasets(node).items():
        path = folder / f"{role}.xyz"
        write_extxyz(path, dataset.frames)
        written.append(path)
    creator = node.creator
    if creator is not None and MACE_INPUT in creator.base.repository.list_object_names():
        path = folder / MACE_INPUT
        path.write_bytes(creator.base.repository.get_object_content(MACE_INPUT, "rb"))
        written.append(path)
    licences = {model.licence.name: model.licence for model in OFFICIAL.values()}
    files = {path.name: sha256_of(path) for path in written}
    history = replace(model_history(node), name=name)
    card = folder / CARD_FILENAME
    card.write_text(model_card(history, files, licences, __version__), encoding="utf-8")
    return [*written, card]

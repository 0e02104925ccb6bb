"""``aiida-mlfinetune model``: what a model is, how it was made, and models of one's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiida_mlfinetune.cli.model_assess import assess
from aiida_mlfinetune.cli.model_files import export, fetch, list_, official_text
from aiida_mlfinetune.cli.session import load_model, require_profile

if TYPE_CHECKING:
    from aiida_mlfinetune.science.models.history import ModelHistory

__all__ = ("model",)


@click.group()
def model() -> None:
    """MACE models: how one was made, what differs between two, official foundations, files in and out.

    \b
    New here?
      aiida-mlfinetune model list                    the foundations that are known
      aiida-mlfinetune model fetch mace-mp-0-medium  get one of the official ones
      aiida-mlfinetune model import my.model --trust
      aiida-mlfinetune model show PK                 how exactly was this made?
      aiida-mlfinetune model assess PK               is it sound? (with --crystal FILE)
      aiida-mlfinetune model diff PK PK              which inputs differ, which errors moved?
      aiida-mlfinetune model export PK FOLDER        the file, a model card, and the training set
    """  # noqa: D301 - click reads the control character


model.add_command(list_)
model.add_command(fetch)


@model.command("show")
@click.argument("identifier", metavar="PK|NAME|FILE")
def show(identifier: str) -> None:
    """Show how exactly a model was made: a node PK, a foundation NAME, or a FILE whose checksum is known.

    Tells what the file is (elements, heads with levels and reference energies), and from the graph the process,
    its inputs, datasets, seeds, versions, levels of theory, the models that it was made from, and its errors. No model
    file is opened for it.

    Next: name the model as the foundation of a study (`foundation: NAME` or its PK), compare it with another one
    (`aiida-mlfinetune model diff`), or give it away (`aiida-mlfinetune model export`).
    """
    from aiida_mlfinetune.science.models.history import history_text

    found = _history(identifier)
    click.echo(found if isinstance(found, str) else history_text(found))


@model.command("diff")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
def diff(first: str, second: str) -> None:
    """Name the inputs that differ between the models A and B, and the errors that moved.

    A and B are what `model show` takes. Errors that were measured on different frames are marked: they do not
    compare the models.

    Next: evaluate both on the same frames with `mlfinetune.mace_evaluate` where the errors do not compare.
    """
    from aiida_mlfinetune.science.models.diff import compare_models, diff_text

    histories = [_history(identifier, frame_hashes=True) for identifier in (first, second)]
    texts = [name for name, found in zip((first, second), histories, strict=True) if isinstance(found, str)]
    if texts:
        raise click.ClickException(f"{texts[0]} is only a name so far: fetch it with `aiida-mlfinetune model fetch`")
    ours, theirs = histories
    click.echo(diff_text(compare_models(ours, theirs)))  # type: ignore[arg-type]


model.add_command(assess)
model.add_command(export)


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

    Model files are pickles: opening one runs the code in it. A file whose checksum is that of a known foundation,
    shipped or fetched, is imported as it is. Any other file is refused unless you say --trust.

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


def _history(identifier: str, *, frame_hashes: bool = False) -> ModelHistory | str:
    """Return how a model was made; of an official foundation that is not in the profile, what the table says."""
    from aiida_mlfinetune.data.fetching import OFFICIAL, fetched_by_sha256, records
    from aiida_mlfinetune.data.foundations import FOUNDATIONS, stored_models
    from aiida_mlfinetune.report.model_history import foundation_history, model_history

    if identifier in FOUNDATIONS:
        foundation = FOUNDATIONS[identifier]
        return foundation_history(foundation)
    path = Path(identifier)
    if not (identifier in OFFICIAL or identifier.isdigit() or "-" in identifier or path.is_file()):
        raise click.ClickException(
            f"no foundation {identifier!r} is known: `aiida-mlfinetune model list` shows those that are"
        )
    if identifier in OFFICIAL and identifier not in records():
        return official_text(OFFICIAL[identifier], None)
    require_profile()
    if identifier in OFFICIAL:
        record = records()[identifier]
        nodes = stored_models(record.sha256)
        named = [node for node in nodes if node.passport.settings.get("foundation") == identifier]
        if nodes:
            return model_history((named or nodes)[0], frame_hashes=frame_hashes)
        return official_text(OFFICIAL[identifier], record)
    if path.is_file() and not identifier.isdigit():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for foundation in FOUNDATIONS.values():
            if foundation.passport.sha256 == digest:
                return foundation_history(foundation)
        if nodes := stored_models(digest):
            return model_history(nodes[0], frame_hashes=frame_hashes)
        if (official := fetched_by_sha256(digest)) is not None:
            return official_text(official, records().get(official.name))
        raise click.ClickException(
            f"{identifier} has the sha256 {digest}, which this profile does not know, and is not opened to read what "
            "it is: import it with `aiida-mlfinetune model import FILE --trust` if you trust it"
        )
    return model_history(load_model(identifier), frame_hashes=frame_hashes)

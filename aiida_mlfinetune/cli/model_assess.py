"""``aiida-mlfinetune model assess``: a quick suite of checks on a model, and its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiida_mlfinetune.cli.session import load_any_node, load_dataset, require_daemon, require_profile
from aiida_mlfinetune.cli.waiting import run_to_end

if TYPE_CHECKING:
    from aiida.orm import StructureData

    from aiida_mlfinetune.data.model import MaceModelData
    from aiida_mlfinetune.data.observable import ObservableData

__all__ = ("assess",)


@click.command("assess")
@click.argument("identifier", metavar="PK|NAME")
@click.option("--crystal", help="File of a crystal, name of one in the package, or pk.  [default: only show a verdict]")
@click.option("--test", metavar="PK", help="Dataset with labels for parity.  [default: test set of the training]")
@click.option("--level", metavar="KEY", help="Level of those labels.  [default: that of the training]")
@click.option("--baseline", metavar="PK|NAME", help="The model that a delta model is a difference to.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    help="K at which the model will be used; the run of the assessment is twice as hot.  [default: 100]",
)
@click.option("--protocol", help="demo, fast, balanced, kaur2025.  [default: balanced]")
@click.option(
    "--python", "python_code", default="python@localhost", show_default=True, help="Code of a Python with MACE."
)
@click.option("--i-pi", "ipi_code", default="i-pi@localhost", show_default=True, help="Code of i-PI.")
@click.option("--no-run", is_flag=True, help="Leave the run out.")
@click.option("--here", is_flag=True, help="Run it in this process instead of in the daemon.")
def assess(
    identifier: str,
    crystal: str | None,
    test: str | None,
    level: str | None,
    baseline: str | None,
    temperature: float | None,
    protocol: str | None,
    python_code: str,
    ipi_code: str,
    no_run: bool,
    here: bool,
) -> None:
    """Assess the model PK, or the known foundation NAME, and show the verdict.

    Errors on test frames, energies against volume, single atoms and a molecule that dissociates, pairs of elements
    brought together, and 2 ps of NVT at twice the temperature; each number with its threshold. Without --crystal the
    last verdict on the model is shown.

    \b
    For example:
      aiida-mlfinetune model assess 1234 --crystal ice.cif --temperature 100

    Next: `aiida-mlfinetune report PK` with the pk of the assessment shows the curves.
    """  # noqa: D301 - click reads the control character
    require_profile()
    model = _model(identifier)
    if crystal is None:
        _show_last(model)
        return
    from aiida_mlfinetune.cli.build import quiet
    from aiida_mlfinetune.cli.plan import find_code
    from aiida_mlfinetune.workchains.assess import AssessWorkChain

    with quiet():
        builder = AssessWorkChain.get_builder_from_protocol(
            find_code(python_code),
            None if no_run else find_code(ipi_code),
            model,
            _structure(crystal),
            protocol,
            baseline=None if baseline is None else _model(baseline),
            test=None if test is None else load_dataset(test),
            level=level,
            temperature_K=temperature,
        )
    if not here:
        require_daemon()
    node = run_to_end(builder, "the assessment", ": `aiida-mlfinetune status {pk}`", here=here)
    show_verdict(node.outputs.assessment)
    click.echo(f"Next: aiida-mlfinetune report {node.pk}")


def show_verdict(verdict: ObservableData) -> None:
    """Print every check of a verdict, and what was not checked."""
    from rich.console import Console
    from rich.table import Table

    from aiida_mlfinetune.report.sections.assessment import HEADER, check_rows

    console = Console(width=max(100, Console().width))
    details = verdict.details
    state = "passed" if details["passed"] else f"failed {verdict.value:.0f}"
    console.print(
        f"[bold]Model {verdict.conditions['model_sha256'][:12]} on {verdict.conditions['formula']}: {state} "
        f"of {details['n_judged']} checks[/bold] (node {verdict.pk})"
    )
    table = Table(*HEADER)
    for row in check_rows(verdict):
        table.add_row(*row)
    console.print(table)
    for name, reason in details["left_out"].items():
        click.echo(f"Not checked: {name}, as {reason}")
    for warning in verdict.warnings:
        click.echo(f"Warning: {warning}", err=True)


def _show_last(model: MaceModelData) -> None:
    from aiida_mlfinetune.data.assessments import latest_assessment

    verdict = latest_assessment(model.sha256)
    if verdict is None:
        raise click.ClickException(
            f"model {model.pk} has not been assessed: say on which crystal to assess it, with --crystal"
        )
    show_verdict(verdict)


def _model(identifier: str) -> MaceModelData:
    from aiida_mlfinetune.data.foundations import FOUNDATIONS, load_foundation
    from aiida_mlfinetune.data.model import MaceModelData

    if identifier in FOUNDATIONS:
        return load_foundation(identifier)
    node: Any = load_any_node(identifier)
    if not isinstance(node, MaceModelData):
        raise click.ClickException(f"node {identifier} is a {type(node).__name__}, not a model")
    return node


def _structure(source: str) -> StructureData:
    """Return the crystal in a file, the one of that name in the package, or the node with that pk or uuid."""
    from aiida.orm import StructureData

    from aiida_mlfinetune.cli.build import read_crystal
    from aiida_mlfinetune.science.crystals.crystals import CRYSTALS

    if source in CRYSTALS:
        return read_crystal(source)
    if Path(source).is_file():
        return read_crystal(Path(source))
    node: Any = load_any_node(source)
    if not isinstance(node, StructureData):
        raise click.ClickException(f"node {source} is a {type(node).__name__}, not a structure")
    return node

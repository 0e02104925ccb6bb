"""``aiida-mlfinetune demo``: the whole chain for a small ice crystal."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from aiida.orm import WorkChainNode
    from rich.console import Console

__all__ = ("demo",)

CRYSTAL = "ice-ic"
LABEL = "demo: cubic ice"
REPORT = "report.html"
RESULTS = ("density", "sublimation_enthalpy")


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the AiiDA profile and the report.  [default: AIIDA_PATH, else the current folder]",
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Workers of the daemon.")
def demo(folder: Path | None, workers: int) -> None:
    """Compute density and sublimation enthalpy of a small ice crystal with CP2K, MACE and i-PI.

    Takes some twelve minutes on two cores: ab initio MD with CP2K at GFN1-xTB, labels with CP2K at revPBE-D3,
    fine-tuning of the foundation model `ice-xtb`, and MD of crystal and molecule with the model in i-PI. All of it is
    run by the AiiDA daemon in a profile of its own, in FOLDER/.aiida. A second call is answered from AiiDA's cache.

    Next: open the report that it writes, then `aiida-mlfinetune run STUDY.yaml` with a crystal of your own.
    """
    from rich.console import Console

    start = time.monotonic()
    place = (folder or Path(os.environ.get("AIIDA_PATH") or Path.cwd())).absolute()
    os.environ["AIIDA_PATH"] = str(place)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from aiida_mlfinetune.cli.daemon import running_daemon
    from aiida_mlfinetune.cli.display import failure
    from aiida_mlfinetune.cli.report import write_report
    from aiida_mlfinetune.cli.setup import make_ready
    from aiida_mlfinetune.cli.status import follow

    console = Console()
    ready = make_ready()
    for message in ready.messages:
        console.print(message, style="dim", highlight=False)
    if ready.missing:
        names = ", ".join(program.label for program in ready.missing)
        raise click.ClickException(f"programs are missing: {names}; see above, then repeat `make demo`")
    with running_daemon(workers):
        node = unfinished() or submit_demo(console)
        console.print(f"Submitted as process {node.pk} of profile {ready.profile} in {place / '.aiida'}")
        try:
            view = follow(node, console)
        except KeyboardInterrupt as error:
            raise click.ClickException(
                "interrupted: the demo goes on where it was with the next `aiida-mlfinetune demo`"
            ) from error
    if not node.is_finished_ok:
        console.print(f"To look at it: export AIIDA_PATH={place}", highlight=False, soft_wrap=True)
        raise click.ClickException(failure(view))
    report = write_report(node, place / REPORT)
    show_results(node, console, report, time.monotonic() - start)


def unfinished() -> WorkChainNode | None:
    """Return a demo that was interrupted and goes on with the daemon, None if there is none."""
    from aiida.orm import QueryBuilder, WorkChainNode

    query = QueryBuilder().append(
        WorkChainNode,
        filters={"label": LABEL, "attributes.process_state": {"in": ["created", "running", "waiting"]}},
    )
    query.order_by({WorkChainNode: {"id": "desc"}})
    found: WorkChainNode | None = query.first(flat=True)
    return found


def submit_demo(console: Console) -> WorkChainNode:
    """Submit the demo study, and say what it will do."""
    from aiida.engine import submit

    from aiida_mlfinetune.cli.build import study_builder
    from aiida_mlfinetune.cli.study import Study

    builder = study_builder(Study(crystal=CRYSTAL, protocol="demo", label=LABEL))
    console.print(builder.process_class.describe(builder), style="dim", highlight=False)
    return submit(builder)


def show_results(node: WorkChainNode, console: Console, report: Path, seconds: float) -> None:
    """Print the results, how they came about, and the path of the report."""
    from aiida_mlfinetune.cli.display import duration
    from aiida_mlfinetune.cli.progress import State, Watcher
    from aiida_mlfinetune.cli.running import RunningJobs

    console.print()
    for name in RESULTS:
        console.print(str(node.outputs[name]), style="bold", highlight=False)
    console.print(
        "Errors are those of averages over time with this model; how far it is from its labels stands in the report.",
        style="dim",
        highlight=False,
    )
    with RunningJobs() as jobs:
        view = Watcher(jobs).view(node)
    cached = view.count(State.CACHED)
    console.print(
        f"{len(view.jobs()) - cached} calculations run, {cached} answered from cache; {duration(seconds)}",
        highlight=False,
    )
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)

"""``aiida-mlfinetune reweight``: the averages of a run with a model at the reference level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aiida_mlfinetune.data.dataset import DatasetData

__all__ = ("reweight",)


@click.command("reweight")
@click.argument("run", metavar="PK")
@click.option(
    "--level",
    required=True,
    metavar="NAME",
    help="The reference, such as revpbe-d3; or the key of labels that are there.",
)
@click.option("--frames", "n_frames", type=click.IntRange(min=1), help="How many, equally spaced.  [default: 100]")
@click.option("--protocol", help="demo, fast, balanced or kaur2025.  [default: balanced]")
@click.option("--code", "code_label", help="Code of the reference.  [default: that of its engine on localhost]")
@click.option("--label", default="", help="Label of the run.")
@click.option("--wait", is_flag=True, help="Show it live until it has ended; Ctrl-C leaves the run alone.")
@click.option("--dry-run", is_flag=True, help="Check everything and print what would be done, but submit nothing.")
@click.option("--profile", help="AiiDA profile.  [default: the default one]")
def reweight(
    run: str,
    level: str,
    n_frames: int | None,
    protocol: str | None,
    code_label: str | None,
    label: str,
    wait: bool,
    dry_run: bool,
    profile: str | None,
) -> None:
    """Label strided frames of the run PK at a reference level, and average them with the weights of that level.

    PK is a work chain that left a trajectory, or the trajectory itself. Energy, density and enthalpy come with the
    averages of the run beside them, and with a verdict on whether to believe them.

    \b
    For example:
      aiida-mlfinetune reweight 1234 --level revpbe-d3 --frames 100

    Next: `aiida-mlfinetune status PK`, and `aiida-mlfinetune report PK` for the numbers and figures.
    """  # noqa: D301 - click reads the control character
    from aiida.engine import submit
    from rich.console import Console

    from aiida_mlfinetune.cli.build import quiet
    from aiida_mlfinetune.cli.display import failure
    from aiida_mlfinetune.cli.plan import find_code
    from aiida_mlfinetune.cli.session import require_daemon, require_profile
    from aiida_mlfinetune.cli.status import follow
    from aiida_mlfinetune.workchains.labelling.engines import engine_of, find_level
    from aiida_mlfinetune.workchains.reweighting import ReweightingWorkChain
    from aiida_mlfinetune.workchains.study_builder import PROGRAM_OF

    require_profile(profile)
    trajectory = _trajectory(run)
    overrides = {} if n_frames is None else {"settings": {"n_frames": n_frames}}
    reference: dict[str, Any] = {"code": None, "reference_level": level}
    if level not in trajectory.levels:
        spec = find_level(level)
        program = PROGRAM_OF[engine_of(spec).name]
        reference = {"code": find_code(code_label or f"{program}@localhost"), "level": spec}
    with quiet():
        builder = ReweightingWorkChain.get_builder_from_protocol(
            trajectory=trajectory, protocol=protocol, overrides=overrides, **reference
        )
    builder.metadata.label = label
    code = reference["code"]
    how = "which has labelled them already" if code is None else f"labelled with {code.label}"
    click.echo(f"{builder.settings['n_frames']} of {trajectory.n_frames} frames at {level}, {how}")
    if dry_run:
        return
    require_daemon()
    node = submit(builder)
    click.echo(f"Submitted {node.process_label} <{node.pk}>. Next: `aiida-mlfinetune status {node.pk}`")
    if not wait:
        return
    view = follow(node, Console())
    if not node.is_finished_ok:
        raise click.ClickException(failure(view))
    for name in ("potential_energy", "density"):
        if name in node.outputs:
            click.echo(f"{node.outputs[name]}: {node.outputs[name].details['verdict']}")
    click.echo(f"Done. Next: `aiida-mlfinetune report {node.pk}`")


def _trajectory(identifier: str) -> DatasetData:
    """Return a trajectory, given itself or by the process that left it."""
    from aiida import orm

    from aiida_mlfinetune.cli.session import load_any_node
    from aiida_mlfinetune.data.dataset import DatasetData

    node: Any = load_any_node(identifier)
    if isinstance(node, orm.ProcessNode):
        if "trajectory" not in node.outputs:
            raise click.ClickException(f"process {identifier} left no trajectory: give a run of `mlfinetune.dynamics`")
        node = node.outputs.trajectory
    if not isinstance(node, DatasetData):
        raise click.ClickException(f"node {identifier} is a {type(node).__name__}, not a run nor its trajectory")
    return node

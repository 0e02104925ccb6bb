"""``aiida-mlfinetune run``: a study from one YAML file."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ("run",)


@click.command()
@click.argument("study", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--wait", is_flag=True, help="Show it live until it has ended; Ctrl-C leaves the run alone.")
@click.option("--dry-run", is_flag=True, help="Check the study and print what it would do, but submit nothing.")
@click.option("--profile", help="AiiDA profile.  [default: the default one]")
def run(study: Path, wait: bool, dry_run: bool, profile: str | None) -> None:
    """Submit the study in the file STUDY (YAML) to the daemon.

    \b
    A study of one line is enough:
      crystal: my_ice.cif         # anything that ASE reads, relative to the study file; or ice-ic, carbon-dioxide, ...
    and may also hold:
      protocol: fast              # demo, fast, balanced, kaur2025
      temperature_K: 100
      pressure_bar: 1
      foundation: ice-xtb         # a known foundation, or the pk of a model node
      codes: {cp2k: cp2k@cluster, python: python@cluster, i-pi: i-pi@cluster}
      overrides: {}               # what differs from the protocol, by the names of its inputs
      label: my ice

    Several polymorphs make a study with learning curves, reweighting and a table:
      crystals: {ice-ic: ice-ic, ice-ix: {ice: IX}, mine: my_ice.cif}
      levels: {sampling: gfn1-xtb, reference: revpbe-d3-demo}
      modes: [scratch, naive]     # and sizes, seeds, production, runs, upgrade, ...

    Next: `aiida-mlfinetune status PK`, and `aiida-mlfinetune report PK` when it is done.
    """  # noqa: D301 - click reads the control character
    from rich.console import Console

    from aiida_mlfinetune.cli.build import study_builder
    from aiida_mlfinetune.cli.display import failure
    from aiida_mlfinetune.cli.session import require_daemon, require_profile
    from aiida_mlfinetune.cli.status import follow
    from aiida_mlfinetune.cli.study import read_study

    require_profile(profile)
    builder = study_builder(read_study(study))
    click.echo(builder.process_class.describe(builder))
    if dry_run:
        return
    require_daemon()
    from aiida.engine import submit

    node = submit(builder)
    click.echo(f"Submitted {node.process_label} <{node.pk}>. Next: `aiida-mlfinetune status {node.pk}`")
    if not wait:
        return
    view = follow(node, Console())
    if not node.is_finished_ok:
        raise click.ClickException(failure(view))
    click.echo(f"Done. Next: `aiida-mlfinetune report {node.pk}`")

"""``aiida-mlfinetune learning-curve``: how few labels are enough, for each way of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from aiida_mlfinetune.cli.study_file import refuse_unknown
from aiida_mlfinetune.common.errors import StudyError

if TYPE_CHECKING:
    from aiida.engine import ProcessBuilder

__all__ = ("learning_curve", "read_settings")

SETTINGS = ("modes", "split", "seeds", "target", "max_concurrent", "training")
MODE = ("mode", "foundation", "replay", "baseline", "heads", "overrides")


@click.command("learning-curve")
@click.argument("dataset", metavar="PK")
@click.option("--level", required=True, metavar="KEY", help="Level of theory to train on, such as 'revpbe-d3/cp2k'.")
@click.option("--mode", "modes", multiple=True, help="Training mode, such as scratch or naive; may be repeated.")
@click.option("--foundation", help="Model that fine-tuning starts from: a known foundation, or the pk of a model node.")
@click.option(
    "--sizes", help="Sizes of the training sets: counts or fractions, such as 10,20,40,80; or kaur2025, or caco3."
)
@click.option("--valid", type=float, help="Size of the validation set: a count, or a fraction.")
@click.option("--test", type=float, help="Size of the test set: a count, or a fraction; 0 for none.")
@click.option("--separation", type=click.IntRange(0), help="Steps between frames of different sets.")
@click.option("--seeds", help="Seeds of the trainings, such as 1,2,3.")
@click.option(
    "--target", "targets", multiple=True, metavar="QUANTITY=VALUE", help="Error that will do, such as forces_meV_A=50."
)
@click.option("--protocol", help="demo, fast, balanced or kaur2025.  [default: balanced]")
@click.option(
    "--settings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file with what differs from the protocol, and with modes that need more than a name.",
)
@click.option("--max-concurrent", type=click.IntRange(1), help="Trainings at a time.")
@click.option("--code", "code_label", default="python@localhost", show_default=True, help="A Python with MACE.")
@click.option("--label", default="", help="Label of the run.")
@click.option("--wait", is_flag=True, help="Show it live until it has ended; Ctrl-C leaves the run alone.")
@click.option("--dry-run", is_flag=True, help="Check everything and print what would be done, but submit nothing.")
@click.option("--profile", help="AiiDA profile.  [default: the default one]")
def learning_curve(
    dataset: str,
    level: str,
    modes: tuple[str, ...],
    foundation: str | None,
    sizes: str | None,
    valid: float | None,
    test: float | None,
    separation: int | None,
    seeds: str | None,
    targets: tuple[str, ...],
    protocol: str | None,
    settings: Path | None,
    max_concurrent: int | None,
    code_label: str,
    label: str,
    wait: bool,
    dry_run: bool,
    profile: str | None,
) -> None:
    """Train on nested sets of the labelled frames PK, in one or more modes, and draw how the errors fall.

    All modes see the same frames: each training set contains the smaller ones, and no frame of it is closer in time to
    a validation frame than the runs remember. A size or a seed that is added later computes only that.

    \b
    For example:
      aiida-mlfinetune learning-curve 1234 --level revpbe-d3/cp2k --mode scratch --mode naive --foundation ice-xtb \\
        --sizes 10,20,40,80 --valid 40 --seeds 1,2,3 --target forces_meV_A=50

    Next: `aiida-mlfinetune status PK`, and `aiida-mlfinetune report PK` for the figure and what it says.
    """  # noqa: D301 - click reads the control character
    from rich.console import Console

    from aiida_mlfinetune.cli.display import failure
    from aiida_mlfinetune.cli.session import load_dataset, require_daemon, require_profile
    from aiida_mlfinetune.cli.status import follow

    require_profile(profile)
    content = {} if settings is None else read_settings(settings)
    split = {"valid": valid, "test": test, "min_separation": separation}
    given = {name: _count(value) for name, value in split.items() if value is not None}
    if max_concurrent is not None:
        content["max_concurrent"] = max_concurrent
    content["split"] = {**content.get("split", {}), **given}
    builder = _builder(
        load_dataset(dataset),
        content,
        code_label,
        level=level,
        modes=modes,
        foundation=foundation,
        protocol=protocol,
        sizes=None if sizes is None else _sizes(sizes),
        seeds=None if seeds is None else _seeds(seeds),
        target=dict(_target(text) for text in targets) or None,
    )
    builder.metadata.label = label
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
    if "curve" in node.outputs:
        click.echo(node.outputs.curve.details["sentence"])
    if not node.is_finished_ok:
        raise click.ClickException(failure(view))
    click.echo(f"Done. Next: `aiida-mlfinetune report {node.pk}`")


def read_settings(path: Path) -> dict[str, Any]:
    """Read and check a file of settings: overrides of ``protocols/learning_curve.yaml``, and ``modes``.

    Raises:
        StudyError: not a YAML mapping, or an unknown key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise StudyError(f"{path} must hold keys and values, such as `seeds: [1, 2, 3]`")
    refuse_unknown(content, SETTINGS, str(path))
    for name, mode in (content.get("modes") or {}).items():
        if not isinstance(mode, Mapping):
            raise StudyError(f"{path}, modes: {name} must hold keys and values, such as `mode: naive`")
        refuse_unknown(mode, MODE, f"{path}, modes, {name}")
    return dict(content)


def _builder(
    dataset: Any,
    content: dict[str, Any],
    code_label: str,
    *,
    modes: tuple[str, ...],
    foundation: str | None,
    **more: Any,
) -> ProcessBuilder:
    from aiida.plugins import WorkflowFactory

    from aiida_mlfinetune.cli.build import find_foundation, quiet
    from aiida_mlfinetune.cli.plan import find_code

    described = content.pop("modes", None)
    if described and modes:
        raise StudyError(f"modes are given twice: {list(modes)} with --mode, and {list(described)} in the settings")
    start = None if foundation is None else find_foundation(foundation)
    chosen: Any = {name: _mode(own) for name, own in described.items()} if described else list(modes)
    if not chosen:
        chosen = ["scratch"] if start is None else ["scratch", "naive"]
    with quiet():
        return WorkflowFactory("mlfinetune.learning_curve").get_builder_from_protocol(
            find_code(code_label), dataset, modes=chosen, foundation=start, overrides=content, **more
        )


def _mode(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a mode with nodes in place of their names and numbers."""
    from aiida_mlfinetune.cli.build import find_foundation
    from aiida_mlfinetune.cli.session import load_dataset

    made = dict(own)
    for name in ("foundation", "baseline"):
        if name in made:
            made[name] = find_foundation(str(made[name]))
    if "replay" in made:
        made["replay"] = load_dataset(str(made["replay"]))
    return made


def _sizes(text: str) -> str | list[float]:
    if text[:1].isalpha():
        return text
    try:
        return [_count(float(part)) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"--sizes takes numbers, or the name of published sizes, got {text!r}") from None


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"--seeds takes whole numbers, got {text!r}") from None


def _target(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise click.BadParameter(f"--target takes QUANTITY=VALUE, got {text!r}") from None


def _count(value: float) -> float:
    """Return a whole number of frames as such."""
    return int(value) if value == int(value) else value

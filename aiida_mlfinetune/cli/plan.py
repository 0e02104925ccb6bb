"""``aiida-mlfinetune plan``: what labelling a set of frames costs, from a pilot of three of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiida.engine import ProcessBuilder
    from aiida.orm import AbstractCode, ProcessNode

    from aiida_mlfinetune.data.dataset import DatasetData
    from aiida_mlfinetune.science.plans.labelling import Composition, Plan, Range
    from aiida_mlfinetune.workchains.labelling.pilot import Labelling

__all__ = ("plan",)


@click.command()
@click.argument("dataset")
@click.option("--level", required=True, help="Name of the level of theory, such as 'revpbe-d3'.")
@click.option("--code", "code_label", required=True, help="Code of the level's engine, such as 'cp2k@cluster'.")
@click.option("--model", help="Model node (pk or uuid) for a level that reads one.")
@click.option("--protocol", help="Protocol of the labelling: demo, fast, balanced, kaur2025.  [default: balanced]")
@click.option("--frames-per-job", type=click.IntRange(1), help="Frames of a job, at most.  [default: as many as fit]")
@click.option("--max-concurrent", type=click.IntRange(1), default=2, show_default=True, help="Jobs at a time.")
@click.option(
    "--wallclock",
    type=click.FloatRange(min=0, min_open=True),
    default=24.0,
    show_default=True,
    help="Hours that a job may take.",
)
@click.option("--machines", type=click.IntRange(1), default=1, show_default=True, help="Machines of a job.")
@click.option("--mpi", type=click.IntRange(1), default=1, show_default=True, help="MPI processes a machine.")
@click.option("--threads", type=click.IntRange(1), help="Threads of a process.  [default: those of the code]")
@click.option(
    "--option",
    "extra",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other option of the scheduler, such as queue_name=long; can be repeated.",
)
@click.option("--pilot", metavar="PK", help="Use this labelling, of frames of the same set, as the pilot; run none.")
@click.option("--here", is_flag=True, help="Run the pilot in this process instead of in the daemon.")
@click.option("--profile", help="AiiDA profile.  [default: the default one]")
def plan(
    dataset: str,
    level: str,
    code_label: str,
    model: str | None,
    protocol: str | None,
    frames_per_job: int | None,
    max_concurrent: int,
    wallclock: float,
    machines: int,
    mpi: int,
    threads: int | None,
    extra: tuple[str, ...],
    pilot: str | None,
    here: bool,
    profile: str | None,
) -> None:
    """Label three frames of DATASET as a pilot, and predict what the whole set costs.

    DATASET is a dataset (pk or uuid), or a file of structures that ASE reads. The pilot takes neighbouring frames, so
    that they start from the wave functions of one another as in the real jobs; three of each composition. Predicted,
    each with a range, are core hours, wall time and memory; and how many frames to put into a job.

    \b
    For example:
      aiida-mlfinetune plan frames.xyz --level revpbe-d3 --code cp2k@cluster --mpi 16 --max-concurrent 10

    Next: label the set with the inputs that are printed; the labels of the pilot are kept.
    """  # noqa: D301 - click reads the control character
    from aiida_mlfinetune.cli.build import quiet
    from aiida_mlfinetune.cli.session import require_daemon, require_profile
    from aiida_mlfinetune.cli.waiting import run_to_end

    require_profile(profile)
    from aiida_mlfinetune.science.plans.labelling import compositions, make_plan, piloted
    from aiida_mlfinetune.workchains.labelling.pilot import (
        Labelling,
        level_notes,
        mixes_compositions,
        pilot_builder,
        pilot_costs,
    )

    node = find_dataset(dataset)
    groups = compositions(node.frames)
    labelling = Labelling(
        code=find_code(code_label),
        level=level,
        protocol=protocol,
        max_concurrent=max_concurrent,
        options=scheduler_options(wallclock, machines, mpi, threads, extra),
        model=_model(model),
    )
    labelling.check_level()
    for line in level_notes(level):
        click.echo(f"Measured at {level}: {line}.")
    if pilot is None:
        chosen = piloted(groups)
        with quiet():
            builder = pilot_builder(labelling, node, chosen)
        if not here:
            require_daemon()
        click.echo(f"Dataset {node.pk}: {node.n_frames} frames. Pilot: {_listed(chosen)}.")
        later = "; when it has ended, repeat the command with `--pilot {pk}`"
        process = run_to_end(builder, "the pilot", later, here=here)
    else:
        with quiet():
            process = earlier_pilot(pilot, labelling.builder(node, 1))
    costs, cores = pilot_costs(process, node, groups)
    result = make_plan(
        groups,
        costs,
        cores=cores,
        wallclock_s=3600 * wallclock,
        max_concurrent=max_concurrent,
        frames_per_job=1 if labelling.by_vasp else frames_per_job,
        mixed=mixes_compositions(process.inputs.level.get_dict()),
    )
    for line in plan_lines(result, wallclock, max_concurrent):
        click.echo(line)
    for line in next_lines(result, process, node, labelling):
        click.echo(line)


def find_dataset(source: str) -> DatasetData:
    """Return the dataset with a pk or uuid, or one of the structures in a file.

    Raises:
        click.ClickException: no such node, or another kind of node.
        StudyError: a file that ASE cannot read.
        FramesError: frames that cannot be computed.
    """
    from aiida_mlfinetune.cli.session import load_dataset

    path = Path(source)
    if not path.is_file():
        if path.suffix or "/" in source:
            raise click.ClickException(f"there is no file {source}, and a dataset is named by its pk or uuid")
        return load_dataset(source)
    from aiida.orm import QueryBuilder
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError

    from aiida_mlfinetune.common.errors import StudyError
    from aiida_mlfinetune.data.dataset import DatasetData
    from aiida_mlfinetune.science.datasets.checks import check_frames
    from aiida_mlfinetune.science.datasets.frames import Frames

    try:
        images = read(path, index=":")
    except (UnknownFileTypeError, ValueError, KeyError, IndexError, StopIteration, AssertionError, OSError) as error:
        raise StudyError(
            f"{path} cannot be read as structures ({type(error).__name__}: {error}): use a format that ASE knows, such "
            "as extended XYZ"
        ) from error
    frames = Frames.from_atoms(images, source=path.name)
    check_frames(frames)
    made = DatasetData(frames)
    known = QueryBuilder().append(DatasetData, filters={f"attributes.{DatasetData.KEY_HASH}": made.content_hash})
    found: DatasetData | None = known.first(flat=True)
    return made.store() if found is None else found


def scheduler_options(
    wallclock_h: float, machines: int = 1, mpi: int = 1, threads: int | None = None, extra: Sequence[str] = ()
) -> dict[str, Any]:
    """Return AiiDA's options of a job; ``extra`` are ``name=value``, values in YAML.

    Raises:
        StudyError: an extra option that is not of that form.
    """
    import yaml

    from aiida_mlfinetune.common.errors import StudyError

    options: dict[str, Any] = {
        "resources": {"num_machines": machines, "num_mpiprocs_per_machine": mpi},
        "max_wallclock_seconds": round(3600 * wallclock_h),
    }
    if machines * mpi > 1:
        options["withmpi"] = True
    if threads is not None:
        options["resources"]["num_cores_per_mpiproc"] = threads
        options["prepend_text"] = f"export OMP_NUM_THREADS={threads}"
    for entry in extra:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise StudyError(f"--option {entry!r} is not of the form NAME=VALUE, as queue_name=long")
        options[name] = yaml.safe_load(value)
    return options


def earlier_pilot(identifier: str, wanted: ProcessBuilder) -> ProcessNode:
    """Return a labelling that has ended, if it was made at the level that is ``wanted``.

    Raises:
        click.ClickException: another kind of process, one that runs, or another level.
    """
    from aiida_mlfinetune.cli.session import load_process

    node = load_process(identifier)
    if "level" not in node.inputs or "dataset" not in node.inputs:
        raise click.ClickException(f"process {identifier} is a {node.process_label}, not a labelling")
    if not node.is_terminated:
        raise click.ClickException(f"process {identifier} still runs: `aiida-mlfinetune status {identifier}`")
    made, asked = node.inputs.level.get_dict(), wanted.level.get_dict()
    if made != asked:
        raise click.ClickException(
            f"process {identifier} labelled at level {made['key']!r} with other settings than those asked for "
            f"({asked['key']!r}): run a pilot at this level, without --pilot"
        )
    return node


def plan_lines(result: Plan, wallclock_h: float, max_concurrent: int) -> list[str]:
    """Return the prediction, line by line."""
    from aiida_mlfinetune.cli.display import duration

    cores = "1 core" if result.cores == 1 else f"{result.cores} cores"
    fit = f"{result.most_frames_per_job} would fit into {wallclock_h:g} h"
    together = min(max_concurrent, result.n_jobs)
    lines = [
        "",
        f"{result.n_frames} frames:",
        f"  frames per job  {result.frames_per_job} at most, {fit}",
        f"  jobs            {result.n_jobs} of {cores}, {together} at a time",
        f"  core hours      {_ranged(result.core_hours, lambda hours: f'{hours:.3g}')}",
        f"  wall time       {_ranged(result.wall_s, duration)}, without waiting in queues",
        f"  longest job     {_ranged(result.job_s, duration)}",
    ]
    if result.memory is None:
        lines.append("  memory          not told by the program")
    else:
        used, wanted = result.memory.estimate, result.memory.high
        lines.append(f"  memory          {used:.0f} MiB a job in the pilot; ask for {wanted:.0f} MiB")
    if result.frames_per_job > result.most_frames_per_job:
        lines.append(
            f"Warning: {result.frames_per_job} frames may not end within {wallclock_h:g} h; take "
            f"{result.most_frames_per_job} a job. What a job does not come to gets another one."
        )
    return lines


def next_lines(result: Plan, process: ProcessNode, dataset: DatasetData, labelling: Labelling) -> list[str]:
    """Return what to do with the plan, line by line."""
    overrides = {"frames_per_job": result.frames_per_job, "max_concurrent": labelling.max_concurrent}
    chain = "mlfinetune.labelling"
    if labelling.by_vasp:
        chain, overrides = "mlfinetune.vasp_label", {"max_concurrent": labelling.max_concurrent}
    model = "" if labelling.model is None else f", model=load_node({labelling.model.pk})"
    lines = [""]
    failed = process.outputs.failed.get_dict() if "failed" in process.outputs else {}
    lines += [f"Frame {index} of the pilot has no label: {entry['reason']}" for index, entry in failed.items()]
    if "dataset" in process.outputs:
        lines.append(
            f"The labels of the pilot are kept, in dataset {process.outputs.dataset.pk} (process {process.pk})."
        )
    return [
        *lines,
        "Next: label the whole set, in `verdi shell`:",
        "  from aiida.engine import submit",
        "  from aiida.plugins import WorkflowFactory",
        f"  code, frames = load_code({labelling.code.full_label!r}), load_node({dataset.pk})",
        f"  overrides, options = {overrides!r}, {labelling.options!r}",
        f"  arguments = code, frames, {labelling.level!r}, {labelling.protocol!r}, overrides, options",
        f"  submit(WorkflowFactory({chain!r}).get_builder_from_protocol(*arguments{model}))",
    ]


def _ranged(value: Range, text: Any) -> str:
    low, estimate, high = text(value.low), text(value.estimate), text(value.high)
    return f"{estimate} ({low} to {high})"


def _listed(groups: Sequence[Composition]) -> str:
    return ", ".join(f"{len(group.pilot)} frames of {group.name}" for group in groups)


def find_code(label: str) -> AbstractCode:
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    try:
        return load_code(label)
    except (NotExistent, MultipleObjectsError, ValueError) as error:
        raise click.ClickException(
            f"there is no code {label!r}: run `aiida-mlfinetune setup`, or name another one (`verdi code list` shows "
            f"them); {error}"
        ) from error


def _model(identifier: str | None) -> Any:
    from aiida_mlfinetune.cli.session import load_any_node
    from aiida_mlfinetune.data.model import MaceModelData

    if identifier is None:
        return None
    node = load_any_node(identifier)
    if not isinstance(node, MaceModelData):
        raise click.ClickException(f"node {identifier} is a {type(node).__name__}, not a model")
    return node

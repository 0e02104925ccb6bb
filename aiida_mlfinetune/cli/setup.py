"""``aiida-mlfinetune setup``: the profile, the computer and the codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aiida_mlfinetune.cli.programs import PROGRAMS, Program, environment_text

if TYPE_CHECKING:
    from aiida.manage.configuration.profile import Profile
    from aiida.orm import Computer, InstalledCode

__all__ = ("SetupResult", "make_ready", "setup")

CACHED = ("aiida.calculations:cp2k", "aiida*mlfinetune*")
"""What is answered from AiiDA's cache in a profile that caches nothing by default.

The second stands for entry points (``aiida.calculations:mlfinetune.ipi``) and for calcfunctions (by module); AiiDA
accepts patterns of modules only if they start like the name of an entry point group.
"""


@dataclass(frozen=True)
class SetupResult:
    """What ``make_ready`` found or made.

    Attributes:
        profile: name of the profile.
        codes: full label of the code of each program found, by the program's label.
        missing: the programs that are not on this machine.
        messages: what was found or made, for the terminal.
    """

    profile: str
    codes: dict[str, str]
    missing: tuple[Program, ...]
    messages: tuple[str, ...]


def make_ready(
    profile: str | None = None, paths: dict[str, Path] | None = None, threads: int = 1, computer: str = "localhost"
) -> SetupResult:
    """Find or make the profile, the computer and the codes; what is there already is left as it is.

    Args:
        profile: name of the profile; by default the default one, and ``mlfinetune`` where there is none.
        paths: executables by the label of the program; the others are looked up.
        threads: OpenMP threads of each process.
        computer: label of the computer in the profile that stands for this machine.
    """
    messages: list[str] = []
    loaded = _ensure_profile(profile, messages)
    _ensure_caching(loaded, messages)
    machine = _ensure_computer(computer, messages)
    codes, missing = {}, []
    for program in PROGRAMS:
        given = (paths or {}).get(program.label)
        code = _ensure_code(program, machine, given, threads, messages)
        if code is None:
            missing.append(program)
        else:
            codes[program.label] = code.full_label
    return SetupResult(loaded.name, codes, tuple(missing), tuple(messages))


def _ensure_profile(name: str | None, messages: list[str]) -> Profile:
    from aiida.common.exceptions import MissingConfigurationError
    from aiida.manage.configuration import create_profile, get_config, get_profile, load_profile
    from aiida.plugins import BrokerFactory

    current = get_profile()
    if current is not None and name in (None, current.name):
        messages.append(f"profile {current.name}: in use")
        return _check_broker(current, messages)
    try:
        config = get_config(create=False)
    except MissingConfigurationError:
        config = get_config(create=True)
    wanted = name or config.default_profile_name or "mlfinetune"
    if wanted in config.profile_names:
        messages.append(f"profile {wanted}: found in {config.dirpath}")
        return _check_broker(load_profile(wanted, allow_switch=True), messages)
    broker = "core.zeromq"
    create_profile(
        config,
        name=wanted,
        email="aiida@localhost",
        storage_backend="mlfinetune.sqlite_dos",
        storage_config={},
        broker_backend=broker,
        broker_config=BrokerFactory(broker).get_default_config(),
    )
    config.set_option("runner.poll.interval", 1, scope=wanted)
    config.set_option("caching.default_enabled", True, scope=wanted)
    config.set_option("daemon.timeout", 30, scope=wanted)  # 2 s are too short to stop workers on a busy machine
    config.set_default_profile(wanted, overwrite=config.default_profile_name is None)
    config.store()
    messages.append(f"profile {wanted}: made in {config.dirpath} (SQLite, ZeroMQ broker, caching on)")
    return load_profile(wanted, allow_switch=True)


def _check_broker(profile: Profile, messages: list[str]) -> Profile:
    """Return the profile, with a message where nothing can be submitted in it."""
    if profile.process_control_backend is None:
        messages.append(
            f"profile {profile.name} has no broker, so that nothing can be submitted to a daemon: run "
            f"`verdi profile configure-broker core.zeromq -p {profile.name}`"
        )
    return profile


def _ensure_caching(profile: Profile, messages: list[str]) -> None:
    """Make the profile answer our calculations from its cache."""
    from aiida.manage.configuration import get_config

    config = get_config()
    if config.get_option("caching.default_enabled", scope=profile.name):
        return
    enabled = list(config.get_option("caching.enabled_for", scope=profile.name))
    if new := [pattern for pattern in CACHED if pattern not in enabled]:
        config.set_option("caching.enabled_for", enabled + new, scope=profile.name)
        config.store()
        messages.append(f"caching: switched on for {', '.join(new)} (restart a running daemon to make it take effect)")


def _ensure_computer(label: str, messages: list[str]) -> Computer:
    from aiida.common.exceptions import NotExistent
    from aiida.manage.configuration import get_config, get_profile
    from aiida.orm import Computer, User, load_computer

    try:
        machine = load_computer(label)
        messages.append(f"computer {label}: found")
    except NotExistent:
        scratch = Path(get_config().dirpath) / "scratch" / get_profile().name
        machine = Computer(
            label=label,
            hostname="localhost",
            description="This machine, set up by aiida-mlfinetune",
            transport_type="core.local",
            scheduler_type="core.direct",
            workdir=str(scratch),
        ).store()
        machine.set_minimum_job_poll_interval(1)
        machine.set_default_mpiprocs_per_machine(1)
        messages.append(f"computer {label}: made, jobs run below {scratch}")
    if not machine.is_user_configured(User.collection.get_default()):
        # Jobs inherit the environment of the daemon's shell, in which the programs were found; a login shell would be
        # started for every command instead, at a second each on some machines.
        machine.configure(safe_interval=0, use_login_shell=False)
    return machine


def _ensure_code(
    program: Program, machine: Computer, given: Path | None, threads: int, messages: list[str]
) -> InstalledCode | None:
    """Return the code of a program, made where it is missing or where its executable is another or gone."""
    from aiida.common.exceptions import NotExistent
    from aiida.orm import InstalledCode, load_code

    full_label = f"{program.label}@{machine.label}"
    try:
        code = load_code(full_label)
    except NotExistent:
        code = None
    if code is not None:
        path = Path(code.get_executable())
        if given in (None, path) and (path.exists() or machine.transport_type != "core.local"):
            messages.append(f"code {full_label}: found, {path}")
            return code
        retired = f"{program.label}-{code.pk}"
        code.label = retired
        code.is_hidden = True
        messages.append(f"code {full_label}: {path} is replaced; the old code is now {retired}@{machine.label}")
    path = given or program.find()
    if path is None:
        messages.append(f"code {full_label}: MISSING, needed for {program.purpose}; {program.remedy}")
        return None
    code = InstalledCode(
        label=program.label,
        computer=machine,
        filepath_executable=str(path),
        default_calc_job_plugin=program.plugin,
        description=f"For {program.purpose}",
        prepend_text=environment_text(program, threads),
        with_mpi=False if program.runs_serially(path) else None,
    ).store()
    messages.append(f"code {full_label}: made, {path}")
    return code


@click.command()
@click.option("--profile", help="AiiDA profile to use or make.  [default: the default one, else 'mlfinetune']")
@click.option(
    "--cp2k", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CP2K executable, if not on PATH."
)
@click.option(
    "--python",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Python with mace-torch.  [default: the one that runs this command]",
)
@click.option(
    "--i-pi",
    "i_pi",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="i-PI executable, of an environment with mace-torch, if not on PATH.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="OpenMP threads of each process.")
def setup(profile: str | None, cp2k: Path | None, python: Path | None, i_pi: Path | None, threads: int) -> None:
    """Make this machine ready: AiiDA profile, computer and the codes cp2k, python and i-pi.

    Uses the AiiDA profile of the folder that AIIDA_PATH names (by default ~/.aiida) and makes one where there is none;
    no service has to be installed. It can be repeated at any time: what is there already stays. Codes on a cluster are
    made with `verdi computer setup` and `verdi code create`; the page "Use your own codes" of the documentation says
    how.

    Next: `verdi daemon start 2`, then `aiida-mlfinetune demo` or `aiida-mlfinetune run STUDY.yaml`.
    """
    given = {"cp2k": cp2k, "python": python, "i-pi": i_pi}
    paths = {label: path.absolute() for label, path in given.items() if path is not None}
    result = make_ready(profile, paths, threads)
    for message in result.messages:
        click.echo(message)
    if result.missing:
        labels = ", ".join(program.label for program in result.missing)
        raise click.ClickException(f"programs are missing: {labels}. See above, then repeat `aiida-mlfinetune setup`")
    click.echo("Ready. Next: `aiida-mlfinetune demo`, or `verdi daemon start 2` and `aiida-mlfinetune run STUDY.yaml`.")

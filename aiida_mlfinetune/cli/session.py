"""What several commands share: the profile, nodes by identifier, and the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aiida.orm import Node, ProcessNode

    from aiida_mlfinetune.data.dataset import DatasetData
    from aiida_mlfinetune.data.model import MaceModelData

__all__ = ("load_any_node", "load_dataset", "load_model", "load_process", "require_daemon", "require_profile")


def require_profile(name: str | None = None) -> str:
    """Load the AiiDA profile ``name``, by default the default one, and return its name.

    Raises:
        click.ClickException: there is no such profile.
    """
    from aiida.common.exceptions import ConfigurationError, ProfileConfigurationError
    from aiida.manage.configuration import get_profile, load_profile

    if name is None and (current := get_profile()) is not None:
        return current.name
    try:
        return load_profile(name).name
    except (ConfigurationError, ProfileConfigurationError) as error:
        wanted = "" if name is None else f" {name!r}"
        raise click.ClickException(
            f"there is no AiiDA profile{wanted} here ({error}). Run `aiida-mlfinetune setup` first, or set AIIDA_PATH "
            "to the folder whose .aiida holds the profile"
        ) from error


def require_daemon() -> None:
    """Check that the daemon runs, without which a submission is refused.

    Raises:
        click.ClickException: it does not run.
    """
    from aiida.engine.daemon.client import get_daemon_client

    if not get_daemon_client().is_daemon_running:
        raise click.ClickException("the daemon of this profile does not run: start it with `verdi daemon start 2`")


def load_any_node(identifier: str) -> Node[Any, Any]:
    """Return the node with a pk or uuid.

    Raises:
        click.ClickException: no such node.
    """
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_node

    try:
        return load_node(int(identifier) if identifier.isdigit() else identifier)
    except (NotExistent, MultipleObjectsError, ValueError) as error:
        raise click.ClickException(
            f"no node {identifier!r} in this profile: `verdi process list -a` shows what there is"
        ) from error


def load_dataset(identifier: str) -> DatasetData:
    """Return the dataset with a pk or uuid.

    Raises:
        click.ClickException: no such node, or another kind of node.
    """
    from aiida_mlfinetune.data.dataset import DatasetData

    node = load_any_node(identifier)
    if not isinstance(node, DatasetData):
        raise click.ClickException(f"node {identifier} is a {type(node).__name__}, not a dataset")
    return node


def load_model(identifier: str) -> MaceModelData:
    """Return the model with a pk or uuid.

    Raises:
        click.ClickException: no such node, or another kind of node.
    """
    from aiida_mlfinetune.data.model import MaceModelData

    node = load_any_node(identifier)
    if not isinstance(node, MaceModelData):
        raise click.ClickException(f"node {identifier} is a {type(node).__name__}, not a model")
    return node


def load_process(identifier: str) -> ProcessNode:
    """Return the process with a pk or uuid, or the outermost process that made the data node with it.

    Raises:
        click.ClickException: no such node, or one that no process made.
    """
    from aiida.orm import ProcessNode

    node = load_any_node(identifier)
    process = node if isinstance(node, ProcessNode) else node.creator
    if process is None:
        raise click.ClickException(f"node {identifier} is data that no process made: give the pk of a process")
    if not isinstance(node, ProcessNode):
        while process.caller is not None:
            process = process.caller
    return process

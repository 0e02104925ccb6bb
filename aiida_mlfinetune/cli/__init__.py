"""The console script; AiiDA is imported inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from aiida_mlfinetune import __version__
from aiida_mlfinetune.common.errors import MlFinetuneError

__all__ = ("main",)

COMMANDS = {
    "setup": "aiida_mlfinetune.cli.setup:setup",
    "demo": "aiida_mlfinetune.cli.demo:demo",
    "run": "aiida_mlfinetune.cli.run:run",
    "plan": "aiida_mlfinetune.cli.plan:plan",
    "learning-curve": "aiida_mlfinetune.cli.learning_curve:learning_curve",
    "reweight": "aiida_mlfinetune.cli.reweight:reweight",
    "status": "aiida_mlfinetune.cli.status:status",
    "report": "aiida_mlfinetune.cli.report:report",
    "dataset": "aiida_mlfinetune.cli.dataset:dataset",
    "model": "aiida_mlfinetune.cli.model:model",
}
"""Where each command lives; a module is imported when its command is called or listed."""


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for, and shows a user's errors without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """Return the commands in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a mistake in a user's input ends in its message alone."""
        try:
            return super().invoke(ctx)
        except MlFinetuneError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aiida-mlfinetune")
def main() -> None:
    """From a crystal to its finite-temperature properties, with MACE models fine-tuned on CP2K.

    \b
    New here?
      aiida-mlfinetune setup            finds or makes an AiiDA profile and the codes
      aiida-mlfinetune demo             the whole chain for a small ice crystal, in some ten minutes
      aiida-mlfinetune run STUDY.yaml   the same for a crystal of your own
      aiida-mlfinetune plan DATASET     what labelling a set of frames costs, before paying for it
      aiida-mlfinetune learning-curve DATASET   how few labels are enough, for each way of training
      aiida-mlfinetune reweight PK      what a run's averages are at the reference level
      aiida-mlfinetune status PK        how far a run is
      aiida-mlfinetune report PK        its results as one HTML page

    All of it lives in the AiiDA profile of the folder that AIIDA_PATH names (by default your home folder), and can be
    inspected with `verdi` as usual.
    """  # noqa: D301 - click reads the control character
    # The daemon is started through the `verdi` beside this Python, also where the environment is not activated.
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", "")])

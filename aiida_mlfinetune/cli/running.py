"""How far a running job is, read from its working folder through the computer's transport."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aiida_mlfinetune.parsers.raw.progress import Progress, finished_epochs, last_row, last_step

if TYPE_CHECKING:
    from aiida.orm import CalcJobNode
    from aiida.transports import Transport

__all__ = ("RunningJobs", "planned")

TAIL_BYTES = 4096


@dataclass(frozen=True)
class Reader:
    """Where a program writes how far it is.

    Attributes:
        pattern: shell pattern of the file in the working folder, of which the newest match is read; None for a program
            that says nothing before it ends.
        parse: turns the end of that file into (done, total); total None takes the one of the inputs.
        unit: what is counted.
        total: the planned amount of work, from the inputs of the process.
    """

    pattern: str | None
    parse: Callable[[str], tuple[int, int | None] | None]
    unit: str
    total: Callable[[CalcJobNode], int | None]


def _step(text: str) -> tuple[int, int | None] | None:
    step = last_step(text)
    return None if step is None else (step, None)


def _rows(text: str) -> tuple[int, int | None] | None:
    rows = last_row(text)
    return None if rows is None else (rows, None)


def _lookup(mapping: Any, *keys: str) -> Any:
    """Return a nested value whatever the case of its keys, None where it is missing."""
    for key in keys:
        if not isinstance(mapping, dict):
            return None
        mapping = next((value for name, value in mapping.items() if str(name).upper() == key.upper()), None)
    return mapping


def _cp2k_steps(node: CalcJobNode) -> int | None:
    steps = _lookup(node.inputs.parameters.get_dict(), "MOTION", "MD", "STEPS") if "parameters" in node.inputs else None
    return None if steps is None else int(steps)


def _n_frames(node: CalcJobNode) -> int | None:
    for name in ("dataset", "frames"):
        if name in node.inputs:
            return int(node.inputs[name].base.attributes.get("n_frames"))
    return None


def _n_steps(node: CalcJobNode) -> int | None:
    steps = _lookup(node.inputs.parameters.get_dict(), "n_steps") if "parameters" in node.inputs else None
    return None if steps is None else int(steps)


READERS = {
    "Cp2kCalculation": Reader("*.ener", _step, "MD steps", _cp2k_steps),
    "Cp2kMdCalculation": Reader("*.ener", _step, "MD steps", _cp2k_steps),
    "Cp2kLabelCalculation": Reader("*.ener", _step, "frames", _n_frames),
    "AseLabelCalculation": Reader("labels.jsonl", _rows, "frames", _n_frames),
    "MaceEvaluateCalculation": Reader("progress.txt", _step, "frames", _n_frames),
    "MaceDescriptorsCalculation": Reader("progress.txt", _step, "frames", _n_frames),
    "MaceTrainCalculation": Reader("progress.json", finished_epochs, "epochs", lambda _: None),
    "IpiCalculation": Reader("*.properties", _step, "MD steps", _n_steps),
}
"""By the name of the calculation's class."""


def planned(node: CalcJobNode) -> tuple[int | None, str] | None:
    """Return the planned amount of work of a job and its unit, None for a job of another kind."""
    reader = READERS.get(node.process_label or "")
    return None if reader is None else (reader.total(node), reader.unit)


class RunningJobs:
    """Reads the progress of running jobs; keeps one connection per computer open while it is in use.

    Args:
        interval: time in s for which an answer about a job on another machine is kept.
    """

    def __init__(self, interval: float = 20.0) -> None:
        self._interval = interval
        self._stack = contextlib.ExitStack()
        self._transports: dict[int, Transport] = {}
        self._answers: dict[int, tuple[float, Progress | None]] = {}

    def __enter__(self) -> RunningJobs:
        """Start to keep connections."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all connections."""
        self._stack.close()
        self._transports.clear()

    def progress(self, node: CalcJobNode) -> Progress | None:
        """Return how far a job is, None where it has not started or its program is unknown."""
        reader, folder = READERS.get(node.process_label or ""), node.get_remote_workdir()
        if reader is None or reader.pattern is None or folder is None or node.pk is None:
            return None
        asked, answer = self._answers.get(node.pk, (float("-inf"), None))
        if node.computer.transport_type != "core.local" and time.monotonic() - asked < self._interval:
            return answer
        counted = reader.parse(self._tail(node, folder, reader.pattern))
        if counted is not None:
            done, total = counted
            answer = Progress(done, total if total is not None else reader.total(node), reader.unit)
        self._answers[node.pk] = (time.monotonic(), answer)
        return answer

    def _tail(self, node: CalcJobNode, folder: str, pattern: str) -> str:
        """Return the end of the newest file that matches, an empty text where there is none."""
        command = f'cd {shlex.quote(folder)} && tail -c {TAIL_BYTES} -- "$(ls -t {pattern} | head -n 1)"'
        code, output, _ = self._transport(node).exec_command_wait(command)
        return output if code == 0 else ""

    def _transport(self, node: CalcJobNode) -> Transport:
        key = node.computer.pk
        if key not in self._transports:
            self._transports[key] = self._stack.enter_context(node.get_transport())
        return self._transports[key]

"""How far a running program is, read from the last lines of the files it writes."""

from __future__ import annotations

import json
from dataclasses import dataclass

__all__ = ("Progress", "finished_epochs", "last_row", "last_step", "seconds_left")


@dataclass(frozen=True)
class Progress:
    """Units of work done so far.

    Attributes:
        done: finished units.
        total: units of the whole job, None where unknown.
        unit: what is counted: ``frames``, ``epochs`` or ``MD steps``.
    """

    done: int
    total: int | None
    unit: str

    @property
    def fraction(self) -> float | None:
        """Share of the work that is done, in [0, 1]; None where the total is unknown."""
        return min(self.done / self.total, 1.0) if self.total else None

    def __str__(self) -> str:
        """Return such as ``12 of 20 frames``."""
        return f"{self.done} of {self.total} {self.unit}" if self.total else f"{self.done} {self.unit}"


def last_step(tail: str) -> int | None:
    """Return the step of the last complete line of a table whose first column is a step.

    This is the layout of CP2K's ``*.ener`` files, where the step is an integer, and of i-PI's property files, where it
    is written as ``1.00000000e+02``; comments start with ``#``. A last line without its newline is still being
    written and is not counted.

    Args:
        tail: the end of the file; its first line may be cut.
    """
    for line in reversed(_complete_lines(tail)):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            return int(float(fields[0]))
        except ValueError:
            continue
    return None


def last_row(tail: str) -> int | None:
    """Return the number of rows in a file of JSON lines, from the ``index`` (from 0) of the last complete one."""
    for line in reversed(_complete_lines(tail)):
        try:  # the first line may be cut
            return int(json.loads(line)["index"]) + 1
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return None


def finished_epochs(text: str) -> tuple[int, int] | None:
    """Return the finished and the planned epochs from the ``progress.json`` of a training, None while it is unreadable.

    The file holds ``epoch``, the last validated one counted from 0, and ``max_num_epochs``.
    """
    try:
        content = json.loads(text)
        return int(content["epoch"]) + 1, int(content["max_num_epochs"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


def seconds_left(progress: Progress, elapsed: float) -> float | None:
    """Return an estimate of the remaining wall time in s from the ``elapsed`` one, None where nothing is known yet."""
    if not progress.total or progress.done <= 0:
        return None
    return elapsed * max(progress.total - progress.done, 0) / progress.done


def _complete_lines(tail: str) -> list[str]:
    return tail.split("\n")[:-1]

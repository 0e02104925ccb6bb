"""The programs that the work chains need, and where they are on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ("PROGRAMS", "Program", "environment_text")


@dataclass(frozen=True)
class Program:
    """A program that becomes one AiiDA code.

    Attributes:
        label: of the code.
        plugin: default calculation plugin of the code.
        executables: names under which it is installed, the preferred one first.
        purpose: what it is needed for.
        remedy: what to do where it is missing.
        serial: names of executables (or all, if the set holds ``*``) that must not be started through MPI.
    """

    label: str
    plugin: str
    executables: tuple[str, ...]
    purpose: str
    remedy: str
    serial: frozenset[str] = frozenset()

    def find(self) -> Path | None:
        """Return the program beside this Python or on PATH, None if it is in neither place."""
        if self.label == "python":
            return Path(sys.executable)
        for name in self.executables:
            beside = Path(sys.executable).with_name(name)
            if beside.is_file() and os.access(beside, os.X_OK):
                return beside
            if found := shutil.which(name):
                return Path(found)
        return None

    def runs_serially(self, path: Path) -> bool:
        """Return whether the executable must not be started through MPI."""
        return "*" in self.serial or path.name in self.serial


PROGRAMS = (
    Program(
        label="cp2k",
        plugin="cp2k",
        executables=("cp2k.psmp", "cp2k.popt", "cp2k.ssmp", "cp2k.sopt", "cp2k"),
        purpose="ab initio MD and labels",
        remedy="install it (Debian: `apt-get install cp2k cp2k-data`), or name it with --cp2k /path/to/cp2k.psmp",
        serial=frozenset({"cp2k.ssmp", "cp2k.sopt"}),
    ),
    Program(
        label="python",
        plugin="mlfinetune.mace_train",
        executables=("python3",),
        purpose="training and evaluating MACE models",
        remedy="name a Python in whose environment mace-torch is installed with --python",
        serial=frozenset({"*"}),
    ),
    Program(
        label="i-pi",
        plugin="mlfinetune.ipi",
        executables=("i-pi",),
        purpose="dynamics with the models",
        remedy="install it (`pip install ipi`) beside mace-torch, or name it with --i-pi /path/to/i-pi",
        serial=frozenset({"*"}),
    ),
)


def environment_text(program: Program, threads: int) -> str:
    """Return the shell lines that a program needs before it starts."""
    lines = [f"export OMP_NUM_THREADS={threads}"]
    if program.label == "cp2k":
        # OpenMPI binds every job to the first cores of a machine: two jobs side by side would share one core.
        lines.append("export OMPI_MCA_hwloc_base_binding_policy=none")
        if data := os.environ.get("CP2K_DATA_DIR"):
            lines.append(f"export CP2K_DATA_DIR={data}")
        if os.geteuid() == 0:
            lines += ["export OMPI_ALLOW_RUN_AS_ROOT=1", "export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"]
    return "\n".join(lines) + "\n"

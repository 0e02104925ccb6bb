"""A profile with a daemon of its own, driven by the command line as a user drives it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Place:
    """A folder with an AiiDA profile."""

    folder: Path

    def call(self, program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in this folder."""
        environment = {
            **os.environ,
            "AIIDA_PATH": str(self.folder),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        done = subprocess.run(
            [BIN / program, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{program} {arguments}:\n{done.stdout}\n{done.stderr}"
        return done

    def run_to_its_end(self, name: str, content: dict) -> int:
        """Run a study of this content and wait for it; returns its pk."""
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        pk = int(re.search(r"status (\d+)", self.call("aiida-mlfinetune", "run", file).stdout)[1])
        self.call("aiida-mlfinetune", "status", pk, "--follow", check=False)
        return pk

    def ask(self, code: str) -> dict:
        """Run a script with ``verdi run``; return the JSON object in its last line."""
        script = self.folder / "ask.py"
        script.write_text(code, encoding="utf-8")
        return json.loads(self.call("verdi", "run", script).stdout.strip().splitlines()[-1])


@pytest.fixture(scope="package")
def place(tmp_path_factory):
    """A fresh profile, set up by the command line, whose daemon runs."""
    there = Place(tmp_path_factory.mktemp("user"))
    there.call("aiida-mlfinetune", "setup")
    there.call("verdi", "daemon", "start", 2)
    yield there
    there.call("verdi", "daemon", "stop", check=False)

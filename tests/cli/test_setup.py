"""``setup`` finds or makes profile, computer and codes, and can be repeated."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from aiida import orm
from aiida.manage.configuration import get_config
from click.testing import CliRunner

from aiida_mlfinetune.cli import main, programs
from aiida_mlfinetune.cli.programs import PROGRAMS, environment_text
from aiida_mlfinetune.cli.setup import CACHED, make_ready

CP2K, PYTHON, IPI = PROGRAMS


@pytest.fixture
def executable(tmp_path: Path):
    def make(name: str) -> Path:
        path = tmp_path / name
        path.write_text("#!/bin/sh\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    return make


def test_codes_are_made_once(bare_profile):
    first, second = make_ready(), make_ready()
    assert (
        first.codes
        == second.codes
        == {"cp2k": "cp2k@localhost", "python": "python@localhost", "i-pi": "i-pi@localhost"}
    )
    assert not second.missing
    assert not [message for message in second.messages if "made" in message]
    code = orm.load_code("python@localhost")
    assert (str(code.filepath_executable), code.default_calc_job_plugin) == (sys.executable, "mlfinetune.mace_train")
    assert code.with_mpi is False
    assert orm.load_code("cp2k@localhost").with_mpi is None
    assert "export OMP_NUM_THREADS=1" in code.prepend_text
    assert orm.load_computer("localhost").is_configured


def test_caching_is_switched_on_for_our_calculations_only(bare_profile):
    make_ready()
    assert set(CACHED) <= set(get_config().get_option("caching.enabled_for", scope=bare_profile.name))
    assert not get_config().get_option("caching.default_enabled", scope=bare_profile.name)
    from aiida.manage.caching import get_use_cache

    assert get_use_cache(identifier="aiida.calculations:mlfinetune.ipi")
    assert get_use_cache(identifier="aiida_mlfinetune.calculations.functions.thermodynamics.density")
    assert not get_use_cache(identifier="aiida.calculations:core.arithmetic.add")


def test_another_executable_replaces_the_code_and_keeps_the_old_node(bare_profile, executable):
    old = orm.load_code(make_ready().codes["cp2k"])
    given = executable("cp2k.ssmp")
    make_ready(paths={"cp2k": given}, threads=2)
    new = orm.load_code("cp2k@localhost")
    assert (new.uuid != old.uuid, str(new.filepath_executable)) == (True, str(given))
    assert new.with_mpi is False
    assert "export OMP_NUM_THREADS=2" in new.prepend_text
    assert orm.load_node(old.pk).label == f"cp2k-{old.pk}"


def test_a_code_whose_executable_is_gone_is_made_anew(bare_profile, executable):
    given = executable("cp2k.psmp")
    make_ready(paths={"cp2k": given})
    given.unlink()
    assert CP2K.find() is not None
    make_ready()
    assert str(orm.load_code("cp2k@localhost").filepath_executable) == str(CP2K.find())


def test_what_is_missing_is_named_with_the_remedy(bare_profile, monkeypatch):
    monkeypatch.setattr(programs.shutil, "which", lambda _: None)
    monkeypatch.setattr(programs.sys, "executable", "/nowhere/python")
    result = CliRunner().invoke(main, ["setup"])
    assert result.exit_code == 1
    assert "code cp2k@localhost: MISSING" in result.output
    assert "apt-get install cp2k cp2k-data" in result.output
    assert "programs are missing: cp2k, i-pi" in result.output


def test_serial_builds_of_cp2k_are_not_started_through_mpi():
    assert CP2K.runs_serially(Path("/opt/cp2k.ssmp"))
    assert not CP2K.runs_serially(Path("/opt/cp2k.psmp"))
    assert IPI.runs_serially(Path("/opt/i-pi"))


def test_mpi_as_root_is_allowed_only_to_root(monkeypatch):
    monkeypatch.setattr(programs.os, "geteuid", lambda: 0)
    assert "OMPI_ALLOW_RUN_AS_ROOT=1" in environment_text(CP2K, 1)
    monkeypatch.setattr(programs.os, "geteuid", lambda: 1000)
    assert "OMPI_ALLOW_RUN_AS_ROOT" not in environment_text(CP2K, 1)
    assert environment_text(PYTHON, 3) == "export OMP_NUM_THREADS=3\n"


def test_a_new_profile_needs_no_service_and_lies_where_it_should(tmp_path: Path):
    environment = {**os.environ, "AIIDA_PATH": str(tmp_path), "HOME": str(tmp_path / "home")}
    script = Path(sys.executable).with_name("aiida-mlfinetune")
    for expected in ("profile mlfinetune: made in", "profile mlfinetune: found in"):
        done = subprocess.run([script, "setup"], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    config = (tmp_path / ".aiida" / "config.json").read_text(encoding="utf-8")
    assert "core.zeromq" in config
    assert "mlfinetune.sqlite_dos" in config
    assert not (tmp_path / "home" / ".aiida").exists()
    (database,) = (tmp_path / ".aiida" / "repository").glob("*/database.sqlite")
    assert sqlite3.connect(database).execute("PRAGMA journal_mode").fetchone() == ("wal",)

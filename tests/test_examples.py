"""The scripts of ``examples`` make builders that their work chains accept."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from aiida_mlfinetune.calculations.functions.dataset import join
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.crystals.molecules import gas_molecule
from aiida_mlfinetune.science.datasets.frames import Frames

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def closed_loop():
    return runpy.run_path(str(EXAMPLES / "ice_mini" / "closed_loop.py"))


@pytest.mark.parametrize("name", ["ice-ic", "ice-ix"])
def test_the_loop_is_closed_on_the_ices_of_the_study(closed_loop, name, python_code, ipi_code, cp2k_code):
    crystal = closed_loop["CRYSTALS"][name]
    molecule = gas_molecule(crystal)
    frames = join(
        **{
            phase: DatasetData(Frames.from_atoms([atoms] * 4, source=phase, steps=range(4))).store()
            for phase, atoms in (("crystal", crystal), ("gas", molecule))
        }
    )
    codes = {"python_code": python_code, "ipi_code": ipi_code, "reference_code": cp2k_code}
    builder = closed_loop["closing"](name, frames, **codes)
    assert builder.labelling.level["key"] == "revpbe-d3-demo/cp2k"
    assert builder.averages.dynamics_crystal.parameters["n_steps"] == 6000
    assert builder.averages.reweighting.settings["n_frames"] == 40
    assert builder.target.get_dict() == {"sublimation_enthalpy_kJ_mol": 0.5, "density_percent": 1.0}


def test_more_frames_of_ice_are_sampled_with_the_shipped_model(monkeypatch, ipi_code):
    monkeypatch.syspath_prepend(EXAMPLES / "ice_xtb")
    extend = runpy.run_path(str(EXAMPLES / "ice_xtb" / "extend.py"))
    for crystal, seed in extend["CRYSTALS"]:
        builder = extend["sampling"](ipi_code, crystal, seed, 200.0)
        assert builder.dynamics.parameters["temperature_K"] == 200.0
        assert builder.selection["reference_volume_A3"] == pytest.approx(builder.dynamics.structure.get_cell_volume())


def test_ice_viii_is_run_by_cp2k_itself(cp2k_code):
    example = runpy.run_path(str(EXAMPLES / "ice_viii" / "by_cp2k.py"))
    builder = example["sampling"](cp2k_code)
    assert builder.structure.get_formula() == "H16O8"
    assert {**builder.md}.items() >= {"ensemble": "npt-flexible", "n_steps": 4000, "temperature_K": 100.0}.items()

"""``mlfinetune.model_sampling`` with real i-PI."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import run_get_node
from ase.build import molecule

from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.workchains.model_sampling import ModelSamplingWorkChain
from tests.calculations.test_ipi import ice_cell
from tests.workchains.test_dynamics import SHORT

EXIT = ModelSamplingWorkChain.exit_codes


def build(code, model, structure, parameters=None, selection=None, **kwargs):
    overrides = {
        "dynamics": {"parameters": {**SHORT, **(parameters or {})}},
        "selection": {"n_frames": 6, **(selection or {})},
    }
    return ModelSamplingWorkChain.get_builder_from_protocol(
        code, orm.StructureData(ase=structure), model, "demo", overrides, **kwargs
    )


def test_frames_of_quantum_nuclei_are_ready_to_label(ipi_code, tiny_model):
    outputs, node = run_get_node(build(ipi_code, tiny_model, molecule("H2O"), {"n_beads": 2, "thermostat": "pile-g"}))
    assert node.is_finished_ok, node.exit_message
    assert outputs["trajectory"].n_frames == 22
    dataset = outputs["dataset"]
    assert dataset.n_frames == 6
    assert dataset.is_subset
    assert (dataset.frames.steps >= 8).all()  # the fifth that is left out: four of 22 frames
    assert dataset.frames.labels(f"{tiny_model.sha256[:8]}/mace").has_energy.all()
    assert "kinetic_cv_eV" in outputs["properties"].get_arraynames()


def test_a_crystal_can_be_spread_over_volumes(ipi_code, tiny_model):
    builder = build(ipi_code, tiny_model, ice_cell(), selection={"volume_range": [0.95, 1.1]})
    assert builder.selection["reference_volume_A3"] == pytest.approx(ice_cell().get_volume())
    assert (
        build(ipi_code, tiny_model, molecule("H2O"), selection={"volume_range": [0.95, 1.1]}).selection["volume_range"]
        is None
    )


def test_bad_input_is_refused_when_the_builder_is_made(ipi_code, tiny_model, aiida_profile):
    with pytest.raises(StudyError, match="take fewer frames"):
        build(ipi_code, tiny_model, ice_cell(), selection={"n_frames": 40})
    build(ipi_code, tiny_model, molecule("H2O"), {"n_beads": 8, "thermostat": "pile-g"}, {"n_frames": 40})
    with pytest.raises(StudyError, match=r"unknown input 'parameters\.tempreature_K'"):
        build(ipi_code, tiny_model, ice_cell(), {"tempreature_K": 3})
    with pytest.raises(StudyError, match=r"unknown input 'selection\.frames'"):
        build(ipi_code, tiny_model, ice_cell(), selection={"frames": 3})
    with pytest.raises(StudyError, match="moves the cell"):
        build(ipi_code, tiny_model, molecule("H2O"), ensemble="npt-flexible")


def test_failures_are_told_and_what_there_is_is_kept(aiida_profile):
    child = SimpleNamespace(
        outputs={"last_sane": "frame"}, is_finished_ok=False, exit_status=320, exit_message="it exploded"
    )
    kept = {}
    chain = SimpleNamespace(ctx=AttributeDict({"dynamics": child}), exit_codes=EXIT, out=kept.__setitem__)
    code = ModelSamplingWorkChain.inspect_dynamics(chain)
    assert code.status == EXIT.ERROR_DYNAMICS_FAILED.status
    assert "[320] it exploded" in code.message
    assert kept == {"last_sane": "frame"}


def test_too_few_frames(aiida_profile):
    child = SimpleNamespace(outputs=SimpleNamespace(trajectory=SimpleNamespace(n_frames=3)))
    selection = orm.Dict({"n_frames": 6, "method": "random", "seed": 1})
    chain = SimpleNamespace(
        ctx=AttributeDict({"dynamics": child}), exit_codes=EXIT, inputs=AttributeDict({"selection": selection})
    )
    assert ModelSamplingWorkChain.select(chain).status == EXIT.ERROR_TOO_FEW_FRAMES.status


def test_published_numbers(ipi_code, tiny_model):
    builder = ModelSamplingWorkChain.get_builder_from_protocol(
        ipi_code, orm.StructureData(ase=ice_cell()), tiny_model, "kaur2025"
    )
    assert builder.selection["n_frames"] == 500
    parameters = builder.dynamics.parameters
    assert parameters["n_steps"] * parameters["timestep_fs"] == 50000.0
    assert np.isclose(parameters["temperature_K"], 100.0)

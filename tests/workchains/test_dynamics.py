"""``mlfinetune.dynamics`` with real i-PI."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import run_get_node
from ase.build import molecule

from aiida_mlfinetune.calculations import ipi_input
from aiida_mlfinetune.calculations.ipi import IpiCalculation
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import ModelError, StudyError
from aiida_mlfinetune.science.dynamics.gle import load_matrix
from aiida_mlfinetune.workchains import dynamics
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from tests.calculations.test_ipi import ice_cell
from tests.fixtures.models import make_tiny_model

NAMED = "optimal-sampling-5x5"
SHORT = {"n_steps": 40, "stride": 4, "properties_stride": 2, "thermostat_tau_fs": 20.0, "barostat_tau_fs": 100.0}


@pytest.fixture
def crystal(aiida_profile):
    return orm.StructureData(ase=ice_cell())


@pytest.fixture
def make_builder(ipi_code, tiny_model):
    def make(structure, protocol="demo", parameters=None, **kwargs):
        kwargs.setdefault("model", tiny_model)
        kwargs.setdefault("code", ipi_code)
        overrides = {"parameters": {**SHORT, **(parameters or {})}}
        return DynamicsWorkChain.get_builder_from_protocol(
            structure=structure, protocol=protocol, overrides=overrides, **kwargs
        )

    return make


def test_run_that_is_cut_short_goes_on_and_is_joined(make_builder, crystal, monkeypatch):
    """The first two jobs end at steps 7 and 18, between steps that are printed: the run is as the one not cut."""
    whole, _ = run_get_node(make_builder(crystal))
    ends = {0: 7, 7: 18}
    new, further = ipi_input.simulation_xml, ipi_input.restart_xml
    monkeypatch.setattr(
        ipi_input, "simulation_xml", lambda settings, *args: new(replace(settings, n_steps=ends[0]), *args)
    )
    monkeypatch.setattr(
        ipi_input,
        "restart_xml",
        lambda text, total, limit: further(text, ends.get(ipi_input.restart_step(text), total), limit),
    )
    outputs, node = run_get_node(make_builder(crystal))
    assert node.is_finished_ok, node.exit_message
    children = [child for child in node.called if isinstance(child, orm.CalcJobNode)]
    assert [child.exit_status for child in sorted(children, key=lambda c: c.pk)] == [410, 410, 0]
    assert outputs["trajectory"].frames.steps.tolist() == list(range(0, 41, 4))
    assert outputs["properties"].get_array("step").tolist() == list(range(0, 41, 2))
    np.testing.assert_allclose(np.diff(outputs["properties"].get_array("time_fs")), 1.0)
    for name in ("conserved_eV", "potential_energy_eV", "temperature_K", "volume_A3"):
        joined, uncut = (properties.get_array(name) for properties in (outputs["properties"], whole["properties"]))
        np.testing.assert_allclose(joined, uncut, rtol=1e-6, err_msg=name)
    assert len(outputs["trajectory"].frame_sources) == len(set(outputs["trajectory"].frame_sources)) == 3


def test_no_progress_ends_the_chain():
    calculation = SimpleNamespace(outputs=SimpleNamespace(output_parameters={"restart_step": 4}))
    chain = SimpleNamespace(ctx=AttributeDict({"restart_step": 4}), exit_codes=DynamicsWorkChain.exit_codes)
    report = DynamicsWorkChain.continue_from_restart_file.__wrapped__(chain, calculation)
    assert report.do_break
    assert report.exit_code == DynamicsWorkChain.exit_codes.ERROR_NO_PROGRESS


def test_explosion_ends_the_chain_with_what_came_before(make_builder, crystal, tiny_model_file):
    from mace.calculators import MACECalculator

    builder = make_builder(
        crystal, parameters={"n_steps": 4000, "min_distance_A": 0.6}, ensemble="nve", temperature_K=30000.0
    )
    outputs, node = run_get_node(builder)
    assert node.exit_status == DynamicsWorkChain.exit_codes.ERROR_EXPLODED.status
    assert "The run exploded" in node.exit_message
    (child,) = [child for child in node.called if isinstance(child, orm.CalcJobNode)]
    assert child.exit_status == IpiCalculation.exit_codes.ERROR_EXPLODED.status
    assert child.outputs.output_parameters["last_step"] < 4000
    assert outputs["trajectory"].n_frames >= 1
    assert np.isfinite(outputs["trajectory"].frames.positions).all()
    assert len(outputs["properties"].get_array("step")) >= 1
    (last,) = outputs["last_sane"].frames.to_atoms(f"{builder.model.sha256[:8]}/mace")
    own = MACECalculator(tiny_model_file, device="cpu", default_dtype="float64")
    assert last.get_all_distances(mic=True)[np.triu_indices(6, 1)].min() >= 0.6
    assert last.get_potential_energy() == pytest.approx(own.get_potential_energy(last), abs=1e-8)
    np.testing.assert_allclose(last.get_forces(), own.get_forces(last), atol=1e-8)


def test_failed_run_is_not_repeated():
    calculation = SimpleNamespace(exit_status=300, exit_message="no properties")
    chain = SimpleNamespace(ctx=AttributeDict(), exit_codes=DynamicsWorkChain.exit_codes)
    report = DynamicsWorkChain.give_up.__wrapped__(chain, calculation)
    assert report.do_break
    assert report.exit_code.status == DynamicsWorkChain.exit_codes.ERROR_RUN_FAILED.status
    assert report.exit_code.message == "i-PI failed with exit status 300: no properties"


def test_molecule_is_run_in_nvt(make_builder, aiida_profile):
    gas = orm.StructureData(ase=molecule("H2O"))
    assert make_builder(gas).parameters["ensemble"] == "nvt"
    with pytest.raises(StudyError, match="moves the cell"):
        make_builder(gas, ensemble="npt-flexible")


def test_published_numbers(ipi_code, crystal, tiny_model):
    """Kaur et al., Faraday Discuss. 256, 120 (2025), section on molecular dynamics with the models."""
    builder = DynamicsWorkChain.get_builder_from_protocol(ipi_code, crystal, tiny_model, "kaur2025")
    expected = {
        "ensemble": "npt-flexible",
        "temperature_K": 100.0,
        "pressure_bar": 1.0,
        "timestep_fs": 0.5,
        "barostat_tau_fs": 1000.0,
        "stride": 100,
        "properties_stride": 100,
        "thermostat": "gle",
        "cell_thermostat": "gle",
        "n_beads": 1,
    }
    assert builder.parameters["gle"] == load_matrix("optimal-sampling-5x5")
    assert {key: builder.parameters[key] for key in expected} == expected
    assert builder.parameters["n_steps"] * builder.parameters["timestep_fs"] == 50000.0
    assert set(DynamicsWorkChain.get_available_protocols()) == {"demo", "fast", "balanced", "kaur2025"}


@pytest.mark.parametrize("phase", ["crystal", "gas"])
def test_a_matrix_that_is_not_used_is_refused_but_that_of_a_protocol_is_left_out(make_builder, crystal, phase):
    structure = crystal if phase == "crystal" else orm.StructureData(ase=molecule("H2O"))
    without = {"thermostat": "langevin", "cell_thermostat": "langevin", "stride": 2}
    assert make_builder(structure, "kaur2025", parameters=without).parameters["gle"] is None
    kept = make_builder(structure, "kaur2025", parameters={"thermostat": "langevin"}).parameters["gle"]
    assert (kept is not None) == (phase == "crystal")  # of which the cell takes it
    with pytest.raises(StudyError, match=r"gle is given, but nothing uses it.*here ensemble .* thermostat 'langevin'"):
        make_builder(structure, parameters={"gle": NAMED})
    with pytest.raises(StudyError, match=r"cell_gle is given, but nothing uses it"):
        make_builder(structure, "kaur2025", parameters={"cell_thermostat": "langevin", "cell_gle": NAMED})


def test_a_pressure_without_a_barostat_is_warned_about(make_builder, crystal, monkeypatch):
    said = []
    monkeypatch.setattr(dynamics.AIIDA_LOGGER, "warning", said.append)
    make_builder(crystal, ensemble="nvt")
    make_builder(crystal, pressure_bar=5.0)
    make_builder(orm.StructureData(ase=molecule("H2O")), pressure_bar=5.0)  # as chains do, for all their phases
    assert not [text for text in said if "pressure_bar" in text]
    make_builder(crystal, ensemble="nvt", pressure_bar=5.0)
    make_builder(crystal, ensemble="nve", parameters={"pressure_bar": 0.0})
    told = [text for text in said if "pressure_bar" in text]
    assert [text.split(" has no")[0] for text in told] == [
        "pressure_bar is 5, but ensemble 'nvt'",
        "pressure_bar is 0, but ensemble 'nve'",
    ]


def test_bad_input_is_refused_when_the_builder_is_made(make_builder, crystal, python_code, tmp_path, make_model_data):
    with pytest.raises(StudyError, match="temperature_K is -1"):
        make_builder(crystal, temperature_K=-1)
    with pytest.raises(StudyError, match="ensemble is given twice, as nve and, in the overrides, as nvt"):
        make_builder(crystal, parameters={"ensemble": "nvt"}, ensemble=Ensemble.NVE)
    with pytest.raises(StudyError, match="n_steps is 0"):
        make_builder(crystal, parameters={"n_steps": 0})
    with pytest.raises(StudyError, match="batch_size is 3, but must divide n_beads"):
        make_builder(crystal, parameters={"n_beads": 8, "batch_size": 3})
    matrix = {"name": "mine", "drift_per_atomic_time": [[1.0, 5.0], [0.0, 1.0]]}
    with pytest.raises(StudyError, match="drift A of mine is not positive definite"):
        make_builder(crystal, parameters={"thermostat": "gle", "gle": matrix})
    with pytest.raises(StudyError, match=r"over 2\.0 fs"):
        make_builder(crystal, parameters={"timestep_fs": 4.0})
    make_builder(crystal, parameters={"timestep_fs": 4.0, "allow_large_timestep": True})
    with pytest.raises(StudyError, match=r"unknown input 'parameters\.tempreature_K'"):
        make_builder(crystal, parameters={"tempreature_K": 3})
    with pytest.raises(StudyError, match="unknown protocol 'quick'"):
        make_builder(crystal, protocol="quick")
    with pytest.raises(StudyError, match="not the right program"):
        make_builder(crystal, code=python_code)
    other = make_model_data(make_tiny_model(tmp_path / "c.model", ("H", "C")))
    with pytest.raises(ModelError, match="does not know the elements \\['O'\\]"):
        make_builder(crystal, model=other)
    close = ice_cell()
    close.positions[1] = close.positions[0] + [0, 0, 0.4]
    with pytest.raises(StudyError, match=r"0\.400 angstrom apart"):
        make_builder(orm.StructureData(ase=close))
    builder = make_builder(crystal, model=None)
    assert builder.model is None
    with pytest.raises(AttributeError, match="modle"):
        builder.modle = other
    with pytest.raises(AttributeError, match="cod"):
        builder.ipi.cod = python_code


WITHOUT_STRESS = {"parameters": {"loss": "weighted", "mode": "scratch"}}
NO_STRESS_LABELS = {
    "parameters": {"loss": "stress", "mode": "scratch"},
    "trained": {"sets": {"train": {"Default": {"n": 9, "energy": 9, "forces": 9, "stress": 0}}}},
}


@pytest.mark.parametrize(
    ("settings", "why"), [(WITHOUT_STRESS, "'weighted'"), (NO_STRESS_LABELS, "none of the frames")]
)
def test_barostat_with_a_model_that_never_saw_stress(
    make_builder, crystal, make_model_data, tiny_model_file, monkeypatch, settings, why
):
    said = []
    monkeypatch.setattr(dynamics.AIIDA_LOGGER, "warning", said.append)
    model = make_model_data(tiny_model_file, settings=settings)
    make_builder(crystal, model=model)
    (warning,) = [text for text in said if "was trained without stress" in text]
    assert why in warning
    with pytest.raises(ModelError, match=r"trained without stress.*but npt-flexible moves the cell by it: train on"):
        make_builder(crystal, model=model, parameters={"require_stress": True})
    said.clear()
    make_builder(crystal, model=model, ensemble="nvt", parameters={"require_stress": True})
    make_builder(crystal, parameters={"require_stress": True})  # of its training nothing is known
    assert not [text for text in said if "without stress" in text]


def test_inputs_are_checked_together_without_a_builder(make_builder, crystal, tiny_model):
    builder = make_builder(crystal)
    builder.structure = orm.StructureData(ase=molecule("H2O"))
    with pytest.raises(ValueError, match="moves the cell"):
        run_get_node(builder)

import numpy as np
import pytest
from aiida import engine, orm

from aiida_mlfinetune.calculations.mace_train import MaceTrainCalculation
from tests.fixtures.models import TINY_E0S
from tests.fixtures.water import XTB

TINY_NETWORK = {
    "num_channels": 4,
    "max_L": 0,
    "max_ell": 1,
    "correlation": 2,
    "num_radial_basis": 4,
    "radial_MLP": "[8]",
    "r_max": 3.5,
}
SCRATCH = {"mode": "scratch", "seed": 1, "max_num_epochs": 3, "batch_size": 4, "loss": "stress", **TINY_NETWORK}
NAIVE = {"mode": "naive", "seed": 1, "max_num_epochs": 2, "batch_size": 4, "loss": "universal", "lr": 1e-3}


def make_builder(code, sets, parameters, **inputs):
    builder = MaceTrainCalculation.get_builder()
    builder.code = code
    builder.level = orm.Str(XTB.key)
    builder.parameters = orm.Dict(parameters)
    for name, value in {**sets, **inputs}.items():
        setattr(builder, name, value)
    return builder


def train(*args, **inputs):
    return engine.run_get_node(make_builder(*args, **inputs))


def test_scratch_training_gives_model_curve_errors_and_parity(python_code, water_sets):
    outputs, node = train(python_code, water_sets, {**SCRATCH, "molecule": "H2O"})
    assert node.is_finished_ok, node.exit_message
    passport = outputs["model"].passport
    assert passport.levels == {"Default": XTB.key}
    assert passport.seeds == [1]
    curve = outputs["loss_curve"]
    assert curve.get_array("epoch").tolist() == [-1, 0, 1, 2]
    assert np.isfinite(curve.get_array("train_loss")[1:]).all()
    assert np.isfinite(curve.get_array("valid_rmse_stress_eV_A3")).all()
    errors = outputs["errors"].get_dict()
    assert set(errors) == {"valid", "test"}
    assert set(errors["test"]["forces_by_element"]) == {"H", "O"}
    assert errors["test"]["molecule"] == "H2O"
    parity = outputs["parity"].frames
    assert len(parity) == 6
    predicted = parity.labels(f"{passport.sha256[:8]}/mace")
    assert predicted.has_stress.tolist() == [True, True, False, True, True, False]
    difference = (predicted.energy - parity.labels(XTB.key).energy)[3:] / parity.n_atoms[3:]
    assert np.sqrt(np.mean(difference**2)) * 1e3 == pytest.approx(errors["test"]["energy_rmse_meV_per_atom"])


@pytest.mark.parametrize(
    ("mode", "e0s"),
    [
        ("scratch", {"source": "given", "values": {"H": -13.5, "O": -432.123456789}}),
        ("scratch", {"source": "estimated"}),
        ("naive", {"source": "given", "values": {"H": -13.5, "O": -432.123456789}}),
        ("naive", {"source": "foundation"}),
        ("naive", {"source": "estimated"}),
    ],
)
@pytest.mark.parametrize("more_elements", [False, True])
def test_saved_reference_energies_are_those_asked_for(
    mode, e0s, more_elements, python_code, water_sets, tiny_model, tiny_chno_model
):
    if mode == "scratch" and more_elements:
        pytest.skip("no foundation")
    foundation = tiny_chno_model if more_elements else tiny_model
    inputs = {"foundation": foundation} if mode == "naive" else {}
    parameters = {**(NAIVE if mode == "naive" else SCRATCH), "max_num_epochs": 1}
    outputs, node = train(python_code, water_sets, parameters, e0s=orm.Dict(e0s), **inputs)
    assert node.is_finished_ok, node.exit_message
    stored = outputs["model"].passport.e0s["Default"]
    assert outputs["model"].passport.elements == ["H", "O"]
    assert stored == pytest.approx(outputs["e0s"]["values"], rel=1e-12)
    if e0s["source"] == "given":
        assert stored == pytest.approx(e0s["values"], rel=1e-12)
    if e0s["source"] == "foundation":
        assert stored == pytest.approx({e: TINY_E0S[e] for e in ("H", "O")}, rel=1e-12)
    if mode == "naive":
        assert outputs["model"].passport.parent_sha256 == foundation.sha256
    if mode == "naive" and e0s["source"] == "estimated":
        found = outputs["e0s"].get_dict()
        assert found["rank"] == 1
        assert found["rmse_after_eV_per_atom"] < found["rmse_before_eV_per_atom"]
        assert found["shift"]["H"] == pytest.approx(2 * found["shift"]["O"])
        first = outputs["loss_curve"].get_array("valid_rmse_energy_eV_per_atom")[0]
        assert first < 2 * found["rmse_after_eV_per_atom"] + 0.02

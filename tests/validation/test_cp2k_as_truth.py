"""Ice VIII at GFN1-xTB by CP2K itself, against the model that is trained on its labels and run in i-PI."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.tools.archive import import_archive

from aiida_mlfinetune.calculations.functions.dataset import subset
from aiida_mlfinetune.calculations.functions.observables import potential_energy
from aiida_mlfinetune.calculations.functions.thermodynamics import density
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from aiida_mlfinetune.workchains.training import TrainingWorkChain

ARCHIVE = Path(__file__).parents[2] / "examples" / "ice_viii" / "ice-viii-by-cp2k.aiida"
GROUP = "ice-viii/by-cp2k"
LEVEL = "gfn1-xtb"
BOUNDS = {"density": 0.01, "potential_energy": 0.5}
"""Relative; and in kJ/mol of molecules."""
UNITS = {"density": "g/cm³", "potential_energy": "kJ/mol"}


@pytest.fixture
def by_cp2k(aiida_profile):
    """CP2K's run of ``examples/ice_viii``: 4 ps of flexible NPT at 100 K and 1 bar."""
    import_archive(ARCHIVE)
    (node,) = orm.load_group(GROUP).nodes
    assert node.is_finished_ok
    return node


def averages_of_truth(by_cp2k):
    run = (by_cp2k.outputs.properties, by_cp2k.inputs.structure, by_cp2k.inputs.md)
    return {"density": density(*run), "potential_energy": potential_energy(*run)}


def trained(python_code, trajectory, n_train, n_valid, epochs):
    """Return ``ice-xtb``, fine-tuned on labels of the first half of the run."""
    chosen = np.linspace(trajectory.n_frames // 20, trajectory.n_frames // 2, n_train + n_valid).astype(int)
    builder = TrainingWorkChain.get_builder_from_protocol(
        python_code,
        subset(trajectory, orm.List(chosen.tolist())),
        f"{LEVEL}/cp2k",
        mode="naive",
        foundation=load_foundation("ice-xtb"),
        protocol="demo",
        overrides={
            "split": {"valid": n_valid, "test": 0, "seed": 1},
            "parameters": {"max_num_epochs": epochs, "lr_scheduler_gamma": 0.01 ** (1 / epochs), "seed": 1},
            "naive": {"lr": 0.03},
        },
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return outputs["model"]


def averages_of_model(ipi_code, cp2k_code, by_cp2k, model, n_steps, settings):
    """Return the outputs of the model's own run in the state of CP2K's, from its last frame, reweighted by CP2K."""
    state = by_cp2k.inputs.md.get_dict()
    last = by_cp2k.outputs.trajectory.frames.to_atoms()[-1]
    run = {"ensemble": state["ensemble"], "thermostat_tau_fs": 30.0, "barostat_tau_fs": 50.0}
    run |= {"n_steps": n_steps, "stride": 10, "timestep_fs": 0.5, "seed": 2}
    builder = AveragesWorkChain.get_builder_from_protocol(
        ipi_code,
        orm.StructureData(ase=last),
        model,
        protocol="demo",
        overrides={
            "dynamics_crystal": {"parameters": run},
            "reweighting": {"settings": settings},
        },
        temperature_K=state["temperature_K"],
        pressure_bar=state["pressure_bar"],
        reference_code=cp2k_code,
        reference_level=LEVEL,
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return outputs


def compared(truth, outputs):
    """Return quantity, CP2K's average, the model's, the reweighted one, and the bound.

    The model's is within the bound, and so is the reweighted one where it may be relied on.
    """
    rows = []
    for name, bound in BOUNDS.items():
        exact, own, moved = truth[name], outputs[name], outputs["reference"][name]
        most = bound * exact.value if name == "density" else bound
        for one in (own, moved) if moved.details["reliable"] else (own,):
            # an error that hides a difference as large as the bound decides nothing
            assert 3 * math.hypot(one.error, exact.error) < 2 * most, (name, one.error, exact.error)
            assert abs(one.value - exact.value) < most, (name, one.value, exact.value)
        rows.append((name, exact, own, moved, most))
    return rows


def test_a_model_of_few_labels_is_near_cp2k(ipi_code, python_code, cp2k_code, by_cp2k):
    model = trained(python_code, by_cp2k.outputs.trajectory, n_train=40, n_valid=10, epochs=40)
    settings = {"n_frames": 10, "equilibration": 0.2, "n_train": 5}
    outputs = averages_of_model(ipi_code, cp2k_code, by_cp2k, model, 6000, settings)
    compared(averages_of_truth(by_cp2k), outputs)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
def test_density_and_energy_are_those_of_cp2k(ipi_code, python_code, cp2k_code, by_cp2k, validated):
    model = trained(python_code, by_cp2k.outputs.trajectory, n_train=80, n_valid=20, epochs=60)
    settings = {"n_frames": 60, "equilibration": 0.1, "n_train": 20}
    outputs = averages_of_model(ipi_code, cp2k_code, by_cp2k, model, 40000, settings)
    lines = []
    for name, exact, own, moved, most in compared(averages_of_truth(by_cp2k), outputs):
        digits = 4 if name == "density" else 2
        zero = 0.0 if name == "density" else exact.value  # energies of a level mean nothing by themselves
        for who, one in (("model", own), ("model, reweighted to CP2K", moved)):
            lines.append(
                {
                    "quantity": f"{name.replace('_', ' ')}{' − CP2K' if zero else ''}, {who}",
                    "value": round(one.value - zero, digits),
                    "unit": UNITS[name],
                    "reference": round(exact.value - zero, digits),
                    "bound": round(most, digits),
                    "source": "CP2K's own run",
                }
            )
            error = round(math.hypot(one.error, exact.error), digits)
            lines.append({"quantity": "standard error of the difference", "value": error, "unit": UNITS[name]})
    verdict = outputs["reweighting_crystal"]["verdict"].get_dict()
    effective = round(verdict["n_effective"], 1)
    lines.append({"quantity": "effective frames of 60", "value": effective, "unit": ""})
    md = by_cp2k.inputs.md.get_dict()
    validated(
        "CP2K as truth",
        "Ice VIII, 8 molecules at the Gamma point (one potential energy for both, no ice VIII to publish), GFN1-xTB, "
        f"flexible NPT at {md['temperature_K']:g} K and {md['pressure_bar']:g} bar: "
        f"{md['n_steps'] * md['timestep_fs'] / 1000:g} ps by CP2K, against 20 ps in i-PI with ice-xtb fine-tuned on "
        "100 frames of CP2K's run.",
        {"CP2K": "2023.1"},
        *lines,
    )

"""A teacher that can be run itself: a student's run reweighted to it has to give what the teacher's run gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import cut

from aiida_mlfinetune.calculations.functions.dataset import subset
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.science.crystals.ices import IceSpec, build_ice
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.protocols.ase_levels import load_ase_level
from aiida_mlfinetune.workchains.training import TrainingWorkChain

POLYMORPHS = {"ice VII": "VII", "ice VIII": "VIII"}
"""The densest, which stay what they are at GFN1-xTB: the open ices collapse, and ice VI turns denser within 10 ps."""
KEY = "teacher/mace"
TEACHER = load_ase_level("mace", {"key": KEY})
STATE = {"temperature_K": 100.0, "pressure_bar": 1.0}
QUANTITIES = {"potential_energy": "kJ/mol", "density": "g/cm^3"}


def settled(ipi_code, crystal, n_steps):
    """Return the last frame of a run of the teacher, which finds its own density."""
    run = {"n_steps": n_steps, "stride": n_steps // 10, "seed": 10, "thermostat_tau_fs": 20.0, "barostat_tau_fs": 100.0}
    builder = DynamicsWorkChain.get_builder_from_protocol(
        ipi_code, orm.StructureData(ase=crystal), load_foundation("ice-xtb"), "demo", {"parameters": run}, **STATE
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return outputs["trajectory"].frames.to_atoms()[-1]


def disturbed_model(path: Path, shift: float, noise: float, seed: int = 0) -> Path:
    """Write ``ice-xtb`` with ``shift`` eV added to every atom, and every weight changed by a random part of it.

    The shift makes a large difference in energy, the noise one in the forces.
    """
    import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
    import torch

    with load_foundation("ice-xtb").as_path() as file:
        model = torch.load(file, map_location="cpu", weights_only=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            random = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
            weights.mul_(1.0 + noise * random.to(weights.dtype))
        model.scale_shift.shift.add_(shift)
    torch.save(model, path)
    return path


def averages_of(ipi_code, model, crystal, run, settings=None, python_code=None):
    """Return the outputs of a run of a crystal with a model, reweighted to the teacher where there is a Python."""
    reference = {}
    if python_code is not None:
        reference = {"reference_code": python_code, "reference_level": TEACHER}
        reference["reference_model"] = load_foundation("ice-xtb")
    builder = AveragesWorkChain.get_builder_from_protocol(
        ipi_code,
        orm.StructureData(ase=crystal),
        model,
        protocol="demo",
        overrides={
            "dynamics_crystal": {"protocol": "demo", "parameters": run},
            "reweighting": {"protocol": "demo", "settings": settings or {}},
        },
        **STATE,
        **reference,
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return outputs


def in_sigma(one, other) -> float:
    return abs(one.value - other.value) / math.hypot(one.error, other.error)


def test_a_disturbed_student_reweighted_is_the_teacher(aiida_profile, ipi_code, python_code, make_model_data, tmp_path):
    # the primitive cell of ice VIII
    crystal = cut(build_ice(IceSpec("VIII", seed=1)), a=(1, 0, 0), b=(0, 1, 0), c=(0.5, 0.5, 0.5))
    assert len(crystal) == 12
    crystal = settled(ipi_code, crystal, 600)
    student = make_model_data(disturbed_model(tmp_path / "student.model", shift=0.03, noise=0.004))
    run = {"n_steps": 800, "stride": 10, "properties_stride": 5, "seed": 11, "thermostat_tau_fs": 30.0}
    run |= {"ensemble": "npt-isotropic", "barostat_tau_fs": 50.0}  # shapes of so small a cell change slowly
    settings = {"n_frames": 30, "equilibration": 0.25, "n_train": 5}
    student_says = averages_of(ipi_code, student, crystal, run, settings, python_code)
    teacher_says = averages_of(ipi_code, load_foundation("ice-xtb"), crystal, {**run, "seed": 12})
    assert student_says["reweighting_crystal"]["verdict"]["n_effective"] > 10
    for name, most in {"potential_energy": 0.6, "density": 0.02}.items():
        moved, truth = student_says["reference"][name], teacher_says[name]
        assert in_sigma(moved, truth) < 3
        assert math.hypot(moved.error, truth.error) < most
    # not reweighted, the energy is off by far more than that
    assert in_sigma(student_says["potential_energy"], teacher_says["potential_energy"]) > 10


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_students_of_few_labels_reweighted_are_the_teacher(
    aiida_profile, ipi_code, python_code, make_model_data, tmp_path, validated
):
    """Two polymorphs; each student is fine-tuned, from a model far off, on 20 labels of a short run of its crystal."""
    teacher = load_foundation("ice-xtb")
    start = make_model_data(disturbed_model(tmp_path / "start.model", shift=0.0, noise=0.05))
    lines = []
    for number, (name, ice) in enumerate(POLYMORPHS.items()):
        crystal = settled(ipi_code, build_ice(IceSpec(ice, seed=1)), 5000)
        run = {"n_steps": 20000, "stride": 20, "properties_stride": 10, "barostat_tau_fs": 300.0}
        frames = labelled_frames(ipi_code, python_code, teacher, crystal, 30, seed=20 + number)
        student = fine_tuned(python_code, start, frames, seed=30 + number)
        settings = {"n_frames": 200, "equilibration": 0.1, "n_train": 20}
        says = averages_of(ipi_code, student, crystal, {**run, "seed": 40 + number}, settings, python_code)
        truth = averages_of(ipi_code, teacher, crystal, {**run, "seed": 50 + number})
        verdict = says["reweighting_crystal"]["verdict"].get_dict()
        for quantity, unit in QUANTITIES.items():
            own, moved, exact = says[quantity], says["reference"][quantity], truth[quantity]
            sigma = in_sigma(moved, exact)
            digits = 2 if unit == "kJ/mol" else 4
            zero = exact.value if unit == "kJ/mol" else 0.0  # energies of a level mean nothing by themselves
            lines.append(
                {
                    "quantity": f"{name}, {quantity.replace('_', ' ')}{' − teacher' if zero else ''}, reweighted",
                    "value": round(moved.value - zero, digits),
                    "unit": unit,
                    "reference": round(exact.value - zero, digits),
                    "bound": round(2 * math.hypot(moved.error, exact.error), digits),
                    "source": "the teacher's own run",
                }
            )
            lines.append(
                {
                    "quantity": f"{name}, the same of the student, not reweighted",
                    "value": round(own.value - zero, digits),
                    "unit": unit,
                }
            )
            assert sigma < 2, (name, quantity, sigma)
        lines.append(
            {"quantity": f"{name}, effective frames of 200", "value": round(verdict["n_effective"]), "unit": ""}
        )
        assert verdict["reliable"], verdict
    validated(
        "Students reweighted to their teacher",
        "ice-xtb is the teacher. Students start from its weights, each changed at random by 5 % of itself, whose "
        "forces are off by 1 eV/Å, and are fine-tuned on 20 frames of a 2 ps run of the teacher, labelled by it (10 "
        "more to validate). 10 ps of flexible NPT at 100 K and 1 bar, 16 and 8 molecules, of student and "
        "teacher, from independent seeds; 200 frames of the student's run are labelled by the teacher and reweighted. "
        "The bound is two standard errors.",
        {},
        *lines,
    )


def labelled_frames(ipi_code, python_code, teacher, crystal, n_frames, seed):
    """Return frames of a short run of the teacher, with its energies, forces and stress."""
    parameters = {"n_steps": 4000, "stride": 20, "seed": seed}
    builder = DynamicsWorkChain.get_builder_from_protocol(
        ipi_code, orm.StructureData(ase=crystal), teacher, "demo", {"parameters": parameters}, **STATE
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    n_all = outputs["trajectory"].n_frames
    indices = np.unique(np.linspace(n_all // 10, n_all - 1, n_frames).astype(int)).tolist()
    chosen = subset(outputs["trajectory"], orm.List(indices))
    builder = LabellingWorkChain.get_builder_from_protocol(python_code, chosen, TEACHER, "demo", model=teacher)
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return outputs["dataset"]


def fine_tuned(python_code, start, dataset, seed):
    """Return a student that was fine-tuned from ``start`` on all but 10 frames."""
    builder = TrainingWorkChain.get_builder_from_protocol(
        python_code,
        dataset,
        KEY,
        mode="naive",
        foundation=start,
        protocol="demo",
        overrides={
            "split": {"valid": 10, "test": 0, "seed": 1},
            "parameters": {"max_num_epochs": 100, "lr_scheduler_gamma": 0.955, "batch_size": 2, "seed": seed},
            "naive": {"lr": 0.01},
        },
    )
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return outputs["model"]

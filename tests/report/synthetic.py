"""A finished run from crystal to sublimation enthalpy, made node by node without running anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from aiida import orm
from aiida.common.links import LinkType
from ase.build import molecule
from plumpy import ProcessState

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels, Level

TARGET = "revpbe-d3/cp2k"
MODEL = "0123abcd/mace"


def process(
    kind: type, label: str, caller: Any = None, role: str = "CALL", inputs: dict | None = None, type_: str = ""
):
    """Return a stored process node with its inputs, still open for outputs."""
    node = kind()
    node.process_type = type_ or None
    node.set_process_label(label)
    is_calculation = kind in (orm.CalcJobNode, orm.CalcFunctionNode)
    for name, data in (inputs or {}).items():
        data.store()
        link = LinkType.INPUT_CALC if is_calculation else LinkType.INPUT_WORK
        node.base.links.add_incoming(data, link, name)
    if caller is not None:
        node.base.links.add_incoming(caller, LinkType.CALL_CALC if is_calculation else LinkType.CALL_WORK, role)
    return node.store()


def finish(node: Any, outputs: dict | None = None, exit_status: int = 0, message: str = ""):
    """Attach outputs and end a process."""
    is_calculation = isinstance(node, orm.CalcJobNode | orm.CalcFunctionNode)
    for name, data in (outputs or {}).items():
        data.base.links.add_incoming(node, LinkType.CREATE if is_calculation else LinkType.RETURN, name)
        data.store()
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(exit_status)
    if message:
        node.set_exit_message(message)
    node.seal()
    return node


def frames(n: int, levels: tuple[str, ...], seed: int = 1, n_molecules: int = 2) -> Frames:
    """Return frames of water molecules in a cell with made-up labels."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        atoms = sum(
            (molecule("H2O") for _ in range(n_molecules - 1)),
            start=molecule("H2O"),
        )
        atoms.set_cell([6.0, 6.0, 6.0])
        atoms.pbc = True
        atoms.positions += rng.normal(scale=0.3, size=atoms.positions.shape)
        images.append(atoms)
    made = Frames.from_atoms(images)
    energy = rng.normal(-470.0 * n_molecules, 0.1, n)
    forces = rng.normal(0, 1, (len(made.numbers), 3))
    for number, key in enumerate(levels):
        level = Level(key, engine="mace" if key == MODEL else "cp2k", code="CP2K", code_version="2023.1")
        noise = 0.0 if number == 0 else 0.02
        made = made.with_labels(
            Labels.build(
                level, made.offsets, energy + noise * rng.normal(size=n), forces + noise * rng.normal(size=forces.shape)
            )
        )
    return made


def md_properties(n: int = 200, volume: float = 60.0) -> orm.ArrayData:
    """Return the arrays of an MD run."""
    rng = np.random.default_rng(2)
    node = orm.ArrayData()
    time = np.arange(n) * 5.0
    arrays = {
        "step": np.arange(n) * 10,
        "time_fs": time,
        "potential_energy_eV": -940 + rng.normal(0, 0.02, n),
        "conserved_eV": -940 + 1e-4 * rng.normal(0, 1, n),
        "temperature_K": 100 + rng.normal(0, 10, n),
        "volume_A3": volume + 3 * np.exp(-time / 100) + rng.normal(0, 0.3, n),
    }
    for name, values in arrays.items():
        node.set_array(name, values)
    return node


def sublimation(*, failed: bool = False) -> SimpleNamespace:
    """Return the nodes of a run; a failed one ends after its labels."""
    crystal_atoms = frames(1, ()).atoms(0)
    crystal = orm.StructureData(ase=crystal_atoms)
    top = process(
        orm.WorkChainNode,
        "SublimationWorkChain",
        inputs={"crystal": crystal},
        type_="aiida.workflows:mlfinetune.sublimation",
    )

    _, computer = orm.Computer.collection.get_or_create(
        label="synthetic", hostname="synthetic", transport_type="core.local", scheduler_type="core.direct"
    )
    computer.store()
    code = orm.InstalledCode(label=f"cp2k-{top.pk}", computer=computer, filepath_executable="/opt/cp2k/bin/cp2k.psmp")

    md = orm.Dict(
        {"ensemble": "npt-flexible", "temperature_K": 100, "pressure_bar": 1.0, "n_steps": 2000, "timestep_fs": 0.5}
    )
    xtb = orm.Dict({"key": "gfn1-xtb/cp2k", "engine": "cp2k", "method": "GFN1-xTB"})
    sampling = process(
        orm.WorkChainNode,
        "SamplingWorkChain",
        top,
        "sampling_crystal",
        {"structure": crystal, "md": md, "level": xtb},
        "aiida.workflows:mlfinetune.sampling",
    )
    job = process(
        orm.CalcJobNode,
        "Cp2kMdCalculation",
        sampling,
        "iteration_01",
        {"structure": crystal, "code": code},
        "aiida.calculations:mlfinetune.cp2k_md",
    )
    trajectory, properties = DatasetData(frames(8, ("gfn1-xtb/cp2k",))), md_properties()
    finish(job, {"frames": trajectory, "properties": properties})
    select = process(orm.CalcFunctionNode, "select_frames", sampling, inputs={"trajectory": trajectory})
    selected = DatasetData(trajectory.frames.select([1, 3, 5, 7]).without_level("gfn1-xtb/cp2k"))
    finish(select, {"result": selected})
    finish(sampling, {"dataset": selected, "trajectory": trajectory, "properties": properties})

    target = orm.Dict({"key": TARGET, "engine": "cp2k", "method": "revPBE-D3", "basis": "TZV2P"})
    labelling = process(
        orm.WorkChainNode,
        "LabellingWorkChain",
        top,
        "labelling_crystal",
        {"dataset": selected, "level": target},
        "aiida.workflows:mlfinetune.labelling",
    )
    label_job = process(
        orm.CalcJobNode,
        "Cp2kLabelCalculation",
        labelling,
        "batch_0",
        {"dataset": selected, "code": code},
        "aiida.calculations:mlfinetune.cp2k_label",
    )
    labelled = DatasetData(frames(3, (TARGET,)))
    finish(label_job, {"dataset": labelled})
    finish(
        labelling,
        {
            "dataset": labelled,
            "failed": orm.Dict({"2": {"reason": "the SCF cycle did not converge <50 steps>"}}).store(),
        },
    )
    nodes = SimpleNamespace(top=top, crystal=crystal, md_job=job, label_job=label_job, labelled=labelled)
    if failed:
        finish(top, exit_status=401, message="the training failed & stopped")
        return nodes

    parameters = orm.Dict({"mode": "naive", "seed": 1, "max_num_epochs": 5, "lr": 1e-3})
    training = process(
        orm.WorkChainNode,
        "TrainingWorkChain",
        top,
        "training",
        {"dataset": labelled, "parameters": parameters, "level": orm.Str(TARGET)},
        "aiida.workflows:mlfinetune.training",
    )
    train_job = process(
        orm.CalcJobNode,
        "MaceTrainCalculation",
        training,
        "iteration_01",
        {"train": labelled},
        "aiida.calculations:mlfinetune.mace_train",
    )
    curve = orm.ArrayData()
    for name in ("train_loss", "valid_loss", "valid_rmse_energy_eV_per_atom", "valid_rmse_forces_eV_A"):
        curve.set_array(name, np.geomspace(1, 0.01, 6))
    curve.set_array("epoch", np.arange(-1, 5))
    parity = DatasetData(frames(6, (TARGET, MODEL)))
    errors = orm.Dict(
        {"valid": {"n_frames": 6, "energy_rmse_meV_per_atom": 1.5, "forces_by_element": {"O": {"rmse_meV_A": 30.0}}}}
    )
    finish(train_job, {"loss_curve": curve, "parity": parity, "errors": errors})
    finish(training, {"loss_curve": curve, "parity": parity, "errors": errors})

    dynamics = process(
        orm.WorkChainNode,
        "DynamicsWorkChain",
        top,
        "dynamics_crystal",
        {"structure": crystal, "parameters": orm.Dict({**md.get_dict(), "n_beads": 1})},
        "aiida.workflows:mlfinetune.dynamics",
    )
    ipi = process(
        orm.CalcJobNode,
        "IpiCalculation",
        dynamics,
        "iteration_01",
        {"structure": crystal, "frames_of": labelled},
        "aiida.calculations:mlfinetune.ipi",
    )
    run = md_properties()
    finish(ipi, {"properties": run})
    finish(dynamics, {"properties": run})

    conditions = {"temperature_K": 100.0, "pressure_bar": 1.0, "ensemble": "npt-flexible", "n_beads": 1}
    mass = crystal_atoms.get_masses().sum() * 1.66053906660
    density = ObservableData(
        name="density",
        value=0.9942,
        error=0.0031,
        unit="g/cm^3",
        conditions=conditions,
        method="time average",
        n_independent=25.0,
        arrays={"time_fs": run.get_array("time_fs"), "density": mass / run.get_array("volume_A3")},
        details={"equilibration_fs": 150.0, "n_samples": 200},
    )
    enthalpy = ObservableData(
        name="sublimation_enthalpy",
        value=58.31,
        error=0.42,
        unit="kJ/mol",
        conditions=conditions,
        method="H_gas - H_crystal",
        n_independent=25.0,
        warnings=["the gas run is short: <2 ps>"],
    )
    first = process(orm.CalcFunctionNode, "density", top, inputs={"properties": run})
    finish(first, {"result": density})
    second = process(orm.CalcFunctionNode, "sublimation_enthalpy", top, inputs={"properties": run})
    finish(second, {"result": enthalpy})
    finish(top, {"density": density, "sublimation_enthalpy": enthalpy})
    nodes.density, nodes.sublimation_enthalpy = density, enthalpy
    return nodes

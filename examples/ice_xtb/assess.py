"""Measure `ice-xtb` and write its card: errors on ices that it was not trained on, and NPT runs.

    verdi run assess.py errors          # frames of ices III, IX and XVII by CP2K, against the model
    verdi run assess.py stability       # 20 ps of NPT at 100 K and 1 bar of ices Ih, II, VI and VIII with i-PI
    verdi run assess.py density         # NPT of ice Ic with CP2K itself, against the model
    verdi run assess.py collapse        # density of ice Ih along NPT with CP2K itself, and with the model
    verdi run assess.py supercells      # energies along the NPT run of ice Ih, in supercells, by CP2K and by the model

In this folder (`verdi run` does not tell a script where it lies). Each part needs a running daemon, answers from the
cache when repeated, and writes its numbers into ``card.json``, with the checksum of the model that they are of.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from aiida import orm
from aiida.engine import ProcessBuilder, submit
from aiida.plugins import CalculationFactory
from ase import Atoms
from systems import HELD_OUT_ICES, ice

from aiida_mlfinetune.common.units import EV_KJMOL, EV_MEV
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.science.averages.statistics import time_average
from aiida_mlfinetune.science.averages.thermodynamics import density
from aiida_mlfinetune.science.crystals.crystals import ice_ic
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.sampling import SamplingWorkChain

LEVEL = "gfn1-xtb/cp2k"
GLASS_FRAMES = (0, 25, 50, 100, 500)
STABLE_ICES = ("Ih", "II", "VI", "VIII")
CARD = Path(__file__).with_name("card.json")


def finish(builders: dict[str, ProcessBuilder]) -> dict[str, orm.ProcessNode]:
    """Submit all, and return the processes when they have ended."""
    nodes = {name: submit(builder) for name, builder in builders.items()}
    while not all(node.is_terminated for node in nodes.values()):
        time.sleep(2)
    for name, node in nodes.items():
        print(name, node.pk, node.exit_status, node.exit_message, flush=True)
    return nodes


def evaluation(dataset: DatasetData) -> ProcessBuilder:
    """Return the labels of the model on a dataset."""
    builder = CalculationFactory("mlfinetune.mace_evaluate").get_builder()
    builder.code = orm.load_code("python@localhost")
    builder.model = load_foundation("ice-xtb")
    builder.dataset = dataset
    builder.parameters = orm.Dict({"key": "ice-xtb/mace"})
    return builder


def errors() -> dict[str, dict[str, float]]:
    """Return energy and force errors on short CP2K runs of ices that are not in the training set."""
    code = orm.load_code("cp2k@localhost")
    runs = {}
    for number, name in enumerate(HELD_OUT_ICES):
        overrides = {
            "md": {"n_steps": 60, "timestep_fs": 1.0, "stride": 3, "seed": 50 + number},
            "selection": {"n_frames": 15, "method": "stride", "equilibration": 0.2, "volume_range": None},
        }
        runs[name] = SamplingWorkChain.get_builder_from_protocol(
            code,
            orm.StructureData(ase=ice(name, 50 + number)),
            protocol="fast",
            overrides=overrides,
            ensemble="nvt",
            temperature_K=200.0,
            level="gfn1-xtb",
        )
    sampled = finish(runs)
    jobs = {}
    for name, node in sampled.items():
        jobs[name] = evaluation(node.outputs.dataset)
    results = {}
    for name, node in finish(jobs).items():
        frames = node.outputs.dataset.frames
        theirs, ours = frames.labels(LEVEL), frames.labels("ice-xtb/mace")
        molecules = frames.n_atoms / 3
        shift = (ours.energy - theirs.energy) / molecules
        results[name] = {
            "frames": len(frames),
            "energy_rmse_kJ_mol_per_molecule": float(np.sqrt((shift**2).mean()) * EV_KJMOL),
            "energy_rmse_without_mean_kJ_mol_per_molecule": float(shift.std() * EV_KJMOL),
            "forces_rmse_meV_A": float(np.sqrt(((ours.forces - theirs.forces) ** 2).mean()) * EV_MEV),
            "forces_std_meV_A": float(theirs.forces.std() * EV_MEV),
        }
    return results


def dynamics(atoms, n_steps: int, timestep_fs: float, seed: int) -> ProcessBuilder:
    """Return flexible NPT at 100 K and 1 bar with the model."""
    return DynamicsWorkChain.get_builder_from_protocol(
        orm.load_code("i-pi@localhost"),
        orm.StructureData(ase=atoms),
        load_foundation("ice-xtb"),
        "balanced",
        overrides={
            "parameters": {
                "n_steps": n_steps,
                "timestep_fs": timestep_fs,
                "stride": 20,
                "seed": seed,
                "dtype": "float32",
            }
        },
        ensemble="npt-flexible",
        temperature_K=100.0,
        pressure_bar=1.0,
    )


def density_of(node: orm.ProcessNode, mass: float) -> dict[str, float]:
    """Return the average density of a run, in g/cm^3, with its standard error."""
    volumes = node.outputs.properties.get_array("volume_A3")
    volumes = volumes[np.isfinite(volumes)]
    found = time_average(density(mass, volumes))
    return {"density_g_cm3": found.mean, "error_g_cm3": found.error, "n_independent": found.n_independent}


def stability_runs() -> dict[str, ProcessBuilder]:
    """Return 20 ps of NPT of each of four ices."""
    return {name: dynamics(ice(name, 11, small=True), 20000, 1.0, 3) for name in STABLE_ICES}


def stability() -> dict[str, dict[str, float]]:
    """Return what became of 20 ps of NPT of each of four ices."""
    results = {}
    for name, node in finish(stability_runs()).items():
        properties = node.outputs.properties
        results[name] = {
            "exit_status": node.exit_status,
            "picoseconds": float(properties.get_array("time_fs")[-1] / 1000),
            "mean_temperature_K": float(properties.get_array("temperature_K").mean()),
            **density_of(node, ice(name, 11, small=True).get_masses().sum()),
        }
    return results


def cp2k_npt(atoms: Atoms, processes: int) -> ProcessBuilder:
    """Return 2 ps of flexible NPT at 100 K and 1 bar with CP2K."""
    overrides = {
        "md": {"n_steps": 2000, "timestep_fs": 1.0, "stride": 5, "seed": 5, "barostat_tau_fs": 200.0},
        "selection": {"n_frames": 10, "method": "stride", "equilibration": 0.3, "volume_range": None},
    }
    return SamplingWorkChain.get_builder_from_protocol(
        orm.load_code("cp2k@localhost"),
        orm.StructureData(ase=atoms),
        protocol="fast",
        overrides=overrides,
        options={"resources": {"num_machines": 1, "num_mpiprocs_per_machine": processes}, "withmpi": processes > 1},
        ensemble="npt-flexible",
        temperature_K=100.0,
        pressure_bar=1.0,
        level="gfn1-xtb",
    )


def density_against_cp2k() -> dict[str, dict[str, float]]:
    """Return the density of ice Ic by CP2K's own NPT and by the model."""
    atoms = ice_ic()
    nodes = finish({"cp2k": cp2k_npt(atoms, 1), "ice-xtb": dynamics(atoms, 6000, 1.0, 5)})
    return {name: density_of(node, atoms.get_masses().sum()) for name, node in nodes.items()}


def collapse() -> dict[str, list[float]]:
    """Return the density of ice Ih every 100 fs of CP2K's own NPT, and of the model's."""
    atoms = ice("Ih", 11, small=True)
    nodes = finish({"cp2k": cp2k_npt(atoms, 2), "ice-xtb": stability_runs()["Ih"]})
    results = {}
    for name, node in nodes.items():
        properties = node.outputs.properties
        volumes = properties.get_array("volume_A3")
        times = np.where(np.isfinite(volumes), properties.get_array("time_fs"), np.inf)
        kept = [np.abs(times - time_fs).argmin() for time_fs in range(0, 2001, 100)]
        results[name] = np.round(density(atoms.get_masses().sum(), volumes[kept]), 4).tolist()
    return results


def supercells() -> list[dict[str, float]]:
    """Return energies per molecule by CP2K and by the model along the NPT run of ice Ih, in its cell and in supercells.

    CP2K has GFN1-xTB at the Gamma point only: edges that shrink below 6 A cost energy that the crystal does not pay.
    """
    (run,) = finish({"Ih": stability_runs()["Ih"]}).values()
    trajectory = run.outputs.trajectory.frames
    frames = [trajectory.atoms(index) for index in GLASS_FRAMES]
    cells = [Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True) for atoms in frames]
    sets = {}
    for name, repetitions in (("cell", (1, 1, 1)), ("supercell", (2, 2, 1))):
        images = [cell.repeat(repetitions) for cell in cells]
        sets[name] = LabellingWorkChain.get_builder_from_protocol(
            orm.load_code("cp2k@localhost"), DatasetData(Frames.from_atoms(images)).store(), "gfn1-xtb", "fast"
        )
    labelled = {name: node.outputs.dataset for name, node in finish(sets).items()}
    jobs = {name: evaluation(dataset) for name, dataset in labelled.items()}
    results: list[dict[str, float]] = [{"picoseconds": index * 0.02} for index in GLASS_FRAMES]
    for name, node in finish(jobs).items():
        frames = node.outputs.dataset.frames
        for number, result in enumerate(results):
            atoms = frames.atoms(number)
            result["density_g_cm3"] = float(density(atoms.get_masses().sum(), atoms.get_volume()))
            for who, key in (("cp2k", LEVEL), ("model", "ice-xtb/mace")):
                energy = frames.labels(key).energy[number] / (len(atoms) / 3)
                result[f"{name}_{who}_eV_per_molecule"] = float(energy)
    return results


PARTS = {
    "errors": errors,
    "stability": stability,
    "density": density_against_cp2k,
    "collapse": collapse,
    "supercells": supercells,
}

if __name__ == "__main__":
    part = sys.argv[1]
    card = json.loads(CARD.read_text()) if CARD.exists() else {}
    card[part] = PARTS[part]()
    card.setdefault("sha256", {})[part] = load_foundation("ice-xtb").sha256
    CARD.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(card[part], indent=1))

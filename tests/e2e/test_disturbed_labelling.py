"""A labelling under the daemon whose CP2K is killed twice and whose daemon is restarted once."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil

N_FRAMES = 30
SUBMIT = f"""
import json
import numpy as np
from aiida import orm
from aiida.engine import submit
from ase import Atoms
from ase.build import molecule
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.protocols.levels import load_level

rng = np.random.default_rng(11)
dimer = molecule("H2O") + molecule("H2O")
dimer.positions[3:] += [0.4, 2.6, 1.1]
dimer.set_cell([5.0, 5.2, 5.4])
dimer.pbc = True
images = []
for _ in range({N_FRAMES}):
    image = dimer.copy()
    image.positions += rng.normal(scale=0.02, size=image.positions.shape)
    images.append(image)
dataset = DatasetData(Frames.from_atoms(images)).store()
pks = {{}}
for name in ("disturbed", "undisturbed"):
    builder = LabellingWorkChain.get_builder_from_protocol(
        orm.load_code("cp2k@localhost"),
        dataset,
        level=load_level("revpbe-d3-demo", {{"key": name + "/cp2k"}}),
        protocol="demo",
        overrides={{"frames_per_job": {N_FRAMES}}},
    )
    pks[name] = submit(builder).pk
print(json.dumps(pks))
"""
RUNNING = """
import json
from aiida import orm
jobs = [job for job in orm.load_node({pk}).called if isinstance(job, orm.CalcJobNode) and not job.is_terminated]
print(json.dumps([job.get_remote_workdir() for job in jobs]))
"""
OUTCOME = """
import json
import re
from aiida import orm

def outcome(pk):
    node = orm.load_node(pk)
    jobs = [job for job in node.called if isinstance(job, orm.CalcJobNode)]
    texts = [job.outputs.retrieved.base.repository.get_object_content("aiida.out") for job in jobs]
    frames = node.outputs.dataset.frames
    labels = frames.labels(node.inputs.level["key"])
    return {{
        "status": node.exit_status,
        "failed": len(node.outputs.failed.get_dict()) if "failed" in node.outputs else 0,
        "jobs": len(jobs),
        "computed": sum(len(re.findall(r"ENERGY\\| Total FORCE_EVAL", text)) for text in texts),
        "energy": labels.energy.tolist(),
        "forces": labels.forces.tolist(),
        "stress": labels.stress.tolist(),
    }}

print(json.dumps({{"disturbed": outcome({disturbed}), "undisturbed": outcome({undisturbed})}}))
"""
TERMINATED = """
import json
from aiida import orm
print(json.dumps([orm.load_node(pk).is_terminated for pk in ({pks})]))
"""
ENERGY = "ENERGY| Total FORCE_EVAL"


def wait_for(look, seconds=300):
    """Return what ``look`` finds, as soon as it finds something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError("waited in vain")


def working_folder(place, pk, known):
    """Return the folder of the running job of a work chain, once it is another than those known."""

    def look():
        folders = [folder for folder in place.ask(RUNNING.format(pk=pk)) if folder and folder not in known]
        return folders[0] if folders else None

    return Path(wait_for(look))


def frames_done(folder, n):
    """Wait until CP2K has printed the energy of n frames."""
    output = folder / "aiida.out"
    wait_for(lambda: output.exists() and output.read_text().count(ENERGY) >= n)


def kill_cp2k(folder):
    """Kill the CP2K that works in a folder, as a failing machine would."""
    victims = []
    for process in psutil.process_iter(["name", "cwd"]):
        if process.info["cwd"] == str(folder) and process.info["name"].startswith("cp2k"):
            process.kill()
            victims.append(process.pid)
    assert victims


def test_what_was_finished_is_kept_and_nothing_is_computed_twice(place):
    pks = place.ask(SUBMIT)
    known = []
    for _ in range(2):
        folder = working_folder(place, pks["disturbed"], known)
        frames_done(folder, 4)
        kill_cp2k(folder)
        known.append(str(folder))
    frames_done(working_folder(place, pks["disturbed"], known), 2)
    place.call("verdi", "daemon", "restart")

    both = f"{pks['disturbed']}, {pks['undisturbed']}"
    wait_for(lambda: all(place.ask(TERMINATED.format(pks=both))), 600)
    found = place.ask(OUTCOME.format(**pks))
    disturbed, undisturbed = found["disturbed"], found["undisturbed"]
    assert disturbed["status"] == undisturbed["status"] == 0
    assert disturbed["failed"] == undisturbed["failed"] == 0
    assert (disturbed["jobs"], undisturbed["jobs"]) == (3, 1)
    assert len(disturbed["energy"]) == N_FRAMES
    assert undisturbed["computed"] == N_FRAMES
    # A frame whose energy was printed but whose forces were not is the one in flight, and is computed again.
    assert N_FRAMES <= disturbed["computed"] <= N_FRAMES + 2
    for name, tolerance in (("energy", 1e-5), ("forces", 2e-3), ("stress", 2e-5)):
        np.testing.assert_allclose(disturbed[name], undisturbed[name], rtol=0, atol=tolerance)

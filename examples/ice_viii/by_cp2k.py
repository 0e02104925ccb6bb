"""CP2K's own NPT of ice VIII at GFN1-xTB, the truth that a model of it is measured against.

    verdi run by_cp2k.py run      # 8 molecules, 100 K, 1 bar, 4 ps: an hour of one core
    verdi run by_cp2k.py export   # ice-viii-by-cp2k.aiida

in this folder (`verdi run` does not tell a script where it lies). Needs a profile with a running daemon and the code
``cp2k@localhost`` (`aiida-mlfinetune setup`, `verdi daemon start`).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from aiida import orm
from aiida.engine import ProcessBuilder, submit
from aiida.tools.archive import create_archive

from aiida_mlfinetune.science.crystals.ices import IceSpec, build_ice
from aiida_mlfinetune.workchains.sampling import SamplingWorkChain

ARCHIVE = Path(__file__).with_name("ice-viii-by-cp2k.aiida")
GROUP = "ice-viii/by-cp2k"
LEVEL = "gfn1-xtb"
STATE = {"temperature_K": 100.0, "pressure_bar": 1.0}
COUPLING = {"thermostat_tau_fs": 30.0, "barostat_tau_fs": 200.0, "timestep_fs": 1.0}
N_STEPS, STRIDE = 4000, 4


def sampling(code: orm.AbstractCode, n_steps: int = N_STEPS) -> ProcessBuilder:
    """Return flexible NPT of the conventional cell of ice VIII, which is 4.7 angstrom wide.

    At the Gamma point that is no ice VIII to publish; but it is one potential energy, for CP2K and for its model alike.
    """
    builder = SamplingWorkChain.get_builder_from_protocol(
        code,
        orm.StructureData(ase=build_ice(IceSpec("VIII", seed=1))),
        "demo",
        {
            "md": {"n_steps": n_steps, "stride": STRIDE, "seed": 1, **COUPLING},
            "selection": {"n_frames": 2, "volume_range": None},
        },
        ensemble="npt-flexible",
        level=LEVEL,
        **STATE,
    )
    builder.metadata.label = "ice VIII by CP2K, GFN1-xTB"
    return builder


def run() -> None:
    """Run it, and put the process into the group."""
    node = submit(sampling(orm.load_code("cp2k@localhost")))
    print(f"process {node.pk}", flush=True)
    while not node.is_terminated:
        time.sleep(5)
    if not node.is_finished_ok:
        raise SystemExit(f"[{node.exit_status}] {node.exit_message}")
    group, _ = orm.Group.collection.get_or_create(GROUP)
    group.clear()
    group.add_nodes(node)


def export() -> None:
    """Write the archive."""
    create_archive([orm.load_group(GROUP)], filename=ARCHIVE, overwrite=True, compression=9)
    print(ARCHIVE, f"{ARCHIVE.stat().st_size / 2**20:.1f} MiB")


STEPS = {function.__name__: function for function in (run, export)}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()

"""How many labels fine-tuning saves: errors of models fine-tuned from ``ice-xtb`` against models from scratch.

Trains on the 160 frames of ice XI at revPBE-D3 that ship with the project, on nested sets of 20, 40 and 80 frames with
the same 40 for validation, three seeds each, by ``mlfinetune.learning_curve``; settings are those of
``examples/ice_xi/settings.py``. Prints one JSON line last:

- ``ratio_ft40_scratch40``, ``ratio_ft20_scratch80``: force RMSE of the fine-tuned over that of the scratch models, with
  the standard error from the seeds; ``energy_...`` likewise for energies per molecule.
- ``settling``: by training, the validation RMSE of forces (meV/A) after 1/4, 1/2, 3/4 and all of the epochs, the mean
  over seeds: curves that have settled hardly change over the last quarter.

Usage: ``data_efficiency.py [PROFILE]``. Without a profile all 18 models are trained; in a profile that holds the
archive, and the code ``python@localhost``, trainings that were made there (``examples/ice_xi/learning_curve.py``) come
from the cache.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _profile import local_code, local_computer, temporary_profile
from aiida import load_profile, orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching
from aiida.tools.archive import import_archive

from aiida_mlfinetune.calculations.functions.learning_curve import curves_of

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "ice_xi"))
from settings import ARCHIVE, SEEDS, learning_curve

SIZES = (20, 40, 80)
PAIRS = {"ft40_scratch40": (40, 40), "ft20_scratch80": (20, 80)}
QUARTERS = (0.25, 0.5, 0.75, 1.0)


def settling(chain: orm.WorkChainNode) -> dict[str, list[float]]:
    """Return the validation RMSE of forces (meV/A) along the trainings, the mean over seeds, by mode and size."""
    found: dict[str, list[list[float]]] = {}
    for link in chain.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all():
        curve = link.node.outputs.loss_curve
        forces = curve.get_array("valid_rmse_forces_eV_A") * 1000
        known = np.isfinite(forces)  # there is none at epochs without validation
        epochs, forces = curve.get_array("epoch")[known], forces[known]
        at = [int(np.abs(epochs - quarter * epochs[-1]).argmin()) for quarter in QUARTERS]
        found.setdefault(link.link_label.rsplit("_s", 1)[0], []).append(forces[at].tolist())
    return {name: np.mean(values, axis=0).round(1).tolist() for name, values in sorted(found.items())}


def ratio(curves: dict[str, Any], quantity: str, fine_tuned: int, scratch: int) -> tuple[float, float]:
    """Return the error of fine-tuned models over that of scratch models, and its standard error from the seeds."""
    parts = []
    for mode, size in (("naive", fine_tuned), ("scratch", scratch)):
        curve = curves[mode][quantity]
        row = curve.sizes.tolist().index(size)
        parts.append((curve.mean[row], curve.error[row]))
    (above, d_above), (below, d_below) = parts
    value = above / below
    return value, value * math.hypot(d_above / above, d_below / below)


def compared(code: orm.AbstractCode) -> dict[str, Any]:
    """Train all, and compare."""
    with enable_caching():
        outputs, node = run_get_node(learning_curve(code, SIZES, {}))
    if not node.is_finished_ok:
        raise SystemExit(f"the learning curve failed: {node.exit_message}")
    curves = curves_of(outputs["curve"])
    result: dict[str, Any] = {"benchmark": "data_efficiency"}
    for name, (fine_tuned, scratch) in PAIRS.items():
        for prefix, quantity in (("", "forces_meV_A"), ("energy_", "energy_kJ_mol")):
            value, error = ratio(curves, quantity, fine_tuned, scratch)
            result[f"{prefix}ratio_{name}"] = round(value, 3)
            result[f"{prefix}error_{name}"] = round(error, 3)
    for quantity in ("forces_meV_A", "energy_kJ_mol"):
        result[quantity] = {
            mode: dict(zip(curve[quantity].sizes.tolist(), curve[quantity].mean.round(3).tolist(), strict=True))
            for mode, curve in curves.items()
        }
    result["settling"] = settling(node)
    result["seeds"] = list(SEEDS)
    result["met"] = bool(result["ratio_ft40_scratch40"] <= 0.5 and result["ratio_ft20_scratch80"] < 1.0)
    return result


def main(profile: str | None) -> dict[str, Any]:
    """Compare in a profile, or in a temporary one with nothing but the archive."""
    if profile is not None:
        load_profile(profile)
        return compared(orm.load_code("python@localhost"))
    with temporary_profile() as folder:
        computer = local_computer(folder, poll_s=2.0)
        import_archive(ARCHIVE)  # its own computer of that name gets another one
        return compared(local_code(computer, Path(sys.executable).name, "mlfinetune.mace_train"))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:2] or [None])))

"""What CP2K is asked to do for frames whose SCF cycle did not converge, rung by rung; the physics is that of the level.

A rung is a dictionary of ``name`` and ``parameters``, sections laid over the level's FORCE_EVAL. It may change how a
cycle gets to its end, and nothing that changes where the end is: thresholds, grids, basis and functional stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aiida_mlfinetune.calculations.cp2k_input import check_keys, lay_over
from aiida_mlfinetune.common.errors import StudyError

INNER_STEPS, OUTER_CYCLES = 50, 10
ALLOWED = (
    "DFT/SCF/MAX_SCF",
    "DFT/SCF/MAX_SCF_HISTORY",
    "DFT/SCF/MAX_DIIS",
    "DFT/SCF/SCF_GUESS",
    "DFT/SCF/OUTER_SCF/MAX_SCF",
    "DFT/SCF/OT/",
    "DFT/SCF/MIXING/",
    "DFT/SCF/DIAGONALIZATION/",
    "DFT/QS/EXTRAPOLATION",
    "DFT/QS/EXTRAPOLATION_ORDER",
)
"""Keys of FORCE_EVAL that a rung may set; a slash at the end stands for all below it."""


def cp2k_ladder(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rungs for a level, from the cheapest help to the last; each keeps the helps of those before it.

    1. ``more-steps``: at least 50 SCF steps and, with OT, 10 outer cycles, or twice what the level has.
    2. ``other-minimiser``: OT by conjugate gradients with the preconditioner FULL_ALL in place of DIIS, which is faster
       but may run astray; where the level diagonalises, careful Broyden mixing.
    3. ``fresh-start``: each frame from the atomic guess, in place of the wavefunction of the frame before it.
    """
    scf = spec["parameters"].get("DFT", {}).get("SCF", {})
    own_steps, own_cycles = int(scf.get("MAX_SCF", 50)), int(scf.get("OUTER_SCF", {}).get("MAX_SCF", 0))
    if "OT" in scf:
        helps: dict[str, Any] = {
            "MAX_SCF": max(INNER_STEPS, own_steps),
            "OUTER_SCF": {"MAX_SCF": max(OUTER_CYCLES, 2 * own_cycles)},
        }
        other: dict[str, Any] = {"OT": {"MINIMIZER": "CG", "PRECONDITIONER": "FULL_ALL"}}
    else:
        helps = {"MAX_SCF": max(4 * INNER_STEPS, 2 * own_steps)}
        other = {"MIXING": {"METHOD": "BROYDEN_MIXING", "ALPHA": 0.1, "NBROYDEN": 8}}
    more = {"DFT": {"SCF": helps}}
    another = lay_over(more, {"DFT": {"SCF": other}})
    fresh = lay_over(another, {"DFT": {"SCF": {"SCF_GUESS": "ATOMIC"}, "QS": {"EXTRAPOLATION": "USE_GUESS"}}})
    return [
        {"name": name, "parameters": parameters}
        for name, parameters in (("more-steps", more), ("other-minimiser", another), ("fresh-start", fresh))
    ]


def check_cp2k_rung(rung: Mapping[str, Any]) -> None:
    """Check one rung.

    Raises:
        StudyError: another form, or a key that may change the labels, or that CP2K does not have.
    """
    if set(rung) != {"name", "parameters"} or not rung["name"] or not isinstance(rung["parameters"], Mapping):
        raise StudyError(f"a rung of the ladder needs `name` and `parameters` (sections of FORCE_EVAL), got {rung!r}")
    where = f"rung {rung['name']!r}"
    check_keys(rung["parameters"], where)
    for path in _paths(rung["parameters"]):
        if not any(path == allowed or (allowed.endswith("/") and path.startswith(allowed)) for allowed in ALLOWED):
            raise StudyError(
                f"{where} sets {path}, which is not one of the aids to convergence {list(ALLOWED)}: labels of all "
                "rungs must be the same; for other settings make a level with a key of its own"
            )


def _paths(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{path}{key}/")
        else:
            yield f"{path}{key}"

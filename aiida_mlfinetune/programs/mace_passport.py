"""Read from a MACE model file what it is: architecture, cutoff, elements, heads and reference energies.

Stand-alone: needs torch, MACE and ASE only. Reading a model file runs the code in it: call this on trusted files.
Run as ``python mace_passport.py MODEL`` to print the description as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ARCHITECTURE_KEYS = (
    "num_interactions",
    "hidden_irreps",
    "MLP_irreps",
    "max_ell",
    "correlation",
    "num_bessel",
    "num_polynomial_cutoff",
    "radial_type",
    "radial_MLP",
    "distance_transform",
    "pair_repulsion",
    "avg_num_neighbors",
)


def describe_model(path: str | Path, mace_version: str = "") -> dict[str, Any]:
    """Return the fields of a passport that can be read from a model file.

    Args:
        path: a model saved by ``torch.save``; a trusted one, as loading it runs code.
        mace_version: version of mace-torch that wrote the file, where it is known: the file does not tell.

    Returns:
        sha256, mace_version, architecture, r_max (angstrom), elements, heads, e0s (eV, by head and element), dtype and
        n_parameters.

    Raises:
        ValueError: the file holds no MACE model with energies.
    """
    import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
    import torch

    content = Path(path).read_bytes()
    model = torch.load(path, map_location="cpu", weights_only=False)
    if not hasattr(model, "atomic_energies_fn") or not hasattr(model, "r_max"):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a MACE model that predicts energies")
    return {"sha256": hashlib.sha256(content).hexdigest(), "mace_version": mace_version, **describe_loaded(model)}


def describe_loaded(model: Any) -> dict[str, Any]:
    """Return what ``describe_model`` returns, but for the checksum and the version, of a model in memory."""
    from ase.data import chemical_symbols
    from mace.tools.scripts_utils import extract_config_mace_model

    elements = [chemical_symbols[int(z)] for z in model.atomic_numbers]
    heads = [str(head) for head in getattr(model, "heads", None) or ["Default"]]
    energies = model.atomic_energies_fn.atomic_energies.detach().cpu().double().reshape(-1, len(elements))
    rows = energies.tolist() if len(energies) == len(heads) else energies.tolist() * len(heads)
    parameters = list(model.parameters())
    config = extract_config_mace_model(model)
    architecture = {"class": type(model).__name__} | {key: _plain(config.get(key)) for key in ARCHITECTURE_KEYS}
    return {
        "architecture": architecture,
        "r_max": float(model.r_max),
        "elements": elements,
        "heads": heads,
        "e0s": {head: dict(zip(elements, row, strict=True)) for head, row in zip(heads, rows, strict=True)},
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "n_parameters": sum(parameter.numel() for parameter in parameters),
    }


def _plain(value: Any) -> Any:
    """Return a value as a plain JSON type."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if type(value) in (list, tuple):  # irreps are a subclass of tuple, and read best as text
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return value.item()
    return str(value)


if __name__ == "__main__":
    print(json.dumps(describe_model(sys.argv[1]), indent=1))

"""Energies, forces and stress of many frames by one MACE model, in batches.

Stand-alone: needs numpy, torch and MACE only. Run as ``python mace_evaluate.py evaluate.json``; the file holds
``model``, ``frames`` and ``labels`` (file names), ``head``, ``batch_size``, ``dtype`` and ``device``. The arrays of
``frames`` are ``numbers``, ``positions``, ``offsets``, ``cells`` and ``pbc``; those written to ``labels`` are
``energy`` (eV), ``forces`` (eV/A) and ``stress`` (eV/A^3, positive = tensile), NaN where a frame has no volume.
``progress.txt`` gets one line after each batch: the frames that are done, of all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PROGRESS = "progress.txt"


def load_model(path: str | Path, device: str = "cpu") -> Any:
    """Return the model in a trusted file."""
    import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
    import torch

    return torch.load(path, map_location=device, weights_only=False)


def predict(
    model: Any,
    frames: dict[str, np.ndarray],
    head: str,
    batch_size: int = 16,
    dtype: str = "float64",
    device: str = "cpu",
    tell: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return energy (n,), forces (N, 3) and stress (n, 3, 3) of ``frames``.

    ``tell`` is called after each batch with the number of frames that are done.

    Raises:
        ValueError: the model has no such head (MACE would take its last one).
    """
    import torch
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric

    heads = list(getattr(model, "heads", None) or ["Default"])
    if head not in heads:
        raise ValueError(f"the model has no head {head!r}: it has {heads}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        model = model.to(dtype=getattr(torch, dtype), device=device)
        needs_gradient = [parameter.requires_grad for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.requires_grad = False
        table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
        graphs = [
            data.AtomicData.from_config(config, z_table=table, cutoff=float(model.r_max), heads=heads)
            for config in _configurations(frames, head)
        ]
        loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=batch_size, shuffle=False, drop_last=False)
        parts: dict[str, list[np.ndarray]] = {"energy": [], "forces": [], "stress": []}
        for batch in loader:
            output = model(batch.to(device).to_dict(), compute_stress=True)
            for name, values in parts.items():
                values.append(output[name].detach().cpu().numpy().astype(np.float64))
            if tell is not None:
                tell(sum(map(len, parts["energy"])))
        for parameter, needed in zip(model.parameters(), needs_gradient, strict=True):
            parameter.requires_grad = needed
    finally:
        torch.set_default_dtype(before)
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    arrays["stress"] = np.where(frames["pbc"].all(axis=1)[:, None, None], arrays["stress"], np.nan)
    return arrays


def _configurations(frames: dict[str, np.ndarray], head: str) -> list[Any]:
    """Return the frames as MACE's configurations, without labels."""
    from mace.data import Configuration

    offsets = frames["offsets"]
    return [
        Configuration(
            atomic_numbers=frames["numbers"][offsets[i] : offsets[i + 1]].astype(int),
            positions=frames["positions"][offsets[i] : offsets[i + 1]],
            properties={},
            property_weights={},
            cell=frames["cells"][i].copy(),
            pbc=tuple(bool(periodic) for periodic in frames["pbc"][i]),
            head=head,
        )
        for i in range(len(offsets) - 1)
    ]


def read_frames(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file of frames."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def main(path: str) -> None:
    """Evaluate as the file ``path`` says."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    frames = read_frames(job["frames"])
    model = load_model(job["model"], job["device"])
    total = len(frames["offsets"]) - 1
    with Path(PROGRESS).open("w", encoding="utf-8", buffering=1) as handle:

        def tell(done: int) -> None:
            handle.write(f"{done} of {total} frames\n")

        labels = predict(model, frames, job["head"], job["batch_size"], job["dtype"], job["device"], tell)
    np.savez(job["labels"], **labels)
    print(f"evaluated {len(labels['energy'])} frames with head {job['head']}")


if __name__ == "__main__":
    main(sys.argv[1])

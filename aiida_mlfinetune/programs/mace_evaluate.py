"""Energies, forces and stress of many frames by one MACE model, in batches.

Stand-alone: needs numpy, torch and MACE only. Run as ``python mace_evaluate.py evaluate.json``; the file holds
``model``, ``frames`` and ``labels`` (file names), ``head``, ``batch_size``, ``dtype`` and ``device``, and for a sum of
two models ``baseline`` with ``model`` and ``head``. The arrays of
``frames`` are ``numbers``, ``positions``, ``offsets``, ``cells`` and ``pbc``; those written to ``labels`` are
``energy`` (eV), ``forces`` (eV/A) and ``stress`` (eV/A^3, positive = tensile), NaN where a frame has no volume.
``progress.txt`` gets one line after each batch: the frames that are done, of all.
"""

from __future__ import annotations

import importlib
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


def accelerate(model: Any, dtype: str, device: str) -> Any:
    """Return the model with the kernels of cuEquivariance in the place of its own.

    Raises:
        ModuleNotFoundError: they are not installed; MACE would go on without them, and not say so.
    """
    importlib.import_module("cuequivariance_torch")
    import torch
    from mace.cli.convert_e3nn_cueq import run

    return run(model.to(dtype=getattr(torch, dtype), device=device), device=device).to(device)


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

    heads = model_heads(model)
    if head not in heads:
        raise ValueError(f"the model has no head {head!r}: it has {heads}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        model = model.to(dtype=getattr(torch, dtype), device=device)
        needs_gradient = [parameter.requires_grad for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.requires_grad = False
        parts: dict[str, list[np.ndarray]] = {"energy": [], "forces": [], "stress": []}
        for batch in batches(model, frames, head, batch_size):
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


def model_heads(model: Any) -> list[str]:
    """Return the names of a model's heads."""
    return list(getattr(model, "heads", None) or ["Default"])


def batches(model: Any, frames: dict[str, np.ndarray], head: str, batch_size: int) -> Any:
    """Return a loader of the frames in order, as the model takes them, in torch's default precision."""
    from mace.tools import torch_geometric

    graphs = Graphs(model, frames, head)
    return torch_geometric.dataloader.DataLoader(graphs, batch_size=batch_size, shuffle=False, drop_last=False)


class Graphs:
    """The frames as MACE's graphs without labels, each made when it is asked for: all at once would fill the memory."""

    def __init__(self, model: Any, frames: dict[str, np.ndarray], head: str) -> None:
        from mace.tools import AtomicNumberTable

        self.table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
        self.cutoff, self.heads = float(model.r_max), model_heads(model)
        self.frames, self.head = frames, head

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames["offsets"]) - 1

    def __getitem__(self, index: int) -> Any:
        """Return the graph of a frame."""
        from mace.data import AtomicData, Configuration

        frames, own = self.frames, slice(*self.frames["offsets"][index : index + 2])
        configuration = Configuration(
            atomic_numbers=frames["numbers"][own].astype(int),
            positions=frames["positions"][own],
            properties={},
            property_weights={},
            cell=frames["cells"][index].copy(),
            pbc=tuple(bool(periodic) for periodic in frames["pbc"][index]),
            head=self.head,
        )
        return AtomicData.from_config(configuration, z_table=self.table, cutoff=self.cutoff, heads=self.heads)


def read_frames(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file of frames."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def main(path: str) -> None:
    """Evaluate as the file ``path`` says."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    frames = read_frames(job["frames"])
    total = len(frames["offsets"]) - 1
    parts = [job, job["baseline"]] if job.get("baseline") else [job]
    labels: dict[str, np.ndarray] = {}
    with Path(PROGRESS).open("w", encoding="utf-8", buffering=1) as handle:
        for number, part in enumerate(parts):

            def tell(done: int, before: int = number * total) -> None:
                handle.write(f"{(before + done) // len(parts)} of {total} frames\n")

            model = load_model(part["model"], job["device"])
            if job.get("enable_cueq"):
                model = accelerate(model, job["dtype"], job["device"])
            own = predict(model, frames, part["head"], job["batch_size"], job["dtype"], job["device"], tell)
            labels = {name: labels[name] + values if labels else values for name, values in own.items()}
            print(f"evaluated {total} frames with {part['model']}, head {part['head']}")
    np.savez(job["labels"], **labels)


if __name__ == "__main__":
    main(sys.argv[1])

"""Invariant descriptors of many frames by one MACE model, averaged over the atoms of each element of each frame.

Stand-alone: needs numpy, torch and MACE only, and ``mace_evaluate.py`` beside it. Run as
``python mace_descriptors.py descriptors.json``; the file holds ``model``, ``frames`` and ``descriptors`` (file names),
``batch_size``, ``dtype`` and ``device``. Written to ``descriptors``, a row for each element of each frame, in order of
frames and then of atomic numbers: ``frame`` (m,), ``number`` (m,) and ``mean`` (m, d), the latter in single precision.
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


def element_means(values: np.ndarray, numbers: np.ndarray, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Return the means over the atoms of each element of each frame.

    Args:
        values: (N, d) of all atoms.
        numbers: (N,) atomic numbers.
        frames: (N,) the frame of each atom.

    Returns:
        ``frame`` (m,), ``number`` (m,) and ``mean`` (m, d), sorted by frame and then by number.
    """
    order = np.lexsort((numbers, frames))
    pairs = np.stack([frames[order], numbers[order]], axis=1)
    starts = np.flatnonzero(np.concatenate([[True], (pairs[1:] != pairs[:-1]).any(axis=1)]))
    counts = np.diff(np.concatenate([starts, [len(order)]]))
    means = np.add.reduceat(values[order], starts, axis=0) / counts[:, None]
    return {"frame": pairs[starts, 0], "number": pairs[starts, 1], "mean": means}


def describe(
    model: Any,
    frames: dict[str, np.ndarray],
    batch_size: int = 16,
    dtype: str = "float64",
    device: str = "cpu",
    tell: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return what ``element_means`` does of the invariant node features of all layers.

    They are those of ``MACECalculator.get_descriptors(invariants_only=True)``, and the same for all heads. ``tell`` is
    called after each batch with the number of frames that are done.
    """
    import torch
    from e3nn import o3
    from mace.modules.utils import extract_invariant
    from mace_evaluate import batches, model_heads

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    irreps = o3.Irreps(str(model.products[0].linear.irreps_out))
    n_layers, l_max = int(model.num_interactions), irreps.lmax
    n_features = irreps.dim // (l_max + 1) ** 2
    parts: list[dict[str, np.ndarray]] = []
    done = 0
    try:
        model = model.to(dtype=getattr(torch, dtype), device=device)
        with torch.no_grad():
            for batch in batches(model, frames, model_heads(model)[0], batch_size):
                features = model(batch.to(device).to_dict(), compute_force=False)["node_feats"]
                invariant = extract_invariant(features, num_layers=n_layers, num_features=n_features, l_max=l_max)
                sizes = np.diff(batch.ptr.cpu().numpy())
                own = np.repeat(np.arange(done, done + len(sizes)), sizes)
                atoms = slice(frames["offsets"][done], frames["offsets"][done + len(sizes)])
                values = invariant.cpu().numpy().astype(np.float64)
                parts.append(element_means(values, frames["numbers"][atoms].astype(np.int64), own))
                done += len(sizes)
                if tell is not None:
                    tell(done)
    finally:
        torch.set_default_dtype(before)
    return {name: np.concatenate([part[name] for part in parts]) for name in ("frame", "number", "mean")}


def main(path: str) -> None:
    """Describe as the file ``path`` says."""
    from mace_evaluate import load_model, read_frames

    job = json.loads(Path(path).read_text(encoding="utf-8"))
    frames = read_frames(job["frames"])
    model = load_model(job["model"], job["device"])
    total = len(frames["offsets"]) - 1
    with Path(PROGRESS).open("w", encoding="utf-8", buffering=1) as handle:

        def tell(done: int) -> None:
            handle.write(f"{done} of {total} frames\n")

        described = describe(model, frames, job["batch_size"], job["dtype"], job["device"], tell)
    np.savez(job["descriptors"], **{**described, "mean": described["mean"].astype(np.float32)})
    print(f"described {total} frames")


if __name__ == "__main__":
    main(sys.argv[1])

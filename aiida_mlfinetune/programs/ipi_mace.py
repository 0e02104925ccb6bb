"""A MACE model as a potential inside i-PI (``<ffdirect>`` with ``<pes>custom</pes>``), made for long runs.

Stand-alone: needs numpy, torch, MACE and i-PI only. The one parameter is ``settings``, the name of a JSON file with
``model`` (file), ``numbers`` (atomic numbers), ``pbc``, ``head``, ``dtype``, ``device``, ``enable_cueq``, ``skin_A``,
``min_distance_A``, ``max_force_eV_A``, ``max_displacement_A``, ``reference_volume_A3`` and ``volume_factor_limits``.
With ``baseline`` (``model`` and ``head``) the potential is the sum of both models, one pass each.

Where the time goes in MACE's own calculator, and what is done here:

- Pairs up to ``r_max + skin_A`` are kept as long as no pair can have come closer than ``r_max`` unseen, and filtered at
  every step, so that the model sees just the edges that it would see after a new search (``PairList``).
- Forces and virial come from the derivative of the energy by the edge vectors, in one backward pass (for the
  architectures where nothing else depends on positions; others go through MACE's own virials).
- TorchScript is not specialised to numbers of edges, which change at every step.
- Freed memory is kept by the process instead of given back at each step (``keep_freed_memory``).

A run that cannot go on sensibly (atoms too close, forces beyond bounds, energies that are no numbers, a cell that
collapses or evaporates) writes the reason to ``driver_stop.json`` and asks i-PI for a clean stop.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
import numpy as np
import torch
from ipi.utils.softexit import softexit
from ipi.utils.units import unit_to_internal
from mace.data.neighborhood import get_neighborhood
from mace.tools import torch_tools

__DRIVER_NAME__ = "ipi_mace"
__DRIVER_CLASS__ = "MaceDriver"

STOP_FILENAME = "driver_stop.json"
EDGE_ARCHITECTURES = ("MACE", "ScaleShiftMACE")
"""Models whose energy depends on positions through the edge vectors alone."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of ``mallopt``, from the header ``malloc.h`` of the GNU C library."""


def keep_freed_memory() -> None:
    """Tell the GNU C library to keep freed memory; elsewhere, do nothing.

    A step allocates tens of arrays of tens of megabytes. Given back and asked for again, each of their pages has to be
    mapped and zeroed by the kernel, which was seen to cost as much as the model itself.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(M_TOP_PAD, 64 * 2**20)


def with_cuequivariance(model: Any, device: str) -> Any:
    """Return the model with the kernels of cuEquivariance in the place of its own.

    Raises:
        ModuleNotFoundError: they are not installed; MACE would go on without them, and not say so.
    """
    importlib.import_module("cuequivariance_torch")
    from mace.cli.convert_e3nn_cueq import run

    return run(model, device=device).to(device)


class PairList:
    """All pairs that may be closer than ``cutoff``, searched again only when one may have been missed.

    Let h0 and r0 be cell (rows are vectors) and positions at the search, F = h0^-1 h the deformation since, and
    u_i = r_i - r0_i F. A pair with vector d0 now has d = d0 F + u_j - u_i, so that |d| >= |d0| s - 2 max|u|, where s is
    the smallest singular value of F. Pairs left out had |d0| > cutoff + skin: none of them has come closer than the
    cutoff while (cutoff + skin) s - 2 max|u| >= cutoff. Positions may lie outside the cell.

    Attributes:
        index: (2, m) senders and receivers.
        images: (m, 3) integer cell shifts S, such that d = r_j - r_i + S h.
        n_searches: number of searches so far.
    """

    def __init__(self, cutoff: float, skin: float, pbc: tuple[bool, bool, bool]) -> None:
        self.cutoff, self.skin, self.pbc = cutoff, skin, pbc
        self.n_searches = 0
        self.index = np.zeros((2, 0), dtype=np.int64)
        self.images = np.zeros((0, 3))
        self._positions: np.ndarray | None = None
        self._cell: np.ndarray | None = None
        self._inverse: np.ndarray | None = None

    def edges(self, positions: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return index (2, m), images (m, 3), vectors (m, 3) and lengths (m,) of pairs closer than the cutoff (A)."""
        if not self._is_valid(positions, cell):
            self._search(positions, cell)
        vectors = positions[self.index[1]] - positions[self.index[0]]
        if any(self.pbc):
            vectors += self.images @ cell
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        near = np.flatnonzero(lengths < self.cutoff)
        return self.index[:, near], self.images[near], vectors[near], lengths[near]

    def _is_valid(self, positions: np.ndarray, cell: np.ndarray) -> bool:
        if self._positions is None:
            return False
        smallest, moved = 1.0, positions - self._positions
        if any(self.pbc):
            deformation = self._inverse @ cell
            smallest = np.linalg.svd(deformation, compute_uv=False)[-1]
            moved = positions - self._positions @ deformation
        largest = np.sqrt(np.einsum("ij,ij->i", moved, moved).max())
        return bool((self.cutoff + self.skin) * smallest - 2 * largest >= self.cutoff)

    def _search(self, positions: np.ndarray, cell: np.ndarray) -> None:
        reach = self.cutoff + self.skin
        index, _, images, _ = get_neighborhood(positions, reach, pbc=self.pbc, cell=cell.copy())
        self.index, self.images = index.astype(np.int64), images.astype(np.float64)
        self._positions, self._cell = positions.copy(), cell.copy()
        if any(self.pbc):
            self._inverse = np.linalg.inv(cell)
        self.n_searches += 1


class MacePotential:
    """Energies, forces and virials of configurations of the same atoms, in eV and angstrom."""

    def __init__(
        self,
        model: str,
        numbers: list[int],
        pbc: list[bool],
        head: str | None = None,
        dtype: str = "float64",
        device: str = "cpu",
        skin_A: float = 0.5,  # noqa: N803 - the unit
        enable_cueq: bool = False,
    ) -> None:
        keep_freed_memory()
        # The number of edges changes from step to step: do not compile TorchScript anew for each.
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
        self.device = torch_tools.init_device(device)
        self.dtype = getattr(torch, dtype)
        torch.set_default_dtype(self.dtype)
        self.model = torch.load(model, map_location=self.device, weights_only=False).to(self.dtype)
        if enable_cueq:
            self.model = with_cuequivariance(self.model, device)
        self.model = self.model.eval()
        for parameter in self.model.parameters():
            parameter.requires_grad = False
        self.pbc = (bool(pbc[0]), bool(pbc[1]), bool(pbc[2]))
        self.skin = skin_A
        self.r_max = float(self.model.r_max)
        self.head = self._head_number(head)
        self.node_attrs = self._node_attributes(numbers)
        accepts = inspect.signature(self.model.forward).parameters
        self.by_edges = type(self.model).__name__ in EDGE_ARCHITECTURES and "compute_edge_forces" in accepts
        self.lists: list[PairList] = []
        self.shortest = np.inf
        self._fixed: dict[int, dict[str, torch.Tensor]] = {}

    def _head_number(self, head: str | None) -> int:
        heads = list(getattr(self.model, "heads", None) or ["Default"])
        if head is None and len(heads) == 1:
            return 0
        if head not in heads:
            raise ValueError(f"the model has no head {head!r}: choose one of {heads}")
        return heads.index(head)

    def _node_attributes(self, numbers: list[int]) -> torch.Tensor:
        known = [int(z) for z in self.model.atomic_numbers]
        if unknown := sorted(set(numbers) - set(known)):
            raise ValueError(f"the model does not know the atomic numbers {unknown}: it knows {known}")
        columns = torch.tensor([known.index(z) for z in numbers], device=self.device)
        return torch.nn.functional.one_hot(columns, len(known)).to(self.dtype)

    def compute(
        self, cells: list[np.ndarray], positions: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluate configurations in one pass.

        Args:
            cells: k matrices (3, 3) whose rows are the cell vectors, angstrom.
            positions: k arrays (n, 3), angstrom.

        Returns:
            energies (k,) in eV, forces (k, n, 3) in eV/A, and virials -dE/d(strain) (k, 3, 3) in eV.
        """
        n_beads, n_atoms = len(positions), len(positions[0])
        while len(self.lists) < n_beads:
            self.lists.append(PairList(self.r_max, self.skin, self.pbc))
        found = [self.lists[i].edges(positions[i], cells[i]) for i in range(n_beads)]
        self.shortest = min((float(lengths.min()) for *_, lengths in found if len(lengths)), default=np.inf)
        index = np.concatenate([edges + i * n_atoms for i, (edges, *_) in enumerate(found)], axis=1)
        data = {
            **self._constants(n_beads, n_atoms),
            "cell": self._tensor(np.concatenate(cells)),
            "edge_index": torch.from_numpy(np.ascontiguousarray(index)).to(self.device),
        }
        if self.by_edges:
            vectors = np.concatenate([own for _, _, own, _ in found])
            energy, forces, virials = self._by_edges(data, vectors, index, n_atoms)
        else:
            images = np.concatenate([own for _, own, _, _ in found])
            energy, forces, virials = self._by_strain(data, np.concatenate(positions), images)
        return energy, forces.reshape(n_beads, n_atoms, 3), virials

    def _by_edges(
        self, data: dict[str, torch.Tensor], vectors: np.ndarray, index: np.ndarray, n_atoms: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return energies, forces and virials from g = dE/dd, d the vectors from sender to receiver.

        MACE takes d as r_j - r_i + shift: all r zero and the vectors as shifts lose no digits in single precision.
        """
        data["shifts"] = self._tensor(vectors)
        data["positions"] = torch.zeros_like(data["node_attrs"][:, :1]).repeat(1, 3)
        output = self.model(data, compute_force=False, compute_edge_forces=True)
        gradient = _numpy(output["edge_forces"])
        energy = _numpy(output["energy"])
        forces = np.empty((len(energy) * n_atoms, 3))
        for k in range(3):
            sent = np.bincount(index[0], weights=gradient[:, k], minlength=len(forces))
            forces[:, k] = sent - np.bincount(index[1], weights=gradient[:, k], minlength=len(forces))
        virials = np.zeros((len(energy), 3, 3))
        bounds = np.searchsorted(index[0] // n_atoms, np.arange(len(energy) + 1))
        for bead in range(len(energy)):
            own = slice(bounds[bead], bounds[bead + 1])
            virial = -vectors[own].T @ gradient[own]
            virials[bead] = 0.5 * (virial + virial.T)
        return energy, forces, virials

    def _by_strain(
        self, data: dict[str, torch.Tensor], positions: np.ndarray, images: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return energies, forces and virials as MACE computes them, from a symmetric strain of cell and positions."""
        data["positions"], data["unit_shifts"] = self._tensor(positions), self._tensor(images)
        data["shifts"] = torch.zeros_like(data["unit_shifts"])  # MACE replaces them by the images in the strained cell
        output = self.model(data, compute_force=True, compute_virials=True)
        return _numpy(output["energy"]), _numpy(output["forces"]), _numpy(output["virials"])

    def _constants(self, n_beads: int, n_atoms: int) -> dict[str, torch.Tensor]:
        if n_beads not in self._fixed:
            count = torch.arange(n_beads, device=self.device)
            self._fixed[n_beads] = {
                "node_attrs": self.node_attrs.repeat(n_beads, 1),
                "batch": count.repeat_interleave(n_atoms),
                "ptr": torch.arange(n_beads + 1, device=self.device) * n_atoms,
                "head": torch.full((n_beads,), self.head, device=self.device),
            }
        return self._fixed[n_beads]

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device=self.device, dtype=self.dtype)


class SumPotential:
    """The sum of potentials of the same atoms, such as a difference between two levels and its baseline."""

    def __init__(self, parts: list[MacePotential]) -> None:
        self.parts = parts

    @property
    def shortest(self) -> float:
        """Smallest distance (A) that any of the parts saw in the last configurations."""
        return min(part.shortest for part in self.parts)

    def compute(
        self, cells: list[np.ndarray], positions: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the sums of what ``MacePotential.compute`` returns, each part evaluated once."""
        results = [part.compute(cells, positions) for part in self.parts]
        energies, forces, virials = (np.sum(values, axis=0) for values in zip(*results, strict=True))
        return energies, forces, virials


class MaceDriver:
    """What i-PI calls: units, checks that the run is sane, and stops."""

    def __init__(self, settings: str, verbosity: Any = None, **_: Any) -> None:
        del verbosity
        values = json.loads(Path(settings).read_text(encoding="utf-8"))
        self.min_distance = values.pop("min_distance_A")
        self.max_force = values.pop("max_force_eV_A")
        self.max_displacement = values.pop("max_displacement_A")
        self.reference_volume = values.pop("reference_volume_A3")
        self.volume_limits = values.pop("volume_factor_limits")
        baseline = values.pop("baseline", None)
        self.potential: MacePotential | SumPotential = MacePotential(**values)
        if baseline is not None:
            self.potential = SumPotential([self.potential, MacePotential(**{**values, **baseline})])
        self.length = unit_to_internal("length", "ase", 1.0)
        self.energy = unit_to_internal("energy", "ase", 1.0)
        self.force = self.energy / self.length
        self.previous: list[np.ndarray] = []

    def __call__(self, cell: Any, pos: Any) -> Any:
        """Return potential, forces, virial and extras of one configuration, or a list of them, in atomic units."""
        if not isinstance(cell, list):
            return self([cell], [pos])[0]
        # i-PI's cell vectors are columns, those of the rest of the world are rows.
        cells = [np.array(h, dtype=float).T / self.length for h in cell]
        positions = [np.array(q, dtype=float).reshape(-1, 3) / self.length for q in pos]
        self._check_geometry(cells, positions)
        energies, forces, virials = self.potential.compute(cells, positions)
        self._check_results(energies, forces)
        return [
            (float(energy) * self.energy, force * self.force, virial * self.energy, "")
            for energy, force, virial in zip(energies, forces, virials, strict=True)
        ]

    def _check_geometry(self, cells: list[np.ndarray], positions: list[np.ndarray]) -> None:
        if not all(np.isfinite(values).all() for values in (*cells, *positions)):
            self._stop("not_finite", "positions or cell are no numbers any more")
        if len(self.previous) == len(positions):
            moved = max(float(np.abs(q - before).max()) for q, before in zip(positions, self.previous, strict=True))
            if moved > self.max_displacement:
                self._stop("displacement", f"an atom moved by {moved:.2f} A in a step, over {self.max_displacement} A")
        self.previous = positions
        if self.reference_volume is None:
            return
        factors = [abs(np.linalg.det(cell)) / self.reference_volume for cell in cells]
        low, high = self.volume_limits
        if min(factors) < low or max(factors) > high:
            factor = min(factors) if min(factors) < low else max(factors)
            self._stop("volume", f"the volume is {factor:.3f} times that of the start, outside of [{low}, {high}]")

    def _check_results(self, energies: np.ndarray, forces: np.ndarray) -> None:
        if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
            self._stop("not_finite", "the model's energy or forces are no numbers")
        if self.potential.shortest < self.min_distance:
            self._stop(
                "distance", f"two atoms are {self.potential.shortest:.3f} A apart, closer than {self.min_distance} A"
            )
        largest = float(np.sqrt((forces**2).sum(axis=-1).max()))
        if largest > self.max_force:
            self._stop("force", f"a force of {largest:.1f} eV/A, above {self.max_force} eV/A")

    def _stop(self, reason: str, message: str) -> None:
        """End i-PI with all outputs closed; does not return."""
        if not Path(STOP_FILENAME).exists():
            Path(STOP_FILENAME).write_text(json.dumps({"reason": reason, "message": message}), encoding="utf-8")
        softexit.trigger(status="bad", message=f" @ipi_mace: {message}.")


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float64).numpy()

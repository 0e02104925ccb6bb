"""A MACE model as a potential inside i-PI (``<ffdirect>`` with ``<pes>custom</pes>``), made for long runs.

Stand-alone: needs numpy, torch, MACE and i-PI only, and ``mace_fused.py`` beside it. The one parameter is
``settings``, the name of a JSON file with ``model`` (file), ``numbers`` (atomic numbers), ``pbc``, ``head``, ``dtype``,
``device``, ``enable_cueq``, ``skin_A``, ``min_distance_A``, ``max_force_eV_A``, ``max_displacement_A``,
``reference_volume_A3`` and ``volume_factor_limits``.
With ``baseline`` (``model`` and ``head``) the potential is the sum of both models, one pass each. Beads of ring
polymers come in ``n_batches`` (1) equal batches a step, always in the same order. With ``max_temperature_K``,
``masses`` (atomic mass units) and ``timestep_fs``, the motion of the centroids is watched too. With ``cell_motion``
(``first_step``, ``stride``, ``tau_fs``, ``temperature_K``, ``n_atoms`` and ``isotropic``) the kinetic energy of a cell
under a barostat is written to ``driver_cell.txt``, which i-PI does not print.

Where the time goes in MACE's own calculator, and what is done here:

- Pairs up to ``r_max + skin_A`` are kept as long as no pair can have come closer than ``r_max`` unseen, and filtered at
  every step, so that the model sees just the edges that it would see after a new search (``PairList``).
- Forces and virial come from the derivative of the energy by the edge vectors, in one backward pass (for the
  architectures where nothing else depends on positions; others go through MACE's own virials).
- Messages are summed over the edges of an atom as products of small matrices, where the features of the senders are
  scalars, instead of being written out for every edge; products of messages come with their derivatives, and the
  layers that depend on the element are one for each element, not for each atom (``mace_fused``).
- TorchScript is not specialised to numbers of edges, which change at every step.
- Freed memory is kept by the process instead of given back at each step (``keep_freed_memory``).

A run that cannot go on sensibly (atoms too close, forces or temperature beyond bounds, energies that are no numbers, a
cell that collapses or evaporates) writes the reason to ``driver_stop.json`` and asks i-PI for a clean stop. With it go
the last configurations that were sane (``last``: ``cells``, ``positions``, ``energies`` and ``forces``, in eV and
angstrom and in i-PI's frame).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

import mace  # noqa: F401 - first, as it makes torch read the tables of e3nn
import numpy as np
import torch
from ipi.utils.softexit import softexit
from ipi.utils.units import Constants, unit_to_internal, unit_to_user
from mace.data.neighborhood import get_neighborhood
from mace.tools import torch_tools

sys.path.insert(0, str(Path(__file__).resolve().parent))  # i-PI loads this file alone

from mace_fused import EDGE_ARCHITECTURES, fuse, tell_elements

__DRIVER_NAME__ = "ipi_mace"
__DRIVER_CLASS__ = "MaceDriver"

STOP_FILENAME = "driver_stop.json"
CELL_FILENAME = "driver_cell.txt"
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
    cutoff while (cutoff + skin) s - 2 max|u| >= cutoff. Positions may lie outside the cell. Pairs come sorted, so that
    forces do not depend on when the last search was, not even by rounding: a restarted run differs from one that was
    not by i-PI's own rounding alone.

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
        order = np.lexsort((*images.T, index[1], index[0]))  # the same sums, whenever the last search was
        self.index, self.images = index[:, order].astype(np.int64), images[order].astype(np.float64)
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
        else:
            fuse(self.model)
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
        _, examples, elements = np.unique(numbers, return_index=True, return_inverse=True)
        self._elements = torch.from_numpy(elements).to(self.device), torch.from_numpy(examples).to(self.device)
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
        self, cells: list[np.ndarray], positions: list[np.ndarray], first: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Evaluate configurations in one pass.

        Args:
            cells: k matrices (3, 3) whose rows are the cell vectors, angstrom.
            positions: k arrays (n, 3), angstrom.
            first: number of the first bead, by which its list of pairs is found again.

        Returns:
            energies (k,) in eV, forces (k, n, 3) in eV/A, and virials -dE/d(strain) (k, 3, 3) in eV.
        """
        n_beads, n_atoms = len(positions), len(positions[0])
        while len(self.lists) < first + n_beads:
            self.lists.append(PairList(self.r_max, self.skin, self.pbc))
        found = [self.lists[first + i].edges(positions[i], cells[i]) for i in range(n_beads)]
        self.shortest = min((float(lengths.min()) for *_, lengths in found if len(lengths)), default=np.inf)
        index = np.concatenate([edges + i * n_atoms for i, (edges, *_) in enumerate(found)], axis=1)
        data = {
            **self._constants(n_beads, n_atoms),
            "cell": self._tensor(np.concatenate(cells)),
            "edge_index": torch.from_numpy(np.ascontiguousarray(index)).to(self.device),
        }
        if self.by_edges:
            elements, examples = self._elements
            tell_elements(self.model, elements.repeat(n_beads), examples)
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
        self, cells: list[np.ndarray], positions: list[np.ndarray], first: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the sums of what ``MacePotential.compute`` returns, each part evaluated once."""
        results = [part.compute(cells, positions, first) for part in self.parts]
        energies, forces, virials = (np.sum(values, axis=0) for values in zip(*results, strict=True))
        return energies, forces, virials


class CentroidTemperature:
    """The temperature of the centroids from how far they move in a step: T = sum m (dr/dt)^2 / (3 N k).

    What a cell under a barostat carries them along is no motion of theirs, and is taken off: r is compared with
    r_before h_before^-1 h (rows are vectors).
    """

    def __init__(self, limit: float | None, masses: list[float] | None, timestep_fs: float | None) -> None:
        self.limit = limit
        if limit is None or masses is None or timestep_fs is None:
            self.limit = None
            return
        dalton, step = unit_to_internal("mass", "dalton", 1.0), unit_to_internal("time", "femtosecond", timestep_fs)
        kelvin = unit_to_user("temperature", "kelvin", 1.0) / Constants.kb
        scale = unit_to_internal("length", "ase", 1.0) / step
        self.weights = np.array(masses)[:, None] * dalton * scale**2 * kelvin / (3 * len(masses))
        self._sum, self._beads = 0.0, 0
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def beyond(self, cell: np.ndarray, positions: list[np.ndarray], *, last: bool) -> float | None:
        """Return the temperature (K) if it is above the limit; ``last`` says that all beads of a step are there."""
        if self.limit is None:
            return None
        self._sum, self._beads = self._sum + np.sum(positions, axis=0), self._beads + len(positions)
        if not last:
            return None
        centroids, before = self._sum / self._beads, self._before
        self._sum, self._beads, self._before = 0.0, 0, (cell, centroids)
        if before is None:
            return None
        carried = before[1] @ np.linalg.solve(before[0], cell)
        temperature = float((self.weights * (centroids - carried) ** 2).sum())
        return temperature if temperature > self.limit else None


class CellMotion:
    """The kinetic energy of the cell under i-PI's barostats, from how it changes in a step.

    In a step i-PI turns the cell h (columns are vectors) into exp(v dt) h with one rate v: a number under an isotropic
    barostat of the mass W = 3 N tau^2 k T, an upper triangular matrix under a flexible one of W = N tau^2 k T. The
    energy is the sum of W v^2 / 2 over its 1 or 6 components, that of the middle of the step. All beads share it.
    """

    def __init__(
        self,
        first_step: int,
        stride: int,
        timestep_fs: float,
        tau_fs: float,
        temperature_K: float,  # noqa: N803 - the unit
        n_atoms: int,
        isotropic: bool,
    ) -> None:
        self.step, self.stride, self.isotropic = first_step - 1, stride, isotropic
        boltzmann = Constants.kb / unit_to_internal("energy", "ase", 1.0) * unit_to_internal("temperature", "kelvin", 1)
        factor = 3 if isotropic else 1
        self.scale = 0.5 * boltzmann * temperature_K * factor * n_atoms * (tau_fs / timestep_fs) ** 2
        self.before: np.ndarray | None = None
        self.path = Path(CELL_FILENAME)
        self.path.write_text("# step, kinetic energy of the cell in eV\n", encoding="utf-8")

    def add(self, cell: np.ndarray) -> None:
        """Take the cell (rows are vectors) of the next step."""
        self.step += 1
        before, self.before = self.before, cell
        if before is None or self.step % self.stride:
            return
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(f"{self.step} {self.energy(before, cell):.10e}\n")

    def energy(self, before: np.ndarray, after: np.ndarray) -> float:
        """Return the kinetic energy in eV of the step between two cells."""
        if self.isotropic:
            return float(self.scale * (np.log(np.linalg.det(after) / np.linalg.det(before)) / 3) ** 2)
        strain = np.linalg.solve(before, after) - np.eye(3)  # rows: h^T = h0^T exp(v dt)^T
        rate = strain - strain @ strain / 2 + strain @ strain @ strain / 3  # the logarithm, as strains are small
        return float(self.scale * (rate**2).sum())


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
        self.watch = CentroidTemperature(
            values.pop("max_temperature_K", None),
            values.pop("masses", None),
            values.pop("timestep_fs", None),
        )
        motion = values.pop("cell_motion", None)
        self.cell_motion = None if motion is None else CellMotion(**motion)
        self.n_batches = values.pop("n_batches", 1)
        self.batch = 0
        baseline = values.pop("baseline", None)
        self.potential: MacePotential | SumPotential = MacePotential(**values)
        if baseline is not None:
            self.potential = SumPotential([self.potential, MacePotential(**{**values, **baseline})])
        self.length = unit_to_internal("length", "ase", 1.0)
        self.energy = unit_to_internal("energy", "ase", 1.0)
        self.force = self.energy / self.length
        self.previous: dict[int, list[np.ndarray]] = {}
        self.last: dict[str, Any] | None = None

    def __call__(self, cell: Any, pos: Any) -> Any:
        """Return potential, forces, virial and extras of one configuration, or a list of them, in atomic units."""
        if not isinstance(cell, list):
            return self([cell], [pos])[0]
        # i-PI's cell vectors are columns, those of the rest of the world are rows.
        cells = [np.array(h, dtype=float).T / self.length for h in cell]
        positions = [np.array(q, dtype=float).reshape(-1, 3) / self.length for q in pos]
        self._check_geometry(cells, positions)
        if self.cell_motion is not None and self.batch == 0:
            self.cell_motion.add(cells[0])
        energies, forces, virials = self.potential.compute(cells, positions, self.batch * len(positions))
        self.batch = (self.batch + 1) % self.n_batches
        self._check_results(energies, forces)
        self.last = {"cells": cells, "positions": positions, "energies": energies, "forces": forces}
        return [
            (float(energy) * self.energy, force * self.force, virial * self.energy, "")
            for energy, force, virial in zip(energies, forces, virials, strict=True)
        ]

    def _check_geometry(self, cells: list[np.ndarray], positions: list[np.ndarray]) -> None:
        if not all(np.isfinite(values).all() for values in (*cells, *positions)):
            self._stop("not_finite", "positions or cell are no numbers any more")
        if self.batch in self.previous:
            pairs = zip(positions, self.previous[self.batch], strict=True)
            moved = max(float(np.abs(q - before).max()) for q, before in pairs)
            if moved > self.max_displacement:
                self._stop("displacement", f"an atom moved by {moved:.2f} A in a step, over {self.max_displacement} A")
        self.previous[self.batch] = positions
        last = self.batch == self.n_batches - 1
        if (temperature := self.watch.beyond(cells[0], positions, last=last)) is not None:
            self._stop("temperature", f"the temperature is {temperature:.0f} K, above {self.watch.limit:.0f} K")
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
            last = self.last and {name: np.asarray(values).tolist() for name, values in self.last.items()}
            stop = {"reason": reason, "message": message, "last": last}
            Path(STOP_FILENAME).write_text(json.dumps(stop), encoding="utf-8")
        softexit.trigger(status="bad", message=f" @ipi_mace: {message}.")


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float64).numpy()

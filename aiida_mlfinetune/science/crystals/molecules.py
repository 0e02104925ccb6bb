"""Which atoms of a crystal form a molecule: perceived from distances alone, for any elements.

Two atoms are bonded if they are closer than the sum of their covalent radii (Cordero et al., Dalton Trans. 2008, 2832,
as tabulated by ASE) plus 0.4 angstrom, the tolerance of the Cambridge Structural Database. Distances would make a
strong hydrogen bond covalent, so a hydrogen atom keeps only its best bond: the one with the smallest distance in excess
of the covalent radii. Electron-deficient partners (B, Al, ...) may share a hydrogen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list

from aiida_mlfinetune.common.errors import FramesError, MoleculesError
from aiida_mlfinetune.science.datasets.checks import check_structure
from aiida_mlfinetune.science.datasets.levels import FloatArray, IntArray

BOND_TOLERANCE_A = 0.4
HYDROGEN = 1
SHARES_HYDROGEN = tuple(atomic_numbers[symbol] for symbol in ("Be", "B", "Mg", "Al", "Ga"))
"""Atomic numbers of elements between which hydrogen forms true bridges."""


@dataclass(frozen=True)
class Molecules:
    """The molecules of a structure, all of one kind.

    Attributes:
        index: (n_atoms,) number of the molecule that each atom belongs to, in order of the molecules' first atoms.
        positions: (n_atoms, 3) angstrom; every molecule whole, unwrapped around its first atom.
        tree: (n_atoms - n_molecules, 2) bonds that span the molecules, as (known atom, next atom), in walking order.
        n_molecules: number of molecules.
        formula: formula (Hill order) of one molecule.
        atoms_per_molecule: number of atoms of one molecule.
    """

    index: IntArray
    positions: FloatArray
    tree: IntArray
    n_molecules: int
    formula: str
    atoms_per_molecule: int

    def unwrap(self, atoms: Atoms) -> FloatArray:
        """Return the positions (n_atoms, 3) of another frame of the same atoms with its molecules made whole.

        For the frames of a molecular dynamics run: the bonds are those perceived once, only their vectors are new.
        Bonds must be shorter than half of the cell's smallest height.
        """
        positions = np.array(atoms.positions, dtype=np.float64)
        if len(self.tree):
            bonds, _ = find_mic(positions[self.tree[:, 1]] - positions[self.tree[:, 0]], atoms.cell, atoms.pbc)
            for (known, new), bond in zip(self.tree, bonds, strict=True):
                positions[new] = positions[known] + bond
        return positions


def perceive_molecules(atoms: Atoms) -> Molecules:
    """Find the molecules of a crystal (or of a cluster, where a direction is not periodic).

    Args:
        atoms: the structure; atoms may lie in any periodic image.

    Raises:
        MoleculesError: bonds that go on for ever (a network, not molecules); molecules that differ in formula or bonds;
            a molecule with an odd number of electrons, as left by a missing atom or a cut molecule.
        FramesError: two atoms closer than 0.5 angstrom, or a cell without volume.
    """
    check_structure(atoms)
    bonds = _bonds(atoms)
    positions, index, tree = _walk(atoms, bonds)
    n_molecules = int(index.max()) + 1
    _check_alike(atoms, bonds, index, n_molecules)
    first = np.flatnonzero(index == 0)
    formula = atoms[first].get_chemical_formula()
    if int(atoms.numbers[first].sum()) % 2:
        raise MoleculesError(
            f"the molecules of {atoms.get_chemical_formula()} come out as {formula}, which has an odd number of "
            "electrons: atoms are missing (only the asymmetric unit given?) or the molecules are cut by the cell; "
            "give all the atoms of the unit cell. Radicals are not supported"
        )
    return Molecules(
        index=index,
        positions=positions,
        tree=tree,
        n_molecules=n_molecules,
        formula=formula,
        atoms_per_molecule=len(first),
    )


def perceive_crystal(atoms: Atoms) -> Molecules:
    """Find the molecules of a structure that must be a crystal, periodic in all three directions.

    Raises:
        MoleculesError: as ``perceive_molecules``.
        FramesError: not periodic in three directions, a cell without volume, or two atoms closer than 0.5 angstrom.
    """
    if not atoms.pbc.all():
        raise FramesError(
            f"a crystal must be periodic in all three directions, but pbc is {atoms.pbc.tolist()}: set pbc to True, "
            "and give the cell"
        )
    return perceive_molecules(atoms)


def gas_molecule(atoms: Atoms) -> Atoms:
    """Return the first molecule of a crystal, whole, without cell, its centre of mass at the origin.

    Raises:
        MoleculesError: the crystal does not consist of molecules of one kind.
    """
    molecules = perceive_molecules(atoms)
    own = molecules.index == 0
    molecule = Atoms(numbers=atoms.numbers[own], positions=molecules.positions[own], pbc=False)
    if atoms.has("masses"):
        molecule.set_masses(atoms.get_masses()[own])
    molecule.positions -= molecule.get_center_of_mass()
    return molecule


def scale_rigid(atoms: Atoms, molecules: Molecules, volume: float) -> Atoms:
    """Return a frame scaled isotropically to ``volume`` with its molecules kept rigid.

    Cell and centres of mass are multiplied by s = (volume / present volume)^(1/3); every atom keeps its place relative
    to the centre of mass of its molecule.

    Args:
        atoms: a periodic frame.
        molecules: as perceived from this frame, or from another frame of the same atoms in the same order.
        volume: cubic angstrom.

    Raises:
        MoleculesError: the volume is not positive, or the molecules are not those of these atoms.
    """
    if not volume > 0:
        raise MoleculesError(f"cannot scale a crystal to {volume} cubic angstrom: give a positive volume")
    return deform_rigid(atoms, molecules, (volume / atoms.get_volume()) ** (1.0 / 3.0) * np.eye(3))


def deform_rigid(atoms: Atoms, molecules: Molecules, deformation: FloatArray) -> Atoms:
    """Return a frame whose cell and centres of mass are multiplied by ``deformation``, with its molecules kept rigid.

    Args:
        atoms: a periodic frame.
        molecules: as for ``scale_rigid``.
        deformation: F (3, 3), symmetric: a position r becomes r F.

    Raises:
        MoleculesError: the molecules are not those of these atoms.
    """
    if len(atoms) != len(molecules.index):
        raise MoleculesError(f"molecules of {len(molecules.index)} atoms do not fit a frame of {len(atoms)} atoms")
    positions = molecules.unwrap(atoms)
    centres = centres_of_mass(positions, atoms.get_masses(), molecules.index)[molecules.index]
    deformed = Atoms(numbers=atoms.numbers, cell=atoms.cell.array @ deformation, pbc=atoms.pbc)
    if atoms.has("masses"):
        deformed.set_masses(atoms.get_masses())
    deformed.positions = positions + centres @ (deformation - np.eye(3))
    return deformed


def centres_of_mass(positions: FloatArray, masses: FloatArray, index: IntArray) -> FloatArray:
    """Return the centres of mass (n_molecules, 3) of unwrapped ``positions`` (n_atoms, 3), in their unit."""
    totals = np.bincount(index, weights=masses)
    weighted = [np.bincount(index, weights=masses * positions[:, axis]) for axis in range(3)]
    return np.asarray(np.stack(weighted, axis=1) / totals[:, None])


@dataclass(frozen=True)
class _Bonds:
    """All bonds in both directions: atom ``first`` to the image ``shift`` (cell vectors) of atom ``second``."""

    first: IntArray
    second: IntArray
    shift: IntArray


def _bonds(atoms: Atoms) -> _Bonds:
    radii = covalent_radii[atoms.numbers]
    first, second, distance, shift = neighbor_list("ijdS", atoms, radii + BOND_TOLERANCE_A / 2)
    excess = distance - radii[first] - radii[second]
    numbers = atoms.numbers
    hydrogen = numbers[first] == HYDROGEN
    best = np.full(len(atoms), -1)
    for bond in np.flatnonzero(hydrogen)[np.argsort(excess[hydrogen], kind="stable")]:
        if best[first[bond]] < 0:
            best[first[bond]] = bond
    allowed = ~hydrogen | (best[first] == np.arange(len(first))) | np.isin(numbers[second], SHARES_HYDROGEN)
    wanted = {(int(first[bond]), int(second[bond]), *map(int, shift[bond])) for bond in np.flatnonzero(allowed)}
    # A bond stands if both ends want it: heavy atoms always do.
    edges = sorted((i, j, a, b, c) for i, j, a, b, c in wanted if (j, i, -a, -b, -c) in wanted)
    table = np.array(edges, dtype=np.int64).reshape(-1, 5)
    return _Bonds(table[:, 0], table[:, 1], table[:, 2:])


def _walk(atoms: Atoms, bonds: _Bonds) -> tuple[FloatArray, IntArray, IntArray]:
    """Follow the bonds from the first atom of each molecule; return unwrapped positions, molecule index and tree."""
    n = len(atoms)
    neighbours: list[list[tuple[int, IntArray]]] = [[] for _ in range(n)]
    for i, j, shift in zip(bonds.first, bonds.second, bonds.shift, strict=True):
        neighbours[int(i)].append((int(j), shift))
    index = np.full(n, -1, dtype=np.int64)
    image = np.zeros((n, 3), dtype=np.int64)
    tree: list[tuple[int, int]] = []
    count = 0
    for start in range(n):
        if index[start] >= 0:
            continue
        index[start] = count
        queue = deque([start])
        while queue:
            i = queue.popleft()
            for j, shift in neighbours[i]:
                if index[j] < 0:
                    index[j] = count
                    image[j] = image[i] + shift
                    tree.append((i, j))
                    queue.append(j)
                elif (image[j] != image[i] + shift).any():
                    raise MoleculesError(
                        f"atom {i} ({atoms[i].symbol}) is bonded through atom {j} ({atoms[j].symbol}) to its own "
                        f"periodic image: {atoms.get_chemical_formula()} is a network or a chain, not a crystal of "
                        "molecules (or its cell is too small); a sublimation enthalpy needs whole molecules"
                    )
        count += 1
    positions = np.asarray(atoms.positions + image @ atoms.cell.array, dtype=np.float64)
    return positions, index, np.array(tree, dtype=np.int64).reshape(-1, 2)


def _check_alike(atoms: Atoms, bonds: _Bonds, index: IntArray, n_molecules: int) -> None:
    """Compare every molecule with the most frequent one, by formula and by bonds."""
    members: list[list[int]] = [[] for _ in range(n_molecules)]
    for atom, molecule in enumerate(index.tolist()):
        members[molecule].append(atom)
    formulas = [atoms[own].get_chemical_formula() for own in members]
    kinds = sorted(set(formulas), key=lambda formula: (-formulas.count(formula), formulas.index(formula)))
    if len(kinds) > 1:
        odd = {kind: members[formulas.index(kind)] for kind in kinds[1:]}
        listed = "; ".join(
            f"{formulas.count(kind)} x {kind} (such as atoms {own[:8]}{'...' if len(own) > 8 else ''})"
            for kind, own in list(odd.items())[:4]
        )
        raise MoleculesError(
            f"the molecules of {atoms.get_chemical_formula()} differ: {formulas.count(kinds[0])} x {kinds[0]}, but "
            f"{listed}. Atoms are missing, a molecule is cut by a cell that is not periodic, or the crystal is a salt "
            "or a co-crystal; only crystals of one kind of molecule have the sublimation enthalpy computed here"
        )
    graph: Any = nx.Graph()
    graph.add_nodes_from((atom, {"z": int(z)}) for atom, z in enumerate(atoms.numbers))
    graph.add_edges_from(zip(bonds.first.tolist(), bonds.second.tolist(), strict=True))
    hashes = [nx.weisfeiler_lehman_graph_hash(graph.subgraph(own), node_attr="z") for own in members]
    same_element = nx.algorithms.isomorphism.categorical_node_match("z", 0)
    common = members[hashes.index(max(hashes, key=hashes.count))]
    odd_ones = [
        own
        for own, digest in zip(members, hashes, strict=True)
        if digest != hashes[members.index(common)]
        or not nx.is_isomorphic(graph.subgraph(common), graph.subgraph(own), node_match=same_element)
    ]
    if odd_ones:
        raise MoleculesError(
            f"the molecules of {atoms.get_chemical_formula()} all have the formula {formulas[0]}, but "
            f"{len(odd_ones)} of {n_molecules} are bonded differently (isomers), such as atoms {odd_ones[0][:12]}: "
            "only crystals of one kind of molecule are supported"
        )

"""The structures behind `ice-xtb`: ices by name, random liquids and clusters.

Everything is seeded, so that the same call gives the same structures.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.data.vdw_alvarez import vdw_radii

from aiida_mlfinetune.science.crystals.ices import IceSpec, build_ice

TRAINING_ICES = ("Ih", "Ic", "II", "VI", "VIII")
HELD_OUT_ICES = ("III", "IX", "XVII")
REPETITIONS = {"VI": (1, 1, 2), "VIII": ((1, 1, 0), (-1, 1, 0), (0, 0, 1))}


def ice(name: str, seed: int, *, small: bool = False) -> Atoms:
    """Return a cell of 8 to 20 molecules of an ice with random protons (ordered for II, VIII and IX).

    GFN1-xTB is used at the Gamma point, where a cell edge of 4.4 A costs 30 meV a molecule and one of 6.4 A about 1:
    all edges here are longer than 6 A, but for the ``small`` cells of ices VI and VIII, which are for the model alone.
    """
    return build_ice(IceSpec(name, (1, 1, 1) if small else REPETITIONS.get(name, (1, 1, 1)), seed))


def liquid(n_molecules: int, density: float, seed: int) -> Atoms:
    """Return molecules at random places and orientations in a cube, none closer than 2.3 A (O-O), g/cm^3."""
    rng = np.random.default_rng(seed)
    water = molecule("H2O")
    edge = (water.get_masses().sum() * n_molecules / density / 0.602214076) ** (1 / 3)
    while True:
        box = Atoms(cell=[edge] * 3, pbc=True)
        for _ in range(n_molecules * 400):
            trial = water.copy()
            trial.euler_rotate(*rng.uniform(0, 360, 3), center="COM")
            trial.translate(rng.uniform(0, edge, 3) - trial.positions[0])
            joined = box + trial
            start = len(box)
            near = [joined.get_distances(start + k, range(start), mic=True) for k in range(3)] if start else []
            o_o = near[0][0::3] if start else np.array([9.0])
            h_any = np.concatenate([near[1], near[2], near[0]]) if start else np.array([9.0])
            if o_o.min() > 2.3 and h_any.min() > 1.5:
                box = joined
            if len(box) == 3 * n_molecules:
                return box


def cluster(source: Atoms, n_molecules: int, seed: int) -> Atoms:
    """Return the ``n_molecules`` waters around a random one of ``source`` (order O, H, H), without a cell."""
    rng = np.random.default_rng(seed)
    oxygens = [i for i, s in enumerate(source.symbols) if s == "O"]
    centre = int(rng.choice(oxygens))
    vectors = source.get_distances(centre, oxygens, mic=True, vector=True)
    order = np.argsort(np.linalg.norm(vectors, axis=1))[:n_molecules]
    symbols, positions = [], []
    hydrogens = [i for i, s in enumerate(source.symbols) if s == "H"]
    for rank in order:
        oxygen = oxygens[int(rank)]
        own = source.get_distances(oxygen, hydrogens, mic=True, vector=True)
        nearest = np.argsort(np.linalg.norm(own, axis=1))[:2]
        symbols += ["O", "H", "H"]
        positions += [vectors[rank], vectors[rank] + own[nearest[0]], vectors[rank] + own[nearest[1]]]
    return Atoms(symbols, positions=positions)


def contact(seed: int) -> Atoms:
    """Return two waters that are pushed together, by a random pair of atoms that is the nearest, without a cell.

    The distance is drawn between the sum of the covalent radii and that of the van der Waals radii, less a tenth.
    """
    rng = np.random.default_rng(seed)
    while True:
        pair = [molecule("H2O"), molecule("H2O")]
        facing = rng.choice([0, 1], 2)
        for water, atom in zip(pair, facing, strict=True):
            water.rattle(0.03, rng=rng)
            water.euler_rotate(*rng.uniform(0, 360, 3))
            water.positions -= water.positions[atom]
        numbers = [water.numbers[atom] for water, atom in zip(pair, facing, strict=True)]
        low, high = (float(radii[numbers].sum()) for radii in (covalent_radii, vdw_radii))
        pair[1].positions += [0.0, 0.0, rng.uniform(low, 0.9 * high)]
        both = pair[0] + pair[1]
        distances = both.get_all_distances()[:3, 3:]
        if distances[tuple(facing)] == distances.min():
            return both

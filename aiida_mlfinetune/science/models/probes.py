"""Frames that ask a model what is known without a reference: at other volumes, of single atoms, at short distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.data.vdw_alvarez import vdw_radii
from ase.geometry import get_distances

from aiida_mlfinetune.common.errors import MoleculesError, StudyError
from aiida_mlfinetune.science.crystals.molecules import gas_molecule, perceive_molecules, scale_rigid
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import FloatArray

UNKNOWN_VDW_EXCESS_A = 1.0
"""What is added to the covalent radius of an element whose van der Waals radius is not tabulated."""
BEYOND_CUTOFF = 1.05
"""Atoms are taken for dissociated at this multiple of the model's cutoff."""


class ProbeKind(str, Enum):
    """What a series of frames asks.

    Attributes:
        PARITY: the labels of test frames; no coordinate.
        VOLUME: energy against volume; coordinate in cubic angstrom.
        ATOM: the energy of one atom alone; no coordinate.
        DISSOCIATION: a molecule blown up until its atoms no longer see each other; coordinate is the factor.
        DISTANCE: two rigid molecules brought together; coordinate is the distance of a pair of atoms in angstrom.
        DIATOMIC: two bare atoms brought together; coordinate likewise.
    """

    PARITY = "parity"
    VOLUME = "volume"
    ATOM = "atom"
    DISSOCIATION = "dissociation"
    DISTANCE = "distance"
    DIATOMIC = "diatomic"


@dataclass(frozen=True)
class ProbeSettings:
    """Which frames are made.

    Attributes:
        volume_range: lowest and highest volume, relative to the crystal's.
        n_volumes: number of volumes.
        dissociation_start: factor by which the molecule is compressed at the start.
        n_dissociation: number of points of the dissociation, at equal ratios.
        contact_fraction: molecules are brought together from this part of the sum of the van der Waals radii (Alvarez,
            Dalton Trans. 2013, 42, 8617, as tabulated by ASE) on.
        closest_fraction: down to this part of the sum of the covalent radii (Cordero et al. 2008).
        bare_fractions: bare atoms are brought together from the first to the second of these parts of that sum.
        n_distances: number of distances of each pair of elements.
    """

    volume_range: tuple[float, float] = (0.85, 1.25)
    n_volumes: int = 17
    dissociation_start: float = 0.9
    n_dissociation: int = 30
    contact_fraction: float = 0.7
    closest_fraction: float = 1.0
    bare_fractions: tuple[float, float] = (1.0, 0.6)
    n_distances: int = 25

    def __post_init__(self) -> None:
        """Check every value; the message names the offender and the remedy."""
        for name in ("volume_range", "bare_fractions"):
            values = tuple(getattr(self, name))
            if len(values) != 2 or not all(_positive(value) for value in values):
                raise StudyError(f"{name} is {list(values)}, but must be two positive numbers")
            object.__setattr__(self, name, values)
        low, high = self.volume_range
        if not low < 1 < high:
            raise StudyError(
                f"volume_range is [{low}, {high}], but must hold the crystal's own volume: [below 1, above 1]"
            )
        if not self.bare_fractions[1] < self.bare_fractions[0]:
            raise StudyError(f"bare_fractions are {list(self.bare_fractions)}, but must be [far, close]")
        for name, least in (("n_volumes", 7), ("n_dissociation", 10), ("n_distances", 5)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise StudyError(f"{name} is {value!r}, but must be a whole number of at least {least}")
        for name in ("dissociation_start", "contact_fraction", "closest_fraction"):
            if not _positive(getattr(self, name)):
                raise StudyError(f"{name} is {getattr(self, name)!r}, but must be a positive number")
        if self.dissociation_start >= 1:
            raise StudyError(f"dissociation_start is {self.dissociation_start}, but must be below 1")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeSettings:
        """Build the settings from plain values.

        Raises:
            StudyError: an unknown entry, or a bad value.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise StudyError(f"unknown entries {unknown} in the settings of an assessment: known are {known}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        values = asdict(self)
        return values | {name: list(values[name]) for name in ("volume_range", "bare_fractions")}


@dataclass(frozen=True)
class Probe:
    """A series of frames.

    Attributes:
        kind: what it asks.
        name: of what, such as the element ``O``, the pair ``H-O`` or the formula of a molecule.
        first: index of its first frame.
        n_frames: number of its frames.
        coordinates: one of each frame; empty where the kind has none.
    """

    kind: ProbeKind
    name: str
    first: int
    n_frames: int
    coordinates: tuple[float, ...] = ()

    @property
    def indices(self) -> range:
        """Indices of its frames."""
        return range(self.first, self.first + self.n_frames)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "kind": self.kind.value, "coordinates": list(self.coordinates)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Probe:
        """Build a series from what ``to_dict`` returned."""
        return cls(**{**values, "kind": ProbeKind(values["kind"]), "coordinates": tuple(values["coordinates"])})


@dataclass(frozen=True)
class Probes:
    """All frames, and what they are for.

    Attributes:
        frames: without labels.
        series: in the order of the frames.
        left_out: reason by name of what could not be made.
    """

    frames: Frames
    series: tuple[Probe, ...]
    left_out: Mapping[str, str]


def make_probes(structure: Atoms, elements: Sequence[str], r_max: float, settings: ProbeSettings) -> Probes:
    """Return the frames by which a model is assessed.

    Args:
        structure: a crystal, or a molecule that is periodic in no direction.
        elements: chemical symbols to look at one by one and in pairs.
        r_max: cutoff of the model in angstrom.
        settings: which frames.
    """
    images: list[Atoms] = []
    series: list[Probe] = []
    left_out: dict[str, str] = {}

    def add(kind: ProbeKind, name: str, made: Sequence[Atoms], coordinates: Sequence[float] = ()) -> None:
        series.append(Probe(kind, name, len(images), len(made), tuple(map(float, coordinates))))
        images.extend(made)

    try:
        molecules = perceive_molecules(structure)
        molecule: Atoms | None = gas_molecule(structure)
    except MoleculesError as error:
        molecules, molecule = None, None
        left_out["molecules"] = str(error)
    if structure.pbc.all():
        volumes = np.linspace(*settings.volume_range, settings.n_volumes) * structure.get_volume()
        if molecules is None:
            scaled = [_scaled(structure, volume) for volume in volumes.tolist()]
        else:
            scaled = [scale_rigid(structure, molecules, volume) for volume in volumes.tolist()]
        add(ProbeKind.VOLUME, structure.get_chemical_formula(), scaled, volumes.tolist())
    else:
        left_out["volume"] = "the structure is not periodic in three directions, so it has no volume"
    for element in elements:
        add(ProbeKind.ATOM, element, [Atoms(element, positions=[[0.0, 0.0, 0.0]])])
    if molecule is not None and len(molecule) > 1:
        factors = _factors(molecule, r_max, settings)
        blown = [_blown_up(molecule, factor) for factor in factors.tolist()]
        add(ProbeKind.DISSOCIATION, molecule.get_chemical_formula(), blown, factors.tolist())
    for one, two in combinations_with_replacement(sorted(elements, key=atomic_numbers.__getitem__), 2):
        bond = float(covalent_radii[[atomic_numbers[one], atomic_numbers[two]]].sum())
        if molecule is not None and {one, two} <= set(molecule.get_chemical_symbols()):
            contact = settings.contact_fraction * (_vdw_radius(one) + _vdw_radius(two))
            distances = np.linspace(contact, min(settings.closest_fraction * bond, 0.9 * contact), settings.n_distances)
            facing = [_facing(molecule, one, two, distance) for distance in distances.tolist()]
            add(ProbeKind.DISTANCE, f"{one}-{two}", facing, distances.tolist())
        far, close = settings.bare_fractions
        distances = np.linspace(far * bond, close * bond, settings.n_distances)
        bare = [Atoms([one, two], positions=[[0.0, 0.0, 0.0], [d, 0.0, 0.0]]) for d in distances.tolist()]
        add(ProbeKind.DIATOMIC, f"{one}-{two}", bare, distances.tolist())
    return Probes(Frames.from_atoms(images, source="assessment"), tuple(series), left_out)


def _factors(molecule: Atoms, r_max: float, settings: ProbeSettings) -> FloatArray:
    """Return factors from a compressed molecule to one whose atoms are beyond the cutoff of each other."""
    _, distances = get_distances(molecule.positions)
    shortest = float(distances[np.triu_indices(len(molecule), 1)].min())
    last = max(BEYOND_CUTOFF * r_max / shortest, 2.0)
    return np.geomspace(settings.dissociation_start, last, settings.n_dissociation)


def _blown_up(molecule: Atoms, factor: float) -> Atoms:
    return Atoms(numbers=molecule.numbers, positions=factor * molecule.positions)


def _scaled(structure: Atoms, volume: float) -> Atoms:
    scaled = Atoms(numbers=structure.numbers, positions=structure.positions, cell=structure.cell.array, pbc=True)
    scaled.set_cell((volume / structure.get_volume()) ** (1.0 / 3.0) * structure.cell.array, scale_atoms=True)
    return scaled


def _facing(molecule: Atoms, one: str, two: str, distance: float) -> Atoms:
    """Return two copies of a molecule whose outermost atoms ``one`` and ``two`` face each other along x.

    The second is turned by a right angle about x, so that their other atoms are not above each other.
    """
    left, first = _outward(molecule, one, np.array([1.0, 0.0, 0.0]))
    right, second = _outward(molecule, two, np.array([-1.0, 0.0, 0.0]))
    right.rotate(90.0, "x", center=right.positions[second])
    right.positions += left.positions[first] + [distance, 0.0, 0.0] - right.positions[second]
    return left + right


def _outward(molecule: Atoms, element: str, direction: FloatArray) -> tuple[Atoms, int]:
    """Return a copy, turned so that its outermost atom of ``element`` points along ``direction``, and that atom.

    An atom in the middle of all others points to where they are not: along the shortest axis of the molecule.
    """
    turned = Atoms(numbers=molecule.numbers, positions=molecule.positions)
    own = [index for index, symbol in enumerate(turned.get_chemical_symbols()) if symbol == element]
    if len(turned) == 1:
        return turned, 0
    others = (turned.positions.sum(axis=0) - turned.positions[own]) / (len(turned) - 1)
    outward = turned.positions[own] - others
    place = int(np.argmax(np.round(np.linalg.norm(outward, axis=1), 6)))
    way = outward[place]
    if np.linalg.norm(way) < 1e-6:
        way = np.linalg.svd(turned.positions - turned.positions[own[place]])[2][-1]
    turned.rotate(way, direction, center=turned.positions[own[place]])
    return turned, own[place]


def _vdw_radius(element: str) -> float:
    radius = float(vdw_radii[atomic_numbers[element]])
    return radius if np.isfinite(radius) else float(covalent_radii[atomic_numbers[element]]) + UNKNOWN_VDW_EXCESS_A


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < np.inf

"""The input of i-PI: an XML template, the frame of reference that i-PI wants, and restart files.

i-PI's cell matrix (columns are vectors) is upper triangular. With a QR decomposition of the cell, A^T = Q h, positions
go in as Q^T r and come back as Q r: ``IpiFrame`` does both, for positions, cells and tensors, so that nothing outside
of the job sees the turned frame. All numbers pass in ASE's units (eV, angstrom), which i-PI knows as ``ase``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.units import BAR_EV_A3
from aiida_mlfinetune.science.dynamics.gle import GleMatrix
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings, Thermostat

FloatArray = NDArray[np.float64]

PREFIX = "simulation"
COORDINATES_FILENAME = "init.xyz"
PROPERTIES = (
    "step",
    "time{femtosecond}",
    "conserved{ase}",
    "temperature{ase}",
    "kinetic_md{ase}",
    "potential{ase}",
    "pressure_md{ase}",
    "volume{ase}",
    "cell_h{ase}",
    "virial_md{ase}",
)
"""Columns of the properties file; ``ase`` stands for eV, angstrom and kelvin."""
PATH_INTEGRAL_PROPERTIES = ("kinetic_cv{ase}", "pressure_cv{ase}", "bead_potentials{ase}")
"""Further columns with more than one bead: centroid-virial estimators, and the potential energy of every bead."""
VACUUM_EDGE_A = 1000.0
"""Edge of the box that i-PI wants for a molecule; nothing depends on it."""
FLOAT_FORMAT = "%24.16e"
"""Digits that bring every double back unchanged, in properties and restart files."""

ENSEMBLE_MODES = {
    Ensemble.NVE: "nve",
    Ensemble.NVT: "nvt",
    Ensemble.NPT_ISOTROPIC: "npt",
    Ensemble.NPT_FLEXIBLE: "npt",
}
THERMOSTAT_MODES = {
    Thermostat.LANGEVIN: "langevin",
    Thermostat.SVR: "svr",
    Thermostat.GLE: "gle",
    Thermostat.PILE_L: "pile_l",
    Thermostat.PILE_G: "pile_g",
    Thermostat.PIGLET: "nm_gle",
}
BAROSTAT_MODES = {Ensemble.NPT_ISOTROPIC: "isotropic", Ensemble.NPT_FLEXIBLE: "flexible"}

TEMPLATE = """<simulation verbosity="medium" threading="False" safe_stride="{safe_stride}" floatformat="{floatformat}">
  <output prefix="{prefix}">
    <properties filename="properties" stride="{properties_stride}">[ {properties} ]</properties>
    <trajectory filename="positions" format="bin" stride="{stride}" cell_units="ase">positions{{ase}}</trajectory>
{forces_output}    <checkpoint filename="checkpoint" stride="{checkpoint_stride}" overwrite="True"/>
  </output>
  <total_steps>{total_steps}</total_steps>
  <total_time>{total_time}</total_time>
  <prng><seed>{seed}</seed></prng>
  <ffdirect name="mace" pbc="False" threaded="False">
    <pes>custom</pes>
    <pes_path>{driver}</pes_path>
    <parameters>{{ settings: {driver_settings} }}</parameters>
    <batch_size>{batch_size}</batch_size>
  </ffdirect>
  <system>
    <initialize nbeads="{n_beads}">
      <file mode="xyz" units="ase">{coordinates}</file>
      <cell mode="manual" units="ase">[ {cell} ]</cell>
      <masses mode="manual" units="dalton">[ {masses} ]</masses>
      <velocities mode="thermal" units="ase">{temperature}</velocities>
    </initialize>
    <forces><force forcefield="mace"/></forces>
    <motion mode="dynamics">
      <fixcom>True</fixcom>
      <dynamics mode="{mode}">
        <timestep units="femtosecond">{timestep}</timestep>
{thermostat}{barostat}      </dynamics>
    </motion>
    <ensemble>
      <temperature units="ase">{temperature}</temperature>
{pressure}    </ensemble>
  </system>
</simulation>
"""


@dataclass(frozen=True)
class IpiFrame:
    """The frame of reference of i-PI.

    Attributes:
        rotation: (3, 3) orthogonal Q; a left-handed cell makes it improper, which no energy of MACE notices.
        cell: (3, 3) upper triangular h in angstrom, columns are vectors.
        periodic: whether the structure has a cell; without one, Q is the identity and h a large cube.
    """

    rotation: FloatArray
    cell: FloatArray
    periodic: bool

    @classmethod
    def of(cls, atoms: Atoms) -> IpiFrame:
        """Return the frame for a structure that is periodic in all directions or in none."""
        if not atoms.pbc.any():
            return cls(np.eye(3), np.eye(3) * VACUUM_EDGE_A, periodic=False)
        rotation, cell = np.linalg.qr(atoms.cell.array.T)
        signs = np.where(np.diag(cell) < 0, -1.0, 1.0)
        return cls(rotation * signs, np.triu(cell * signs[:, None]), periodic=True)

    def vectors_in(self, vectors: FloatArray) -> FloatArray:
        """Turn (..., 3) into i-PI's frame."""
        return np.asarray(vectors @ self.rotation)

    def vectors_out(self, vectors: FloatArray) -> FloatArray:
        """Turn (..., 3) back."""
        return np.asarray(vectors @ self.rotation.T)

    def cells_out(self, cells: FloatArray) -> FloatArray:
        """Turn i-PI's cells (n, 3, 3), whose columns are vectors, into the usual rows; zeros without a cell."""
        if not self.periodic:
            return np.zeros_like(cells)
        return self.vectors_out(np.swapaxes(cells, -1, -2))

    def tensors_out(self, tensors: FloatArray) -> FloatArray:
        """Turn symmetric tensors (n, 3, 3) back."""
        return np.asarray(self.rotation @ tensors @ self.rotation.T)


def simulation_xml(
    settings: IpiSettings, atoms: Atoms, total_time: float, driver: str, driver_settings: str, prefix: str = PREFIX
) -> str:
    """Return the input of a new run; ``total_time`` in seconds of wall time, 0 for no limit."""
    frame = IpiFrame.of(atoms)
    forces = (
        f'    <trajectory filename="forces" format="bin" stride="{settings.stride}" cell_units="ase">'
        "forces{ase}</trajectory>\n"
    )
    pressure = f'      <pressure units="ase">{settings.pressure_bar * BAR_EV_A3!r}</pressure>\n'
    return TEMPLATE.format(
        prefix=prefix,
        safe_stride=settings.properties_stride,
        floatformat=FLOAT_FORMAT,
        properties=", ".join(printed_properties(settings.n_beads)),
        properties_stride=settings.properties_stride,
        stride=settings.stride,
        forces_output=forces if settings.print_forces else "",
        checkpoint_stride=settings.checkpoint_stride,
        total_steps=settings.n_steps,
        total_time=total_time,
        seed=settings.seed,
        driver=driver,
        driver_settings=driver_settings,
        n_beads=settings.n_beads,
        batch_size=settings.batch_size,
        coordinates=COORDINATES_FILENAME,
        cell=_listed(frame.cell),
        masses=_listed(atoms.get_masses()),
        temperature=repr(float(settings.temperature_K)),
        mode=ENSEMBLE_MODES[settings.ensemble],
        timestep=repr(float(settings.timestep_fs)),
        thermostat="" if settings.ensemble is Ensemble.NVE else _indented(_thermostat_xml(settings), 8),
        barostat=_indented(_barostat_xml(settings), 8) if settings.ensemble.has_barostat else "",
        pressure=pressure if settings.ensemble.has_barostat else "",
    )


def own_seed(seed: int, atoms: Atoms, sha256: str) -> int:
    """Return a seed between 1 and 2^31 - 1 for a structure and a model with this checksum.

    With the same random forces, runs of like models or of like crystals stay side by side, and a bad draw is one for
    all of them, while errors are taken for independent (Sindhikara et al., J. Chem. Theory Comput. 5, 1624, 2009).
    """
    geometry = np.concatenate([atoms.numbers[:, None], atoms.positions], axis=1)
    content = np.round(np.concatenate([geometry.ravel(), atoms.cell.array.ravel()]), 6) + 0.0
    digest = hashlib.sha256(sha256.encode() + content.tobytes()).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] % (2**31 - 1)) + 1


def printed_properties(n_beads: int) -> tuple[str, ...]:
    """Return the columns of the properties file of a run with ``n_beads``."""
    return PROPERTIES if n_beads == 1 else (*PROPERTIES, *PATH_INTEGRAL_PROPERTIES)


def bead_filenames(name: str, n_beads: int, prefix: str = PREFIX) -> list[str]:
    """Return the names that i-PI gives to the trajectories of the beads: their number, padded with zeros."""
    width = len(str(n_beads))
    return [f"{prefix}.{name}_{bead:0{width}d}.bin" for bead in range(n_beads)]


def coordinates_xyz(atoms: Atoms) -> str:
    """Return the positions in i-PI's frame, with all their digits."""
    positions = IpiFrame.of(atoms).vectors_in(atoms.positions)
    lines = [
        f"{symbol} {x:.17e} {y:.17e} {z:.17e}"
        for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), positions, strict=True)
    ]
    return "\n".join([str(len(atoms)), "# positions in angstrom", *lines, ""])


def restart_xml(text: str, total_steps: int, total_time: float) -> str:
    """Return a restart file of i-PI with another number of steps and another limit on wall time.

    Raises:
        ValueError: the text is no complete restart file, or its run has come to ``total_steps`` already.
    """
    done = restart_step(text)
    if done is None:
        raise ValueError("the restart file is not complete")
    if done >= total_steps:
        raise ValueError(f"the run has come to step {done} already, and {total_steps} are asked for: raise n_steps")
    root = ET.fromstring(text)
    for name, value in (("total_steps", total_steps), ("total_time", total_time)):
        element = root.find(name)
        if element is None:
            element = ET.SubElement(root, name)
        element.text = str(value)
    return ET.tostring(root, encoding="unicode")


def restart_step(text: str) -> int | None:
    """Return the step that a restart file continues from, None if the file was cut."""
    try:
        root = ET.fromstring(text)
    except ET.ParseError:
        return None
    return int(root.findtext("step", "0"))


def _thermostat_xml(settings: IpiSettings) -> str:
    """Return the thermostat of the atoms."""
    return _one_thermostat_xml(settings.thermostat, settings.thermostat_tau_fs, settings.matrix)


def _one_thermostat_xml(thermostat: Thermostat, tau_fs: float, matrix: GleMatrix | None) -> str:
    """Return a thermostat with what its mode needs: a time constant, or matrices."""
    mode = THERMOSTAT_MODES[thermostat]
    if not thermostat.uses_matrix or matrix is None:
        return f'<thermostat mode="{mode}"><tau units="femtosecond">{tau_fs!r}</tau></thermostat>\n'
    lines = [_array_xml("A", matrix.drift, "atomic_unit")]
    if matrix.covariance is not None:
        lines.append(_array_xml("C", matrix.covariance, "ase"))
    return f'<thermostat mode="{mode}">\n' + "".join(f"  {line}\n" for line in lines) + "</thermostat>\n"


def _barostat_xml(settings: IpiSettings) -> str:
    """Return the barostat with its own thermostat, whose time constant is that of the barostat."""
    thermostat = _one_thermostat_xml(settings.cell_thermostat, settings.barostat_tau_fs, settings.cell_matrix)
    return (
        f'<barostat mode="{BAROSTAT_MODES[settings.ensemble]}">'
        f'<tau units="femtosecond">{settings.barostat_tau_fs!r}</tau>\n'
        f"{_indented(thermostat, 2)}"
        "</barostat>\n"
    )


def _array_xml(name: str, values: FloatArray, units: str) -> str:
    return f'<{name} shape="{values.shape}" units="{units}">[ {_listed(values)} ]</{name}>'


def _listed(values: FloatArray) -> str:
    return ", ".join(repr(float(value)) for value in np.asarray(values).ravel())


def _indented(text: str, width: int) -> str:
    return "".join(" " * width + line for line in text.splitlines(keepends=True))

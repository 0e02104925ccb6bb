"""Parser ``mlfinetune.ipi``: the trajectory and the properties of a run of i-PI."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_mlfinetune.calculations import ipi_input
from aiida_mlfinetune.calculations.ipi import IpiCalculation, model_head
from aiida_mlfinetune.calculations.mace_evaluate import describe_baseline
from aiida_mlfinetune.common.units import BAR_EV_A3
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.raw import ipi_output as raw
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from aiida_mlfinetune.science.models.levels import model_level

COLUMN_SIZES = {"cell_h{ase}": 6, "virial_md{ase}": 6}
LAST_LINES = 5


def columns(n_beads: int) -> tuple[tuple[str, int], ...]:
    """Return name and number of columns of every property that a run with ``n_beads`` prints."""
    sizes = {**COLUMN_SIZES, "bead_potentials{ase}": n_beads}
    return tuple((name, sizes.get(name, 1)) for name in ipi_input.printed_properties(n_beads))


class IpiParser(Parser):
    """Attaches trajectory and properties as far as the run came, then picks one exit code."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Parse the retrieved files."""
        self.names = set(self.retrieved.base.repository.list_object_names())
        self.settings = IpiSettings.from_dict(self.node.inputs.parameters.get_dict())
        self.frame = ipi_input.IpiFrame.of(self.node.inputs.structure.get_ase())
        parameters: dict[str, Any] = {"n_steps": self.settings.n_steps, **self._ending()}
        problem: ExitCode | None = None
        try:
            table = raw.parse_properties(self._text(IpiCalculation.PROPERTIES_FILENAME), columns(self.settings.n_beads))
        except (OSError, ValueError) as error:
            table = {}
            if not isinstance(error, OSError):
                problem = self.exit_codes.ERROR_OUTPUT_UNREADABLE.format(details=str(error))
        if table and len(table["step"]):
            parameters["last_step"] = int(table["step"][-1])
            parameters["exploded"] = parameters["exploded"] or self._insane(table)
            self.out("properties", self._properties(table))
            try:
                trajectory = self._trajectory(table)
            except (OSError, ValueError) as error:
                problem = self.exit_codes.ERROR_OUTPUT_UNREADABLE.format(details=str(error))
            else:
                if trajectory is not None:
                    self.out("trajectory", trajectory)
        if (last := self._last_sane()) is not None:
            self.out("last_sane", last)
        self.out("output_parameters", orm.Dict(parameters))
        return self._exit_code(parameters, problem)

    def _ending(self) -> dict[str, Any]:
        """Return how the run ended and where it can go on."""
        stdout = self._text(self.node.get_option("output_filename"), missing="")
        ending = raw.parse_ending(stdout)
        restarts = [ipi_input.restart_step(self._text(n)) for n in IpiCalculation.RESTART_FILENAMES if n in self.names]
        stop = self._text(IpiCalculation.STOP_FILENAME, missing="")
        return {
            "last_step": None,
            "restart_step": max((step for step in restarts if step is not None), default=None),
            "seconds_per_step": raw.seconds_per_step(stdout),
            "out_of_walltime": ending.out_of_walltime,
            "exploded": json.loads(stop)["message"] if stop else None,
        }

    def _insane(self, table: dict[str, raw.FloatArray]) -> str | None:
        """Return what shows that the run exploded, and from which step on."""
        steps = table["step"][~self._sane(table)]
        if not steps.size:
            return None
        return f"temperature or energy are beyond all bounds from step {int(steps[0])} on"

    def _sane(self, table: dict[str, raw.FloatArray]) -> np.ndarray:
        """Return (n,) whether each row lies before the first that is out of bounds."""
        limit = self.settings.max_temperature_K
        temperatures, energies = table["temperature{ase}"], table["potential{ase}"]
        with np.errstate(invalid="ignore"):
            good = np.isfinite(energies) & np.isfinite(temperatures) & (temperatures < limit)
        return np.cumprod(good).astype(bool)

    def _properties(self, table: dict[str, raw.FloatArray]) -> orm.ArrayData:
        """Return the table in our names and units; what needs a cell is NaN without one."""
        blank = 1.0 if self.frame.periodic else np.nan
        cells = self.frame.cells_out(_upper(table["cell_h{ase}"]))
        path_integral = self.settings.n_beads > 1
        further = {}
        if path_integral:
            further["kinetic_cv_eV"] = table["kinetic_cv{ase}"]
            further["bead_potentials_eV"] = table["bead_potentials{ase}"]
        if self.settings.ensemble.has_barostat:
            further["cell_kinetic_energy_eV"] = self._cell_kinetic(table["step"])
        pressure = table["pressure_cv{ase}" if path_integral else "pressure_md{ase}"]
        return orm.ArrayData(
            {
                "step": table["step"].astype(np.int64),
                "time_fs": table["time{femtosecond}"],
                "potential_energy_eV": table["potential{ase}"],
                "kinetic_energy_eV": table["kinetic_md{ase}"],
                "temperature_K": table["temperature{ase}"],
                "conserved_eV": table["conserved{ase}"],
                "volume_A3": table["volume{ase}"] * blank,
                "pressure_bar": pressure / BAR_EV_A3 * blank,
                "cell_A": cells * blank,
                **further,
            }
        )

    def _cell_kinetic(self, steps: raw.FloatArray) -> np.ndarray:
        """Return the kinetic energy of the cell (n,) in eV at the steps, NaN where the driver wrote none."""
        known = raw.parse_cell_motion(self._text(IpiCalculation.CELL_FILENAME, missing=""))
        return np.array([known.get(int(step), np.nan) for step in steps])

    def _trajectory(self, table: dict[str, raw.FloatArray]) -> DatasetData | None:
        """Return the frames that are complete and sane, with their labels."""
        n_beads = self.settings.n_beads
        if ipi_input.bead_filenames(IpiCalculation.POSITIONS, n_beads)[0] not in self.names:
            return None
        rows_of = {int(table["step"][row]): int(row) for row in np.flatnonzero(self._sane(table))}
        printed = {"positions": self._beads(IpiCalculation.POSITIONS)}
        if self.settings.print_forces:
            printed["forces"] = self._beads(IpiCalculation.FORCES)
        steps = [int(step) for step in printed["positions"][0].steps if int(step) in rows_of]
        for trajectory in (one for beads in printed.values() for one in beads):
            there = set(trajectory.steps.tolist())
            steps = [step for step in steps if step in there]
        if not steps:
            return None
        rows = np.array([rows_of[step] for step in steps], dtype=np.int64)
        atoms = self.node.inputs.structure.get_ase()
        values = {name: self._at_steps(beads, steps, len(atoms)) for name, beads in printed.items()}
        first = printed["positions"][0]
        place = {int(step): i for i, step in enumerate(first.steps)}
        cells = self.frame.cells_out(first.cells[[place[step] for step in steps]])
        n = len(steps) * n_beads
        frames = Frames(
            numbers=np.tile(atoms.numbers, n).astype(np.int16),
            positions=values["positions"],
            offsets=np.arange(n + 1, dtype=np.int64) * len(atoms),
            cells=np.repeat(cells, n_beads, axis=0),
            pbc=np.full((n, 3), self.frame.periodic),
            steps=np.repeat(np.array(steps, dtype=np.int64), n_beads),
            source_index=np.zeros(n, dtype=np.int64),
            sources=(self.node.uuid,),
        )
        energies = table["potential{ase}" if n_beads == 1 else "bead_potentials{ase}"][rows].ravel()
        stress = None
        if self.frame.periodic and n_beads == 1:
            stress = -self.frame.tensors_out(_symmetric(table["virial_md{ase}"][rows]))
        return self._labelled(frames, energies, values.get("forces"), stress)

    def _labelled(
        self, frames: Frames, energies: np.ndarray, forces: np.ndarray | None, stress: np.ndarray | None
    ) -> DatasetData:
        """Return frames with labels at the level of the model."""
        passport = self.node.inputs.model.passport
        level = model_level(
            passport.sha256,
            model_head(self.settings, passport),
            self.settings.dtype,
            passport.mace_version,
            baseline=describe_baseline(
                self.node.inputs.model, self.node.inputs.baseline if "baseline" in self.node.inputs else None
            ),
        )
        labels = Labels.build(level, frames.offsets, energies, forces, stress)
        return DatasetData(frames.with_labels(labels), level_sources={level.key: [self.node.uuid]})

    def _last_sane(self) -> DatasetData | None:
        """Return the last configurations before an explosion, as the driver kept them."""
        stop = self._text(IpiCalculation.STOP_FILENAME, missing="")
        last = json.loads(stop).get("last") if stop else None
        if last is None:
            return None
        numbers = self.node.inputs.structure.get_ase().numbers
        cells = np.array(last["cells"], dtype=np.float64)
        n = len(cells)
        frames = Frames(
            numbers=np.tile(numbers, n).astype(np.int16),
            positions=self.frame.vectors_out(np.array(last["positions"], dtype=np.float64)).reshape(-1, 3),
            offsets=np.arange(n + 1, dtype=np.int64) * len(numbers),
            cells=self.frame.cells_out(np.swapaxes(cells, -1, -2)),
            pbc=np.full((n, 3), self.frame.periodic),
            steps=np.full(n, -1, dtype=np.int64),
            source_index=np.zeros(n, dtype=np.int64),
            sources=(self.node.uuid,),
        )
        forces = self.frame.vectors_out(np.array(last["forces"], dtype=np.float64)).reshape(-1, 3)
        return self._labelled(frames, np.array(last["energies"], dtype=np.float64), forces, None)

    def _beads(self, name: str) -> list[raw.BinaryTrajectory]:
        """Return the trajectories of all beads."""
        files = ipi_input.bead_filenames(name, self.settings.n_beads)
        return [raw.read_trajectory(self._bytes(file)) for file in files]

    def _at_steps(self, beads: list[raw.BinaryTrajectory], steps: list[int], n_atoms: int) -> np.ndarray:
        """Return vectors (steps x beads x atoms, 3) of the steps, turned back; beads of a step follow each other."""
        chosen = []
        for trajectory in beads:
            if trajectory.values.shape[1] != n_atoms:
                raise ValueError(f"frames of {trajectory.values.shape[1]} atoms, but the structure has {n_atoms}")
            place = {int(step): i for i, step in enumerate(trajectory.steps)}
            chosen.append(trajectory.values[[place[step] for step in steps]])
        return self.frame.vectors_out(np.stack(chosen, axis=1)).reshape(-1, 3)

    def _exit_code(self, parameters: dict[str, Any], problem: ExitCode | None) -> ExitCode | None:
        """Return what is wrong with the run."""
        if parameters["exploded"]:
            return self.exit_codes.ERROR_EXPLODED.format(details=parameters["exploded"])
        if problem is not None:
            return problem
        restart, last, total = parameters["restart_step"], parameters["last_step"], self.settings.n_steps
        if last is None and not restart:
            output = self._text(self.node.get_option("output_filename"), missing="")
            details = " / ".join(output.strip().splitlines()[-LAST_LINES:]) or "its log is empty"
            return self.exit_codes.ERROR_NO_OUTPUT.format(details=details)
        if restart is not None and restart >= total:
            return None
        if restart is None:
            return self.exit_codes.ERROR_INCOMPLETE.format(step=last, total=total)
        code = (
            self.exit_codes.ERROR_OUT_OF_WALLTIME
            if parameters["out_of_walltime"]
            else self.exit_codes.ERROR_INTERRUPTED
        )
        return code.format(step=restart, total=total)

    def _text(self, name: str, missing: str | None = None) -> str:
        if name not in self.names and missing is not None:
            return missing
        return self.retrieved.base.repository.get_object_content(name)

    def _bytes(self, name: str) -> bytes:
        return self.retrieved.base.repository.get_object_content(name, "rb")


def _upper(values: np.ndarray) -> np.ndarray:
    """Return (n, 3, 3) upper triangular matrices of i-PI's six numbers xx, yy, zz, xy, xz, yz."""
    matrices = np.zeros((len(values), 3, 3))
    for column, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))):
        matrices[:, i, j] = values[:, column]
    return matrices


def _symmetric(values: np.ndarray) -> np.ndarray:
    """Return (n, 3, 3) symmetric matrices of i-PI's six numbers."""
    upper = _upper(values)
    return upper + np.triu(upper, 1).transpose(0, 2, 1)

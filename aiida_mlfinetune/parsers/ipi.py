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
from aiida_mlfinetune.science.frames import Frames
from aiida_mlfinetune.science.ipi_settings import IpiSettings
from aiida_mlfinetune.science.levels import Labels
from aiida_mlfinetune.science.model_levels import model_level

EXPLODED_TEMPERATURE_FACTOR = 20.0
EXPLODED_TEMPERATURE_K = 5000.0
"""A run whose temperature passes both, 20 times that of the thermostat and 5000 K, has exploded."""
COLUMN_SIZES = {"cell_h{ase}": 6, "virial_md{ase}": 6}
COLUMNS = tuple((name, COLUMN_SIZES.get(name, 1)) for name in ipi_input.PROPERTIES)
LAST_LINES = 5


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
            table = raw.parse_properties(self._text(IpiCalculation.PROPERTIES_FILENAME), COLUMNS)
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
        limit = max(EXPLODED_TEMPERATURE_FACTOR * self.settings.temperature_K, EXPLODED_TEMPERATURE_K)
        temperatures, energies = table["temperature{ase}"], table["potential{ase}"]
        with np.errstate(invalid="ignore"):
            good = np.isfinite(energies) & np.isfinite(temperatures) & (temperatures < limit)
        return np.cumprod(good).astype(bool)

    def _properties(self, table: dict[str, raw.FloatArray]) -> orm.ArrayData:
        """Return the table in our names and units; what needs a cell is NaN without one."""
        blank = 1.0 if self.frame.periodic else np.nan
        cells = self.frame.cells_out(_upper(table["cell_h{ase}"]))
        return orm.ArrayData(
            {
                "step": table["step"].astype(np.int64),
                "time_fs": table["time{femtosecond}"],
                "potential_energy_eV": table["potential{ase}"],
                "kinetic_energy_eV": table["kinetic_md{ase}"],
                "temperature_K": table["temperature{ase}"],
                "conserved_eV": table["conserved{ase}"],
                "volume_A3": table["volume{ase}"] * blank,
                "pressure_bar": table["pressure_md{ase}"] / BAR_EV_A3 * blank,
                "cell_A": cells * blank,
            }
        )

    def _trajectory(self, table: dict[str, raw.FloatArray]) -> DatasetData | None:
        """Return the frames that are complete and sane, with their labels."""
        if IpiCalculation.POSITIONS_FILENAME not in self.names:
            return None
        positions = raw.read_trajectory(self._bytes(IpiCalculation.POSITIONS_FILENAME))
        rows_of = {int(table["step"][row]): int(row) for row in np.flatnonzero(self._sane(table))}
        kept = np.array([i for i, step in enumerate(positions.steps) if int(step) in rows_of], dtype=np.int64)
        forces: np.ndarray | None = None
        if self.settings.print_forces:
            printed = raw.read_trajectory(self._bytes(IpiCalculation.FORCES_FILENAME))
            place = {int(step): i for i, step in enumerate(printed.steps)}
            kept = np.array([i for i in kept if int(positions.steps[i]) in place], dtype=np.int64)
            if kept.size:
                order = [place[int(step)] for step in positions.steps[kept]]
                forces = self.frame.vectors_out(printed.values[order]).reshape(-1, 3)
        if not kept.size:
            return None
        rows = np.array([rows_of[int(step)] for step in positions.steps[kept]], dtype=np.int64)
        n, atoms = len(kept), self.node.inputs.structure.get_ase()
        if positions.values.shape[1] != len(atoms):
            raise ValueError(f"frames of {positions.values.shape[1]} atoms, but the structure has {len(atoms)}")
        frames = Frames(
            numbers=np.tile(atoms.numbers, n).astype(np.int16),
            positions=self.frame.vectors_out(positions.values[kept]).reshape(-1, 3),
            offsets=np.arange(n + 1, dtype=np.int64) * len(atoms),
            cells=self.frame.cells_out(positions.cells[kept]),
            pbc=np.full((n, 3), self.frame.periodic),
            steps=positions.steps[kept],
            source_index=np.zeros(n, dtype=np.int64),
            sources=(self.node.uuid,),
        )
        stress = None
        if self.frame.periodic:
            stress = -self.frame.tensors_out(_symmetric(table["virial_md{ase}"][rows]))
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
        labels = Labels.build(level, frames.offsets, table["potential{ase}"][rows], forces, stress)
        return DatasetData(frames.with_labels(labels), level_sources={level.key: [self.node.uuid]})

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

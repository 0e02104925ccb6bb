"""Parser ``mlfinetune.cp2k_md``: the frames and properties of a CP2K molecular dynamics run."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_mlfinetune.calculations.cp2k_input import level_metadata
from aiida_mlfinetune.calculations.cp2k_md import Cp2kMdCalculation
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.raw import cp2k_output as raw
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.levels import Labels

LARGEST_UNCONVERGED_SHARE = 0.1
EXPLODED_TEMPERATURE_FACTOR = 20.0
EXPLODED_TEMPERATURE_K = 5000.0


class Cp2kMdParser(Parser):
    """Attaches frames and properties as far as the run came, then picks one exit code."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Parse the retrieved files."""
        names = set(self.retrieved.base.repository.list_object_names())
        output_name = self.node.get_option("output_filename")
        if output_name not in names:
            return self.exit_codes.ERROR_OUTPUT_MISSING
        stdout = raw.parse_stdout(self._read(output_name))
        restart_step = 0
        if Cp2kMdCalculation.RESTART_FILENAME in names:
            restart_step = raw.read_restart_step(self._read(Cp2kMdCalculation.RESTART_FILENAME))
        parameters: dict[str, Any] = {
            "cp2k_version": stdout.version,
            "n_warnings": stdout.n_warnings,
            "n_evaluations": len(stdout.evaluations),
            "restart_step": restart_step,
            "unconverged_steps": [],
            "abort_message": stdout.abort_message,
        }
        trajectory_error = self._parse_trajectory(stdout, parameters)
        self.out("output_parameters", orm.Dict(parameters))
        return self._exit_code(stdout, names, parameters) or trajectory_error

    def _parse_trajectory(self, stdout: raw.Cp2kStdout, parameters: dict[str, Any]) -> ExitCode | None:
        """Attach ``properties`` and ``frames``; return what is wrong with the files they are read from."""
        try:
            energies = raw.read_energies(self._read(Cp2kMdCalculation.ENERGIES_FILENAME))
        except (OSError, ValueError):
            return self.exit_codes.ERROR_ENERGIES_READ
        parameters["last_step"] = int(energies.steps[-1])
        # An evaluation after the last step of the table was cut short by the clock.
        failed = [stdout.first_step + i for i, evaluation in enumerate(stdout.evaluations) if not evaluation.converged]
        parameters["unconverged_steps"] = [step for step in failed if step <= parameters["last_step"]]
        parameters["seconds_per_step"] = float(np.median(energies.seconds[1:])) if len(energies.seconds) > 1 else None
        try:
            cell_steps, cells = raw.read_cells(self._read(Cp2kMdCalculation.CELLS_FILENAME))
        except (OSError, ValueError):
            return self.exit_codes.ERROR_CELLS_TRAJECTORY_READ
        self.out("properties", self._properties(energies, cell_steps, cells, self.node.inputs.structure.pbc))
        exploded = self._first_exploded_step(energies)
        if exploded is not None:
            parameters["exploded_step"] = exploded
        try:
            positions = raw.read_positions(self._read(Cp2kMdCalculation.POSITIONS_FILENAME))
        except (OSError, ValueError):
            return self.exit_codes.ERROR_COORDINATES_TRAJECTORY_READ
        try:
            forces = raw.read_forces(self._read(Cp2kMdCalculation.FORCES_FILENAME))
        except (OSError, ValueError):
            return self.exit_codes.ERROR_FORCES_TRAJECTORY_READ
        # A step counts where all files have it, its self-consistency converged, and the run had not exploded yet.
        steps = np.intersect1d(np.intersect1d(positions.steps, forces.steps), cell_steps)
        steps = np.setdiff1d(steps, parameters["unconverged_steps"])
        steps = steps[steps < (np.inf if exploded is None else exploded)]
        if steps.size:
            self.out("frames", self._dataset(stdout, steps, positions, forces, (cell_steps, cells)))
        return None

    def _dataset(
        self,
        stdout: raw.Cp2kStdout,
        steps: raw.IntArray,
        positions: raw.XyzTrajectory,
        forces: raw.XyzTrajectory,
        cells: tuple[raw.IntArray, raw.FloatArray],
    ) -> DatasetData:
        """Return the frames at ``steps`` with their labels."""
        structure = self.node.inputs.structure.get_ase()
        periodic = bool(structure.pbc.all())
        n, n_atoms = len(steps), len(structure)
        rows = _rows(positions.steps, steps)
        coordinates = positions.values[rows]
        vectors = cells[1][_rows(cells[0], steps)] if periodic else np.zeros((n, 3, 3))
        frames = Frames(
            numbers=np.tile(structure.numbers, n).astype(np.int16),
            positions=coordinates.reshape(-1, 3),
            offsets=np.arange(n + 1, dtype=np.int64) * n_atoms,
            cells=vectors,
            pbc=np.full((n, 3), periodic),
            steps=steps.astype(np.int64),
            source_index=np.zeros(n, dtype=np.int64),
            sources=(self.node.uuid,),
        )
        stress = np.full((n, 3, 3), np.nan)
        for row, step in enumerate(steps):
            index = int(step) - stdout.first_step
            if 0 <= index < len(stdout.evaluations) and (printed := stdout.evaluations[index].stress) is not None:
                stress[row] = printed
        labels = Labels.build(
            level_metadata(self.node.inputs.level.get_dict(), stdout.version),
            frames.offsets,
            positions.energies[rows],
            forces.values[_rows(forces.steps, steps)].reshape(-1, 3),
            stress,
        )
        return DatasetData(frames.with_labels(labels), level_sources={labels.level.key: [self.node.uuid]})

    @staticmethod
    def _properties(
        energies: raw.EnergyTable, cell_steps: raw.IntArray, cells: raw.FloatArray, pbc: tuple[bool, ...]
    ) -> orm.ArrayData:
        volumes = np.full(len(energies.steps), np.nan)
        if all(pbc):  # the vacuum around a molecule is no volume
            _, rows, columns = np.intersect1d(energies.steps, cell_steps, return_indices=True)
            volumes[rows] = np.abs(np.linalg.det(cells[columns]))
        return orm.ArrayData(
            {
                "step": energies.steps,
                "time_fs": energies.times_fs,
                "potential_energy_eV": energies.potential,
                "kinetic_energy_eV": energies.kinetic,
                "temperature_K": energies.temperatures_K,
                "conserved_eV": energies.conserved,
                "volume_A3": volumes,
            }
        )

    def _first_exploded_step(self, energies: raw.EnergyTable) -> int | None:
        """Return the first step whose energy is no number, or whose temperature is far beyond the thermostat's."""
        target = float(self.node.inputs.parameters.get_dict()["MOTION"]["MD"].get("TEMPERATURE", 0.0))
        limit = max(EXPLODED_TEMPERATURE_FACTOR * target, EXPLODED_TEMPERATURE_K)
        finite = np.isfinite(energies.potential) & np.isfinite(energies.temperatures_K)
        bad = np.flatnonzero(~finite | (energies.temperatures_K > limit))
        return int(energies.steps[bad[0]]) if bad.size else None

    def _exit_code(self, stdout: raw.Cp2kStdout, names: set[str], parameters: dict[str, Any]) -> ExitCode | None:
        """Return what is wrong with the run, from general to specific."""
        total = len(stdout.evaluations)
        if "exploded_step" in parameters:
            return self.exit_codes.ERROR_EXPLODED.format(step=parameters["exploded_step"])
        if "SCF run NOT converged" in stdout.abort_message:  # what releases after 2023.1 do at once
            return self.exit_codes.ERROR_UNCONVERGED.format(count=1, total=total + 1)
        if stdout.abort_message:
            if not total:
                return self.exit_codes.ERROR_INPUT_REFUSED.format(message=stdout.abort_message)
            return self.exit_codes.ERROR_OUTPUT_CONTAINS_ABORT
        if len(parameters["unconverged_steps"]) > LARGEST_UNCONVERGED_SHARE * total:
            return self.exit_codes.ERROR_UNCONVERGED.format(count=len(parameters["unconverged_steps"]), total=total)
        if stdout.out_of_walltime:
            return self.exit_codes.ERROR_OUT_OF_WALLTIME
        if not stdout.ended:
            restartable = Cp2kMdCalculation.RESTART_FILENAME in names and parameters["restart_step"] > 0
            return self.exit_codes.ERROR_INTERRUPTED if restartable else self.exit_codes.ERROR_OUTPUT_INCOMPLETE
        return None

    def _read(self, name: str) -> str:
        return self.retrieved.base.repository.get_object_content(name)


def _rows(steps: raw.IntArray, wanted: raw.IntArray) -> raw.IntArray:
    """Return the last row of each wanted step (a restarted run may print a step twice)."""
    position = {int(step): row for row, step in enumerate(steps)}
    return np.array([position[int(step)] for step in wanted], dtype=np.int64)

"""Parser of ``mlfinetune.cp2k_label``."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_mlfinetune.calculations.cp2k_input import has_stress, level_metadata
from aiida_mlfinetune.parsers.label_results import (
    NOT_REACHED,
    FrameFailure,
    FrameLabel,
    failures,
    labelled_dataset,
)
from aiida_mlfinetune.parsers.raw.cp2k_reftraj import EvaluatedFrame, ReftrajOutput, parse_reftraj

UNCONVERGED = FrameFailure("the SCF cycle did not converge", retry=False, climb=True)


class Cp2kLabelParser(Parser):
    """Maps what CP2K printed, in order, to the frames of the input dataset."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Attach the frames that succeeded and the reasons of the others, then pick an exit code."""
        frames = self.node.inputs.dataset.frames
        try:
            text = self.retrieved.base.repository.get_object_content(self.node.get_option("output_filename"))
        except FileNotFoundError:
            return self.exit_codes.ERROR_OUTPUT_MISSING
        run = parse_reftraj(text, int(frames.n_atoms[0]))
        spec = self.node.inputs.level.get_dict()
        results = frame_results(run, len(frames), stress=bool(frames.pbc.all()) and has_stress(spec))

        level = level_metadata(spec, run.stdout.version)
        dataset = labelled_dataset(frames, level, results, self.node.uuid)
        if dataset is not None:
            self.out("dataset", dataset)
        self.out("failed", orm.Dict(failures(results)))
        self.out(
            "output_parameters",
            orm.Dict(
                {
                    "code_version": run.stdout.version,
                    "n_frames": len(frames),
                    "n_labelled": 0 if dataset is None else dataset.n_frames,
                    "rung": self.node.inputs.convergence["name"] if "convergence" in self.node.inputs else "",
                    "scf_steps": [frame.scf_steps for frame in run.frames],
                    "wall_time_s": run.seconds,
                }
            ),
        )
        return self._exit_code(run, results)

    def _exit_code(self, run: ReftrajOutput, results: list[FrameLabel | FrameFailure]) -> ExitCode | None:
        """Return the most specific exit code that holds."""
        total = len(results)
        done = sum(not (isinstance(result, FrameFailure) and result.retry) for result in results)
        if run.stdout.abort_message and not run.frames and not run.stopped_unconverged:
            return self.exit_codes.ERROR_INPUT_REFUSED.format(message=run.stdout.abort_message)
        if done == 0:
            return self.exit_codes.ERROR_NO_FRAME_FINISHED
        if done < total:
            code = self.exit_codes.ERROR_INTERRUPTED
            if run.stdout.out_of_walltime:
                code = self.exit_codes.ERROR_OUT_OF_WALLTIME
            return code.format(done=done, total=total)
        if not any(isinstance(result, FrameLabel) for result in results):
            return self.exit_codes.ERROR_NO_FRAME_CONVERGED.format(total=total)
        return None


def frame_results(run: ReftrajOutput, total: int, *, stress: bool) -> list[FrameLabel | FrameFailure]:
    """Return one result for each of ``total`` frames of a run; ``stress``: whether it belongs to a label."""
    results = [_frame_result(frame, stress) for frame in run.frames[:total]]
    if run.scf_out_of_time and results and results[-1] == UNCONVERGED:
        results[-1] = NOT_REACHED
    if len(results) < total and run.stdout.abort_message:
        stopped = UNCONVERGED
        if not run.stopped_unconverged:
            stopped = FrameFailure(f"CP2K aborted: {run.stdout.abort_message}", retry=False)
        if results and results[-1] == NOT_REACHED:
            results.pop()
        refused = not run.frames and not run.stopped_unconverged
        results += [stopped] * (total - len(results) if refused else 1)
    return results + [NOT_REACHED] * (total - len(results))


def _frame_result(frame: EvaluatedFrame, stress: bool) -> FrameLabel | FrameFailure:
    if not frame.converged:
        return UNCONVERGED
    if frame.forces is None or (stress and frame.stress is None):
        return NOT_REACHED
    label = FrameLabel(frame.energy, frame.forces, frame.stress if stress else None)
    if not label.finite:
        return FrameFailure("CP2K's energy, forces or stress are not all numbers", retry=False)
    return label

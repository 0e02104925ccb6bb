"""``mlfinetune.vasp_label``: VASP on each frame of a dataset, one job a frame."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.links import LinkType
from aiida.engine import ExitCode, ProcessBuilder, append_, while_
from aiida.plugins import WorkflowFactory

from aiida_mlfinetune.calculations.functions.vasp import frame_inputs, mesh_name, shared_inputs, structure_name
from aiida_mlfinetune.calculations.validators import (
    VASP_PLUGINS,
    new_level_problem,
    validate_dict,
    validate_positive,
    validate_program,
)
from aiida_mlfinetune.calculations.vasp_input import check_vasp_level, frame_mesh
from aiida_mlfinetune.calculations.vasp_potentials import potentials_problem
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.parsers.raw.vasp_misc import misc_errors
from aiida_mlfinetune.parsers.vasp_label import collect_vasp_labels, misc_name
from aiida_mlfinetune.science.datasets.checks import frames_problem
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge
from aiida_mlfinetune.workchains.protocols.vasp_levels import load_vasp_level
from aiida_mlfinetune.workchains.refill import RefillingWorkChain

FRAME = "frame_"
CHUNK = 100
"""Frames whose structures are made at a time."""


class VaspLabelWorkChain(ProtocolMixin, RefillingWorkChain):
    """VASP on each frame of a dataset, one job a frame, ``max_concurrent`` of them at any time.

    Each frame is a ``vasp.v2.vasp``, with its handlers in force. A frame that it gives up on is named in ``failed``,
    the others are kept.
    """

    _PROTOCOL_FILE = "vasp_label.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("code", valid_type=orm.AbstractCode, validator=validate_program(*VASP_PLUGINS), help="VASP.")
        spec.input("dataset", valid_type=DatasetData, validator=validate_dataset, help="Frames to label.")
        spec.input(
            "level",
            valid_type=orm.Dict,
            validator=validate_dict(check_vasp_level),
            help="Level of theory: engine 'vasp', a key for the labels, `incar`, `kpoints`, `potentials`.",
        )
        spec.input(
            "max_concurrent",
            valid_type=orm.Int,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Int(2),
            validator=validate_positive,
            help="Number of frames at a time, at most; the next one starts as soon as one ends.",
        )
        spec.input(
            "options",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_options,
            help="Scheduler options of each VASP job: `resources`, `max_wallclock_seconds`, `withmpi`, ...",
        )
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(cls.prepare, while_(cls.has_frames)(cls.submit_frames), cls.collect)
        spec.output(
            "dataset",
            valid_type=DatasetData,
            required=False,
            help="The frames that succeeded, in order: energy (eV), forces (eV/A), stress (eV/A^3, ASE's sign).",
        )
        spec.output(
            "failed",
            valid_type=orm.Dict,
            help="By index in the input dataset: `reason`, and `retry`: whether another job may succeed.",
        )
        spec.exit_code(312, "ERROR_NO_FRAME_LABELLED", message="VASP labelled none of {total} frames: {reason}")
        spec.exit_code(
            410, "ERROR_INTERRUPTED", message="VASP was ended from outside for {count} of {total} frames: {reason}"
        )

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        dataset: DatasetData,
        level: str | Mapping[str, Any] | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            code: VASP.
            dataset: frames to label.
            level: name of a VASP level, or a whole specification.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/vasp_label.yaml``.
            options: scheduler options, laid over those of the protocol.

        Raises:
            StudyError: unknown protocol, input or level, or potentials that do not fit the level.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        if isinstance(level, Mapping):
            spec = dict(level)
        else:
            spec = load_vasp_level(level or inputs["level"], inputs["level_overrides"])
        builder = cls.get_builder()
        builder.code, builder.dataset, builder.level = code, dataset, orm.Dict(spec)
        builder.max_concurrent = orm.Int(inputs["max_concurrent"])
        builder.options = orm.Dict(merge(inputs["options"], options or {}, {""}, "options"))
        if problem := vasp_inputs_problem({"dataset": dataset, "level": builder.level}):
            raise StudyError(problem)
        return builder

    def prepare(self) -> None:
        """Make the inputs that all frames share."""
        self.ctx.shared = AttributeDict(shared_inputs(self.inputs.level))
        self.ctx.submitted, self.ctx.active = 0, {}

    def has_frames(self) -> bool:
        """Whether frames are left to be run, or are running."""
        return self.ctx.submitted < self.inputs.dataset.n_frames or bool(self.ctx.active)

    def submit_frames(self) -> None:
        """Let go of the frames that ended, and submit as many new ones as may run at a time."""
        for label, pk in list(self.ctx.active.items()):
            child = orm.load_node(pk)
            if child.is_terminated:
                del self.ctx.active[label]
                if not child.is_finished_ok:
                    self.report(f"{label} failed: {_reason(child)}")
        most = self.inputs.max_concurrent.value
        while self.ctx.submitted < self.inputs.dataset.n_frames and len(self.ctx.active) < most:
            index = self.ctx.submitted
            child = self.submit(WorkflowFactory("vasp.v2.vasp"), **self._frame_inputs(index))
            self.ctx.active[_label(index)] = child.pk
            self.ctx.submitted += 1
        self.ctx.awaited = []
        for pk in self.ctx.active.values():
            self.to_context(awaited=append_(orm.load_node(pk)))

    def _frame_inputs(self, index: int) -> dict[str, Any]:
        if index % CHUNK == 0:
            last = min(index + CHUNK, self.inputs.dataset.n_frames)
            _, made = frame_inputs.run_get_node(self.inputs.dataset, self.inputs.level, orm.Int(index), orm.Int(last))
            self.ctx.chunk = made.pk
        made = orm.load_node(self.ctx.chunk).outputs
        shared = dict(self.ctx.shared)
        monitors = {"stdout": shared.pop("stdout_monitor"), "loop_time": shared.pop("loop_time_monitor")}
        mesh = frame_mesh(self.inputs.level.get_dict(), self.inputs.dataset.frames, index)
        return {
            **shared,
            "code": self.inputs.code,
            "structure": made[structure_name(index)],
            "kpoints": made[mesh_name(mesh)],
            "monitors": monitors,
            "calc": {"metadata": {"options": self.inputs.options.get_dict()}},
            "metadata": {"call_link_label": _label(index)},
        }

    def collect(self) -> ExitCode | None:
        """Make one dataset of the frames that succeeded, and name the others."""
        links = self.node.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all()
        children: dict[str, orm.ProcessNode] = {}
        for link in links:
            # After a crash of the daemon a frame may have been submitted twice
            if link.link_label not in children or link.node.is_finished_ok:
                children[link.link_label] = link.node
        miscs, reasons = {}, {}
        total = self.inputs.dataset.n_frames
        for index in range(total):
            child = children[_label(index)]
            if child.is_finished_ok:
                miscs[misc_name(index)] = child.outputs.misc
            else:
                reasons[str(index)] = {"reason": _reason(child), "retry": child.is_killed}
        results = collect_vasp_labels(self.inputs.dataset, self.inputs.level, orm.Dict(reasons), **miscs)
        for name, node in results.items():
            self.out(name, node)
        failed = results["failed"].get_dict()
        for index, entry in failed.items():
            if entry["retry"] and misc_name(int(index)) in miscs:
                _distrust(children[_label(int(index))])
        again = [entry["reason"] for entry in failed.values() if entry["retry"]]
        if again:
            return self.exit_codes.ERROR_INTERRUPTED.format(count=len(again), total=total, reason=again[0])
        if len(failed) == total:
            return self.exit_codes.ERROR_NO_FRAME_LABELLED.format(total=total, reason=failed["0"]["reason"])
        return None


def vasp_inputs_problem(inputs: Mapping[str, Any]) -> str | None:
    """Return what is wrong with inputs that do not fit together: level, dataset and the potentials of the profile."""
    if "level" not in inputs:
        return None
    level, dataset = inputs["level"].get_dict(), inputs.get("dataset")
    if dataset is not None and (problem := new_level_problem(level, dataset)):
        return problem
    return potentials_problem(level, () if dataset is None else dataset.elements)


def validate_dataset(dataset: DatasetData | None, _: Any) -> str | None:
    """Check that every frame can be computed: a crystal, or a molecule without a cell."""
    if dataset is None:
        return None
    for index, periodic in enumerate(dataset.frames.pbc):
        if periodic.any() and not periodic.all():
            return (
                f"frame {index} is periodic along some directions only, which VASP is not: give it a cell with vacuum "
                "that is periodic in all three"
            )
    return frames_problem(dataset.frames)


def validate_options(options: orm.Dict | None, _: Any) -> str | None:
    """Refuse options that would bring a POTCAR into the repository."""
    given = {} if options is None else options.get_dict()
    for entry in given.get("additional_retrieve_list", []):
        pattern = str(entry[0] if isinstance(entry, list | tuple) else entry)
        if fnmatch("POTCAR", pattern) or "POTCAR" in pattern:
            return (
                f"option additional_retrieve_list would retrieve {pattern!r}, and with it POTCAR, which is licensed "
                "and must not get into the repository: name the files that you need"
            )
    return None


def validate_inputs(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Check that level, dataset and potentials fit together."""
    return vasp_inputs_problem(inputs)


def _label(index: int) -> str:
    return f"{FRAME}{index:06d}"


def _distrust(child: orm.ProcessNode) -> None:
    """Keep the jobs of a frame, which ended well but for an incomplete file, from being taken from the cache."""
    for job in child.called:
        job.base.caching.is_valid_cache = False


def _reason(child: orm.ProcessNode) -> str:
    """Return why there is no label of a frame: what VASP's last run came to, and what aiida-vasp said of it."""
    if child.is_killed:
        return "its process was killed"
    if child.is_excepted:
        return f"its process ended with an exception: {child.exception}"
    parts = []
    jobs = sorted((job for job in child.called if isinstance(job, orm.CalcJobNode)), key=lambda job: job.pk)
    if jobs:
        count = f"{len(jobs)} runs of VASP" if len(jobs) > 1 else "one run of VASP"
        parts.append(f"{count}, the last one: [{jobs[-1].exit_status}] {jobs[-1].exit_message}".rstrip("."))
        if "misc" in jobs[-1].outputs and (errors := misc_errors(jobs[-1].outputs.misc.get_dict())):
            parts.append("VASP said: " + " ".join(errors))
    parts.append(f"aiida-vasp: [{child.exit_status}] {child.exit_message}")
    return "; ".join(parts)

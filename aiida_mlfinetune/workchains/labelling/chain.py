"""``mlfinetune.labelling``: labels at one level for the frames of a dataset, by whatever engine the level names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ExitCode, ProcessBuilder, WorkChain, append_, while_

from aiida_mlfinetune.calculations.functions.labelling import (
    BATCH,
    FAILED,
    LABELLED,
    RUNG,
    climb_ladder,
    collect_labels,
    make_batches,
    retried,
    retry_batch,
    unconverged,
)
from aiida_mlfinetune.calculations.validators import new_level_problem, validate_dict, validate_positive
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.common.resources import mpi_processes
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.checks import frames_problem
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.workchains.labelling.engines import ENGINES, Engine, engine_of, find_level
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge

MOST_REPORTED = 10


class LabellingWorkChain(ProtocolMixin, WorkChain):
    """Label frames in jobs of many frames each.

    Frames are sorted into jobs of one composition, neighbours alike. Frames that a job did not come to, since it was
    killed or out of time, get another job as long as jobs finish frames; ``max_attempts`` in a row without one are
    the end. Frames that did not converge climb the ladder: jobs with more and more help to converge, at the same level.
    A frame that fails for another reason of its own, or on every rung, is left out and named.
    """

    _PROTOCOL_FILE = "labelling.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("dataset", valid_type=DatasetData, validator=validate_dataset, help="Frames to label.")
        spec.input(
            "level",
            valid_type=orm.Dict,
            validator=validate_dict(engine_of),
            help="Level of theory: `key` of the labels, `engine` (cp2k, ase or vasp), and what that engine needs.",
        )
        for name, default, text in (
            ("frames_per_job", 100, "Number of frames of one job, at most."),
            ("max_concurrent", 2, "Number of jobs at a time, at most."),
            ("max_attempts", 2, "Number of jobs in a row, at most, that end early without a frame finished."),
        ):
            spec.input(
                name,
                valid_type=orm.Int,
                serializer=orm.to_aiida_type,
                default=lambda value=default: orm.Int(value),
                validator=validate_positive,
                help=text,
            )
        spec.input(
            "ladder",
            valid_type=orm.List,
            required=False,
            help="What is changed for frames that do not converge, rung by rung, each with its `name`; by default "
            "nothing. Rungs may help a cycle to converge, and may not change the level.",
        )
        for engine in ENGINES.values():
            spec.expose_inputs(
                engine.calculation,
                namespace=engine.namespace,
                exclude=("dataset", "level", "convergence", "max_concurrent"),
                namespace_options={"required": False, "populate_defaults": False},
            )
            spec.inputs[engine.namespace].dynamic = False
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.prepare,
            while_(cls.has_batches)(cls.submit_batches, cls.inspect_batches),
            cls.collect,
        )
        spec.output(
            "dataset",
            valid_type=DatasetData,
            required=False,
            help="The frames that succeeded, in the order asked for, with the new level beside those they had: energy "
            "(eV), forces (eV/A), stress (eV/A^3, ASE's sign).",
        )
        spec.output(
            "failed",
            valid_type=orm.Dict,
            help="By the index of a frame in the input, as a string: `content_hash`, `reason`, and the `rungs` of the "
            "ladder that were tried; empty if none failed.",
        )
        spec.output(
            "rescued",
            valid_type=orm.Dict,
            help="By the index of a frame in the input, as a string: `content_hash`, and the `rung` of the ladder that "
            "got a label; empty if none was needed.",
        )
        spec.exit_code(320, "ERROR_NO_LABELS", message="None of {total} frames was labelled: {reasons}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        dataset: DatasetData | None,
        level: str | Mapping[str, Any] | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        model: MaceModelData | None = None,
        crystals: Iterable[orm.StructureData] = (),
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            code: of the level's engine: CP2K, or a Python for an ASE calculator.
            dataset: frames to label; may be None where a work chain makes them later.
            level: name of a level of any engine, or a whole specification.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/labelling.yaml``.
            options: scheduler options, laid over those of the protocol.
            model: the model behind an ASE calculator that reads one.
            crystals: of which there will be frames, where these are not known yet or are only some of those that are
                labelled at the level: all frames of a crystal have to share a grid.

        Raises:
            StudyError: unknown protocol, input, engine or level.
            FramesError: frames that cannot be computed.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        if isinstance(level, Mapping):
            spec = dict(level)
        else:
            spec = find_level(level or inputs["level"], inputs["level_overrides"])
        engine = engine_of(spec)
        if engine.expect is not None:
            spec = engine.expect(spec, Frames.from_atoms([crystal.get_ase() for crystal in crystals]))
        if dataset is not None and engine.settle is not None:
            spec = engine.settle(spec, dataset.frames)
        builder = cls.get_builder()
        builder.level = orm.Dict(spec)
        for name in ("frames_per_job", "max_concurrent", "max_attempts"):
            builder[name] = orm.Int(inputs[name])
        ladder = inputs["ladder"]
        if ladder is None:
            ladder = engine.ladder(spec) if engine.ladder else []
        engine.check_ladder(ladder)
        if ladder:
            builder.ladder = orm.List(ladder)
        namespace = builder[engine.namespace]
        namespace.code = code
        scheduler = merge(inputs["metadata"]["options"], options or {}, {""}, "options")
        if engine.name in {"cp2k", "vasp"}:
            scheduler.setdefault("withmpi", mpi_processes(scheduler.get("resources", {})) > 1)
        if "options" in engine.calculation.spec().inputs:
            namespace.options = orm.Dict(scheduler)
        else:
            namespace.metadata.options = scheduler
        if model is not None:
            if "model" not in engine.calculation.spec().inputs:
                raise StudyError(f"level {spec['key']!r} is computed by engine {engine.name!r}, which takes no model")
            namespace.model = model
        count = "the"
        if dataset is not None:
            if problem := _dataset_problem(dataset, spec):
                raise StudyError(problem)
            builder.dataset = dataset
            if engine.warning is not None and (warning := engine.warning(spec, dataset.frames)) is not None:
                AIIDA_LOGGER.warning(warning)
            if engine.own_queue and (problem := engine.problem({"dataset": dataset, "level": builder.level})):
                raise StudyError(problem)
            count = f"{dataset.n_frames}"
        AIIDA_LOGGER.report(
            f"labelling: {count} frames at {spec['key']!r} with {engine.name}, {inputs['frames_per_job']} a job"
        )
        return builder

    @property
    def engine(self) -> Engine:
        """The engine of the level."""
        return engine_of(self.inputs.level.get_dict())

    def prepare(self) -> None:
        """Sort the frames into batches."""
        self.ctx.level = self._settled_level()
        if self.engine.warning is not None:
            warning = self.engine.warning(self.ctx.level.get_dict(), self.inputs.dataset.frames)
            if warning is not None:
                self.report(f"warning: {warning}")
        mixed = orm.Bool(self.engine.mixes_compositions)
        size = orm.Int(self.inputs.dataset.n_frames) if self.engine.own_queue else self.inputs.frames_per_job
        references = self.ctx.level.get_dict().get("grid_cells") or {}
        several = {"level": self.ctx.level} if any(len(cells) > 1 for cells in references.values()) else {}
        batches = make_batches(self.inputs.dataset, size, mixed, **several)
        self.ctx.queue = [_task(batches[name]) for name in sorted(batches)]
        self.ctx.running, self.ctx.pieces, self.ctx.count, self.ctx.submitted = [], {}, 0, 0

    def _settled_level(self) -> orm.Dict:
        """Return the level, with what depends on all frames settled by them where it was left open."""
        engine, level, dataset = self.engine, self.inputs.level, self.inputs.dataset
        if engine.settle is None or engine.settle_node is None:
            return level
        spec = level.get_dict()
        return level if engine.settle(spec, dataset.frames) == spec else engine.settle_node(level, dataset)

    def has_batches(self) -> bool:
        """Whether frames are left to be labelled."""
        return bool(self.ctx.queue)

    def submit_batches(self) -> None:
        """Submit as many jobs as may run at a time."""
        engine = self.engine
        most = self.inputs.max_concurrent.value
        self.ctx.running, self.ctx.queue = self.ctx.queue[:most], self.ctx.queue[most:]
        self.ctx.jobs = []
        for task in self.ctx.running:
            inputs = AttributeDict(self.exposed_inputs(engine.calculation, engine.namespace))
            inputs.update(dataset=task.batch, level=self.ctx.level)
            if task.rung is not None:
                inputs.convergence = task.rung
            if engine.own_queue:
                inputs.max_concurrent = self.inputs.max_concurrent
            inputs.metadata.call_link_label = f"{BATCH}{self.ctx.submitted:04d}"
            self.ctx.submitted += 1
            node = self.submit(engine.calculation, **inputs)
            rung = "" if task.rung is None else f", on rung {task.rung['name']!r} of the ladder"
            self.report(f"submitted {node.process_label}<{node.pk}>: {task.batch.n_frames} frames{rung}")
            self.to_context(jobs=append_(node))

    def inspect_batches(self) -> None:
        """Take what the jobs finished, and queue again what they did not come to, and what did not converge."""
        for task, job in zip(self.ctx.running, self.ctx.jobs, strict=True):
            number = f"{self.ctx.count:04d}"
            self.ctx.count += 1
            self.ctx.pieces[BATCH + number] = task.batch
            if task.rung is not None:
                self.ctx.pieces[RUNG + number] = task.rung
            for prefix, name in ((LABELLED, "dataset"), (FAILED, "failed")):
                if name in job.outputs:
                    self.ctx.pieces[prefix + number] = job.outputs[name]
            if not job.is_finished_ok:
                self.report(f"{job.process_label}<{job.pk}> ended with [{job.exit_status}] {job.exit_message}")
            if "failed" in job.outputs:
                self._climb(task, job.outputs.failed)
            self._try_again(task, job)

    def _climb(self, task: AttributeDict, failed: orm.Dict) -> None:
        """Queue the frames that did not converge on the next rung of the ladder, if there is one."""
        ladder = self.inputs.get("ladder", [])
        if unconverged(failed) and task.height < len(ladder):
            climbed = climb_ladder(task.batch, failed, ladder, orm.Int(task.height))
            self.ctx.queue.append(_task(climbed["batch"], rung=climbed["rung"], height=task.height + 1))

    def _try_again(self, task: AttributeDict, job: orm.ProcessNode) -> None:
        """Queue the frames that a job did not come to; one that finished some does not count against them."""
        rest = retried(job.outputs.failed) if "failed" in job.outputs else None
        if rest == [] or (rest is None and job.is_finished_ok):
            return
        attempt = task.attempt + 1 if rest is None or len(rest) == task.batch.n_frames else 1
        if attempt > self.inputs.max_attempts.value:
            return
        batch = task.batch if rest is None else retry_batch(task.batch, job.outputs.failed)
        self.ctx.queue.append(_task(batch, attempt=attempt, rung=task.rung, height=task.height))

    def collect(self) -> ExitCode | None:
        """Make one dataset of what all jobs labelled."""
        results = collect_labels(self.inputs.dataset, **self.ctx.pieces)
        self.out("failed", results["failed"])
        self.out("rescued", results["rescued"])
        for index, entry in results["rescued"].get_dict().items():
            self.report(f"frame {index} converged on rung {entry['rung']!r} of the ladder only")
        failed = results["failed"].get_dict()
        for index, entry in list(failed.items())[:MOST_REPORTED]:
            self.report(f"frame {index} has no label: {entry['reason']}")
        if len(failed) > MOST_REPORTED:
            self.report(f"{len(failed) - MOST_REPORTED} more frames have no label, see the output `failed`")
        if "dataset" not in results:
            reasons = "; ".join(sorted({entry["reason"] for entry in failed.values()}))
            return self.exit_codes.ERROR_NO_LABELS.format(total=len(failed), reasons=reasons)
        self.out("dataset", results["dataset"])
        return None


def validate_dataset(dataset: DatasetData | None, _: Any) -> str | None:
    """Check that each frame can be computed."""
    return None if dataset is None else frames_problem(dataset.frames)


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check that the level is new, and that the code of its engine is given, and no other."""
    if "level" not in inputs:
        return None
    spec = inputs["level"].get_dict()
    engine = engine_of(spec)
    if "code" not in inputs.get(engine.namespace, {}):
        return f"level {spec['key']!r} needs the code of engine {engine.name!r}: set `{engine.namespace}.code`"
    for other in ENGINES.values():
        if other is not engine and "code" in inputs.get(other.namespace, {}):
            return f"level {spec['key']!r} uses engine {engine.name!r}: leave `{other.namespace}.code` out"
    try:
        engine.check_ladder(list(inputs.get("ladder", [])))
    except StudyError as error:
        return str(error)
    shared = {name: inputs[name] for name in ("dataset", "level") if name in inputs}
    try:
        if engine.settle is not None and "dataset" in inputs:
            shared["level"] = orm.Dict(engine.settle(spec, inputs["dataset"].frames))
    except StudyError as error:
        return str(error)
    return engine.problem({**inputs[engine.namespace], **shared})


def _task(batch: DatasetData, *, attempt: int = 1, rung: orm.Dict | None = None, height: int = 0) -> AttributeDict:
    """Return a batch to be labelled, on which rung, and how many rungs lie below it with that one counted."""
    return AttributeDict({"batch": batch, "attempt": attempt, "rung": rung, "height": height})


def _dataset_problem(dataset: DatasetData, spec: Mapping[str, Any]) -> str | None:
    return new_level_problem(spec, dataset) or frames_problem(dataset.frames)

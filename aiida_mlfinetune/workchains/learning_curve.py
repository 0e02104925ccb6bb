"""``mlfinetune.learning_curve``: how the errors of each training mode fall with the number of frames."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.links import LinkType
from aiida.engine import ExitCode, append_, while_

from aiida_mlfinetune.calculations.functions.learning_curve import (
    ERRORS,
    PARAMETERS,
    TRAIN,
    collect_learning_curve,
    correlation_time,
    correlation_times,
    judged_quantities,
    nested_splits,
    seeded_parameters,
    training_label,
)
from aiida_mlfinetune.calculations.validators import validate_dict, validate_positive
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.datasets.splits import NestedSizes, nested_split
from aiida_mlfinetune.science.training.learning_curve import target_problem
from aiida_mlfinetune.workchains.learning_curve_builder import LearningCurveBuilderMixin
from aiida_mlfinetune.workchains.learning_curve_modes import GIVEN, MODE_INPUTS, mode_problem
from aiida_mlfinetune.workchains.refill import RefillingWorkChain
from aiida_mlfinetune.workchains.training import TrainingWorkChain

MODE_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


class LearningCurveWorkChain(LearningCurveBuilderMixin, RefillingWorkChain):
    """Modes x sizes x seeds on the same nested sets, and what their errors say about more frames.

    Each training is a ``mlfinetune.training`` of its own. One that fails is named in ``failed``, the others are kept.
    Validation and test set do not depend on the sizes and seeds that are asked for, and no training set on the others:
    a size or a seed that is added later computes only its own trainings, the rest comes from AiiDA's cache.
    """

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input("dataset", valid_type=DatasetData, help="Labelled frames, of which all sets are made.")
        spec.input("level", valid_type=orm.Str, serializer=orm.to_aiida_type, help="Key of the level to train on.")
        spec.input(
            "split",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_dict(NestedSizes.from_dict),
            help="`train` (list of sizes), `valid`, `test` (all counts, or all fractions of the dataset), `seed`, "
            "`min_separation` in steps; or a `choice` of published sizes (kaur2025, caco3) and what differs from it.",
        )
        spec.input_namespace(
            "runs",
            valid_type=orm.ArrayData,
            dynamic=True,
            required=False,
            help="The `properties` of the runs that the frames come from (`step`, `potential_energy_eV`): without "
            "`min_separation`, the longest of their correlation times is the least separation.",
        )
        spec.input(
            "seeds",
            valid_type=orm.List,
            serializer=orm.to_aiida_type,
            validator=validate_seeds,
            help="Seeds of the trainings, each once: one training for each mode, size and seed.",
        )
        spec.input(
            "target",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Dict({}),
            validator=validate_target,
            help="Largest errors that will do, by quantity: forces_meV_A, forces_O_meV_A, energy_kJ_mol (per molecule),"
            " energy_meV_per_atom, forces_percent, energy_percent (of the standard deviation).",
        )
        spec.input(
            "max_concurrent",
            valid_type=orm.Int,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Int(2),
            validator=validate_positive,
            help="Number of trainings at a time, at most.",
        )
        spec.input_namespace(
            "modes",
            valid_type=orm.Data,
            dynamic=True,
            help="By a name of your choice (such as `naive`): the inputs of `mlfinetune.training` that make the mode: "
            f"{', '.join(MODE_INPUTS)}; the seed in `parameters` is replaced by each of `seeds`.",
        )
        spec.expose_inputs(TrainingWorkChain, namespace="training", exclude=(*GIVEN, *MODE_INPUTS))
        spec.inputs["training"].dynamic = False
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.make_sets,
            while_(cls.has_trainings)(cls.submit_trainings),
            cls.collect,
        )
        spec.output(
            "curve",
            valid_type=ObservableData,
            required=False,
            help="The learning curve: root mean square errors by mode, size and seed (kJ/mol, meV/atom, meV/A, meV/A^3,"
            " percent of the standard deviation), power laws, and a sentence on what more frames would bring.",
        )
        spec.output("sizes", valid_type=orm.Dict, help="Sizes of all sets, and the separation in steps.")
        spec.output("correlation_time", valid_type=ObservableData, required=False, help="Of the runs, in steps.")
        spec.output_namespace(
            "models",
            valid_type=MaceModelData,
            dynamic=True,
            required=False,
            help="The models, as `<mode>_n<size>_s<seed>`.",
        )
        spec.output_namespace(
            "sets", valid_type=DatasetData, dynamic=True, help="`train_<size>`, `valid`, and `test` if there is one."
        )
        spec.exit_code(
            360,
            "ERROR_TRAININGS_FAILED",
            message="{count} of {total} trainings failed; the curve is made of the others. The first: {reason}",
        )
        spec.exit_code(361, "ERROR_NO_TRAINING", message="None of {total} trainings ended well. The first: {reason}")

    def make_sets(self) -> None:
        """Split the frames, and make the parameters of each mode with each seed."""
        more = {}
        if self.inputs.get("runs") and self.inputs.split.get_dict().get("min_separation") is None:
            more["correlation"] = correlation_time(**self.inputs.runs)
            self.out("correlation_time", more["correlation"])
        made = nested_splits(self.inputs.dataset, self.inputs.split, **more)
        self.ctx.sizes = made.pop("sizes")
        self.out("sizes", self.ctx.sizes)
        for name, dataset in made.items():
            self.out(f"sets.{name}", dataset)
        self.ctx.sets = made
        self.ctx.parameters = seeded_parameters(
            self.inputs.seeds, **{name: mode["parameters"] for name, mode in self.inputs.modes.items()}
        )
        seeds = self.inputs.seeds.get_list()
        modes = sorted(self.inputs.modes)
        self.ctx.queue = [[mode, size, seed] for size in self.ctx.sizes["train"] for seed in seeds for mode in modes]
        self.ctx.active, self.ctx.refused = {}, {}
        sizes = self.ctx.sizes
        self.report(
            f"{len(self.ctx.queue)} trainings on {sizes['train']} frames, {sizes['valid']} for validation, "
            f"{sizes['test']} for the test, separation {sizes['min_separation_steps']} steps ({sizes['separation']})"
        )

    def has_trainings(self) -> bool:
        """Whether trainings are left to be run, or are running."""
        return bool(self.ctx.queue or self.ctx.active)

    def submit_trainings(self) -> None:
        """Let go of the trainings that ended, and submit as many new ones as may run at a time."""
        for label, pk in list(self.ctx.active.items()):
            child = orm.load_node(pk)
            if child.is_terminated:
                del self.ctx.active[label]
                if not child.is_finished_ok:
                    self.report(f"{label} failed: {_reason(child)}")
        while self.ctx.queue and len(self.ctx.active) < self.inputs.max_concurrent.value:
            mode, size, seed = self.ctx.queue[0]
            self.ctx.queue = self.ctx.queue[1:]
            label = training_label(mode, size, seed)
            try:
                child = self.submit(TrainingWorkChain, **self._training_inputs(mode, size, seed))
            except (MlFinetuneError, ValueError) as error:
                self.ctx.refused[label] = str(error)
                self.report(f"{label} is refused: {error}")
                continue
            self.ctx.active[label] = child.pk
        self.ctx.awaited = []
        for pk in self.ctx.active.values():
            self.to_context(awaited=append_(orm.load_node(pk)))

    def _training_inputs(self, mode: str, size: int, seed: int) -> AttributeDict:
        inputs = AttributeDict(self.exposed_inputs(TrainingWorkChain, "training"))
        inputs.update(self.inputs.modes[mode])
        inputs.level = self.inputs.level
        inputs.parameters = self.ctx.parameters[f"{mode}_s{seed}"]
        inputs.train = self.ctx.sets[f"{TRAIN}{size}"]
        for name in ("valid", "test"):
            if name in self.ctx.sets:
                inputs[name] = self.ctx.sets[name]
        inputs.metadata = {
            "call_link_label": training_label(mode, size, seed),
            "label": f"{mode}, {size} frames, seed {seed}",
        }
        return inputs

    def collect(self) -> ExitCode | None:
        """Make the curve of what ended well, and name the rest."""
        children: dict[str, orm.ProcessNode] = {}
        for link in self.node.base.links.get_outgoing(link_type=LinkType.CALL_WORK).all():
            # After a crash of the daemon a training may have been submitted twice
            if link.link_label not in children or link.node.is_finished_ok:
                children[link.link_label] = link.node
        failed = dict(self.ctx.refused)
        errors = {}
        for label, child in children.items():
            if child.is_finished_ok:
                errors[ERRORS + label] = child.outputs.errors
                self.out(f"models.{label}", child.outputs.model)
            else:
                failed[label] = _reason(child)
        total = len(errors) + len(failed)
        if not errors:
            return self.exit_codes.ERROR_NO_TRAINING.format(total=total, reason=next(iter(failed.values())))
        parameters = {PARAMETERS + name: mode["parameters"] for name, mode in self.inputs.modes.items()}
        curve = collect_learning_curve(
            judged=self.ctx.sets["test" if "test" in self.ctx.sets else "valid"],
            level=self.inputs.level,
            sizes=self.ctx.sizes,
            seeds=self.inputs.seeds,
            target=self.inputs.target,
            failed=orm.Dict(failed),
            **parameters,
            **errors,
        )
        self.out("curve", curve)
        self.report(curve.details["sentence"])
        if failed:
            return self.exit_codes.ERROR_TRAININGS_FAILED.format(
                count=len(failed), total=total, reason=next(iter(failed.values()))
            )
        return None


def validate_seeds(seeds: orm.List | None, _: Any = None) -> str | None:
    """Refuse seeds that are none, or that are there twice: members of a committee must be independent."""
    values = [] if seeds is None else seeds.get_list()
    if not values:
        return "'seeds' is empty: give at least one seed, and three for error bars"
    if any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in values):
        return f"'seeds' must be whole numbers of at least 0, got {values}"
    if twice := sorted({seed for seed in values if values.count(seed) > 1}):
        return f"the seeds {twice} are used twice: equal seeds make equal models, so give each once"
    return None


def validate_target(target: orm.Dict | None, _: Any = None) -> str | None:
    """Refuse quantities that there are not."""
    return None if target is None else target_problem(target.get_dict())


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check that the sets can be made, and that each mode can be trained on the smallest and the largest of them."""
    if any(name not in inputs for name in ("dataset", "level", "split")):
        return None
    modes = inputs.get("modes") or {}
    if not modes:
        return "no training mode is given: set `modes`"
    for name, mode in modes.items():
        if not MODE_NAME.fullmatch(name):
            return f"the name of a mode must be lower-case letters, digits and single underscores, got {name!r}"
        if problem := mode_problem(name, mode):
            return problem
    try:
        sets = _outer_sets(inputs["dataset"], inputs["split"], inputs.get("runs") or {})
    except MlFinetuneError as error:
        return str(error)
    for name, mode in modes.items():
        if problem := _training_problem(sets, inputs["level"], mode, inputs.get("training") or {}):
            return f"mode {name!r}: {problem}"
    return _missing_targets(sets[0], inputs["level"].value, modes, inputs.get("target"))


def _missing_targets(
    sets: Mapping[str, DatasetData], level: str, modes: Mapping[str, Mapping[str, Any]], target: orm.Dict | None
) -> str | None:
    """Return which quantities of the target the labels of the judged set cannot tell, or None."""
    wanted = {} if target is None else target.get_dict()
    there = judged_quantities(sets.get("test", sets["valid"]), level, [mode["parameters"] for mode in modes.values()])
    if missing := [name for name in wanted if name not in there]:
        return f"the target names {missing}, which the labels at {level!r} cannot tell: they tell {sorted(there)}"
    return None


def _outer_sets(
    dataset: DatasetData, split: orm.Dict, runs: Mapping[str, orm.ArrayData]
) -> Sequence[dict[str, DatasetData]]:
    """Return the sets with the smallest and with the largest training set.

    Raises:
        MlFinetuneError: they cannot be made.
    """
    sizes = NestedSizes.from_dict(split.get_dict())
    estimated = None
    if runs and sizes.min_separation is None:
        estimated = max(time.separation for time in correlation_times(runs).values())
    made = nested_split(dataset.frames, sizes, estimated)
    shared = {"valid": DatasetData.subset(dataset, made.valid)}
    if len(made.test):
        shared["test"] = DatasetData.subset(dataset, made.test)
    ends = dict.fromkeys((min(made.train), max(made.train)))
    return [{"train": DatasetData.subset(dataset, made.train[size]), **shared} for size in ends]


def _training_problem(
    sets: Sequence[Mapping[str, DatasetData]], level: orm.Str, mode: Mapping[str, Any], shared: Mapping[str, Any]
) -> str | None:
    """Return why ``mlfinetune.training`` would refuse a mode, or None."""
    validator = TrainingWorkChain.spec().inputs.validator
    defaults = {
        name: port.default() if callable(port.default) else port.default
        for name, port in TrainingWorkChain.spec().inputs.items()
        if name in MODE_INPUTS and port.has_default()
    }
    parameters = orm.Dict({"seed": 0, **mode["parameters"].get_dict()})
    for own in sets:
        inputs = {**shared, **defaults, **mode, **own, "level": level, "parameters": parameters}
        if problem := validator(inputs, TrainingWorkChain.spec().inputs):
            return str(problem)
    return None


def _reason(child: orm.ProcessNode) -> str:
    """Return why a training has no errors to offer."""
    if child.is_killed:
        return "its process was killed"
    if child.is_excepted:
        return f"its process ended with an exception: {child.exception}"
    jobs = sorted((job for job in child.called if isinstance(job, orm.CalcJobNode)), key=lambda job: job.pk)
    if jobs and not jobs[-1].is_finished_ok and jobs[-1].exit_message:
        return f"[{jobs[-1].exit_status}] {jobs[-1].exit_message}"
    return f"[{child.exit_status}] {child.exit_message}"

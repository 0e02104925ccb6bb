"""Builders of ``mlfinetune.study`` from protocols, and what they will do, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.crystals.molecules import gas_molecule, perceive_crystal
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.labelling.engines import engine_of, find_level
from aiida_mlfinetune.workchains.protocols import ProtocolMixin
from aiida_mlfinetune.workchains.run_checks import trainings_of, warn_of_stress
from aiida_mlfinetune.workchains.study_checks import (
    GAS,
    NEXT_LEVEL,
    STAGES,
    validate_crystals,
    validate_inputs,
)
from aiida_mlfinetune.workchains.study_plan import study_plan
from aiida_mlfinetune.workchains.sublimation_builder import BY_MODEL, state_of_sampling, without

PROGRAMS = ("cp2k", "python", "i-pi", "vasp")
PROGRAM_OF = {"cp2k": "cp2k", "ase": "python", "vasp": "vasp"}
"""The program that an engine of labels needs."""


class StudyBuilderMixin(ProtocolMixin):
    """Gives the work chain ``get_builder_from_protocol`` and ``describe``."""

    _PROTOCOL_FILE = "study.yaml"

    @classmethod
    def get_builder_from_protocol(
        cls,
        crystals: Mapping[str, orm.StructureData],
        codes: Mapping[str, orm.AbstractCode],
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        foundation: MaceModelData | None = None,
        teacher: MaceModelData | None = None,
        sampling_model: MaceModelData | None = None,
        temperature_K: float | None = None,  # noqa: N803 - the unit
        pressure_bar: float | None = None,
        sizes: str | Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
        experiment: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            crystals: polymorphs by name.
            codes: by program: cp2k, python, i-pi, and what the engines of the levels need besides.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/study.yaml``; below a stage, in that of its own file.
            options: scheduler options by program.
            foundation: model to fine-tune, instead of the protocol's.
            teacher: the model behind a reference level that reads one, such as ``mace``.
            sampling_model: model whose dynamics the frames are taken from, instead of CP2K's; the sampling stages are
                then those of ``protocols/model_sampling.yaml``.
            temperature_K: of the runs, and of the sampling where its overrides name no other; further runs may differ.
            pressure_bar: on the crystals.
            sizes: of the training sets, or the name of published ones.
            seeds: of the trainings; runs are made with the models of the first.
            experiment: what was measured, by polymorph.

        Raises:
            MlFinetuneError: an unknown protocol or input, a level without a code for it, or what a stage refuses.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        by_program = dict.fromkeys(PROGRAMS) | dict(options or {})
        if unknown := sorted(set(by_program) - set(PROGRAMS)):
            raise StudyError(f"unknown programs in the options: {unknown}; options are given by {list(PROGRAMS)}")
        if problem := validate_crystals(crystals):
            raise StudyError(problem)
        model = foundation
        if model is None and inputs["foundation"] is not None:
            model = load_foundation(inputs["foundation"])
        if sampling_model is None and inputs["sampling_model"] is not None:
            sampling_model = load_foundation(inputs["sampling_model"])
        builder = cls.get_builder()
        state = {"temperature_K": temperature_K, "pressure_bar": pressure_bar}
        try:
            builder.crystals = dict(crystals)
            if model is not None:
                builder.foundation = model
            if sampling_model is not None:
                builder.sampling_model = sampling_model
            for name in ("pool", "target", "production", "max_concurrent"):
                builder[name] = orm.to_aiida_type(inputs[name])
            if inputs["distributions"]:
                builder.distributions = orm.Dict(inputs["distributions"])
            if experiment:
                builder.experiment = orm.Dict(dict(experiment))
            maker = _StageMaker(builder, inputs, codes, by_program)
            maker.sampling(crystals, state, sampling_model)
            maker.dynamics(crystals, state)
            level = maker.level("labelling", teacher)
            maker.learning_curve(level, sizes, seeds, model)
            maker.reweighting(teacher)
            if inputs["runs"]:
                builder.runs = {
                    name: {key: orm.List(value) if key == "repeat" else orm.Dict(value) for key, value in run.items()}
                    for name, run in inputs["runs"].items()
                }
            if inputs[NEXT_LEVEL]:
                maker.upgrade(model)
        except MlFinetuneError:
            raise
        except ValueError as error:  # what the ports' validators say
            raise StudyError(str(error).removeprefix("invalid attribute value ")) from error
        if problem := validate_inputs(builder._inputs(prune=True)):  # noqa: SLF001 - the builder's own content
            raise StudyError(problem)
        warn_of_stress(trainings_of(builder._inputs(prune=True)), builder.dynamics_crystal.parameters)  # noqa: SLF001
        AIIDA_LOGGER.report(f"study of {len(crystals)} polymorphs: {', '.join(sorted(crystals))}")
        return builder

    @classmethod
    def programs_of(cls, protocol: str | None = None, overrides: Mapping[str, Any] | None = None) -> set[str]:
        """Return the programs that the levels of a study need.

        Raises:
            StudyError: an unknown protocol, input or level.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        stages = ["labelling", *(["upgrade_labelling"] if inputs[NEXT_LEVEL] else [])]
        return {PROGRAM_OF[engine_of(level_of(inputs[stage])).name] for stage in stages}

    @classmethod
    def describe(cls, builder: ProcessBuilder) -> str:
        """Return what a builder will do: processes, labels, MD steps, estimated hours."""
        return "\n".join(study_plan(builder).lines())


class _StageMaker:
    """Fills the namespaces of a builder, stage by stage."""

    def __init__(
        self,
        builder: ProcessBuilder,
        inputs: Mapping[str, Any],
        codes: Mapping[str, orm.AbstractCode],
        options: Mapping[str, Mapping[str, Any] | None],
    ) -> None:
        self.builder, self.inputs, self.codes, self.options = builder, inputs, codes, options

    def code(self, program: str, why: str) -> orm.AbstractCode:
        """Return the code of a program.

        Raises:
            StudyError: there is none.
        """
        if program not in self.codes:
            raise StudyError(f"{why} needs {program}, of which no code is given: name one under `codes`")
        return self.codes[program]

    def make(self, stage: str, name: str, *args: Any, scheduler: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the inputs that the builder of a stage's work chain makes, without those that the study gives it."""
        chain, exclude, _ = STAGES[name]
        settings = dict(self.inputs[stage])
        made = chain.get_builder_from_protocol(
            *args, protocol=settings.pop("protocol"), overrides=settings, options=scheduler, **kwargs
        )
        values = made._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
        self.made = values
        return without(values, exclude)

    def sampling(
        self, crystals: Mapping[str, orm.StructureData], state: Mapping[str, Any], model: MaceModelData | None
    ) -> None:
        """Fill the sampling of crystals and molecule, with CP2K or a model."""
        program, prefix = ("cp2k", "") if model is None else ("i-pi", BY_MODEL)
        code, more = self.code(program, "the sampling"), () if model is None else (model,)
        selections = {}
        first = crystals[sorted(crystals)[0]]
        systems = {**crystals, GAS: orm.StructureData(ase=gas_molecule(first.get_ase()))}
        for name, structure in systems.items():
            stage = "sampling_gas" if name == GAS else "sampling_crystal"
            sampled = state_of_sampling(self.inputs[stage], state)
            if model is None:
                sampled["crystals"] = dict(self.builder.crystals).values()
            made = self.make(
                stage, f"{prefix}{stage}", code, structure, *more, scheduler=self.options[program], **sampled
            )
            if problem := STAGES[f"{prefix}{stage}"][0].spec().inputs.validator(self.made, None):
                raise StudyError(f"sampling of {name}: {problem}")
            if name != GAS:
                selections[name] = self.made["selection"]
            if structure is first or name == GAS:
                self.builder[f"{prefix}{stage}"] = made
        self.builder.selections = selections

    def dynamics(self, crystals: Mapping[str, orm.StructureData], state: Mapping[str, Any]) -> None:
        """Fill the runs of crystals and molecule."""
        ipi, first = self.code("i-pi", "the runs"), crystals[sorted(crystals)[0]]
        for phase, structure in (("crystal", first), (GAS, orm.StructureData(ase=gas_molecule(first.get_ase())))):
            stage = f"dynamics_{phase}"
            self.builder[stage] = self.make(stage, stage, ipi, structure, None, scheduler=self.options["i-pi"], **state)

    def level(self, stage: str, teacher: MaceModelData | None) -> str:
        """Fill a labelling; return the key of its level."""
        settings = dict(self.inputs[stage])
        spec = level_of(settings)
        program = PROGRAM_OF[engine_of(spec).name]
        made = LabellingWorkChain.get_builder_from_protocol(
            self.code(program, f"the level {spec['key']!r}"),
            None,
            spec,
            settings.pop("protocol"),
            {key: value for key, value in settings.items() if key not in ("level", "level_overrides")},
            self.options[program],
            model=teacher,
            crystals=dict(self.builder.crystals).values(),
        )
        self.builder[stage] = made._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
        return str(spec["key"])

    def learning_curve(self, level: str, sizes: Any, seeds: Any, model: MaceModelData | None) -> None:
        """Fill the learning curve; every mode gets the name of the molecule."""
        formula = perceive_crystal(next(iter(dict(self.builder.crystals).values())).get_ase()).formula
        training = dict(self.inputs["learning_curve"].get("training") or {})
        training["parameters"] = {"molecule": formula, **(training.get("parameters") or {})}
        self.inputs["learning_curve"]["training"] = training
        self.builder.learning_curve = self.make(
            "learning_curve",
            "learning_curve",
            self.code("python", "the trainings"),
            None,
            level,
            self.inputs["modes"],
            model,
            scheduler=self.options["python"],
            sizes=sizes,
            seeds=seeds,
        )

    def reweighting(self, teacher: MaceModelData | None) -> None:
        """Fill the reweighting, whose reference is the level of the labels and has its code and options.

        Raises:
            StudyError: the overrides name another level.
        """
        settings = dict(self.inputs["reweighting"])
        labelling = dict(self.inputs["labelling"])
        spec = level_of(labelling)
        program = PROGRAM_OF[engine_of(spec).name]
        stage = dict(settings.get("labelling") or {})
        asked = {name: stage.pop(name) for name in ("level", "level_overrides") if name in stage}
        if level_of({**labelling, **asked}) != spec:
            raise StudyError(
                f"reweighting.labelling has {asked}, but the reference is the level of the labels, {spec['key']!r}: "
                "give it once, as labelling.level, or levels.reference in a study file"
            )
        own = {key: value for key, value in self.inputs["labelling"].items() if key.endswith(("_job", "_concurrent"))}
        settings["labelling"] = {**own, **stage}
        self.inputs["reweighting"].update(settings)
        self.builder.reweighting = self.make(
            "reweighting",
            "reweighting",
            self.code(program, f"the level {spec['key']!r}"),
            None,
            spec,
            scheduler=self.options[program],
            model=teacher,
            crystals=dict(self.builder.crystals).values(),
        )

    def upgrade(self, model: MaceModelData | None) -> None:
        """Fill labels and training at the next level."""
        key = self.level("upgrade_labelling", None)
        formula = perceive_crystal(next(iter(dict(self.builder.crystals).values())).get_ase()).formula
        training = self.inputs["upgrade_training"]
        training["parameters"] = {"molecule": formula, **(training.get("parameters") or {})}
        name = self.inputs["production"]["mode"]
        own = dict(self.builder.learning_curve.modes).get(name)
        mode = name if own is None else own["parameters"]["mode"]
        self.builder.upgrade_training = self.make(
            "upgrade_training",
            "upgrade_training",
            self.code("python", "the trainings"),
            None,
            key,
            scheduler=self.options["python"],
            foundation=model,
            mode=self.inputs[NEXT_LEVEL].get("mode", mode),
        )
        self.builder[NEXT_LEVEL] = orm.Dict(
            {name: value for name, value in self.inputs[NEXT_LEVEL].items() if name != "mode"}
        )


def level_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the level that a stage's overrides, or its protocol, ask for.

    Raises:
        StudyError: an unknown level.
    """
    inputs = LabellingWorkChain.get_protocol_inputs(settings.get("protocol"))
    level = settings.get("level", inputs["level"])
    if isinstance(level, Mapping):
        return dict(level)
    return find_level(level, {**inputs["level_overrides"], **(settings.get("level_overrides") or {})})

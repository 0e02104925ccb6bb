"""Builders of ``mlfinetune.convergence`` from protocols, and checks on its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.calculations.functions.convergence import parse_label
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.conclusions.targets import PropertyTarget
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from aiida_mlfinetune.workchains.learning_curve import LearningCurveWorkChain
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, inputs_of
from aiida_mlfinetune.workchains.run_checks import parameters_of, stress_problem, trainings_of, warn_of_stress


class ConvergenceBuilderMixin(ProtocolMixin):
    """Gives the work chain ``get_builder_from_protocol``."""

    _PROTOCOL_FILE = "convergence.yaml"

    @classmethod
    def get_builder_from_protocol(
        cls,
        ipi_code: orm.AbstractCode,
        reference_code: orm.AbstractCode,
        crystal: orm.StructureData,
        molecule: orm.StructureData | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        models: Mapping[str, MaceModelData] | None = None,
        python_code: orm.AbstractCode | None = None,
        dataset: DatasetData | None = None,
        level: str | None = None,
        modes: Sequence[str] | Mapping[str, Mapping[str, Any]] = (TrainingMode.SCRATCH.value,),
        foundation: MaceModelData | None = None,
        sizes: str | Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
        temperature_K: float | None = None,  # noqa: N803 - the unit
        pressure_bar: float | None = None,
        reference_level: str | Mapping[str, Any] | None = None,
        reference_model: MaceModelData | None = None,
        target: Mapping[str, float | None] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            ipi_code: i-PI.
            reference_code: of the reference level's engine.
            crystal: where the runs of the crystal start.
            molecule: of the gas phase; without it only the crystal is run.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/convergence.yaml``.
            options: scheduler options by program: python, i-pi, reference.
            models: of a learning curve that there is; else give the next seven.
            python_code: a Python with MACE.
            dataset: labelled frames.
            level: key of the level to train on; that of the reference.
            modes: as ``mlfinetune.learning_curve`` takes them.
            foundation: model to start from.
            sizes: of the training sets.
            seeds: of the trainings.
            temperature_K: of all runs.
            pressure_bar: on the crystal.
            reference_level: name of a level of any engine, or a whole specification; else the protocol's.
            reference_model: the model behind a reference level that reads one.
            target: how far from the reference the averages may be.

        Raises:
            MlFinetuneError: an unknown protocol or input, or what one of the work chains refuses.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        by_program = dict(options or {})
        python_options = by_program.pop("python", None)
        builder = cls.get_builder()
        settings = dict(inputs["averages"])
        averages = AveragesWorkChain.get_builder_from_protocol(
            ipi_code,
            crystal,
            None,
            molecule,
            settings.pop("protocol"),
            settings,
            by_program,
            temperature_K=temperature_K,
            pressure_bar=pressure_bar,
            reference_code=reference_code,
            reference_level=reference_level,
            reference_model=reference_model,
        )
        builder.averages = inputs_of(averages)
        if models is not None:
            builder.models = dict(models)
        else:
            if python_code is None or dataset is None or level is None:
                raise StudyError("give the models, or what makes them: a Python code, a dataset and a level")
            settings = dict(inputs["learning_curve"])
            curve = LearningCurveWorkChain.get_builder_from_protocol(
                python_code,
                dataset,
                level,
                modes,
                foundation,
                settings.pop("protocol"),
                settings,
                python_options,
                sizes=sizes,
                seeds=seeds,
            )
            builder.learning_curve = inputs_of(curve)
        builder.target = orm.Dict(PropertyTarget.from_dict(inputs["target"] if target is None else target).to_dict())
        builder.max_concurrent = orm.Int(inputs["max_concurrent"])
        if inputs["reference_model"] is not None:
            builder.reference_model = orm.Str(inputs["reference_model"])
        if problem := validate_inputs(inputs_of(builder)):
            raise StudyError(problem)
        warn_of_stress(trainings_of(inputs_of(builder)), builder.averages.dynamics_crystal.parameters)
        return builder


def default_reference(labels: Sequence[str], best_mode: str | None) -> str:
    """Return the model of the largest set, of the best mode if it is known, with the first seed."""
    own = [label for label in labels if parse_label(label)[0] == best_mode] or list(labels)
    return min(own, key=lambda label: (-parse_label(label)[1], parse_label(label)[0], parse_label(label)[2]))


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several inputs at once."""
    models = inputs.get("models") or {}
    if bool(models) == bool(inputs.get("learning_curve")):
        return "give either 'models' or the inputs of 'learning_curve', which makes them"
    try:
        for name in models:
            parse_label(name)
    except StudyError as error:
        return str(error)
    if models and "reference_model" in inputs and inputs["reference_model"].value not in models:
        return f"the reference model {inputs['reference_model'].value!r} is none of {sorted(models)}"
    if "reweighting" not in inputs.get("averages", {}):
        return "there is no reference: give the inputs of `averages.reweighting`"
    level = inputs.get("learning_curve", {}).get("level")
    made = inputs["averages"]["reweighting"].get("labelling", {}).get("level")
    if level is not None and made is not None and level.value != made["key"]:
        return f"the models are trained at {level.value!r}, but the reference is {made['key']!r}: make them agree"
    run = parameters_of(inputs["averages"], "crystal")
    return None if run is None else stress_problem(trainings_of(inputs), run)

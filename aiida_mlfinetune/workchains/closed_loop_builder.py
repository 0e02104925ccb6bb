"""Builders of ``mlfinetune.closed_loop`` from protocols, and checks on its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiida import orm
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.calculations.cp2k_cells import has_grid
from aiida_mlfinetune.calculations.cp2k_input import level_metadata
from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.conclusions.closed_loop import Budget
from aiida_mlfinetune.science.conclusions.targets import PropertyTarget
from aiida_mlfinetune.science.datasets.levels import GRID_CELLS, Level
from aiida_mlfinetune.workchains.averages import AveragesWorkChain
from aiida_mlfinetune.workchains.labelling.engines import engine_of
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, inputs_of
from aiida_mlfinetune.workchains.run_checks import parameters_of, stress_problem, warn_of_stress
from aiida_mlfinetune.workchains.training import TrainingWorkChain


class ClosedLoopBuilderMixin(ProtocolMixin):
    """Gives the work chain ``get_builder_from_protocol``."""

    _PROTOCOL_FILE = "closed_loop.yaml"

    @classmethod
    def get_builder_from_protocol(
        cls,
        python_code: orm.AbstractCode,
        ipi_code: orm.AbstractCode,
        reference_code: orm.AbstractCode,
        dataset: DatasetData,
        crystal: orm.StructureData,
        molecule: orm.StructureData | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        foundation: MaceModelData | None = None,
        mode: TrainingMode | str | None = None,
        temperature_K: float | None = None,  # noqa: N803 - the unit
        pressure_bar: float | None = None,
        reference_level: str | Mapping[str, Any] | None = None,
        reference_model: MaceModelData | None = None,
        target: Mapping[str, float | None] | None = None,
        budget: Mapping[str, int | None] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            python_code: a Python with MACE.
            ipi_code: i-PI.
            reference_code: of the reference level's engine.
            dataset: frames that the first round trains on; they are labelled if they have no labels at the reference.
            crystal: where the runs of the crystal start.
            molecule: of the gas phase; without it only the crystal is run.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/closed_loop.yaml``.
            options: scheduler options by program: python, i-pi, reference.
            foundation: model that every round starts from.
            mode: of the training; naive where there is a foundation, else scratch.
            temperature_K: of all runs.
            pressure_bar: on the crystal.
            reference_level: name of a level of any engine, or a whole specification; else the protocol's.
            reference_model: the model behind a reference level that reads one.
            target: how far from the reference the averages may be.
            budget: ``max_rounds`` and ``max_labels``.

        Raises:
            MlFinetuneError: an unknown protocol or input, or what one of the work chains refuses.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        by_program = dict(options or {})
        python_options = by_program.pop("python", None)
        builder = cls.get_builder()
        builder.dataset = dataset
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
        level = averages.reweighting["labelling"]["level"].get_dict()
        engine, known = engine_of(level), dataset.levels.get(level["key"])
        if known is not None and engine.as_labelled is not None:
            level = engine.as_labelled(level, known["level"]["settings"])
        averages.reweighting["labelling"]["level"] = orm.Dict(level)
        builder.averages = inputs_of(averages)
        builder.labelling = inputs_of(averages)["reweighting"]["labelling"]
        settings = dict(inputs["training"])
        training = TrainingWorkChain.get_builder_from_protocol(
            python_code,
            None,
            builder.labelling.level["key"],
            foundation,
            mode,
            protocol=settings.pop("protocol"),
            overrides=settings,
            options=python_options,
        )
        builder.training = inputs_of(training, "level")
        builder.target = orm.Dict(PropertyTarget.from_dict(inputs["target"] if target is None else target).to_dict())
        builder.budget = orm.Dict(Budget.from_dict({**inputs["budget"], **(budget or {})}).to_dict())
        if problem := validate_inputs(inputs_of(builder)):
            raise StudyError(problem)
        trainings = {"training": builder.training.parameters.get_dict()}
        warn_of_stress(trainings, builder.averages.dynamics_crystal.parameters)
        return builder


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several inputs at once."""
    if "reweighting" not in inputs.get("averages", {}):
        return "there is no reference: give the inputs of `averages.reweighting`"
    level = inputs.get("labelling", {}).get("level")
    made = inputs["averages"]["reweighting"].get("labelling", {}).get("level")
    if made is None:
        return "the frames of the runs have to be labelled: give the inputs of `averages.reweighting.labelling`"
    if level is not None and level.get_dict() != made.get_dict():
        return (
            f"the first frames are labelled at {level['key']!r}, but those of the runs at {made['key']!r}, or with "
            "other settings: make the two levels agree"
        )
    parameters = inputs.get("training", {}).get("parameters")
    if parameters is not None and parameters.get_dict().get("mode") == TrainingMode.DELTA.value:
        return "a model of a difference is no potential by itself: choose another mode than 'delta'"
    if "split" not in inputs.get("training", {}):
        return "the frames have to be split in every round: give `training.split`, in fractions"
    if level is not None and "dataset" in inputs and (problem := _labels_problem(inputs["dataset"], level.get_dict())):
        return problem
    run = parameters_of(inputs["averages"], "crystal")
    if parameters is not None and run is not None:
        problem = stress_problem({"training": parameters.get_dict()}, run)
        if problem is not None:
            return problem
    return _budget_problem(inputs)


def _labels_problem(dataset: DatasetData, level: Mapping[str, Any]) -> str | None:
    """Return why labels of the loop could not be joined to those that the frames have, or None."""
    known = dataset.levels.get(level["key"])
    if known is None or engine_of(level).name != "cp2k":
        return None
    own, new = Level.from_dict(known["level"]), level_metadata(level)
    if own.joined(replace(new, code_version=own.code_version)) is None:
        return (
            f"the frames have labels at {level['key']!r} with other settings, or with other reference cells of the "
            "grid: leave the level as it was, or drop these labels"
        )
    if has_grid(level) and GRID_CELLS not in own.settings and dataset.frames.pbc.all(axis=1).any():
        return (
            f"the labels at {level['key']!r} were made with a grid for every cell, so that energies jump between "
            "cells: drop them, and have the frames labelled anew"
        )
    return None


def _budget_problem(inputs: Mapping[str, Any]) -> str | None:
    """The first round labels what has no labels, and frames of its runs: the budget has to reach that far."""
    if any(name not in inputs for name in ("budget", "dataset", "labelling")):
        return None
    most = Budget.from_dict(inputs["budget"].get_dict()).max_labels
    number = inputs["averages"]["reweighting"]["settings"].get_dict().get("n_frames")
    if most is None or number is None:
        return None
    key = inputs["labelling"]["level"]["key"]
    counts = inputs["dataset"].levels.get(key, {}).get("counts", {})
    n_frames = inputs["dataset"].n_frames
    first = 0 if counts.get("energy") == counts.get("forces") == n_frames else n_frames
    runs = 2 if "molecule" in inputs["averages"] else 1
    if first + runs * number <= most:
        return None
    return (
        f"the budget of {most} labels does not reach for one round, which takes {first} for the first frames and "
        f"{number} for each of {runs} runs: raise max_labels, or lower n_frames of the reweighting"
    )

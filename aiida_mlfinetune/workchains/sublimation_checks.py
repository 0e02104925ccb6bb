"""Checks on the inputs of ``mlfinetune.sublimation`` that span several of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm

from aiida_mlfinetune.common.enums import Ensemble, TrainingMode
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.thermodynamics import enthalpy_problem
from aiida_mlfinetune.science.crystals.molecules import perceive_crystal
from aiida_mlfinetune.science.datasets.checks import elements_problem
from aiida_mlfinetune.workchains.run_checks import parameters_of, stress_problem


def validate_crystal(crystal: orm.StructureData | None, _: Any = None) -> str | None:
    """Refuse what is no crystal of whole molecules of one kind."""
    if crystal is None:
        return None
    try:
        perceive_crystal(crystal.get_ase())
    except MlFinetuneError as error:
        return str(error)
    return None


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several stages at once."""
    for check in (sampling_problem, _foundation_problem, _level_problem, _gas_problem, _state_problem, _run_problem):
        if (problem := check(inputs)) is not None:
            return problem
    return None


def sampling_problem(inputs: Mapping[str, Any]) -> str | None:
    """Frames come from CP2K, or from a model that knows the elements: the inputs of one of both are there."""
    model = inputs.get("sampling_model")
    wanted, other = ("sampling_", "model_sampling_") if model is None else ("model_sampling_", "sampling_")
    for phase in ("crystal", "gas"):
        if inputs.get(f"{other}{phase}"):
            remedy = "give `sampling_model` too" if model is None else "leave them out, or leave out `sampling_model`"
            return f"there are inputs of {other}{phase}, which does not run: {remedy}"
        if not inputs.get(f"{wanted}{phase}"):
            return f"the inputs of {wanted}{phase} are missing"
    crystals = [*inputs.get("crystals", {}).values(), *([inputs["crystal"]] if "crystal" in inputs else [])]
    if model is None or not crystals:
        return None
    symbols = set().union(*(crystal.get_symbols_set() for crystal in crystals))
    return elements_problem(symbols, model.elements, "the sampling model")


def _foundation_problem(inputs: Mapping[str, Any]) -> str | None:
    """Fine-tuning needs a foundation that knows the crystal's elements; training from scratch takes none."""
    foundation = inputs.get("foundation")
    named = _entry(inputs, "training", "parameters", "mode")
    mode = TrainingMode(named) if named in {mode.value for mode in TrainingMode} else None
    if mode is TrainingMode.DELTA:
        return (
            "training.parameters asks for mode 'delta', whose model is no potential by itself: train it with "
            "`mlfinetune.training`, and run it with its `baseline` in `mlfinetune.dynamics`"
        )
    if foundation is None:
        if mode is not None and mode.needs_foundation:
            return (
                f"training.parameters asks for mode {named!r}, which starts from a foundation: give the input "
                f"`foundation`, or set the mode to {TrainingMode.SCRATCH.value!r}"
            )
        return None
    if mode is not None and not mode.allows_foundation:
        return f"training.parameters asks for mode {named!r}: remove the input `foundation`, or change the mode"
    if "crystal" not in inputs:
        return None
    return elements_problem(inputs["crystal"].get_symbols_set(), foundation.elements, "the foundation")


def _level_problem(inputs: Mapping[str, Any]) -> str | None:
    """The model is trained on the level that the labelling makes."""
    made = _entry(inputs, "labelling", "level", "key")
    asked = inputs.get("training", {}).get("level")
    if made is None or asked is None or asked.value == made:
        return None
    return f"the labelling makes labels at level {made!r}, but the training asks for {asked.value!r}: make them agree"


def _gas_problem(inputs: Mapping[str, Any]) -> str | None:
    """A molecule has no cell to move."""
    for stage, port in (("sampling_gas", "md"), ("model_sampling_gas", "parameters"), ("dynamics_gas", "parameters")):
        own = {stage: inputs.get(stage, {}).get("dynamics", {})} if stage.startswith("model_") else inputs
        ensemble = _entry(own, stage, port, "ensemble")
        if ensemble is not None and Ensemble(ensemble).has_barostat:
            return f"{stage}.{port} asks for ensemble {ensemble!r}, but a molecule has no cell: use 'nvt'"
    return None


def _state_problem(inputs: Mapping[str, Any]) -> str | None:
    """Crystal and gas are compared at one temperature."""
    temperatures = {
        phase: _entry(inputs, f"dynamics_{phase}", "parameters", "temperature_K") for phase in ("crystal", "gas")
    }
    if None in temperatures.values() or temperatures["crystal"] == temperatures["gas"]:
        return None
    return f"crystal and gas must be run at one temperature to be compared, got {temperatures} K"


def _run_problem(inputs: Mapping[str, Any]) -> str | None:
    """The crystal has an enthalpy at the pressure of a barostat, whose model was trained on stress where required."""
    run = parameters_of(inputs, "crystal")
    if run is None:
        return None
    if problem := enthalpy_problem(run.get("ensemble")):
        return f"dynamics_crystal: {problem}"
    training = inputs.get("training", {}).get("parameters")
    return None if training is None else stress_problem({"training": training.get_dict()}, run)


def _entry(inputs: Mapping[str, Any], stage: str, port: str, key: str) -> Any:
    """Return one entry of a dictionary node in a stage's inputs, None where there is none."""
    node = inputs.get(stage, {}).get(port)
    return node.get_dict().get(key) if isinstance(node, orm.Dict) else None

"""The stages of ``mlfinetune.study``, and the checks on its inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiida import orm

from aiida_mlfinetune.calculations.functions.error_budget import with_changes
from aiida_mlfinetune.common.enums import Ensemble, TrainingMode
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.science.averages.thermodynamics import enthalpy_problem
from aiida_mlfinetune.science.crystals.molecules import gas_molecule, perceive_crystal
from aiida_mlfinetune.science.datasets.checks import elements_problem
from aiida_mlfinetune.science.datasets.frames import Frames
from aiida_mlfinetune.science.datasets.splits import NestedSizes
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from aiida_mlfinetune.science.observables.rdf import frame_distributions
from aiida_mlfinetune.science.observables.trajectory import FramesTrajectory
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.learning_curve import LearningCurveWorkChain
from aiida_mlfinetune.workchains.model_sampling import ModelSamplingWorkChain
from aiida_mlfinetune.workchains.reweighting import ReweightingWorkChain
from aiida_mlfinetune.workchains.run_checks import (
    comparison_problem,
    parameters_of,
    reweighting_problem,
    stress_problem,
    trainings_of,
)
from aiida_mlfinetune.workchains.sampling import SamplingWorkChain
from aiida_mlfinetune.workchains.sublimation_builder import BY_MODEL
from aiida_mlfinetune.workchains.sublimation_checks import sampling_problem
from aiida_mlfinetune.workchains.training import TrainingWorkChain

GAS, POOLED = "gas", "all"
NEXT_LEVEL = "upgrade"
RESERVED = (GAS, POOLED, "model", "reference")
OWN_RUNS = ("classical", "upgraded")
"""What the runs of the production model, and those of the higher level, are called in the results."""
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
STAGES: dict[str, tuple[type[Any], tuple[str, ...], bool]] = {
    "sampling_crystal": (SamplingWorkChain, ("structure", "selection"), False),
    "sampling_gas": (SamplingWorkChain, ("structure",), False),
    "model_sampling_crystal": (
        ModelSamplingWorkChain,
        ("dynamics.structure", "dynamics.model", "selection"),
        False,
    ),
    "model_sampling_gas": (ModelSamplingWorkChain, ("dynamics.structure", "dynamics.model"), False),
    "labelling": (LabellingWorkChain, ("dataset",), True),
    "learning_curve": (LearningCurveWorkChain, ("dataset", "runs"), True),
    "dynamics_crystal": (DynamicsWorkChain, ("model", "structure"), True),
    "dynamics_gas": (DynamicsWorkChain, ("model", "structure"), True),
    "reweighting": (ReweightingWorkChain, ("trajectory", "conditions", "sampled_level"), False),
    "upgrade_labelling": (LabellingWorkChain, ("dataset",), False),
    "upgrade_training": (TrainingWorkChain, ("dataset", "train", "valid", "test", "foundation"), False),
}
"""The work chain of each stage, those of its inputs that the study gives it, and whether the stage is always there."""
START = ("foundation", "production")


def validate_crystals(crystals: Mapping[str, orm.StructureData] | None, _: Any = None) -> str | None:
    """Refuse names that cannot be links, and crystals that are not all of one kind of whole molecules."""
    if not crystals:
        return "there is no crystal: give at least one"
    formulas = {}
    for name, crystal in crystals.items():
        if not NAME.fullmatch(name) or name in RESERVED:
            return (
                f"a crystal is called {name!r}: use lower-case letters, digits and single underscores, and none of "
                f"{list(RESERVED)}"
            )
        try:
            formulas[name] = perceive_crystal(crystal.get_ase()).formula
        except MlFinetuneError as error:
            return f"crystal {name!r}: {error}"
    if len(set(formulas.values())) > 1:
        return f"the crystals must be polymorphs, all of one kind of molecule, got {formulas}"
    return None


def validate_production(node: orm.Dict | None, _: Any = None) -> str | None:
    """Refuse unknown entries and sizes that are no counts."""
    values = {} if node is None else node.get_dict()
    if unknown := sorted(set(values) - {"mode", "size"}):
        return f"unknown entries of 'production': {unknown}; known are 'mode' and 'size'"
    if not isinstance(values.get("mode"), str):
        return "'production' needs the 'mode' whose models are reweighted and go into the table"
    size = values.get("size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        return f"the size of the production model's training set is {size!r}: give a number of frames, or null"
    return None


def validate_distributions(node: orm.Dict | None, _: Any = None) -> str | None:
    """Refuse what is no list of pairs with a distance."""
    values = {} if node is None else node.get_dict()
    if node is None:
        return None
    if unknown := sorted(set(values) - {"pairs", "r_max_A", "n_bins"}):
        return f"unknown entries of 'distributions': {unknown}; known are 'pairs', 'r_max_A' and 'n_bins'"
    pairs = values.get("pairs")
    if not isinstance(pairs, list) or not pairs or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        return f"'pairs' of 'distributions' must list pairs of elements, such as [[O, O]], got {pairs!r}"
    r_max = values.get("r_max_A")
    if isinstance(r_max, bool) or not isinstance(r_max, int | float) or not 0 < r_max < float("inf"):
        return f"'r_max_A' of 'distributions' is {r_max!r}, but must be a distance in angstrom"
    bins = values.get("n_bins", 2)
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
        return f"'n_bins' of 'distributions' is {bins!r}, but must be a whole number of at least 2"
    return None


def validate_upgrade(node: orm.Dict | None, _: Any = None) -> str | None:
    """Refuse unknown entries and values that cannot be."""
    if node is None:
        return None
    values = node.get_dict()
    if unknown := sorted(set(values) - {"crystals", "n_frames", "n_gas", "seed", "start"}):
        return f"unknown entries of 'upgrade': {unknown}; known are crystals, n_frames, n_gas, seed and start"
    if values.get("start", START[0]) not in START:
        return f"'start' of 'upgrade' is {values['start']!r}: choose from {list(START)}"
    for name, least in (("n_frames", 2), ("n_gas", 0)):
        number = values.get(name)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            return f"{name!r} of 'upgrade' is {number!r}, but must be a number of at least {least}, or null for all"
    return None


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check what concerns several stages at once."""
    for check in (
        sampling_problem,
        _foundation_problem,
        _level_problem,
        _modes_problem,
        _sizes_problem,
        _production_problem,
        _state_problem,
        _stress_problem,
        _distributions_problem,
        _runs_problem,
        _upgrade_problem,
    ):
        if (problem := check(inputs)) is not None:
            return problem
    return None


def _foundation_problem(inputs: Mapping[str, Any]) -> str | None:
    foundation = inputs.get("foundation")
    symbols = {symbol for crystal in inputs.get("crystals", {}).values() for symbol in crystal.get_symbols_set()}
    if foundation is None or not symbols:
        return None
    return elements_problem(symbols, foundation.elements, "the foundation")


def _level_problem(inputs: Mapping[str, Any]) -> str | None:
    """Models are trained on the level that the labelling makes, and judged by it."""
    made = inputs.get("labelling", {}).get("level")
    trained = inputs.get("learning_curve", {}).get("level")
    judged = inputs.get("reweighting", {}).get("labelling", {}).get("level")
    if made is not None and trained is not None and trained.value != made["key"]:
        return f"the labelling makes labels at {made['key']!r}, but the models are trained on {trained.value!r}"
    if made is not None and judged is not None and judged["key"] != made["key"]:
        return f"the models are trained at {made['key']!r}, but the reweighting labels at {judged['key']!r}"
    return None


def _modes_problem(inputs: Mapping[str, Any]) -> str | None:
    """Every model of the study is run by itself, and trained on what the study labels."""
    for name, inputs_of_mode in dict(inputs.get("learning_curve", {}).get("modes") or {}).items():
        mode = inputs_of_mode["parameters"]["mode"]
        if mode == TrainingMode.DELTA.value:
            return f"mode {name!r}: a model of a difference is no potential by itself and cannot be run: leave it out"
        if mode == TrainingMode.MULTIHEAD_REPLAY.value and "replay" not in inputs_of_mode:
            return (
                f"mode {name!r} replays frames of the foundation's own data, which a study is not given: train it with "
                "`mlfinetune.learning_curve` (input `replay`), and run its models with `mlfinetune.convergence`"
            )
    return None


def _sizes_problem(inputs: Mapping[str, Any]) -> str | None:
    """There must be as many frames as the sets take, of those that the sampling selects."""
    prefix = "" if inputs.get("sampling_model") is None else BY_MODEL
    gas = inputs.get(f"{prefix}sampling_{GAS}", {}).get("selection")
    crystals = {name: node["n_frames"] for name, node in (inputs.get("selections") or {}).items()}
    if gas is None or not crystals or "split" not in inputs.get("learning_curve", {}):
        return None
    pooled = "pool" in inputs and inputs["pool"].value
    own = {POOLED: sum(crystals.values())} if pooled else crystals
    sizes = NestedSizes.from_dict(inputs["learning_curve"]["split"].get_dict())
    for name, number in own.items():
        try:
            sizes.counts(number + gas["n_frames"])
        except MlFinetuneError as error:
            told = f"{number} of crystals and {gas['n_frames']} of the gas are sampled for the set {name!r}"
            return f"{error}; {told}: sample more, or take smaller `sizes`"
    return None


def _production_problem(inputs: Mapping[str, Any]) -> str | None:
    """The production model must be one that is trained."""
    curve = inputs.get("learning_curve", {})
    if "production" not in inputs or "modes" not in curve:
        return None
    mode, size = (inputs["production"].get_dict().get(key) for key in ("mode", "size"))
    if mode not in curve["modes"]:
        return f"'production' asks for mode {mode!r}, but trained are {sorted(curve['modes'])}"
    sizes = NestedSizes.from_dict(curve["split"].get_dict()).train
    if size is not None and all(each >= 1 for each in sizes) and size not in sizes:
        return f"'production' asks for a training set of {size} frames, but trained are {list(sizes)}"
    return None


def _state_problem(inputs: Mapping[str, Any]) -> str | None:
    """Crystal and gas are compared at one state, classically, and reweighted; the gas has no cell."""
    runs = {phase: run for phase in ("crystal", GAS) if (run := parameters_of(inputs, phase)) is not None}
    for phase, run in runs.items():
        if run.get("n_beads", 1) != 1:
            return (
                f"dynamics_{phase} has {run['n_beads']} beads, but these runs are reweighted with classical nuclei: "
                "put path integrals under `runs`"
            )
        if phase == GAS and Ensemble(run["ensemble"]).has_barostat:
            return f"dynamics_gas asks for ensemble {run['ensemble']!r}, but a molecule has no cell: use 'nvt'"
    if problem := comparison_problem(runs):
        return problem
    if "crystal" in runs and (problem := enthalpy_problem(runs["crystal"]["ensemble"])):
        return f"dynamics_crystal: {problem}"
    if "settings" not in inputs.get("reweighting", {}):
        return None
    settings = inputs["reweighting"]["settings"].get_dict()
    crystals = {name: crystal.get_ase() for name, crystal in inputs.get("crystals", {}).items()}
    starts = {"crystal": crystals, GAS: {GAS: gas_molecule(next(iter(crystals.values())))} if crystals else {}}
    for phase, run in runs.items():
        for name, atoms in starts[phase].items():
            if problem := reweighting_problem(run, settings, atoms):
                return f"reweighting of {name}: {problem}"
    return None


def _stress_problem(inputs: Mapping[str, Any]) -> str | None:
    """A run that requires stress gets no model that is trained without it."""
    run = parameters_of(inputs, "crystal")
    return None if run is None else stress_problem(trainings_of(inputs), run)


def _distributions_problem(inputs: Mapping[str, Any]) -> str | None:
    """The pairs of the distributions must be there, and the cells wide enough."""
    if "distributions" not in inputs or not inputs.get("crystals"):
        return None
    values = inputs["distributions"].get_dict()
    for name, crystal in inputs["crystals"].items():
        first = FramesTrajectory(Frames.from_atoms([crystal.get_ase()]))
        try:
            frame_distributions(first, [tuple(pair) for pair in values["pairs"]], values["r_max_A"], 2)
        except MlFinetuneError as error:
            return f"'distributions' of {name}: {error}"
    return None


def _runs_problem(inputs: Mapping[str, Any]) -> str | None:
    """What changes in the further runs must leave runs that can be made."""
    elements = sorted(set().union(*(crystal.get_symbols_set() for crystal in inputs.get("crystals", {}).values())))
    for name, run in (inputs.get("runs") or {}).items():
        if not NAME.fullmatch(name):
            return f"a run is called {name!r}: use lower-case letters, digits and single underscores"
        if name in (*RESERVED, *OWN_RUNS):
            return f"a run is called {name!r}, which the study calls something of its own: choose another name"
        if unknown := sorted(set(run) - {"crystal", GAS, "repeat"}):
            return f"run {name!r} has unknown entries {unknown}: known are 'crystal', 'gas' and 'repeat'"
        if "crystal" not in run:
            return f"run {name!r} says nothing of the 'crystal': give what changes in its parameters, {{}} for nothing"
        made = {}
        for phase in ("crystal", GAS):
            base = parameters_of(inputs, phase)
            if phase not in run or base is None:
                continue
            made[phase] = with_changes(base, run[phase].get_dict())
            try:
                settings = IpiSettings.from_dict(made[phase])
                settings.check_use(run[phase].get_dict())
                settings.check_periodicity(phase == "crystal")
                settings.check_elements(elements)
            except MlFinetuneError as error:
                return f"run {name!r}, {phase}: {error}"
        if problem := comparison_problem(made):
            return f"run {name!r}: {problem}"
        repeat = run["repeat"].get_list() if "repeat" in run else [1, 1, 1]
        if len(repeat) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in repeat):
            return f"run {name!r} repeats the cells {repeat!r} times: give three whole numbers of at least 1"
    return None


def _upgrade_problem(inputs: Mapping[str, Any]) -> str | None:
    """An upgrade needs its level, its training, and crystals of the study."""
    parts = {name: bool(inputs.get(name)) for name in (NEXT_LEVEL, "upgrade_labelling", "upgrade_training")}
    if not any(parts.values()):
        return None
    if missing := [name for name, there in parts.items() if not there]:
        return f"an upgrade needs 'upgrade', 'upgrade_labelling' and 'upgrade_training': {missing} is missing"
    values = inputs[NEXT_LEVEL].get_dict()
    if unknown := sorted(set(values.get("crystals") or []) - set(inputs.get("crystals", {}))):
        return f"'upgrade' names crystals {unknown}, but the study has {sorted(inputs.get('crystals', {}))}"
    made, trained = inputs["upgrade_labelling"]["level"]["key"], inputs["upgrade_training"]["level"].value
    if made != trained:
        return f"the upgrade labels at {made!r}, but trains at {trained!r}"
    if (problem := _upgrade_frames_problem(inputs)) is not None:
        return problem
    if made == inputs.get("labelling", {}).get("level", {"key": None})["key"]:
        return f"the upgrade is to {made!r}, the level of the study itself: name another one"
    return None


def _upgrade_frames_problem(inputs: Mapping[str, Any]) -> str | None:
    """The frames of an upgrade must be enough for each of its crystals, and for a training set."""
    values = inputs[NEXT_LEVEL].get_dict()
    number, gas = values.get("n_frames"), values.get("n_gas")
    if number is None:
        return None
    crystals = set(values.get("crystals") or inputs.get("crystals", {}))
    if number < len(crystals):
        return f"the upgrade has {number} frames for {len(crystals)} crystals: raise 'n_frames', or name fewer crystals"
    if gas is None:  # all of the sufficient set: at most those that are sampled
        sampling = inputs.get("model_sampling_gas") or inputs.get("sampling_gas") or {}
        if "selection" not in sampling:
            return None
        gas = sampling["selection"]["n_frames"]
    split = inputs["upgrade_training"]["split"].get_dict()
    if split.get("valid", 0) + split.get("test", 0) >= number + gas:
        return (
            f"the upgrade has {number} frames of crystals and at most {gas} of the molecule, and its split leaves none "
            "to train on: lower `split` of 'upgrade_training'"
        )
    return None

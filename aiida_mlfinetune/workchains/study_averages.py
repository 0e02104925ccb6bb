"""Averages of the runs of ``mlfinetune.study``, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiida import orm
from aiida.engine import ExitCode

from aiida_mlfinetune.calculations.functions.error_budget import sublimation_budget
from aiida_mlfinetune.calculations.functions.observables import potential_energy, radial_distribution
from aiida_mlfinetune.calculations.functions.reweighting import reweighted_distributions
from aiida_mlfinetune.calculations.functions.study import list_failures, rank_polymorphs, shared_frames
from aiida_mlfinetune.calculations.functions.thermodynamics import (
    crystal_enthalpy,
    density,
    gas_enthalpy,
    sublimation_enthalpy,
)
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.workchains.study_checks import GAS

REFERENCE = "reference"
KEPT = ("potential_energy", "density", "enthalpy_crystal", "enthalpy_gas", "sublimation_enthalpy")


class StudyAveragesMixin:
    """Averages, distributions, error budgets, the order of the polymorphs."""

    if TYPE_CHECKING:
        ctx: Any
        inputs: Any
        exit_codes: Any
        out: Any
        report: Any
        _child: Any
        _fail: Any
        _out_all: Any
        _phases: Any
        _run_parameters: Any
        _changed_parameters: Any

    def _average_runs(
        self,
        path: tuple[str, ...],
        phases: Sequence[str],
        parameters: Mapping[str, orm.Dict],
        namespace: str,
        keep: Callable[[str], dict[str, Any]],
        suffix: str = "",
    ) -> None:
        """Average the runs of one model, and attach the averages of each crystal, the gas's among them.

        Args:
            path: first parts of the names of the runs.
            phases: crystals and the gas.
            parameters: of the runs, by ``crystal`` and ``gas``.
            namespace: of the outputs, with the place of the crystal's name.
            keep: returns where the averages of a crystal are kept.
            suffix: of the names of the structures.
        """
        gas_run = self._child(*path, GAS) if GAS in phases else None
        gas = None
        if gas_run is not None:
            gas = self._averaged(
                "_".join((*path, GAS)), gas_enthalpy, gas_run, self.ctx.structures[GAS], parameters[GAS]
            )
        for crystal in phases:
            run = None if crystal == GAS else self._child(*path, crystal)
            if run is None:
                continue
            label = "_".join((*path, crystal))
            arguments = (run, self.ctx.structures[f"{crystal}{suffix}"], parameters["crystal"])
            found: dict[str, Any] = {"enthalpy_gas": gas}
            functions: dict[str, Any] = {"potential_energy": potential_energy, "density": density}
            if Ensemble(parameters["crystal"]["ensemble"]).has_barostat:
                functions["enthalpy_crystal"] = crystal_enthalpy
            for name, function in functions.items():
                found[name] = self._averaged(label, function, *arguments)
            if gas is not None and found.get("enthalpy_crystal") is not None:
                try:
                    found["sublimation_enthalpy"] = sublimation_enthalpy(found["enthalpy_crystal"], gas)
                except MlFinetuneError as error:
                    self._fail(label, f"no sublimation enthalpy: {error}")
            there = {name: found[name] for name in KEPT if found.get(name) is not None}
            keep(crystal).update(there)
            self._out_all(namespace.format(crystal=crystal), there)

    def _averaged(self, label: str, function: Any, run: Any, structure: Any, parameters: orm.Dict) -> Any:
        """Return an average of a run, None where it cannot be taken."""
        try:
            return function(run.outputs.properties, structure, parameters)
        except MlFinetuneError as error:
            self._fail(label, f"no average: {error}")
            return None

    def _distributions(self, run: str, path: tuple[str, ...], phases: Sequence[str]) -> None:
        """Attach the radial distribution functions of the crystals' runs."""
        if "distributions" not in self.inputs:
            return
        for crystal in phases:
            child = None if crystal == GAS else self._child(*path, crystal)
            if child is None:
                continue
            parameters = child.inputs.parameters
            try:
                found = radial_distribution(
                    child.outputs.trajectory, child.outputs.properties, parameters, self.inputs.distributions
                )
            except MlFinetuneError as error:
                self._fail("_".join((*path, crystal, "distribution")), str(error))
                continue
            self._out_all(f"structure.{run}.{crystal}", found)

    def _reference_distributions(self, crystal: str, chain: orm.ProcessNode) -> None:
        """Attach the radial distribution functions of a crystal at the reference level, from a reweighted run."""
        if "distributions" not in self.inputs:
            return
        outputs, inputs = chain.outputs, chain.inputs
        try:
            found = reweighted_distributions(
                outputs.dataset, outputs.verdict, inputs.conditions, inputs.settings, self.inputs.distributions
            )
        except MlFinetuneError as error:
            self._fail(f"reweighting_{crystal}_distribution", str(error))
            return
        self._out_all(f"structure.{REFERENCE}.{crystal}", found)

    def _budgets(self) -> None:
        """Attach the error budget of each polymorph's sublimation enthalpy."""
        further = self.ctx.get("further", {})
        for crystal in self.ctx.crystals:
            own = self.ctx.averages.get(crystal, {}).get(self.ctx.production[self.ctx.set_of[crystal]], {})
            if "enthalpy_crystal" not in own or "enthalpy_gas" not in own:
                continue
            inputs = {"crystal": own["enthalpy_crystal"], "gas": own["enthalpy_gas"]}
            moved = self.ctx.reference.get(crystal, {})
            if "enthalpy_crystal" in moved and "enthalpy_gas" in moved:
                inputs |= {"crystal_reference": moved["enthalpy_crystal"], "gas_reference": moved["enthalpy_gas"]}
            inputs |= _corrections(inputs["crystal"], [runs[crystal] for runs in further.values() if crystal in runs])
            try:
                self.out(f"budget.{crystal}", sublimation_budget(**inputs))
            except MlFinetuneError as error:
                self._fail(f"budget_{crystal}", str(error))

    def _sufficient_set(self, sets: Sequence[str]) -> DatasetData:
        """Return the smallest sufficient training set, or all frames of those of several sets, each frame once."""
        chosen = {}
        for name in sets:
            mode = self.inputs.production["mode"]
            smallest = [
                node.details["smallest"].get(mode)
                for crystal, node in self.ctx.convergence.items()
                if self.ctx.set_of[crystal] == name
            ]
            sizes = sorted(self.ctx.training_sets[name], key=int)
            known = [size for size in smallest if size is not None]
            if not known or len(known) < len(smallest):
                self.report(f"no smallest sufficient set of {name!r} is known: the largest, {sizes[-1]}, is upgraded")
                size = sizes[-1]
            else:
                size = str(max(known))
            chosen[f"set_{name}"] = self.ctx.training_sets[name][size]
        if len(chosen) == 1:
            return next(iter(chosen.values()))
        return shared_frames(self.ctx.labelled, **chosen)

    def compare(self) -> ExitCode | None:
        """Rank the polymorphs, and name what is missing."""
        model = {
            crystal: self.ctx.averages.get(crystal, {}).get(self.ctx.production[self.ctx.set_of[crystal]], {})
            for crystal in self.ctx.crystals
        }
        kind = "enthalpy_crystal" if self.inputs.pool.value else "sublimation_enthalpy"
        for name, found in (("model", model), ("reference", self.ctx.reference)):
            ranked = {crystal: own[kind] for crystal, own in found.items() if kind in own}
            if len(ranked) < 2:
                continue
            try:
                node = rank_polymorphs(**ranked)
            except MlFinetuneError as error:
                self._fail(f"ranking_{name}", str(error))
                continue
            self.out(f"ranking.{name}", node)
            for sentence in node.details["sentences"]:
                self.report(f"{name}: {sentence}")
        failed = orm.Dict(dict(self.ctx.failed))
        self.out("failed", list_failures(failed))
        if self.ctx.failed:
            return self.exit_codes.ERROR_RUNS_FAILED.format(
                count=len(self.ctx.failed), reason=next(f"{name}: {why}" for name, why in self.ctx.failed.items())
            )
        return None


def _corrections(classical: Any, further: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what further runs in the same state say of nuclear quantum effects, and of the size of the cell.

    Of several path integrals the one with most beads is taken, of several larger cells the largest.
    """
    same = [found for found in further if _in_one_state(classical, found.get("enthalpy_crystal"))]
    molecules = classical.details["n_molecules"]
    beads = {
        found["enthalpy_crystal"].conditions["n_beads"]: found
        for found in same
        if found["enthalpy_crystal"].details["n_molecules"] == molecules and _has_gas_alike(found)
    }
    sizes = {
        found["enthalpy_crystal"].details["n_molecules"]: found
        for found in same
        if found["enthalpy_crystal"].conditions["n_beads"] == 1
    }
    corrections = {}
    if beads and max(beads) > 1:
        quantum = beads[max(beads)]
        corrections |= {"crystal_quantum": quantum["enthalpy_crystal"], "gas_quantum": quantum["enthalpy_gas"]}
    if sizes and max(sizes) > molecules:
        corrections["crystal_large"] = sizes[max(sizes)]["enthalpy_crystal"]
    return corrections


def _in_one_state(classical: Any, other: Any) -> bool:
    """Whether two enthalpies of a crystal are of one temperature, pressure and ensemble."""
    names = ("temperature_K", "pressure_bar", "ensemble")
    return other is not None and all(classical.conditions.get(name) == other.conditions.get(name) for name in names)


def _has_gas_alike(found: Mapping[str, Any]) -> bool:
    """Whether a run of the molecule goes with that of the crystal, at its temperature and with as many beads."""
    crystal, gas = found["enthalpy_crystal"], found.get("enthalpy_gas")
    names = ("temperature_K", "n_beads")
    return gas is not None and all(crystal.conditions[name] == gas.conditions[name] for name in names)

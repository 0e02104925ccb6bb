"""From the builder of ``mlfinetune.study`` to its plan."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.data.foundations import FOUNDATIONS
from aiida_mlfinetune.science.crystals.molecules import perceive_crystal
from aiida_mlfinetune.science.datasets.selection import share_evenly
from aiida_mlfinetune.science.datasets.splits import NestedSizes
from aiida_mlfinetune.science.plans.study import StagePlan, StudyPlan, add_costs, label_cost
from aiida_mlfinetune.workchains.protocols import load_yaml
from aiida_mlfinetune.workchains.study_checks import GAS
from aiida_mlfinetune.workchains.sublimation_builder import BY_MODEL


def study_plan(builder: ProcessBuilder) -> StudyPlan:
    """Return what a builder will do."""
    return _Planner(builder).plan()


class _Planner:
    """Counts what the stages of a builder do."""

    def __init__(self, builder: ProcessBuilder) -> None:
        self.builder = builder
        self.model = builder.sampling_model
        self.costs = load_yaml("study_costs.yaml")
        self.crystals = dict(builder.crystals)
        first = perceive_crystal(next(iter(self.crystals.values())).get_ase())
        self.formula, self.molecule = first.formula, first.atoms_per_molecule
        self.atoms = {name: len(crystal.sites) for name, crystal in self.crystals.items()}
        self.sets = 1 if builder.pool.value else len(self.crystals)
        own, known = builder.foundation, self.costs["model"]
        self.weight = 1.0
        if own is not None and own.passport.n_parameters:
            self.weight = own.passport.n_parameters / FOUNDATIONS[known["parameters"]].passport.n_parameters

    def plan(self) -> StudyPlan:
        """Return the plan."""
        builder = self.builder
        sizes = ", ".join(
            f"{name} ({n // self.molecule} molecules)" for name, n in sorted(self.atoms.items(), key=lambda one: one[0])
        )
        stages = [self._sampling(), self._labelling(), self._training(), self._dynamics()]
        if "settings" in builder.reweighting:
            stages.append(self._reweighting())
        stages += self._runs()
        if builder.upgrade is not None:
            stages += self._upgrade()
        title = f"{len(self.crystals)} crystals of {self.formula}: {sizes}; and the molecule"
        return StudyPlan(title, tuple(stages), builder.max_concurrent.value)

    def _sampling(self) -> StagePlan:
        cost: float | None = 0.0
        steps = 0
        for name in (*self.crystals, None):
            md = self._md(GAS if name is None else "crystal")
            steps += md["n_steps"]
            if self.model is None:
                level = self.builder[f"sampling_{GAS if name is None else 'crystal'}"].level["key"]
                cost = add_costs(cost, self._times(md["n_steps"], self._label(level, name)))
            else:
                atoms = self.molecule if name is None else self.atoms[name]
                cost = add_costs(cost, self._run_cost(md["n_steps"], atoms) * md.get("n_beads", 1))
        md = self._md("crystal")
        by = f"at {self.builder.sampling_crystal.level['key']}" if self.model is None else "with the sampling model"
        by += f", {md['n_beads']} beads" if md.get("n_beads", 1) > 1 else ""
        frames = ", ".join(f"{node['n_frames']} frames of {name}" for name, node in sorted(self._selections().items()))
        run = f"{md['n_steps']} steps of {md['timestep_fs']} fs, {md['ensemble']}, {md['temperature_K']} K"
        what = f"{run}, {by}; {frames}"
        return self._stage("sampling", len(self.crystals) + 1, what, cost, steps=steps)

    def _md(self, phase: str) -> dict[str, Any]:
        """Return the parameters of the sampling of a phase."""
        if self.model is None:
            return self.builder[f"sampling_{phase}"].md.get_dict()
        return self.builder[f"{BY_MODEL}sampling_{phase}"].dynamics.parameters.get_dict()

    def _labelling(self) -> StagePlan:
        key = self.builder.labelling.level["key"]
        cost: float | None = 0.0
        total = 0
        for name, node in self._selections().items():
            total += node["n_frames"]
            own = None if name == "gas" else name
            cost = add_costs(cost, self._times(node["n_frames"], self._label(key, own)))
        return self._stage("labelling", 1, f"{total} frames at {key}", cost, labels=total)

    def _training(self) -> StagePlan:
        curve = self.builder.learning_curve
        modes, seeds = dict(curve.modes), curve.seeds.get_list()
        counts = self._counts()
        sizes, _, _ = NestedSizes.from_dict(curve.split.get_dict()).counts(counts)
        mean_atoms = self._mean_atoms()
        cost = 0.0
        for mode in modes.values():
            epochs = mode["parameters"].get_dict()["max_num_epochs"]
            cost += sum(sizes) * len(seeds) * epochs * mean_atoms
        cost *= self.costs["model"]["training_per_atom_and_epoch"] * self.weight * self.sets
        number = len(modes) * len(sizes) * len(seeds)
        what = (
            f"{number * self.sets} trainings: {', '.join(sorted(modes))}; on {', '.join(map(str, sizes))} of {counts} "
            f"frames; seeds {', '.join(map(str, seeds))}; "
            + ("one set for all" if self.sets == 1 else "a set for each")
        )
        jobs = cost + number * self.sets * self.costs["job"]
        return StagePlan("learning_curve", self.sets + number * self.sets, what, core_seconds=jobs)

    def _dynamics(self) -> StagePlan:
        modes, sizes = dict(self.builder.learning_curve.modes), self._sizes()
        models = len(modes) * len(sizes)
        steps, cost = 0, 0.0
        for phase, atoms, count in self._systems():
            own = self.builder[f"dynamics_{phase}"].parameters["n_steps"]
            steps += own * models * count
            cost += self._run_cost(own, atoms) * models * count
        parameters = self.builder.dynamics_crystal.parameters
        what = (
            f"{parameters['n_steps']} steps of {parameters['timestep_fs']} fs, {parameters['ensemble']}, "
            f"{parameters['temperature_K']} K, with each of {models} models of a set"
        )
        number = models * (len(self.crystals) + self.sets)
        return self._stage("dynamics", number, what, cost, steps=steps)

    def _reweighting(self) -> StagePlan:
        settings = self.builder.reweighting.settings.get_dict()
        key = self.builder.reweighting.labelling.level["key"]
        number = settings.get("n_frames")
        if number is None:
            parameters = self.builder.dynamics_crystal.parameters
            number = parameters["n_steps"] // (parameters["stride"] * settings["stride"])
        cost: float | None = 0.0
        for name in (*self.crystals, *[None] * self.sets):
            cost = add_costs(cost, self._times(number, self._label(key, name)))
        runs = len(self.crystals) + self.sets
        what = f"{number} frames of each run of the production model at {key}"
        return self._stage("reweighting", runs, what, cost, labels=number * runs)

    def _runs(self) -> list[StagePlan]:
        stages = []
        for name, run in (dict(self.builder.runs) if self.builder.runs else {}).items():
            repeat = run["repeat"].get_list() if "repeat" in run else [1, 1, 1]
            copies = repeat[0] * repeat[1] * repeat[2]
            steps, cost, number, told = 0, 0.0, 0, ""
            for phase, atoms, count in self._systems():
                if phase not in run:
                    continue
                parameters = {**self.builder[f"dynamics_{phase}"].parameters.get_dict(), **run[phase].get_dict()}
                factor = parameters.get("n_beads", 1) * (copies if phase == "crystal" else 1)
                steps += parameters["n_steps"] * count
                cost += self._run_cost(parameters["n_steps"], atoms) * count * factor
                number += count
                if phase == "crystal":
                    told = (
                        f"{parameters['n_steps']} steps, {parameters['ensemble']}, {parameters['temperature_K']} K, "
                        f"{parameters.get('n_beads', 1)} beads, cells repeated {'x'.join(map(str, repeat))}"
                    )
            stages.append(self._stage(f"run {name}", number, told, cost, steps=steps))
        return stages

    def _upgrade(self) -> list[StagePlan]:
        values = self.builder.upgrade.get_dict()
        key = self.builder.upgrade_labelling.level["key"]
        frames = self._frames_to_upgrade(sorted(set(values.get("crystals") or self.crystals)), values)
        epochs = self.builder.upgrade_training.parameters["max_num_epochs"]
        per_atom = epochs * self.costs["model"]["training_per_atom_and_epoch"] * self.weight
        labels: float | None = 0.0
        steps, train, cost = 0, 0.0, 0.0
        for name, number in frames.items():
            atoms = self.molecule if name == GAS else self.atoms[name]
            labels = add_costs(labels, self._times(number, self._label(key, None if name == GAS else name)))
            train += number * atoms * per_atom
            own = self.builder[f"dynamics_{GAS if name == GAS else 'crystal'}"].parameters["n_steps"]
            steps += own
            cost += self._run_cost(own, atoms)
        told = ", ".join(f"{number} frames of {name}" for name, number in frames.items())
        return [
            self._stage("upgrade labels", 1, f"{told}, at {key}", labels, labels=sum(frames.values())),
            self._stage("upgrade training", 1, f"mode {self.builder.upgrade_training.parameters['mode']}", train),
            self._stage("upgrade runs", len(frames), f"of {', '.join(frames)}", cost, steps=steps),
        ]

    def _frames_to_upgrade(self, crystals: list[str], values: dict[str, Any]) -> dict[str, int]:
        """Return how many frames of each crystal and of the molecule are labelled again, of the largest set at most."""
        sampled = {name: int(node["n_frames"]) for name, node in self._selections().items()}
        gas, largest = sampled.pop(GAS), max(self._sizes())
        totals = {name: gas + (sum(sampled.values()) if self.sets == 1 else sampled[name]) for name in crystals}
        there = [round(largest * sampled[name] / totals[name]) for name in crystals]
        shares = [largest * gas / total for total in totals.values()]
        molecules = min(gas, round(shares[0] if self.sets == 1 else sum(shares)))
        number = sum(there) if values.get("n_frames") is None else values["n_frames"]
        frames = dict(zip(crystals, share_evenly(number, there), strict=True))
        frames[GAS] = molecules if values.get("n_gas") is None else min(values["n_gas"], molecules)
        return {name: number for name, number in frames.items() if number}

    def _stage(self, name: str, number: int, what: str, cost: float | None, **counted: int) -> StagePlan:
        return StagePlan(name, number, what, core_seconds=add_costs(cost, number * self.costs["job"]), **counted)

    def _label(self, key: str, crystal: str | None) -> float | None:
        """Return the cost of a label of a crystal, or of the molecule (None); of a model as teacher, that of a step."""
        atoms = self.molecule if crystal is None else self.atoms[crystal]
        if key.endswith("/mace"):
            return self._run_cost(1, atoms)
        return label_cost(self.costs, key, atoms, periodic=crystal is not None)

    def _run_cost(self, steps: int, atoms: int) -> float:
        return float(steps * atoms * self.costs["model"]["step_per_atom"] * self.weight)

    def _times(self, number: float, cost: float | None) -> float | None:
        return None if cost is None else number * cost

    def _systems(self) -> list[tuple[str, int, int]]:
        """Return phase, atoms and number of the systems that a model of each set is run of."""
        return [*(("crystal", atoms, 1) for atoms in self.atoms.values()), ("gas", self.molecule, self.sets)]

    def _selections(self) -> dict[str, orm.Dict]:
        gas = self.builder[f"{'' if self.model is None else BY_MODEL}sampling_{GAS}"]
        return {**dict(self.builder.selections), GAS: gas.selection}

    def _counts(self) -> int:
        """Return the frames of a set, the mean of all sets."""
        selections = self._selections()
        gas: Any = selections.pop("gas")["n_frames"]
        crystals = [node["n_frames"] for node in selections.values()]
        return int(sum(crystals) / self.sets + gas)

    def _mean_atoms(self) -> float:
        selections = self._selections()
        weights = {name: node["n_frames"] for name, node in selections.items()}
        atoms = {**self.atoms, "gas": self.molecule}
        return float(sum(weights[name] * atoms[name] for name in weights) / sum(weights.values()))

    def _sizes(self) -> list[int]:
        sizes, _, _ = NestedSizes.from_dict(self.builder.learning_curve.split.get_dict()).counts(self._counts())
        return [int(size) for size in sizes]

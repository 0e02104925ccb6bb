"""What each stage of ``mlfinetune.study`` runs, and what it takes from that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode

from aiida_mlfinetune.calculations.functions.convergence import collect_convergence, parse_label
from aiida_mlfinetune.calculations.functions.dataset import join, without_level_of
from aiida_mlfinetune.calculations.functions.error_budget import changed_parameters, repeated_cell
from aiida_mlfinetune.calculations.functions.learning_curve import training_label
from aiida_mlfinetune.calculations.functions.reference_averages import reference_average, reference_sublimation
from aiida_mlfinetune.calculations.functions.study import shared_frames
from aiida_mlfinetune.calculations.functions.thermodynamics import extract_molecule
from aiida_mlfinetune.common.errors import MlFinetuneError
from aiida_mlfinetune.data.sources import source_runs
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.learning_curve import LearningCurveWorkChain
from aiida_mlfinetune.workchains.model_sampling import ModelSamplingWorkChain
from aiida_mlfinetune.workchains.reweighting import ReweightingWorkChain
from aiida_mlfinetune.workchains.sampling import SamplingWorkChain
from aiida_mlfinetune.workchains.study_checks import GAS, NEXT_LEVEL, POOLED, STAGES
from aiida_mlfinetune.workchains.study_upgrade import StudyUpgradeMixin
from aiida_mlfinetune.workchains.sublimation_builder import BY_MODEL

Jobs = list[list[str]]


class StudyStagesMixin(StudyUpgradeMixin):
    """For each stage ``_open`` (its work chains), ``_inputs`` (of one of them) and ``_close`` (what they made)."""

    if TYPE_CHECKING:
        _child: Any
        _fail: Any
        _out_all: Any

    def take_molecule(self) -> None:
        """Take the molecule of the gas phase from the first crystal, and list the stages."""
        crystals = dict(self.inputs.crystals)
        molecule = extract_molecule(crystals[sorted(crystals)[0]])
        self.out("molecule", molecule)
        self.ctx.structures = AttributeDict({**crystals, GAS: molecule})
        self.ctx.crystals = sorted(crystals)
        self.ctx.stages = ["sampling", "labelling", "learning_curve", "dynamics"]
        self.ctx.stages += [stage for stage in ("reweighting",) if stage in self.inputs]
        self.ctx.stages += ["production"]
        if NEXT_LEVEL in self.inputs:
            self.ctx.stages += ["upgrade_labelling", "upgrade_training", "upgrade_dynamics"]
        self.ctx.stage = 0
        self.ctx.done, self.ctx.failed = {}, {}
        self.ctx.averages, self.ctx.reference, self.ctx.convergence = {}, {}, {}

    # sampling

    def _open_sampling(self) -> Jobs:
        return [[phase] for phase in (*self.ctx.crystals, GAS)]

    def _inputs_sampling(self, phase: str) -> tuple[type, AttributeDict]:
        stage, model = "sampling_gas" if phase == GAS else "sampling_crystal", self.inputs.get("sampling_model")
        inputs = self._exposed(stage if model is None else f"{BY_MODEL}{stage}")
        if phase != GAS:
            inputs.selection = self.inputs.selections[phase]
        if model is not None:
            own = {"structure": self.ctx.structures[phase], "model": model}
            inputs.dynamics = AttributeDict({**inputs.dynamics, **own})
            return ModelSamplingWorkChain, inputs
        inputs.structure = self.ctx.structures[phase]
        return SamplingWorkChain, inputs

    def _close_sampling(self) -> ExitCode | None:
        if self.ctx.failed:
            return self.exit_codes.ERROR_SAMPLING_FAILED.format(reasons=self._reasons())
        self.ctx.sampled = {
            phase: self._child("sampling", phase).outputs.dataset for phase in (*self.ctx.crystals, GAS)
        }
        return None

    # labelling

    def _open_labelling(self) -> Jobs:
        frames = join(**self.ctx.sampled)
        key = self.inputs.labelling.level["key"]
        counts = frames.levels[key]["counts"] if key in frames.levels else {}
        self.ctx.frames = frames
        self.ctx.labels_there = counts.get("energy") == counts.get("forces") == frames.n_frames
        if self.ctx.labels_there:
            self.report(f"the frames have their labels at {key!r} from the sampling: they are not labelled again")
            return []
        return [["frames"]]

    def _inputs_labelling(self, _: str) -> tuple[type, AttributeDict]:
        inputs = self._exposed("labelling")
        frames = self.ctx.frames
        inputs.dataset = without_level_of(frames, inputs.level) if inputs.level["key"] in frames.levels else frames
        return LabellingWorkChain, inputs

    def _close_labelling(self) -> ExitCode | None:
        if self.ctx.failed:
            return self.exit_codes.ERROR_LABELLING_FAILED.format(reasons=self._reasons())
        labelled = self.ctx.frames
        if not self.ctx.labels_there:
            labelled = self._child("labelling", "frames").outputs.dataset
        self.ctx.labelled = labelled
        self.out("dataset", labelled)
        if self.inputs.pool.value:
            self.ctx.sets = {POOLED: labelled}
            self.ctx.set_of = dict.fromkeys(self.ctx.crystals, POOLED)
            return None
        gas = self.ctx.sampled[GAS]
        self.ctx.sets = {
            name: shared_frames(labelled, crystal=self.ctx.sampled[name], gas=gas) for name in self.ctx.crystals
        }
        self.ctx.set_of = {name: name for name in self.ctx.crystals}
        return None

    # learning curves

    def _open_learning_curve(self) -> Jobs:
        return [[name] for name in self.ctx.sets]

    def _inputs_learning_curve(self, name: str) -> tuple[type, AttributeDict]:
        inputs = self._exposed("learning_curve")
        inputs.dataset = self.ctx.sets[name]
        if inputs.split.get_dict().get("min_separation") is None and (runs := source_runs(inputs.dataset)):
            inputs.runs = runs
        return LearningCurveWorkChain, inputs

    def _close_learning_curve(self) -> ExitCode | None:
        self.ctx.models, self.ctx.training_sets = {}, {}
        for name in self.ctx.sets:
            pk = self.ctx.done.get(f"learning_curve_{name}")
            outputs = None if pk is None else orm.load_node(pk).outputs
            if outputs is None or "curve" not in outputs or "models" not in outputs:
                return self.exit_codes.ERROR_NO_MODEL.format(reasons=self._reasons())
            self.out(f"curves.{name}", outputs.curve)
            models = dict(outputs.models)
            self._out_all(f"models.{name}", models)
            seed = str(self.inputs.learning_curve.seeds[0])
            self.ctx.models[name] = {label: model for label, model in models.items() if label.endswith(f"_s{seed}")}
            self.ctx.training_sets[name] = {
                label.removeprefix("train_"): node
                for label, node in dict(outputs.sets).items()
                if label.startswith("train_")
            }
        try:
            self.ctx.production = {name: self._production_label(name) for name in self.ctx.models}
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_MODEL.format(reasons=str(error))
        return None

    # runs of every model

    def _open_dynamics(self) -> Jobs:
        return [
            [name, label, phase]
            for name, models in self.ctx.models.items()
            for label in sorted(models, key=lambda label: (parse_label(label)[1], label))
            for phase in self._phases(name)
        ]

    def _inputs_dynamics(self, name: str, label: str, phase: str) -> tuple[type, AttributeDict]:
        inputs = self._exposed("dynamics_gas" if phase == GAS else "dynamics_crystal")
        inputs.model = self.ctx.models[name][label]
        inputs.structure = self.ctx.structures[phase]
        return DynamicsWorkChain, inputs

    def _close_dynamics(self) -> None:
        for name, models in self.ctx.models.items():
            for label in models:
                self._average_runs(
                    ("dynamics", name, label),
                    self._phases(name),
                    {phase: self._run_parameters(phase) for phase in ("crystal", GAS)},
                    f"averages.{{crystal}}.{label}",
                    lambda crystal, label=label: self.ctx.averages.setdefault(crystal, {}).setdefault(label, {}),
                )
        for name, label in self.ctx.production.items():
            self._distributions("classical", ("dynamics", name, label), self._phases(name))

    # the reference

    def _open_reweighting(self) -> Jobs:
        return [
            [name, phase]
            for name, label in self.ctx.production.items()
            for phase in self._phases(name)
            if self._child("dynamics", name, label, phase) is not None
        ]

    def _inputs_reweighting(self, name: str, phase: str) -> tuple[type, AttributeDict]:
        inputs = self._exposed("reweighting")
        run = self._child("dynamics", name, self.ctx.production[name], phase)
        inputs.trajectory = run.outputs.trajectory
        inputs.conditions = self._run_parameters("crystal" if phase != GAS else GAS)
        return ReweightingWorkChain, inputs

    def _close_reweighting(self) -> None:
        for crystal in self.ctx.crystals:
            name = self.ctx.set_of[crystal]
            averages = self.ctx.averages.get(crystal, {}).get(self.ctx.production[name], {})
            parts = {phase: self._child("reweighting", name, phase) for phase in (crystal, GAS)}
            moved: dict[str, Any] = {}
            for quantity in ("potential_energy", "density", "enthalpy_crystal", "enthalpy_gas"):
                own = parts[GAS if quantity == "enthalpy_gas" else crystal]
                if own is not None and quantity in averages:
                    output = "enthalpy" if quantity.startswith("enthalpy") else quantity
                    moved[quantity] = self._moved(quantity, name, averages[quantity], own.outputs[output])
            if "enthalpy_crystal" in moved and "enthalpy_gas" in moved:
                moved["sublimation_enthalpy"] = reference_sublimation(moved["enthalpy_crystal"], moved["enthalpy_gas"])
            if parts[crystal] is not None:
                self._reference_distributions(crystal, parts[crystal])
            self._out_all(f"reference.{crystal}", moved)
            self.ctx.reference[crystal] = moved
            self._converge(crystal, name)

    def _moved(self, quantity: str, name: str, average: Any, reweighted: Any) -> Any:
        """Return an average at the reference level; that of a gas that polymorphs share is made once."""
        if quantity != "enthalpy_gas":
            return reference_average(average, reweighted)
        known = self.ctx.setdefault("moved_gas", {})
        if name not in known:
            known[name] = reference_average(average, reweighted)
        return known[name]

    def _converge(self, crystal: str, name: str) -> None:
        """Collect the averages of all models against the size of their training sets."""
        quantities = ("potential_energy", "density", "sublimation_enthalpy")
        moved = self.ctx.reference[crystal]
        if not any(quantity in moved for quantity in quantities):
            return
        collected = {f"reference_{quantity}": moved[quantity] for quantity in quantities if quantity in moved}
        for label, averages in self.ctx.averages.get(crystal, {}).items():
            collected |= {f"{quantity}_{label}": averages[quantity] for quantity in quantities if quantity in averages}
        failed = {label: reason for label, reason in self.ctx.failed.items() if crystal in label}
        node = collect_convergence(
            target=self.inputs.target,
            reference_model=orm.Str(self.ctx.production[name]),
            failed=orm.Dict(failed),
            **collected,
        )
        self.ctx.convergence[crystal] = node
        self.out(f"convergence.{crystal}", node)
        for mode, sentence in node.details["sentences"].items():
            self.report(f"{crystal}, {mode}: {sentence}")

    # further runs of the production model

    def _open_production(self) -> Jobs:
        return [
            [run, name, phase]
            for run, settings in (self.inputs.get("runs") or {}).items()
            for name in self.ctx.models
            for phase in self._phases(name)
            if phase != GAS or GAS in settings
        ]

    def _inputs_production(self, run: str, name: str, phase: str) -> tuple[type, AttributeDict]:
        own = self.inputs.runs[run]
        inputs = self._exposed("dynamics_gas" if phase == GAS else "dynamics_crystal")
        inputs.model = self.ctx.models[name][self.ctx.production[name]]
        kind = GAS if phase == GAS else "crystal"
        inputs.parameters = self._changed_parameters(run, kind)
        inputs.structure = self.ctx.structures[phase]
        if "repeat" in own and phase != GAS:
            inputs.structure = self.ctx.structures[f"{phase}_{run}"] = repeated_cell(inputs.structure, own["repeat"])
        return DynamicsWorkChain, inputs

    def _changed_parameters(self, run: str, kind: str) -> orm.Dict:
        """Return the parameters of a further run, made once."""
        made = self.ctx.setdefault("run_parameters", {})
        if f"{run}_{kind}" not in made:
            made[f"{run}_{kind}"] = changed_parameters(self._run_parameters(kind), self.inputs.runs[run][kind])
        return made[f"{run}_{kind}"]

    def _close_production(self) -> None:
        for run, settings in (self.inputs.get("runs") or {}).items():
            for name in self.ctx.models:
                found: dict[str, dict[str, Any]] = {}
                kinds = [kind for kind in ("crystal", GAS) if kind in settings]
                self._average_runs(
                    ("production", run, name),
                    self._phases(name),
                    {kind: self._changed_parameters(run, kind) for kind in kinds},
                    f"production_runs.{run}.{{crystal}}",
                    lambda crystal, found=found: found.setdefault(crystal, {}),
                    suffix=f"_{run}" if "repeat" in settings else "",
                )
                self.ctx.setdefault("further", {}).setdefault(run, {}).update(found)
                self._distributions(run, ("production", run, name), self._phases(name))
        self._budgets()

    # shared

    def _exposed(self, stage: str) -> AttributeDict:
        return AttributeDict(self.exposed_inputs(STAGES[stage][0], stage))

    def _phases(self, name: str) -> list[str]:
        """Return the crystals of a set, and the gas."""
        return [*(crystal for crystal in self.ctx.crystals if self.ctx.set_of[crystal] == name), GAS]

    def _run_parameters(self, kind: str) -> orm.Dict:
        return self.inputs[f"dynamics_{kind}"].parameters

    def _reasons(self) -> str:
        return "; ".join(f"{label}: {reason}" for label, reason in self.ctx.failed.items())

    def _production_label(self, name: str) -> str:
        """Return the model of a set that goes into the table: the one asked for, or the largest."""
        wanted = self.inputs.production.get_dict()
        seed = self.inputs.learning_curve.seeds[0]
        models = self.ctx.models[name]
        own = [label for label in models if parse_label(label)[0] == wanted["mode"]]
        if wanted.get("size") is not None:
            label = training_label(wanted["mode"], wanted["size"], seed)
            if label in models:
                return label
            raise MlFinetuneError(f"the production model {label} of set {name!r} was not trained: see `failed`")
        if not own:
            raise MlFinetuneError(f"no model of mode {wanted['mode']!r} of set {name!r} was trained: see `failed`")
        return max(own, key=lambda label: parse_label(label)[1])

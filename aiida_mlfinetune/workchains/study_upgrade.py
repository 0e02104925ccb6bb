"""The step of ``mlfinetune.study`` to a higher level: labels, a model trained on them, its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiida.common import AttributeDict

from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.study_averages import StudyAveragesMixin
from aiida_mlfinetune.workchains.study_checks import GAS, NEXT_LEVEL, STAGES

Jobs = list[list[str]]


class StudyUpgradeMixin(StudyAveragesMixin):
    """For each stage of the upgrade ``_open``, ``_inputs`` and ``_close``, as for the other stages."""

    if TYPE_CHECKING:
        _exposed: Any

    def _open_upgrade_labelling(self) -> Jobs:
        settings = self.inputs[NEXT_LEVEL].get_dict()
        wanted = settings.get("crystals") or self.ctx.crystals
        self.ctx.upgrade_crystals = sorted(wanted)
        self.ctx.upgrade_frames = self._sufficient_set(sorted({self.ctx.set_of[name] for name in wanted}), settings)
        return [["frames"]]

    def _inputs_upgrade_labelling(self, _: str) -> tuple[type, AttributeDict]:
        inputs = self._exposed("upgrade_labelling")
        inputs.dataset = self.ctx.upgrade_frames
        return LabellingWorkChain, inputs

    def _close_upgrade_labelling(self) -> None:
        child = self._child("upgrade_labelling", "frames")
        self.ctx.upgraded_set = None if child is None else child.outputs.dataset

    def _open_upgrade_training(self) -> Jobs:
        return [] if self.ctx.upgraded_set is None else [["model"]]

    def _inputs_upgrade_training(self, _: str) -> tuple[type, AttributeDict]:
        inputs = self._exposed("upgrade_training")
        inputs.dataset = self.ctx.upgraded_set
        if inputs.parameters["mode"] != "scratch":
            inputs.foundation = self._upgrade_start()
        return STAGES["upgrade_training"][0], inputs

    def _upgrade_start(self) -> MaceModelData:
        """Return the model that the upgrade starts from."""
        if self.inputs[NEXT_LEVEL].get_dict().get("start") == "production" or "foundation" not in self.inputs:
            name = self.ctx.set_of[self.ctx.upgrade_crystals[0]]
            return self.ctx.models[name][self.ctx.production[name]]
        return self.inputs.foundation

    def _close_upgrade_training(self) -> None:
        child = self._child("upgrade_training", "model")
        self.ctx.upgraded_model = None if child is None else child.outputs.model
        if child is not None:
            self.out("upgraded_model", child.outputs.model)

    def _open_upgrade_dynamics(self) -> Jobs:
        if self.ctx.upgraded_model is None:
            return []
        return [[phase] for phase in (*self.ctx.upgrade_crystals, GAS)]

    def _inputs_upgrade_dynamics(self, phase: str) -> tuple[type, AttributeDict]:
        inputs = self._exposed("dynamics_gas" if phase == GAS else "dynamics_crystal")
        inputs.model = self.ctx.upgraded_model
        inputs.structure = self.ctx.structures[phase]
        return DynamicsWorkChain, inputs

    def _close_upgrade_dynamics(self) -> None:
        if self.ctx.upgraded_model is None:
            return
        self._average_runs(
            ("upgrade_dynamics",),
            [*self.ctx.upgrade_crystals, GAS],
            {kind: self._run_parameters(kind) for kind in ("crystal", GAS)},
            "upgraded.{crystal}",
            lambda _: {},
        )
        self._distributions("upgraded", ("upgrade_dynamics",), self.ctx.upgrade_crystals)

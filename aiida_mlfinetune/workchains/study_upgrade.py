"""The step of ``mlfinetune.study`` to a higher level: labels, a model trained on them, its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiida import orm
from aiida.common import AttributeDict

from aiida_mlfinetune.calculations.functions.dataset import select_frames
from aiida_mlfinetune.calculations.functions.study import shared_frames
from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.selection import share_evenly
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.study_averages import StudyAveragesMixin
from aiida_mlfinetune.workchains.study_checks import GAS, NEXT_LEVEL, STAGES

Jobs = list[list[str]]


class StudyUpgradeMixin(StudyAveragesMixin):
    """For each stage of the upgrade ``_open``, ``_inputs`` and ``_close``, as for the other stages."""

    if TYPE_CHECKING:
        _exposed: Any
        _fail: Any

    def _open_upgrade_labelling(self) -> Jobs:
        settings = self.inputs[NEXT_LEVEL].get_dict()
        try:
            parts = self._frames_to_upgrade(sorted(set(settings.get("crystals") or self.ctx.crystals)), settings)
        except MlFinetuneError as error:
            self._fail("upgrade_labelling_frames", str(error))
            return []
        self.ctx.upgrade_phases = list(parts)
        named = {GAS if phase == GAS else f"crystal_{phase}": part for phase, part in parts.items()}
        self.ctx.upgrade_frames = shared_frames(self.ctx.labelled, **named)
        return [["frames"]]

    def _frames_to_upgrade(self, crystals: Sequence[str], settings: Mapping[str, Any]) -> dict[str, DatasetData]:
        """Return the frames of the smallest sufficient set to be labelled again, by crystal, and those of the molecule.

        ``n_frames`` counts those of all ``crystals``, shared evenly between them, and ``n_gas`` those of the molecule;
        null takes all. A frame belongs to the crystal whose sampling made it, for polymorphs may have the same atoms.

        The molecule's are all taken by default. The paper names its 75 frames of ice Ih and gives their density, which
        no molecule is needed for; a sublimation enthalpy also takes the energy of the molecule at the higher level,
        which a model that saw crystals only does not know, and whose labels are cheap beside those of crystals.

        Raises:
            FramesError: the set has no frame of these crystals.
        """
        frames = self._sufficient_set(sorted({self.ctx.set_of[name] for name in crystals}))
        wanted, n_gas = settings.get("n_frames"), settings.get("n_gas")
        there, known = {}, set(frames.frames.content_hashes())
        for phase in (*crystals, *([] if n_gas == 0 else [GAS])):
            sampled = self.ctx.sampled[phase]
            if known.isdisjoint(sampled.frames.content_hashes()):
                self.report(f"the smallest sufficient set has no frame of {phase!r}: the upgrade leaves it out")
                continue
            there[phase] = shared_frames(frames, sampled=sampled)
        if not set(there) - {GAS}:
            raise FramesError(f"the smallest sufficient set has no frame of {list(crystals)}")
        chosen = {}
        for what, number, phases in (
            ("crystals", wanted, [name for name in crystals if name in there]),
            ("the molecule", n_gas, [GAS] if GAS in there else []),
        ):
            available = [there[phase].n_frames for phase in phases]
            if number is not None and number > sum(available):
                self.report(f"the upgrade takes all {sum(available)} frames of {what} that there are, not {number}")
            shares = available if number is None else share_evenly(number, available)
            for phase, share in zip(phases, shares, strict=True):
                selection = {"n_frames": share, "method": "random", "seed": settings.get("seed", 1)}
                chosen[phase] = there[phase]
                if share < there[phase].n_frames:
                    chosen[phase] = select_frames(there[phase], orm.Dict({**selection, "equilibration": 0.0}))
        return chosen

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
            name = self.ctx.set_of[self.ctx.upgrade_phases[0]]
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
        return [[phase] for phase in self.ctx.upgrade_phases]

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
            self.ctx.upgrade_phases,
            {kind: self._run_parameters(kind) for kind in ("crystal", GAS)},
            "upgraded.{crystal}",
            lambda _: {},
        )
        self._distributions("upgraded", ("upgrade_dynamics",), self.ctx.upgrade_phases)

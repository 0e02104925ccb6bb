"""``mlfinetune.reweighting``: from a run with a model to averages at the reference level, and their verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ExitCode, ProcessBuilder, WorkChain, if_

from aiida_mlfinetune.calculations.functions.dataset import without_level_of
from aiida_mlfinetune.calculations.functions.reweighting import RDF, reweighted_observables, strided_frames
from aiida_mlfinetune.calculations.validators import validate_dict
from aiida_mlfinetune.common.errors import MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.conclusions.reweighting import MIN_FRAMES
from aiida_mlfinetune.science.conclusions.reweighting_frames import ReweightingSettings, SampledState
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.protocols import ProtocolMixin
from aiida_mlfinetune.workchains.reweighting_checks import (
    own_conditions,
    reference_level,
    run_structures,
    sampled_level,
    validate_inputs,
)


class ReweightingWorkChain(ProtocolMixin, WorkChain):
    """Label strided frames of a run at the reference level, and average them with the weights of that level."""

    _PROTOCOL_FILE = "reweighting.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input(
            "trajectory",
            valid_type=DatasetData,
            help="Frames of one classical run at constant temperature, in order of time, with the energies (eV) of its "
            "potential as a level, as `mlfinetune.dynamics` returns them.",
        )
        spec.input(
            "conditions",
            valid_type=orm.Dict,
            required=False,
            serializer=orm.to_aiida_type,
            validator=validate_dict(SampledState.from_parameters),
            help="Parameters of the run: temperature_K, ensemble, pressure_bar. By default, and checked against, those "
            "of the jobs that made the trajectory.",
        )
        spec.input(
            "sampled_level",
            valid_type=orm.Str,
            required=False,
            serializer=orm.to_aiida_type,
            help="Key of the run's potential in the trajectory; by default its only level but the reference.",
        )
        spec.input(
            "reference_level",
            valid_type=orm.Str,
            required=False,
            serializer=orm.to_aiida_type,
            help="Key of the reference level where the frames have its labels; by default the level of `labelling`.",
        )
        spec.input(
            "settings",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_dict(ReweightingSettings.from_dict),
            help="What is taken and how it is averaged, see `science.reweighting_frames.ReweightingSettings`: n_frames "
            "or stride (in frames of the trajectory), equilibration (fraction), n_bootstrap, seed, n_train, ...",
        )
        spec.expose_inputs(
            LabellingWorkChain,
            namespace="labelling",
            exclude=("dataset",),
            namespace_options={"required": False, "populate_defaults": False},
        )
        spec.inputs["labelling"].dynamic = False
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(
            cls.take_frames,
            if_(cls.labels_are_missing)(cls.run_labelling, cls.inspect_labelling),
            cls.average,
        )
        spec.output("dataset", valid_type=DatasetData, help="The frames of the run with labels at the reference level.")
        spec.output(
            "potential_energy",
            valid_type=ObservableData,
            help="Potential energy at the reference level in kJ/mol of molecules; `details` hold raw and cumulant "
            "averages.",
        )
        spec.output(
            "density",
            valid_type=ObservableData,
            required=False,
            help="Density at the reference level in g/cm^3, of a crystal; raw and cumulant averages in details.",
        )
        spec.output(
            "enthalpy",
            valid_type=ObservableData,
            help="Enthalpy at the reference level in kJ/mol of molecules, classical nuclei: of the crystal, or of the "
            "ideal gas where the frames have no cell; raw and cumulant averages in details.",
        )
        spec.output_namespace(
            "distributions",
            valid_type=ObservableData,
            dynamic=True,
            required=False,
            help="Radial distribution functions at the reference level by pair, such as `O_O`: arrays `r_A`, "
            "`reweighted`, `raw`, `cumulant`, each with `*_error`.",
        )
        spec.output(
            "verdict",
            valid_type=orm.Dict,
            help="`reliable`, and the `reasons` if not; n_effective, n_independent, largest_share, overlap, spread_kT, "
            "mean_difference_kJmol (reference - run, of molecules), thresholds, and the agreement of the estimates.",
        )
        spec.output(
            "to_train",
            valid_type=DatasetData,
            help="The frames with the largest errors of the run's potential, or the largest weights, as a view.",
        )
        spec.exit_code(210, "ERROR_FRAMES_REFUSED", message="No frames can be taken from the run: {message}")
        spec.exit_code(220, "ERROR_LABELLING_REFUSED", message="The inputs of the labelling are refused: {message}")
        spec.exit_code(320, "ERROR_TOO_FEW_LABELS", message="Only {count} of {total} frames were labelled.")
        spec.exit_code(321, "ERROR_NO_AVERAGE", message="No averages can be taken at the reference level: {message}")
        spec.exit_code(350, "ERROR_LABELLING_FAILED", message="The labelling failed with [{status}] {message}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode | None,
        trajectory: DatasetData | None,
        level: str | Mapping[str, Any] | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        conditions: Mapping[str, Any] | orm.Dict | None = None,
        sampled_level: str | None = None,
        reference_level: str | None = None,
        model: MaceModelData | None = None,
        crystals: Iterable[orm.StructureData] = (),
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            code: of the reference level's engine; None with ``reference_level``.
            trajectory: frames of one run; may be None where a work chain makes them later.
            level: reference level, the name of one of any engine or a whole specification; else the protocol's.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/reweighting.yaml``.
            options: scheduler options of the labelling, laid over those of the protocol.
            conditions: parameters of the run, where the jobs that made the trajectory are not in the database.
            sampled_level: key of the run's potential, where the trajectory has several levels.
            reference_level: key of a level that the frames have already; then nothing is labelled.
            model: the model behind a reference level that reads one.
            crystals: where the runs start, as for ``LabellingWorkChain``; by default, where the jobs started that made
                the trajectory. Where no crystal is known, nor ``grid_cells`` in the level, the grid is that of the
                first frame.

        Raises:
            StudyError: unknown protocol, input or level, another state than that of the run, or levels that are not
                clear.
            FramesError: too few frames.
            LabelsError: frames without an energy of the run's potential.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        settings = dict(inputs["settings"])
        if (overrides or {}).get("settings", {}).get("stride") is not None and "n_frames" not in overrides["settings"]:
            settings["n_frames"] = None
        builder = cls.get_builder()
        builder.settings = orm.Dict(ReweightingSettings.from_dict(settings).to_dict())
        if trajectory is not None:
            builder.trajectory = trajectory
        if conditions is not None:
            SampledState.from_parameters(conditions.get_dict() if isinstance(conditions, orm.Dict) else conditions)
            builder.conditions = conditions
        if sampled_level is not None:
            builder.sampled_level = sampled_level
        if reference_level is not None:
            if code is not None or level is not None:
                raise StudyError("with `reference_level` nothing is labelled: leave the code and the level out")
            builder.reference_level = reference_level
        else:
            if code is None:
                raise StudyError("the frames have to be labelled: give the code of the reference level's engine")
            stage = dict(inputs["labelling"])
            asked = ((overrides or {}).get("labelling") or {}).get("level")
            if level is not None and asked not in (None, level):
                raise StudyError(f"the level is {level!r} and, in the overrides, {asked!r}: give it once")
            if level is None and isinstance(stage.get("level"), Mapping):
                level = stage.pop("level")
            made = LabellingWorkChain.get_builder_from_protocol(
                code,
                None,
                level,
                stage.pop("protocol"),
                stage,
                options,
                model=model,
                crystals=tuple(crystals) or (run_structures(trajectory) if trajectory is not None else ()),
            )
            builder.labelling = made._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
        if problem := validate_inputs(builder._inputs(prune=True)):  # noqa: SLF001 - the builder's own content
            raise StudyError(problem)
        count = f"{settings['n_frames']} frames" if settings["n_frames"] else f"one of {settings['stride']} frames"
        AIIDA_LOGGER.report(f"reweighting: {count} of the run to be averaged at the reference level")
        return builder

    def take_frames(self) -> ExitCode | None:
        """Take the frames from the run."""
        try:
            self.ctx.reference = orm.Str(reference_level(self.inputs))
            self.ctx.sampled = orm.Str(sampled_level(self.inputs))
            self.ctx.conditions = own_conditions(self.inputs)
            self.ctx.frames = strided_frames(self.inputs.trajectory, self.ctx.sampled, self.inputs.settings)
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_FRAMES_REFUSED.format(message=str(error))
        self.ctx.dataset = self.ctx.frames
        return None

    def labels_are_missing(self) -> bool:
        """Whether frames lack an energy at the reference level."""
        frames, key = self.ctx.frames, self.ctx.reference.value
        if key in frames.levels and frames.levels[key]["counts"]["energy"] == frames.n_frames:
            self.report(f"the frames have their labels at {key!r}: they are not labelled again")
            return False
        return "labelling" in self.inputs

    def run_labelling(self) -> ExitCode | None:
        """Label the frames at the reference level."""
        inputs = AttributeDict(self.exposed_inputs(LabellingWorkChain, "labelling"))
        frames = self.ctx.frames
        inputs.dataset = without_level_of(frames, inputs.level) if self.ctx.reference.value in frames.levels else frames
        inputs.setdefault("metadata", AttributeDict())["call_link_label"] = "labelling"
        try:
            node = self.submit(LabellingWorkChain, **inputs)
        except ValueError as error:  # what the spec's validators say
            return self.exit_codes.ERROR_LABELLING_REFUSED.format(message=str(error))
        self.report(f"labelling {frames.n_frames} frames: submitted {node.process_label}<{node.pk}>")
        self.to_context(labelling=node)
        return None

    def inspect_labelling(self) -> ExitCode | None:
        """Check the labelling."""
        node = self.ctx.labelling
        if not node.is_finished_ok:
            return self.exit_codes.ERROR_LABELLING_FAILED.format(status=node.exit_status, message=node.exit_message)
        self.ctx.dataset = node.outputs.dataset
        total, count = self.ctx.frames.n_frames, self.ctx.dataset.n_frames
        if count < MIN_FRAMES:
            self.out("dataset", self.ctx.dataset)
            return self.exit_codes.ERROR_TOO_FEW_LABELS.format(count=count, total=total)
        if count < total:
            self.report(f"warning: {total - count} of {total} frames have no label, and are missing in the averages")
        return None

    def average(self) -> ExitCode | None:
        """Average with the weights of the reference level."""
        self.out("dataset", self.ctx.dataset)
        try:
            results = reweighted_observables(
                self.ctx.dataset, self.ctx.sampled, self.ctx.reference, self.ctx.conditions, self.inputs.settings
            )
        except MlFinetuneError as error:
            return self.exit_codes.ERROR_NO_AVERAGE.format(message=str(error))
        for name, node in results.items():
            pair = name.removeprefix(RDF)
            self.out(name if pair == name else f"distributions.{pair}", node)
        for name in ("potential_energy", "density"):
            if name in results:
                self.report(f"{results[name]}: {results[name].details['verdict']}")
        return None

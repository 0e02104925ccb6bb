"""``mlfinetune.model_sampling``: frames to label and train on, from dynamics with a model instead of with CP2K."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ExitCode, ProcessBuilder, WorkChain

from aiida_mlfinetune.calculations.functions.dataset import REFERENCE_VOLUME, select_frames
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import FramesError, MlFinetuneError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.datasets.selection import select_indices
from aiida_mlfinetune.science.dynamics.ipi_settings import IpiSettings
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.protocols import ProtocolMixin
from aiida_mlfinetune.workchains.sampling import selection_of, validate_selection


class ModelSamplingWorkChain(ProtocolMixin, WorkChain):
    """Dynamics with a foundation model or a fine-tuned one, classical or path-integral, and a selection of its frames.

    An alternative to ``mlfinetune.sampling`` with the same outputs. With several beads, the frames are those of beads:
    configurations of quantum nuclei, which reach further than classical ones at the same temperature.
    """

    _PROTOCOL_FILE = "model_sampling.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.expose_inputs(DynamicsWorkChain, namespace="dynamics")
        spec.inputs["dynamics"].dynamic = False
        spec.input(
            "selection",
            valid_type=orm.Dict,
            validator=validate_selection,
            help="n_frames, method (random or stride), seed, equilibration (fraction left out), volume_range (relative "
            "to reference_volume_A3) or null, largest_shear.",
        )
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(cls.run_dynamics, cls.inspect_dynamics, cls.select)
        spec.output("dataset", valid_type=DatasetData, help="The selected frames.")
        spec.output("trajectory", valid_type=DatasetData, help="All frames, with the energies (eV) of the model.")
        spec.output("properties", valid_type=orm.ArrayData, help="Properties of the run, see dynamics.")
        spec.output(
            "last_sane",
            valid_type=DatasetData,
            required=False,
            help="The last frame before an explosion, see dynamics.",
        )
        spec.exit_code(310, "ERROR_TOO_FEW_FRAMES", message="The run left too few frames to select from: {message}")
        spec.exit_code(350, "ERROR_DYNAMICS_FAILED", message="The dynamics failed with [{status}] {message}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        structure: orm.StructureData,
        model: MaceModelData | None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        ensemble: Ensemble | str | None = None,
        temperature_K: float | None = None,  # noqa: N803 - the unit
        pressure_bar: float | None = None,
        baseline: MaceModelData | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        A structure that is periodic in no direction is a molecule: it is run in NVT, and its frames are not rescaled.

        Args:
            code: i-PI.
            structure: crystal or molecule.
            model: the potential; None where another work chain fills it in.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/model_sampling.yaml``; ``dynamics`` in that of ``dynamics.yaml``.
            options: scheduler options, laid over those of the protocol.
            ensemble: nve, nvt, npt-isotropic or npt-flexible.
            temperature_K: temperature.
            pressure_bar: external pressure.
            baseline: the model that ``model`` is a difference to, if it is one.

        Raises:
            StudyError: what ``DynamicsWorkChain`` refuses; a selection that cannot be.
            ModelError: as ``DynamicsWorkChain``.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        stage = dict(inputs["dynamics"])
        made = DynamicsWorkChain.get_builder_from_protocol(
            code,
            structure,
            model,
            stage.pop("protocol"),
            stage,
            options,
            ensemble=ensemble,
            temperature_K=temperature_K,
            pressure_bar=pressure_bar,
            baseline=baseline,
        )
        selection = dict(inputs["selection"])
        if not any(structure.pbc):
            selection |= {"volume_range": None, "largest_shear": 0.0}
        elif selection["volume_range"] is not None:
            selection.setdefault(REFERENCE_VOLUME, structure.get_cell_volume())
        builder = cls.get_builder()
        builder.dynamics = made._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
        node = orm.Dict(selection)
        if (problem := validate_selection(node)) is not None:
            raise StudyError(problem)
        builder.selection = node
        if (problem := validate_inputs(builder._inputs(prune=True))) is not None:  # noqa: SLF001 - own content
            raise StudyError(problem)
        AIIDA_LOGGER.report(f"model sampling: {selection['n_frames']} of its frames are taken")
        return builder

    def run_dynamics(self) -> None:
        """Submit the run."""
        inputs = self.exposed_inputs(DynamicsWorkChain, "dynamics")
        inputs["metadata"] = {"call_link_label": "dynamics"}
        self.to_context(dynamics=self.submit(DynamicsWorkChain, **inputs))

    def inspect_dynamics(self) -> ExitCode | None:
        """Hand on what the run left."""
        child = self.ctx.dynamics
        for name in ("trajectory", "properties", "last_sane"):
            if name in child.outputs:
                self.out(name, child.outputs[name])
        if child.is_finished_ok:
            return None
        return self.exit_codes.ERROR_DYNAMICS_FAILED.format(status=child.exit_status, message=child.exit_message)

    def select(self) -> ExitCode | None:
        """Take frames from the trajectory."""
        trajectory = self.ctx.dynamics.outputs.trajectory
        try:
            select_indices(trajectory.n_frames, selection_of(self.inputs.selection))
        except FramesError as error:
            return self.exit_codes.ERROR_TOO_FEW_FRAMES.format(message=str(error))
        self.out("dataset", select_frames(trajectory, self.inputs.selection))
        return None


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check that the run will leave the frames that are asked for."""
    dynamics = inputs.get("dynamics", {})
    if "selection" not in inputs or any(name not in dynamics for name in ("structure", "parameters")):
        return None
    choice = selection_of(inputs["selection"])
    try:
        settings = IpiSettings.from_dict(dynamics["parameters"].get_dict())
        if choice.changes_cells and not any(dynamics["structure"].pbc):
            raise StudyError(
                "the selection has a 'volume_range' or 'largest_shear', but the structure is a molecule: leave it out"
            )
        select_indices((settings.n_steps // settings.stride + 1) * settings.n_beads, choice)
    except MlFinetuneError as error:
        return str(error)
    return None

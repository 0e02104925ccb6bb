"""``mlfinetune.replicas``: one run several times over with other seeds, and what the runs agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ExitCode, ProcessBuilder, WorkChain

from aiida_mlfinetune.calculations.functions import observables, thermodynamics
from aiida_mlfinetune.calculations.functions.replicas import PREFIX, pool_observables, replica_parameters
from aiida_mlfinetune.common.enums import Ensemble
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.protocols import ProtocolMixin


class ReplicasWorkChain(ProtocolMixin, WorkChain):
    """Independent replicas of a run of ``mlfinetune.dynamics``, side by side, with pooled averages."""

    _PROTOCOL_FILE = "dynamics.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.expose_inputs(DynamicsWorkChain, namespace="dynamics")
        spec.inputs["dynamics"].dynamic = False
        spec.input(
            "n_replicas",
            valid_type=orm.Int,
            serializer=orm.to_aiida_type,
            validator=validate_n_replicas,
            help="Number of runs, 2 at least. The first has the seed of `dynamics.parameters`, the others seeds that "
            "follow from it.",
        )
        spec.inputs.dynamic = False
        spec.outline(cls.run_replicas, cls.inspect_replicas, cls.measure)
        spec.output_namespace(
            "trajectories", valid_type=DatasetData, dynamic=True, help="Frames of each replica, `replica_0` and so on."
        )
        spec.output_namespace(
            "properties", valid_type=orm.ArrayData, dynamic=True, help="Properties of each replica, see dynamics."
        )
        spec.output(
            "potential_energy",
            valid_type=ObservableData,
            help="Potential energy in kJ/mol of molecules, the mean over the replicas; a warning where they disagree.",
        )
        spec.output(
            "density", valid_type=ObservableData, required=False, help="Density in g/cm^3, where the cell moves."
        )
        spec.exit_code(400, "ERROR_REPLICA_FAILED", message="{name} failed with [{status}] {message}")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        structure: orm.StructureData,
        model: MaceModelData | None,
        n_replicas: int = 4,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol of ``mlfinetune.dynamics``, which see, and ``n_replicas``.

        Raises:
            StudyError: fewer than two replicas; and what ``DynamicsWorkChain`` refuses.
            ModelError: as ``DynamicsWorkChain``.
        """
        if isinstance(n_replicas, bool) or not isinstance(n_replicas, int):
            raise StudyError(f"n_replicas is {n_replicas!r}, but must be an integer")
        if (problem := validate_n_replicas(orm.Int(n_replicas))) is not None:
            raise StudyError(problem)
        made = DynamicsWorkChain.get_builder_from_protocol(
            code, structure, model, protocol, overrides, options, **kwargs
        )
        builder = cls.get_builder()
        builder.dynamics = made._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
        builder.n_replicas = orm.Int(n_replicas)
        AIIDA_LOGGER.report(f"replicas: {n_replicas} runs of these")
        return builder

    def run_replicas(self) -> None:
        """Submit all replicas."""
        base = self.exposed_inputs(DynamicsWorkChain, "dynamics")
        self.ctx.parameters = replica_parameters(base["parameters"], self.inputs.n_replicas)
        for name, parameters in self.ctx.parameters.items():
            inputs = {**base, "parameters": parameters, "metadata": {"call_link_label": name}}
            node = self.submit(DynamicsWorkChain, **inputs)
            self.report(f"submitted DynamicsWorkChain<{node.pk}> for {name}, seed {parameters['seed']}")
            self.to_context(**{name: node})

    def inspect_replicas(self) -> ExitCode | None:
        """Hand on what every replica has, and stop where one failed."""
        failed = None
        for name in self.ctx.parameters:
            child = self.ctx[name]
            for kind, output in (("trajectories", "trajectory"), ("properties", "properties")):
                if output in child.outputs:
                    self.out(f"{kind}.{name}", child.outputs[output])
            if not child.is_finished_ok and failed is None:
                failed = self.exit_codes.ERROR_REPLICA_FAILED.format(
                    name=name, status=child.exit_status, message=child.exit_message
                )
        return failed

    def measure(self) -> None:
        """Average energy and density over the replicas."""
        structure = self.inputs.dynamics.structure
        energies, densities = {}, {}
        for name, parameters in self.ctx.parameters.items():
            properties = self.ctx[name].outputs.properties
            energies[name] = observables.potential_energy(properties, structure, parameters)
            if Ensemble(parameters["ensemble"]).has_barostat:
                densities[name] = thermodynamics.density(properties, structure, parameters)
        self.out("potential_energy", pool_observables(**energies))
        if densities:
            self.out("density", pool_observables(**densities))


def validate_n_replicas(value: orm.Int | None, _: Any = None) -> str | None:
    """Check the number of replicas."""
    if value is not None and value.value < 2:
        return f"n_replicas is {value.value}, but must be 2 at least; one run is `mlfinetune.dynamics`"
    return None


__all__ = ("PREFIX", "ReplicasWorkChain", "validate_n_replicas")

"""``mlfinetune.isolated_atoms``: energies of isolated atoms at a CP2K level, the lowest of their spin states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ExitCode, ProcessBuilder, WorkChain, append_, while_

from aiida_mlfinetune.calculations.cp2k_cells import cells_problem
from aiida_mlfinetune.calculations.cp2k_checks import kinds_problem
from aiida_mlfinetune.calculations.cp2k_input import check_level
from aiida_mlfinetune.calculations.cp2k_label import Cp2kLabelCalculation
from aiida_mlfinetune.calculations.functions.isolated_atoms import ATOM, LABELLED, LEVEL, lowest_energies, make_atoms
from aiida_mlfinetune.calculations.validators import validate_dict
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.science.crystals.spin import atom_multiplicities, multiplicities_problem
from aiida_mlfinetune.workchains.protocols import ProtocolMixin, merge
from aiida_mlfinetune.workchains.protocols.levels import load_level


class IsolatedAtomsWorkChain(ProtocolMixin, WorkChain):
    """Compute each element alone in a box, in several spin states; the lowest energy is its reference energy (E0)."""

    _PROTOCOL_FILE = "labelling.yaml"

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define inputs, outline, outputs and exit codes."""
        super().define(spec)
        spec.input(
            "level",
            valid_type=orm.Dict,
            validator=validate_dict(check_level),
            help="CP2K level of theory, the one of the labels; its `gas` is the box of the atoms.",
        )
        spec.input(
            "multiplicities",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            validator=validate_multiplicities,
            help="By element, the spin multiplicities to try.",
        )
        spec.input(
            "max_concurrent",
            valid_type=orm.Int,
            serializer=orm.to_aiida_type,
            default=lambda: orm.Int(2),
            validator=lambda value, _: None if value.value >= 1 else f"must be at least 1, got {value.value}",
            help="Number of jobs at a time, at most.",
        )
        spec.expose_inputs(Cp2kLabelCalculation, namespace="cp2k", exclude=("dataset", "level", "convergence"))
        spec.inputs["cp2k"].dynamic = False
        spec.inputs.dynamic = False
        spec.inputs.validator = validate_inputs
        spec.outline(cls.prepare, while_(cls.has_states)(cls.submit_states, cls.inspect_states), cls.collect)
        spec.output(
            "e0s", valid_type=orm.Dict, help="Reference energies (eV) as `mlfinetune.training` takes them in `e0s`."
        )
        spec.output("energies", valid_type=orm.Dict, help="Energy (eV) by element and spin multiplicity.")
        spec.output("dataset", valid_type=DatasetData, help="The atoms with their lowest energies (eV) as labels.")
        spec.exit_code(320, "ERROR_NO_ENERGY", message="No spin state of {elements} converged: see their jobs.")

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        elements: Sequence[str],
        level: str | Mapping[str, Any] | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        multiplicities: Mapping[str, Sequence[int]] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol of labelling.

        Args:
            code: CP2K.
            elements: chemical symbols.
            level: name of a CP2K level, or a whole specification; the one of the labels.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/labelling.yaml``.
            options: scheduler options, laid over those of the protocol.
            multiplicities: by element, in place of those near the ground state.

        Raises:
            StudyError: unknown protocol, input, level or element; a level without spin or without a basis.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        spec = (
            dict(level)
            if isinstance(level, Mapping)
            else load_level(level or inputs["level"], inputs["level_overrides"])
        )
        given = dict(multiplicities or {})
        if unknown := sorted(set(given) - set(elements)):
            raise StudyError(
                f"multiplicities are given for {unknown}, which are not among the elements {list(elements)}"
            )
        states = {element: list(given.get(element) or atom_multiplicities(element)) for element in elements}
        if problem := _problem(spec, states):
            raise StudyError(problem)
        builder = cls.get_builder()
        builder.level = orm.Dict(spec)
        builder.multiplicities = orm.Dict(states)
        builder.max_concurrent = orm.Int(inputs["max_concurrent"])
        builder.cp2k.code = code
        scheduler = merge(inputs["metadata"]["options"], options or {}, {""}, "options")
        scheduler.setdefault("withmpi", False)
        builder.cp2k.metadata.options = scheduler
        listed = "; ".join(f"{element}: {values}" for element, values in states.items())
        AIIDA_LOGGER.report(f"isolated atoms at {spec['key']!r}, spin multiplicities {listed}")
        return builder

    def prepare(self) -> None:
        """Make the atoms and the level of each spin state."""
        self.ctx.made = make_atoms(self.inputs.level, self.inputs.multiplicities)
        self.ctx.queue = sorted(name.removeprefix(LEVEL) for name in self.ctx.made if name.startswith(LEVEL))
        self.ctx.labelled = {}

    def has_states(self) -> bool:
        """Whether spin states are left to compute."""
        return bool(self.ctx.queue)

    def submit_states(self) -> None:
        """Submit as many jobs as may run at a time."""
        most = self.inputs.max_concurrent.value
        self.ctx.running, self.ctx.queue = self.ctx.queue[:most], self.ctx.queue[most:]
        self.ctx.jobs = []
        for state in self.ctx.running:
            inputs = AttributeDict(self.exposed_inputs(Cp2kLabelCalculation, "cp2k"))
            inputs.update(dataset=self.ctx.made[ATOM + state.split("_")[0]], level=self.ctx.made[LEVEL + state])
            inputs.metadata.call_link_label = state
            node = self.submit(Cp2kLabelCalculation, **inputs)
            element, multiplicity = state.split("_")
            self.report(f"submitted {node.process_label}<{node.pk}>: {element}, multiplicity {multiplicity}")
            self.to_context(jobs=append_(node))

    def inspect_states(self) -> None:
        """Take the energies of the jobs that converged."""
        for state, job in zip(self.ctx.running, self.ctx.jobs, strict=True):
            if job.is_finished_ok:
                self.ctx.labelled[LABELLED + state] = job.outputs.dataset
            else:
                self.report(f"{state}: {job.process_label}<{job.pk}> ended with [{job.exit_status}] {job.exit_message}")

    def collect(self) -> ExitCode | None:
        """Take the lowest energy of each element."""
        found = {name.removeprefix(LABELLED).split("_")[0] for name in self.ctx.labelled}
        if missing := sorted(set(self.inputs.multiplicities.keys()) - found):
            return self.exit_codes.ERROR_NO_ENERGY.format(elements=", ".join(missing))
        results = lowest_energies(self.inputs.level, **self.ctx.labelled)
        for element, value in results["e0s"]["values"].items():
            states = results["energies"][element]
            lowest = min(states, key=states.get)
            self.report(f"{element}: {value:.6f} eV with multiplicity {lowest}")
        self.out_many(results)
        return None


def validate_multiplicities(node: orm.Dict | None, _: Any) -> str | None:
    """Check that each element can have its multiplicities."""
    if node is None:
        return None
    if not node.get_dict():
        return "no element is given"
    problems = (multiplicities_problem(element, values) for element, values in node.get_dict().items())
    return next((problem for problem in problems if problem), None)


def validate_inputs(inputs: Mapping[str, Any], _: Any = None) -> str | None:
    """Check that the level has spin, and a basis for each element."""
    if "level" not in inputs or "multiplicities" not in inputs:
        return None
    return _problem(inputs["level"].get_dict(), inputs["multiplicities"].get_dict())


def _problem(spec: Mapping[str, Any], states: Mapping[str, Sequence[int]]) -> str | None:
    for element, values in states.items():
        if problem := multiplicities_problem(element, values):
            return problem
    if str(spec["parameters"].get("DFT", {}).get("QS", {}).get("METHOD", "")).upper() == "XTB":
        return (
            f"level {spec['key']!r} has no spin polarisation, so its energies of open-shell atoms mean nothing: let "
            "the training estimate reference energies from the labels (`e0s: {source: estimated}`)"
        )
    return kinds_problem(spec, states) or cells_problem(spec, [])

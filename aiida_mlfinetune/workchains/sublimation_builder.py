"""Builders of ``mlfinetune.sublimation`` from protocols, and what they will do, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.common.enums import Ensemble, TrainingMode
from aiida_mlfinetune.common.errors import ModelError, StudyError
from aiida_mlfinetune.data.foundations import load_foundation
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.crystals.molecules import gas_molecule, perceive_crystal
from aiida_mlfinetune.science.datasets.checks import check_elements
from aiida_mlfinetune.workchains.dynamics import DynamicsWorkChain
from aiida_mlfinetune.workchains.labelling import LabellingWorkChain
from aiida_mlfinetune.workchains.model_sampling import ModelSamplingWorkChain
from aiida_mlfinetune.workchains.protocols import ProtocolMixin
from aiida_mlfinetune.workchains.run_checks import warn_of_stress
from aiida_mlfinetune.workchains.sampling import SamplingWorkChain
from aiida_mlfinetune.workchains.sublimation_checks import validate_inputs
from aiida_mlfinetune.workchains.training import TrainingWorkChain

STAGES = {
    "sampling_crystal": (SamplingWorkChain, ("structure",)),
    "sampling_gas": (SamplingWorkChain, ("structure",)),
    "model_sampling_crystal": (ModelSamplingWorkChain, ("dynamics.structure", "dynamics.model")),
    "model_sampling_gas": (ModelSamplingWorkChain, ("dynamics.structure", "dynamics.model")),
    "labelling": (LabellingWorkChain, ("dataset",)),
    "training": (TrainingWorkChain, ("dataset", "train", "valid", "test", "foundation")),
    "dynamics_crystal": (DynamicsWorkChain, ("structure", "model")),
    "dynamics_gas": (DynamicsWorkChain, ("structure", "model")),
}
"""The work chain of each stage, and those of its inputs that the sublimation work chain gives it."""
ALTERNATIVES = ("sampling_crystal", "sampling_gas", "model_sampling_crystal", "model_sampling_gas")
"""Stages of which there is one kind or the other: by CP2K, or by the model ``sampling_model``."""
BY_MODEL = "model_"
PROGRAMS = ("cp2k", "python", "i-pi")


class SublimationBuilderMixin(ProtocolMixin):
    """Gives the work chain ``get_builder_from_protocol`` and ``describe``."""

    _PROTOCOL_FILE = "sublimation.yaml"

    @classmethod
    def get_builder_from_protocol(
        cls,
        crystal: orm.StructureData,
        cp2k_code: orm.AbstractCode,
        python_code: orm.AbstractCode,
        ipi_code: orm.AbstractCode,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        foundation: MaceModelData | None = None,
        sampling_model: MaceModelData | None = None,
        temperature_K: float | None = None,  # noqa: N803 - the unit
        pressure_bar: float | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            crystal: molecular crystal, all molecules alike.
            cp2k_code: CP2K.
            python_code: a Python with MACE.
            ipi_code: i-PI.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/sublimation.yaml``; below a stage, in that of its own file.
            options: scheduler options by program: cp2k, python, i-pi.
            foundation: model to fine-tune, instead of the protocol's; training from scratch is asked for with the
                override ``foundation: null``.
            sampling_model: model whose dynamics the frames are taken from, instead of CP2K's; the sampling stages are
                then those of ``protocols/model_sampling.yaml``.
            temperature_K: temperature of all runs, and of the sampling where its overrides name no other.
            pressure_bar: pressure on the crystal, likewise.

        Raises:
            FramesError: a crystal without volume or periodicity, or with atoms too close to each other.
            MoleculesError: molecules that differ or are cut.
            ModelError: a foundation that does not know the crystal's elements.
            StudyError: an unknown protocol or input, or a value that cannot be.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        by_program = dict(options or {})
        if unknown := sorted(set(by_program) - set(PROGRAMS)):
            raise StudyError(f"unknown programs in the options: {unknown}; options are given by {list(PROGRAMS)}")
        atoms = crystal.get_ase()
        molecules = perceive_crystal(atoms)
        model = foundation
        if model is None and inputs["foundation"] is not None:
            model = load_foundation(inputs["foundation"])
        if model is not None:
            _check_knows(model, atoms.get_chemical_symbols())
        if sampling_model is None and inputs["sampling_model"] is not None:
            sampling_model = load_foundation(inputs["sampling_model"])
        AIIDA_LOGGER.report(
            f"sublimation of {molecules.n_molecules} x {molecules.formula} in {atoms.get_volume():.1f} cubic angstrom, "
            + ("training from scratch" if model is None else f"fine-tuning a foundation (sha256 {model.sha256[:12]})")
        )

        builder = cls.get_builder()
        builder.crystal = crystal
        if model is not None:
            builder.foundation = model
        if sampling_model is not None:
            builder.sampling_model = sampling_model
        structures = {"crystal": crystal, "gas": orm.StructureData(ase=gas_molecule(atoms))}
        state = {"temperature_K": temperature_K, "pressure_bar": pressure_bar}
        cp2k, python, ipi = (by_program.get(program) for program in PROGRAMS)

        def stage(name: str, *args: Any, scheduler: Mapping[str, Any] | None, **kwargs: Any) -> ProcessBuilder:
            chain, exclude = STAGES[name]
            settings = dict(inputs[name.removeprefix(BY_MODEL)])
            made = chain.get_builder_from_protocol(
                *args, protocol=settings.pop("protocol"), overrides=settings, options=scheduler, **kwargs
            )
            values = made._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
            setattr(builder, name, without(values, exclude))
            return made

        for phase, structure in structures.items():
            sampled = state_of_sampling(inputs[f"sampling_{phase}"], state)
            if sampling_model is None:
                stage(f"sampling_{phase}", cp2k_code, structure, scheduler=cp2k, **sampled)
            else:
                stage(f"{BY_MODEL}sampling_{phase}", ipi_code, structure, sampling_model, scheduler=ipi, **sampled)
        parameters = inputs["training"].get("parameters") or {}
        inputs["training"]["parameters"] = {"molecule": molecules.formula, **parameters}
        level = inputs["labelling"].get("level")
        own_level = {"level": inputs["labelling"].pop("level")} if isinstance(level, Mapping) else {}
        by_ase = bool(own_level) and level.get("engine") == "ase"
        labelling = stage(
            "labelling",
            python_code if by_ase else cp2k_code,
            None,
            scheduler=python if by_ase else cp2k,
            crystals=[crystal],
            **own_level,
        )
        stage(
            "training",
            python_code,
            None,
            labelling.level["key"],
            scheduler=python,
            foundation=model,
            mode=TrainingMode.SCRATCH if model is None else None,
        )
        for phase, structure in structures.items():
            stage(f"dynamics_{phase}", ipi_code, structure, None, scheduler=ipi, **state)
        if problem := validate_inputs(builder._inputs(prune=True)):  # noqa: SLF001 - the builder's own content
            raise StudyError(problem)
        warn_of_stress({"training": builder.training.parameters.get_dict()}, builder.dynamics_crystal.parameters)
        return builder

    @classmethod
    def describe(cls, builder: ProcessBuilder) -> str:
        """Return what a builder will do, a line for each stage."""
        molecules = perceive_crystal(builder.crystal.get_ase())
        lines = [f"crystal of {molecules.n_molecules} x {molecules.formula}"]
        n_frames = 0
        for phase in ("crystal", "gas"):
            if builder.sampling_model is None:
                chain = builder[f"sampling_{phase}"]
                told = f"{_md(chain.md)}, CP2K at {chain.level['key']}"
            else:
                chain = builder[f"{BY_MODEL}sampling_{phase}"]
                told = f"{_md(chain.dynamics.parameters)}, model with sha256 {builder.sampling_model.sha256[:12]}"
            lines.append(f"sampling, {phase}: {told}; {chain.selection['n_frames']} frames taken")
            n_frames += chain.selection["n_frames"]
        lines.append(f"labelling: {n_frames} frames at {builder.labelling.level['key']}")
        parameters = builder.training.parameters
        start = "from scratch"
        if builder.foundation is not None:
            start = f"of the foundation with sha256 {builder.foundation.sha256[:12]}"
        lines.append(
            f"training {start}: mode {parameters['mode']}, at most {parameters['max_num_epochs']} epochs on "
            f"{builder.training.level.value}"
        )
        lines += [f"dynamics, {phase}: {_md(builder[f'dynamics_{phase}'].parameters)}" for phase in ("crystal", "gas")]
        lines.append("averages: density, enthalpies of crystal and gas, sublimation enthalpy")
        return "\n".join(lines)


def state_of_sampling(settings: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state to sample at: that of the chain, without what the settings of the sampling have themselves.

    Frames from a hotter run than those that follow teach a model what lies around theirs. In fixed cells there is no
    pressure.
    """
    run = settings.get("md") or (settings.get("dynamics") or {}).get("parameters") or {}
    unused = {"pressure_bar"} if run.get("ensemble") in (Ensemble.NVE, Ensemble.NVT) else set()
    return {name: value for name, value in state.items() if run.get(name) is None and name not in unused}


def without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return nested inputs without some of them, which are named as in ``dynamics.model``."""
    return {
        key: without(value, {name.removeprefix(f"{key}.") for name in names if name.startswith(f"{key}.")})
        if isinstance(value, Mapping)
        else value
        for key, value in values.items()
        if key not in names
    }


def _md(settings: orm.Dict) -> str:
    values = settings.get_dict()
    text = f"{values['n_steps']} steps of {values['timestep_fs']} fs, {values['ensemble']}, {values['temperature_K']} K"
    return f"{text}, {values['pressure_bar']} bar" if "npt" in values["ensemble"] else text


def _check_knows(model: MaceModelData, elements: list[str]) -> None:
    """Refuse a foundation that does not know all elements; say how to train from scratch."""
    try:
        check_elements(elements, model.elements, "the foundation")
    except ModelError as error:
        raise ModelError(f"{error} (override `foundation: null`)") from None

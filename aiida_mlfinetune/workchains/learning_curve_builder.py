"""Builders of ``mlfinetune.learning_curve`` from protocols, and what they will do, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common.log import AIIDA_LOGGER
from aiida.engine import ProcessBuilder

from aiida_mlfinetune.common.enums import TrainingMode
from aiida_mlfinetune.common.errors import StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.sources import source_runs
from aiida_mlfinetune.science.datasets.splits import NestedSizes
from aiida_mlfinetune.workchains.learning_curve_modes import GIVEN, MODE_INPUTS
from aiida_mlfinetune.workchains.protocols import ProtocolMixin
from aiida_mlfinetune.workchains.training import TrainingWorkChain


class LearningCurveBuilderMixin(ProtocolMixin):
    """Gives the work chain ``get_builder_from_protocol`` and ``describe``."""

    _PROTOCOL_FILE = "learning_curve.yaml"

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        dataset: DatasetData | None,
        level: str,
        modes: Sequence[str] | Mapping[str, Mapping[str, Any]] = (TrainingMode.SCRATCH.value,),
        foundation: MaceModelData | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        sizes: str | Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
        target: Mapping[str, float] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with the inputs of a protocol.

        Args:
            code: a Python with MACE.
            dataset: labelled frames, of which all sets are made; None where another work chain fills them in.
            level: key of the level to train on.
            modes: names of modes; or, by a name of your choice, ``mode`` and other arguments of the training's builder
                (``foundation``, ``replay``, ``heads``, ``baseline``, and ``overrides`` of this mode alone).
            foundation: model to start from, for all modes that need one and name none of their own.
            protocol: demo, fast, balanced or kaur2025.
            overrides: in the layout of ``protocols/learning_curve.yaml``.
            options: scheduler options, laid over those of the protocol.
            sizes: of the training sets; or the name of published sizes, kaur2025 or caco3.
            seeds: of the trainings, each once.
            target: largest errors that will do, by quantity.

        Raises:
            StudyError: an unknown protocol, input or mode, a mode that lacks what it needs, a seed that is used twice.
            MlFinetuneError: frames that cannot be split as asked for, or trained on.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        split = _split(inputs["split"], sizes)
        builder = cls.get_builder()
        builder.level = orm.Str(level)
        if dataset is not None:
            builder.dataset = dataset
        runs = source_runs(dataset) if dataset is not None and split.get("min_separation") is None else {}
        if runs:
            builder.runs = runs
        named = _named_modes(modes, foundation)
        settings = dict(inputs["training"])
        own_protocol = settings.pop("protocol")
        try:
            builder.split = orm.Dict(split)
            builder.seeds = orm.List(list(inputs["seeds"] if seeds is None else seeds))
            builder.target = orm.Dict(dict(inputs["target"] if target is None else target))
            builder.max_concurrent = orm.Int(inputs["max_concurrent"])
            made: dict[str, dict[str, Any]] = {}
            for name, own in named.items():
                arguments = dict(own)
                training = TrainingWorkChain.get_builder_from_protocol(
                    code,
                    None,
                    level,
                    protocol=own_protocol,
                    overrides=_joined(settings, arguments.pop("overrides", None) or {}),
                    options=options,
                    **arguments,
                )
                values = training._inputs(prune=True)  # noqa: SLF001 - as aiida-quantumespresso nests builders
                made[name] = {key: value for key, value in values.items() if key in MODE_INPUTS}
                shared = {key: value for key, value in values.items() if key not in (*GIVEN, *MODE_INPUTS)}
            builder.modes = made
            builder.training = shared
        except TypeError as error:
            raise StudyError(f"a mode was given what no training takes: {error}") from error
        except ValueError as error:
            raise StudyError(str(error).removeprefix("invalid attribute value ")) from error
        if problem := cls.spec().inputs.validator(builder._inputs(prune=True), None):  # noqa: SLF001
            raise StudyError(problem)
        if dataset is not None:
            AIIDA_LOGGER.report(cls.describe(builder).replace("\n", "; "))
        return builder

    @classmethod
    def describe(cls, builder: ProcessBuilder) -> str:
        """Return what a builder will do, a line for each mode."""
        sizes = NestedSizes.from_dict(builder.split.get_dict())
        train, n_valid, n_test = sizes.counts(builder.dataset.n_frames)
        seeds = builder.seeds.get_list()
        count = len(builder.modes) * len(train) * len(seeds)
        modes, on, seeded = (", ".join(map(str, values)) for values in (sorted(builder.modes), train, seeds))
        held_out = f"{n_valid} frames for validation, {n_test} for the test, of {builder.dataset.n_frames}"
        lines = [
            f"{count} trainings at {builder.level.value}: {modes}; on {on} frames; seeds {seeded}",
            f"{held_out}; separation {_separation(sizes, builder.runs)}",
        ]
        for name in sorted(builder.modes):
            parameters = builder.modes[name]["parameters"].get_dict()
            start = builder.modes[name].get("foundation")
            lines.append(
                f"{name}: mode {parameters['mode']}, "
                + ("from nothing" if start is None else f"from the model with sha256 {start.sha256[:12]}")
                + f", at most {parameters.get('max_num_epochs')} epochs"
            )
        return "\n".join(lines)


def _split(given: Mapping[str, Any], sizes: str | Sequence[float] | None) -> dict[str, Any]:
    """Return the parameters of the split; a name of published sizes takes the place of those of the protocol."""
    if sizes is None:
        return dict(given)
    if isinstance(sizes, str):
        kept = {key: value for key, value in given.items() if key not in ("train", "valid", "test", "choice")}
        return {**kept, "choice": sizes}
    return {**given, "train": list(sizes)}


def _named_modes(
    modes: Sequence[str] | Mapping[str, Mapping[str, Any]], foundation: MaceModelData | None
) -> dict[str, dict[str, Any]]:
    """Return the arguments of the training's builder by the name of each mode.

    Raises:
        StudyError: no mode, one that is there twice, or an unknown one.
    """
    if isinstance(modes, str) or not modes:
        raise StudyError(f"'modes' must list at least one of {[mode.value for mode in TrainingMode]}, got {modes!r}")
    given: dict[str, Mapping[str, Any]]
    if isinstance(modes, Mapping):
        given = dict(modes)
    else:
        values = [getattr(mode, "value", mode) for mode in modes]
        if twice := sorted({mode for mode in values if values.count(mode) > 1}):
            raise StudyError(f"the modes {twice} are given twice: give names to what differs, as a mapping")
        given = {mode.replace("-", "_"): {"mode": mode} for mode in values}
    known = [mode.value for mode in TrainingMode]
    named = {}
    for name, own in given.items():
        mode = own.get("mode", name.replace("_", "-"))
        if mode not in known:
            raise StudyError(f"unknown training mode {mode!r}: choose from {known}")
        starts = foundation is not None and TrainingMode(mode).needs_foundation
        start = {"foundation": foundation} if starts else {}
        named[name] = {**start, **own, "mode": TrainingMode(mode)}
    return named


def _joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return two layers of overrides as one, the second laid over the first."""
    joined = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(joined.get(key), Mapping)
        joined[key] = _joined(joined[key], value) if both else value
    return joined


def _separation(sizes: NestedSizes, runs: Any) -> str:
    if sizes.min_separation is not None:
        return f"{sizes.min_separation} steps"
    return f"of the correlation time of {len(runs)} runs" if runs else "none, as the runs are not known"

"""What a round of a closed loop bought, and the frames that the next one trains on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlfinetune.common.errors import FramesError, StudyError
from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.observable import ObservableData
from aiida_mlfinetune.science.averages.thermodynamics import Estimate
from aiida_mlfinetune.science.conclusions.closed_loop import STOP, Budget, next_step, what_it_takes
from aiida_mlfinetune.science.conclusions.targets import PropertyTarget, Verdict, combine, judge, judged_quantities
from aiida_mlfinetune.science.datasets.frames import Frames

QUANTITIES = ("potential_energy", "density", "sublimation_enthalpy")


@calcfunction
def grown_dataset(level: orm.Str, **datasets: DatasetData) -> DatasetData:
    """Join frames with their labels at ``level`` alone, each frame once, in the alphabetical order of the names.

    Raises:
        FramesError: no frame with a label at ``level``.
    """
    parts = []
    for name in sorted(datasets):
        frames = datasets[name].frames
        for key in list(frames.labels_by_level):
            if key != level.value:
                frames = frames.without_level(key)
        if level.value in frames.labels_by_level:
            parts.append(frames.select(np.flatnonzero(frames.labels(level.value).has_energy)))
    if not parts or not sum(len(part) for part in parts):
        raise FramesError(f"none of the frames has an energy at {level.value!r}")
    joined = Frames.concatenate(parts)
    first: dict[str, int] = {}
    for index, content in enumerate(joined.content_hashes()):
        first.setdefault(content, index)
    return DatasetData(joined.select(sorted(first.values())))


@calcfunction
def judge_round(
    target: orm.Dict, budget: orm.Dict, dataset: DatasetData, before: orm.Dict, **averages: ObservableData
) -> orm.Dict:
    """Return what a round bought: its numbers, the verdict on them, and what is to be done next.

    ``averages`` are those at the reference level (``reference_average``), by quantity; ``dataset`` holds the frames
    that the round trained on; ``before`` is what this function returned of the round before, or only the number of
    frames labelled for the first one, as ``labels``. Entries: ``round`` (from 1), ``n_frames``, ``labels`` (so far),
    ``labels_of_round``, ``quantities`` (run, reference, difference, error, allowed, verdict of each), ``gained`` (how
    much smaller each difference became), ``verdict``, ``reliable``, ``n_effective``, ``spread_kT`` (largest standard
    deviation of the energy differences), ``history`` (``n_frames`` and ``spread_kT`` of all rounds so far), ``next``
    and ``reason``; where the loop ends without having met its target, ``outlook`` says what it would take.

    Raises:
        StudyError: no average that the target names.
    """
    wanted, spent = PropertyTarget.from_dict(target.get_dict()), Budget.from_dict(budget.get_dict())
    last = before.get_dict()
    quantities: dict[str, Any] = {}
    verdicts = []
    judged = judged_quantities(list(averages))
    for name in QUANTITIES:
        if name not in averages:
            continue
        one = averages[name]
        run, shift = one.details["run"], one.details["shift"]
        difference = Estimate(-shift["value"], math.inf if shift["error"] is None else shift["error"])
        row: dict[str, Any] = {
            "run": run,
            "reference": {"value": one.value, "error": one.error if math.isfinite(one.error) else None},
            "unit": one.unit,
            "difference": difference.value,
            "error": shift["error"],
        }
        allowed = wanted.allowed(name, one.value)
        if name in judged and allowed is not None:
            verdict = judge(difference, allowed)
            row |= {"allowed": allowed, "verdict": verdict.value}
            verdicts.append(verdict)
        quantities[name] = row
    if not verdicts:
        raise StudyError(f"the target names nothing of what was averaged: {sorted(averages)}")
    reliable = all(bool(one.details["reliable"]) for one in averages.values())
    verdict = combine(verdicts) if reliable else Verdict.UNDECIDED
    number = last.get("round", 0) + 1
    own = max(int(one.details["n_frames"]) for one in averages.values())
    labels = int(last["labels"]) + own
    step, reason = next_step(verdict, number, labels, own, spent)
    spread = max(float(one.details["spread_kT"]) for one in averages.values())
    history = [*last.get("history", []), {"n_frames": dataset.n_frames, "spread_kT": spread}]
    outlook = {}
    if step == STOP and verdict is not Verdict.MET:
        columns = ([row[name] for row in history] for name in ("n_frames", "spread_kT"))
        outlook = {"outlook": what_it_takes(*columns, min(int(one.details["n_frames"]) for one in averages.values()))}
    return orm.Dict(
        {
            "round": number,
            "n_frames": dataset.n_frames,
            "labels": labels,
            "labels_of_round": own,
            "quantities": quantities,
            "gained": {
                name: abs(last["quantities"][name]["difference"]) - abs(row["difference"])
                for name, row in quantities.items()
                if name in last.get("quantities", {})
            },
            "verdict": verdict.value,
            "reliable": reliable,
            "n_effective": min(float(one.details["n_effective"]) for one in averages.values()),
            "spread_kT": spread,
            "history": history,
            "next": step,
            "reason": reason,
            **outlook,
        }
    )

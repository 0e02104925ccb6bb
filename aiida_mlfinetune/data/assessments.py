"""Whether a model has been assessed, as the graph knows it."""

from __future__ import annotations

from aiida import orm

from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.data.observable import ObservableData

NAME = "assessment"
"""Name of the observable that is the verdict of ``mlfinetune.assess``."""


def latest_assessment(sha256: str) -> ObservableData | None:
    """Return the last verdict on the model with this checksum, whichever node holds the model; None without one."""
    query = orm.QueryBuilder().append(
        ObservableData,
        filters={"attributes.name": NAME, "attributes.conditions.model_sha256": sha256},
        tag="verdict",
    )
    found: ObservableData | None = query.order_by({"verdict": {"id": "desc"}}).first(flat=True)
    return found


def assessment_problem(model: MaceModelData) -> str | None:
    """Return what a user of a model must know who takes it for sound: no assessment, or a failed one; else None."""
    name = f"model {model.sha256[:8]}"
    verdict = latest_assessment(model.sha256)
    if verdict is None:
        own = "PK" if model.pk is None else str(model.pk)
        return f"{name} has not been assessed: `aiida-mlfinetune model assess {own}` does it"
    if verdict.details["passed"]:
        return None
    failed = [check for check in verdict.details["checks"] if check["passed"] is False]
    names = ", ".join(f"{check['name']} {check['of']}".strip() for check in failed)
    n_judged = verdict.details["n_judged"]
    return f"{name} failed {len(failed)} of {n_judged} checks ({names}) in its assessment <{verdict.pk}>"

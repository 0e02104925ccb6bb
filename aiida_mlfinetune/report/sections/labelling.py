"""The labels at the target level: how many, and which failed."""

from __future__ import annotations

from typing import Any

from aiida import orm

from aiida_mlfinetune.report.graph import chains, jobs, role
from aiida_mlfinetune.report.page import Section, Table

__all__ = ("labelling_section",)

HEADER = ("run", "system", "level", "method", "frames asked for", "labelled", "failed", "jobs")
MOST_FAILURES = 20


def labelling_section(node: orm.ProcessNode) -> Section:
    """Return the section about all labelling runs of a process."""
    rows, warnings = [], []
    for chain in chains(node, "labelling"):
        level = chain.inputs.level.get_dict() if "level" in chain.inputs else {}
        failed = chain.outputs.failed.get_dict() if "failed" in chain.outputs else {}
        rows.append(_row(chain, level, failed))
        warnings += [f"{role(chain) or chain.pk}, frame {index}: {_reason(why)}" for index, why in failed.items()]
    if len(warnings) > MOST_FAILURES:
        warnings = [*warnings[:MOST_FAILURES], f"and {len(warnings) - MOST_FAILURES} more failures"]
    return Section(
        title="Labels",
        paragraphs=("A frame that failed is left out and named; the others are kept.",) if warnings else (),
        tables=(Table(HEADER, tuple(rows)),) if rows else (),
        warnings=tuple(warnings),
    )


def _row(chain: orm.ProcessNode, level: dict[str, Any], failed: dict[str, Any]) -> tuple[str, ...]:
    asked = chain.inputs.dataset
    done = chain.outputs.dataset.n_frames if "dataset" in chain.outputs else 0
    method = ", ".join(str(level[name]) for name in ("method", "basis") if level.get(name))
    return (
        f"{role(chain) or 'labelling'} ({chain.pk})",
        ", ".join(asked.base.attributes.get("formulas")),
        str(level.get("key", "–")),
        method or "–",
        str(asked.n_frames),
        str(done),
        str(len(failed)),
        str(len(jobs(chain))),
    )


def _reason(value: Any) -> str:
    return str(value.get("reason", value)) if isinstance(value, dict) else str(value)

"""Whether a process ended well, in words."""

from __future__ import annotations

from aiida import orm

__all__ = ("state_of",)


def state_of(process: orm.ProcessNode) -> str:
    """Return what is missing of a process and why; empty for one that ended well."""
    if process.is_finished_ok:
        return ""
    if process.is_terminated:
        reason = process.exit_message or (process.exception or "").strip().splitlines()[-1:] or process.process_state
        return f"The run failed: {reason}. The page shows what there is."
    return "The run has not ended. The page shows what there is so far."

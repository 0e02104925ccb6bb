"""The molecular dynamics that frames were taken from: with CP2K, or with a model."""

from __future__ import annotations

from typing import Any

from aiida import orm

from aiida_mlfinetune.report.graph import chains, role
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.trajectories import md_figure
from aiida_mlfinetune.report.text import number

__all__ = ("sampling_section",)

KINDS = {
    "sampling": "Frames come from ab initio molecular dynamics with CP2K.",
    "model_sampling": "Frames come from molecular dynamics with a model.",
}
HEADER = ("run", "system", "level", "ensemble", "T / K", "p / bar", "steps", "time step / fs", "frames taken")


def sampling_section(node: orm.ProcessNode) -> Section:
    """Return the section about all sampling runs of a process."""
    rows, figures, paragraphs = [], [], []
    for name, text in KINDS.items():
        found = chains(node, name)
        paragraphs += [text] if found else []
        rows += [_row(chain) for chain in found]
        figures += [_figure(chain) for chain in found if "properties" in chain.outputs]
    return Section(
        title="Sampling",
        paragraphs=tuple(paragraphs),
        tables=(Table(HEADER, tuple(rows)),) if rows else (),
        figures=tuple(figures),
    )


def _run(chain: orm.ProcessNode) -> tuple[orm.StructureData, dict[str, Any], str]:
    """Return what was run, with which settings, by what."""
    if "dynamics" in chain.inputs:
        own = chain.inputs.dynamics
        return own.structure, own.parameters.get_dict(), f"model {own.model.sha256[:8]}"
    level = chain.inputs.level.get_dict() if "level" in chain.inputs else {}
    md = chain.inputs.md.get_dict() if "md" in chain.inputs else {}
    return chain.inputs.structure, md, str(level.get("method", level.get("key", "–")))


def _row(chain: orm.ProcessNode) -> tuple[str, ...]:
    structure, md, by = _run(chain)
    periodic = any(structure.pbc)
    taken = number(chain.outputs.dataset.n_frames) if "dataset" in chain.outputs else "none"
    return (
        f"{role(chain) or 'sampling'} ({chain.pk})",
        structure.get_formula(mode="hill") + ("" if periodic else ", gas"),
        by,
        str(md.get("ensemble", "–")),
        number(md.get("temperature_K")),
        number(md.get("pressure_bar") if "npt" in str(md.get("ensemble")) else None),
        number(md.get("n_steps")),
        number(md.get("timestep_fs")),
        taken,
    )


def _figure(chain: orm.ProcessNode) -> Figure:
    structure, md, by = _run(chain)
    svg = md_figure(
        chain.outputs.properties,
        f"sampling{chain.pk}",
        len(structure.sites),
        md.get("temperature_K"),
    )
    who = "MD with a model" if by.startswith("model ") else "CP2K MD"
    return Figure(svg, f"{who} of {structure.get_formula(mode='hill')} ({role(chain) or chain.pk}).")

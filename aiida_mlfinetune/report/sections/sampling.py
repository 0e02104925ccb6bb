"""The ab initio MD that frames were taken from."""

from __future__ import annotations

from typing import Any

from aiida import orm

from aiida_mlfinetune.report.graph import chains, role
from aiida_mlfinetune.report.page import Figure, Section, Table
from aiida_mlfinetune.report.sections.trajectories import md_figure
from aiida_mlfinetune.report.text import number

__all__ = ("sampling_section",)

HEADER = ("run", "system", "level", "ensemble", "T / K", "p / bar", "steps", "time step / fs", "frames taken")


def sampling_section(node: orm.ProcessNode) -> Section:
    """Return the section about all sampling runs of a process."""
    rows, figures = [], []
    for chain in chains(node, "sampling"):
        rows.append(_row(chain))
        if "properties" in chain.outputs:
            figures.append(_figure(chain))
    return Section(
        title="Sampling",
        paragraphs=("Frames come from ab initio molecular dynamics with CP2K.",) if rows else (),
        tables=(Table(HEADER, tuple(rows)),) if rows else (),
        figures=tuple(figures),
    )


def _settings(chain: orm.ProcessNode, name: str) -> dict[str, Any]:
    return chain.inputs[name].get_dict() if name in chain.inputs else {}


def _row(chain: orm.ProcessNode) -> tuple[str, ...]:
    md, level = _settings(chain, "md"), _settings(chain, "level")
    periodic = any(chain.inputs.structure.pbc)
    taken = number(chain.outputs.dataset.n_frames) if "dataset" in chain.outputs else "none"
    return (
        f"{role(chain) or 'sampling'} ({chain.pk})",
        chain.inputs.structure.get_formula(mode="hill") + ("" if periodic else ", gas"),
        str(level.get("method", level.get("key", "–"))),
        str(md.get("ensemble", "–")),
        number(md.get("temperature_K")),
        number(md.get("pressure_bar") if "npt" in str(md.get("ensemble")) else None),
        number(md.get("n_steps")),
        number(md.get("timestep_fs")),
        taken,
    )


def _figure(chain: orm.ProcessNode) -> Figure:
    structure = chain.inputs.structure
    svg = md_figure(
        chain.outputs.properties,
        f"sampling{chain.pk}",
        len(structure.sites),
        _settings(chain, "md").get("temperature_K"),
    )
    return Figure(svg, f"CP2K MD of {structure.get_formula(mode='hill')} ({role(chain) or chain.pk}).")

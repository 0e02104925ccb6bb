"""Every process behind a result, the codes it used and their versions."""

from __future__ import annotations

from collections import Counter

from aiida import orm

from aiida_mlfinetune.report.graph import called, jobs, role
from aiida_mlfinetune.report.page import Section, Table

__all__ = ("citation_section", "codes_section", "processes_section")

CITATIONS = (
    "AiiDA: Huber et al., Sci. Data 7, 300 (2020), 10.1038/s41597-020-00638-4.",
    "AiiDA engine: Uhrin et al., Comput. Mater. Sci. 187, 110086 (2021), 10.1016/j.commatsci.2020.110086.",
    "CP2K: Kühne et al., J. Chem. Phys. 152, 194103 (2020), 10.1063/5.0007045.",
    "GFN1-xTB: Grimme et al., J. Chem. Theory Comput. 13, 1989 (2017), 10.1021/acs.jctc.7b00118.",
    "MACE: Batatia et al., NeurIPS 35, 11423 (2022), arXiv:2206.07697.",
    "i-PI: Litman et al., J. Chem. Phys. 161, 062504 (2024), 10.1063/5.0215869.",
    "Errors of means: Geyer, Statist. Sci. 7, 473 (1992); Wolff, Comput. Phys. Commun. 156, 143 (2004).",
)


def processes_section(node: orm.ProcessNode) -> Section:
    """Return a table of the process and all that it called, indented by depth."""
    rows = [_row(0, node)] + [_row(depth, child) for depth, child in called(node)]
    header = ("process", "role", "pk", "uuid", "state", "wall time")
    return Section(
        title="Processes",
        paragraphs=("`verdi process show PK` and `verdi node graph generate PK` show any of them in full.",),
        tables=(Table(header, tuple(rows)),),
    )


def _row(depth: int, node: orm.ProcessNode) -> tuple[str, ...]:
    if node.is_finished_ok:
        state = "from cache" if node.base.caching.is_created_from_cache else "done"
    elif node.is_terminated:
        state = f"failed [{node.exit_status}] {node.exit_message or ''}".strip()
    else:
        state = node.process_state.value if node.process_state else "created"
    seconds = (node.mtime - node.ctime).total_seconds()
    indent = "\u2003" * depth  # wide spaces, which HTML keeps
    return (
        indent + (node.process_label or type(node).__name__),
        role(node),
        str(node.pk),
        node.uuid,
        state,
        f"{seconds:.0f} s",
    )


def codes_section(node: orm.ProcessNode) -> Section:
    """Return a table of the codes with what they stand for, and of the versions of the plugins."""
    used: Counter[int] = Counter()
    codes: dict[int, orm.AbstractCode] = {}
    versions: dict[str, set[str]] = {}
    for job in jobs(node):
        if "code" in job.inputs:
            codes[job.inputs.code.pk] = job.inputs.code
            used[job.inputs.code.pk] += 1
        for name, version in (job.base.attributes.get("version", None) or {}).items():
            plugin = "aiida-core" if name == "core" else (job.process_type or "").partition(":")[2] or job.process_label
            versions.setdefault(plugin, set()).add(str(version))
    rows = tuple(
        (code.full_label, str(code.filepath_executable), str(used[pk]), code.uuid)
        for pk, code in codes.items()
        if isinstance(code, orm.InstalledCode)
    )
    tables = [Table(("code", "executable", "jobs", "uuid"), rows)] if rows else []
    programs = tuple((level, version) for level, version in sorted(_program_versions(node)))
    if programs:
        tables.append(Table(("level", "program and version"), programs))
    if versions:
        plugins = tuple((name, ", ".join(sorted(found))) for name, found in sorted(versions.items()))
        tables.append(Table(("plugin", "version"), plugins))
    return Section("Codes and versions", tables=tuple(tables))


def _program_versions(node: orm.ProcessNode) -> set[tuple[str, str]]:
    """Return the levels of all datasets that were made, with the program that they name."""
    found = set()
    for _, process in called(node):
        for output in process.base.links.get_outgoing().all_nodes():
            levels = output.base.attributes.get("levels", None) if isinstance(output, orm.Data) else None
            for key, content in (levels or {}).items():
                level = content.get("level", {}) if isinstance(content, dict) else {}
                if version := " ".join(str(level[name]) for name in ("code", "code_version") if level.get(name)):
                    found.add((key, version))
    return found


def citation_section() -> Section:
    """Return what to cite."""
    return Section(
        title="How to cite",
        paragraphs=("Please cite the programs and methods behind these numbers.",),
        lines=CITATIONS,
    )

"""The model card: all that is needed to cite a model and to make it again, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from aiida_mlfinetune.science.models.history import BASELINE, DatasetRecord, ModelHistory, error_values, text_of
from aiida_mlfinetune.science.models.official import Licence
from aiida_mlfinetune.science.references import level_references, program_references

__all__ = ("model_card",)


def model_card(
    history: ModelHistory, files: Mapping[str, str], licences: Mapping[str, Licence], version: str = ""
) -> str:
    """Return the card of a model.

    Args:
        history: how it was made.
        files: sha256 of each file beside the card, by name; the first one is the model.
        licences: what is known of licences, by short name.
        version: of this package that writes the card.
    """
    model_file = next(iter(files))
    parts = [
        f"# {history.name}",
        _summary(history),
        "## The file",
        _table(("", ""), _file_rows(history, model_file)),
        "## Level of theory",
        _levels(history),
        "## How it was made",
        _making(history),
        "## Data and splits",
        _data(history, files),
        "## Errors",
        _errors(history),
        "## Reference energies",
        _reference_energies(history),
        "## Models it was made from",
        _parents(history),
        "## Licence",
        _licence(history, licences),
        "## Use it",
        _usage(history, model_file),
        "## Make it again",
        _again(history, files),
        "## Files",
        _table(("file", "sha256"), [(f"`{name}`", f"`{digest}`") for name, digest in files.items()]),
        "## References",
        _references(history),
    ]
    if version:
        parts.append(f"Written by aiida-mlfinetune {version}.")
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _yaml(values: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(values), sort_keys=True, allow_unicode=True, width=100)
    return f"```yaml\n{text}```"


def _summary(history: ModelHistory) -> str:
    passport = history.passport
    levels = text_of(list(passport.levels.values())) or "a level of theory that is not stated"
    start = "" if passport.parent_sha256 is None else ", fine-tuned from another model"
    text = (
        f"A MACE potential for {' '.join(passport.elements)}, trained on {levels}{start}. "
        "It is good for what its data cover, and untested elsewhere."
    )
    if baseline := history.baseline_sha256:
        text += f"\n\n**Not to be used alone:** {BASELINE.format(sha256=f'`{baseline}`')}; forces and stress likewise."
    return text


def _file_rows(history: ModelHistory, model_file: str) -> list[tuple[str, str]]:
    passport = history.passport
    rows = [
        ("file", f"`{model_file}`"),
        ("sha256", f"`{passport.sha256}`"),
        ("architecture", str(passport.architecture.get("class", "unknown"))),
        ("cutoff", f"{passport.r_max} Å"),
        ("parameters", f"{passport.n_parameters}, {passport.dtype}"),
        ("elements", " ".join(passport.elements)),
        ("heads", ", ".join(f"`{head}`" for head in passport.heads)),
        ("mace-torch", passport.mace_version or "unknown"),
    ]
    rows += [
        (name.replace("_", " "), text_of(value))
        for name, value in passport.architecture.items()
        if name != "class" and value is not None
    ]
    if history.uuid:
        rows.append(("node", f"`{history.uuid}`"))
    return rows


def _levels(history: ModelHistory) -> str:
    passport, known = history.passport, history.levels()
    rows = []
    for head in passport.heads:
        key = passport.levels.get(head, "")
        level = known.get(key, {})
        program = " ".join(text for text in (level.get("code", ""), level.get("code_version", "")) if text)
        row = [str(level.get(name, "")) for name in ("method", "basis", "energy")]
        rows.append((f"`{head}`", f"`{key}`" if key else "not stated", *row, program))
    parts = [_table(("head", "level", "method", "basis", "energy", "program"), rows)]
    for key, level in known.items():
        if level.get("settings"):
            parts += [f"What else defines `{key}`:", _yaml(level["settings"])]
    return "\n\n".join(parts)


def _making(history: ModelHistory) -> str:
    parts = []
    if (process := history.process) is None:
        parts.append(f"{history.origin.capitalize()}; how it was trained is not in the graph.")
    else:
        rows = [("process", f"{process.name} ({process.entry_point or 'no entry point'}), `{process.uuid}`")]
        rows += [("part of", part) for part in process.parts_of]
        rows += [("outcome", process.outcome), ("started", process.date), ("code", process.code)]
        rows += [(name, found) for name, found in process.versions.items()]
        rows += [("epochs", str(process.epochs))] if process.epochs is not None else []
        parts.append(_table(("", ""), [row for row in rows if row[1]]))
    parts.append(f"Seeds: {text_of(history.passport.seeds) or 'none'}.")
    if history.settings:
        parts += ["Inputs:", _yaml(history.settings)]
    return "\n\n".join(parts)


def _data(history: ModelHistory, files: Mapping[str, str]) -> str:
    if not history.datasets:
        return "Not in the graph."
    rows = [_data_row(dataset, files) for dataset in history.datasets]
    header = ("set", "frames", "formulas", "labels: energies, forces, stresses", "content hash", "made by", "file")
    return _table(header, rows) + (
        "\n\nFiles are extended XYZ with every level under its own name; units are eV, eV/Å and eV/Å³, a stress is "
        "positive under tension."
    )


def _data_row(dataset: DatasetRecord, files: Mapping[str, str]) -> tuple[str, ...]:
    formulas = ", ".join(f"{count} × {formula}" for formula, count in dataset.formulas.items())
    labels = "; ".join(
        f"`{key}`: {', '.join(str(entry['counts'][kind]) for kind in ('energy', 'forces', 'stress'))}"
        for key, entry in dataset.levels.items()
    )
    name = f"{dataset.role}.xyz"
    return (
        dataset.role,
        str(dataset.n_frames),
        formulas,
        labels,
        f"`{dataset.content_hash[:16]}`",
        dataset.made_by,
        f"`{name}`" if name in files else "",
    )


def _errors(history: ModelHistory) -> str:
    errors = error_values(history.passport.errors)
    if not errors:
        return "None are recorded."
    rows = [(f"`{head}`", name, measure, f"{value:.4g}") for (head, name, measure), value in errors.items()]
    return "Of the finished model on whole sets; `percent` is of the spread of the reference.\n\n" + _table(
        ("head", "set", "measure", "value"), rows
    )


def _reference_energies(history: ModelHistory) -> str:
    passport = history.passport
    rows = [
        (f"`{head}`", element, f"{passport.e0s[head][element]:.9f}")
        for head in passport.heads
        for element in passport.elements
    ]
    return "As they are in the file.\n\n" + _table(("head", "element", "E0 (eV)"), rows)


def _parents(history: ModelHistory) -> str:
    rows = [
        (
            role,
            parent.name,
            f"`{parent.passport.sha256}`",
            text_of(list(parent.passport.levels.values())) or "not stated",
            text_of(parent.passport.seeds),
            parent.licence or "not stated",
            parent.origin,
        )
        for role, parent in history.ancestors()
    ]
    if rows:
        return _table(("role", "model", "sha256", "level", "seeds", "licence", "origin"), rows)
    if history.passport.parent_sha256 is not None:
        return f"One with sha256 `{history.passport.parent_sha256}`, which is not in the graph."
    return "None: it was trained from random weights, or nothing is known."


def _licence(history: ModelHistory, licences: Mapping[str, Licence]) -> str:
    lines = [f"Of this file: {history.licence or 'not stated; who gives it away has to say it'}."]
    for role, parent in history.ancestors():
        lines.append(f"Of {parent.name} ({role}), which it was made from: {parent.licence or 'not stated'}.")
    names = {history.licence, *(parent.licence for _, parent in history.ancestors())}
    for name in sorted(names & set(licences)):
        licence = licences[name]
        lines.append(f"{name} is the {licence.title}, {licence.address}.")
        if not licence.commercial:
            lines.append("It does not allow commercial use.")
        if licence.reciprocal:
            lines.append("What is derived from a model under it, such as this one, may be passed on under it only.")
    return "\n".join(lines)


def _usage(history: ModelHistory, model_file: str) -> str:
    passport = history.passport
    return (
        "A model file is a Python pickle: opening it runs the code in it, so compare its checksum first.\n\n"
        "```python\n"
        "from mace.calculators import MACECalculator\n\n"
        f"calculator = MACECalculator(\n    model_paths={model_file!r}, head={passport.heads[-1]!r}, "
        f"default_dtype={passport.dtype!r}\n)\n"
        "```\n\n"
        f"In AiiDA: `aiida-mlfinetune model import {model_file} --trust`."
    )


def _again(history: ModelHistory, files: Mapping[str, str]) -> str:
    if history.process is None:
        return "What it takes is not in the graph."
    lines = []
    if "mace.yaml" in files:
        lines.append(
            "`mace.yaml` is the input file of `mace_run_train` that this model was trained with; it reads `train.xyz` "
            "and `valid.xyz` with MACE's keys (`aiida-mlfinetune dataset export PK train.xyz --format mace`). A model "
            "that it names as foundation is the parent above, with this model's reference energies written into it."
        )
    lines.append(
        f"In AiiDA, the process `{history.process.uuid}` holds every input: `verdi archive create --nodes "
        f"{history.uuid or history.process.uuid} -- model.aiida` writes the graph behind this model, and "
        "`get_builder_restart()` of that process starts it again with the same inputs and seeds."
    )
    return "\n".join(lines)


def _references(history: ModelHistory) -> str:
    found = [*history.references, *program_references(), *level_references(history.levels().values())]
    for _, parent in history.ancestors():
        found += [*parent.references, *level_references(parent.levels().values())]
        keys = [{"key": key} for key in parent.passport.levels.values()] if not parent.references else []
        found += level_references(keys)
    if not history.levels():
        found += level_references({"key": key} for key in history.passport.levels.values())
    return "\n".join(f"- {citation}" for citation in dict.fromkeys(found))

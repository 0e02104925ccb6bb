"""How a model was made, as plain data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiida_mlfinetune.science.models.passport import Passport

__all__ = (
    "DatasetRecord",
    "ModelHistory",
    "ProcessRecord",
    "columns",
    "error_values",
    "flat",
    "history_text",
    "text_of",
)

KINDS = ("energy", "forces", "stress")
BASELINE = "this model is a difference: its energies count together with those of the model {sha256}"


@dataclass(frozen=True)
class ProcessRecord:
    """The process that made a model.

    Attributes:
        name: of its class.
        identifier: its number in the database it was made in.
        uuid: which is the same in every database.
        entry_point: such as ``aiida.calculations:mlfinetune.mace_train``; empty where there is none.
        parts_of: the work chains around it, the innermost first.
        versions: of the programs, as far as they were recorded.
        code: label of the code.
        date: when it was started, ISO.
        outcome: how it ended.
        epochs: how many epochs the training took, None if it recorded none.
    """

    name: str
    identifier: str
    uuid: str = ""
    entry_point: str = ""
    parts_of: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    date: str = ""
    outcome: str = ""
    epochs: int | None = None


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset that a model was made from.

    Attributes:
        role: what it was used as, such as ``train``.
        identifier: its number in the database.
        uuid: which is the same in every database.
        n_frames: number of frames.
        formulas: how many frames there are of each formula.
        content_hash: of the frames with all labels.
        levels: by key: ``level`` (metadata) and ``counts`` of labels by kind.
        frame_hashes: of each frame, without labels; empty where they were not asked for.
        made_by: what made it.
    """

    role: str
    identifier: str
    uuid: str
    n_frames: int
    formulas: Mapping[str, int]
    content_hash: str
    levels: Mapping[str, Mapping[str, Any]]
    frame_hashes: tuple[str, ...] = ()
    made_by: str = ""


@dataclass(frozen=True)
class ModelHistory:
    """A model, and all that it was made from.

    Attributes:
        name: how to call it.
        passport: what the file is.
        origin: where it comes from, in words.
        licence: short name of its own licence; empty where none is stated.
        process: that made it; None for a file that was imported, fetched or shipped.
        settings: the values among the inputs of that process, by name; what the passport tells where there is none.
        datasets: that it was made from.
        parents: models that it was made from, by role.
        references: what to cite for the model itself.
        uuid: of its node; empty where there is none.
    """

    name: str
    passport: Passport
    origin: str
    licence: str = ""
    process: ProcessRecord | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[DatasetRecord, ...] = ()
    parents: tuple[tuple[str, ModelHistory], ...] = ()
    references: tuple[str, ...] = ()
    uuid: str = ""

    @property
    def baseline_sha256(self) -> str:
        """Checksum of the model that this one is a difference from; empty where it is none."""
        baseline = self.passport.settings.get("baseline")
        return str(baseline.get("sha256") or "") if isinstance(baseline, Mapping) else ""

    def levels(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of every level that the model was trained on and the data describe, by key."""
        wanted = set(self.passport.levels.values())
        return {
            key: dict(entry["level"])
            for dataset in self.datasets
            for key, entry in dataset.levels.items()
            if key in wanted
        }

    def ancestors(self) -> Iterator[tuple[str, ModelHistory]]:
        """Yield the models that it was made from, and those that these were made from, each once, by role."""
        seen = {self.passport.sha256}
        pending = list(self.parents)
        while pending:
            role, parent = pending.pop(0)
            if parent.passport.sha256 in seen:
                continue
            seen.add(parent.passport.sha256)
            yield role, parent
            pending += [(f"{deeper} of {role}", ancestor) for deeper, ancestor in parent.parents]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with the names joined by dots."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, entry in value.items():
        found |= flat(entry, f"{prefix}.{name}" if prefix else str(name))
    return found


def error_values(errors: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
    """Return errors by head, set and measure; counts and spreads of the reference are left out."""
    found = {}
    for head, sets in errors.items():
        for name, values in sets.items():
            for measure, value in flat(values).items():
                last = measure.rsplit(".", 1)[-1]
                if isinstance(value, bool) or not isinstance(value, int | float) or last.startswith("n_"):
                    continue
                if "_std_" not in f"_{last}":
                    found[head, name, measure] = float(value)
    return found


def text_of(value: Any) -> str:
    """Return a value for a reader: numbers with six digits, lists with commas."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(text_of(entry) for entry in value)
    return str(value)


def columns(rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Return rows of equal length as lines with aligned columns."""
    table = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))] if table else []
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    ]


def history_text(history: ModelHistory) -> str:
    """Return how exactly a model was made, as text for the terminal."""
    passport = history.passport
    lines = [f"{history.name}, {history.origin}" if history.origin else history.name]
    architecture = passport.architecture.get("class", "unknown")
    lines += columns(
        [
            ("sha256", passport.sha256),
            ("Licence", _licence(history)),
            ("Architecture", f"{architecture}, cutoff {passport.r_max} angstrom"),
            ("Parameters", f"{passport.n_parameters}, {passport.dtype}, mace {passport.mace_version or 'unknown'}"),
            ("Parent", passport.parent_sha256 or "none"),
            ("Seeds", text_of(passport.seeds) or "none"),
            *([("Baseline", BASELINE.format(sha256=history.baseline_sha256))] if history.baseline_sha256 else []),
        ]
    )
    lines += ["", "Heads"]
    rows = [("head", "level", "element", "E0 (eV)")]
    for head in passport.heads:
        level = passport.levels.get(head, "unknown")
        rows += [(head, level, element, f"{passport.e0s[head][element]:.6f}") for element in passport.elements]
    lines += columns(rows, "  ")
    lines += _making(history)
    for role, parent in history.ancestors():
        lines += [
            "",
            f"Parent model: {role}",
            f"  {parent.name}, {parent.origin}",
            f"  sha256 {parent.passport.sha256}",
        ]
        lines += [f"  level {text_of(list(parent.passport.levels.values())) or 'unknown'}"]
        lines += [f"  licence {parent.licence or 'not stated'}"]
        lines += ["  " + line for line in _making(parent) if line]
    errors = error_values(passport.errors)
    if errors:
        lines += ["", "Errors"]
        rows = [("head", "set", "measure", "value")]
        lines += columns(rows + [(*key, f"{value:.4g}") for key, value in errors.items()], "  ")
    return "\n".join(lines)


def _licence(history: ModelHistory) -> str:
    inherited = dict.fromkeys(parent.licence for _, parent in history.ancestors() if parent.licence)
    own = history.licence or "not stated"
    return own if not inherited else f"{own}; of what it was made from: {text_of(list(inherited))}"


def _making(history: ModelHistory) -> list[str]:
    """Return the lines about process, inputs, data and levels."""
    lines: list[str] = []
    if (process := history.process) is not None:
        rows = [("process", f"{process.name} <{process.identifier}> {process.outcome}".rstrip())]
        rows += [("part of", part) for part in process.parts_of]
        rows += [("started", process.date)] if process.date else []
        rows += [("code", process.code)] if process.code else []
        rows += [("versions", ", ".join(f"{name} {version}" for name, version in process.versions.items()))]
        rows += [("epochs", str(process.epochs))] if process.epochs is not None else []
        lines += ["", "Made by", *columns(rows, "  ")]
    if history.settings:
        title = "Inputs" if history.process is not None else "What its passport tells about the training"
        rows = [(name, text_of(value)) for name, value in sorted(flat(history.settings).items())]
        lines += ["", title, *columns(rows, "  ")]
    if history.datasets:
        lines += ["", "Data", *columns(_data_rows(history.datasets), "  ")]
    for key, level in history.levels().items():
        shown = {name: level.get(name, "") for name in ("method", "basis", "energy", "code", "code_version")}
        rows = [(name.replace("_", " "), text_of(value)) for name, value in shown.items() if value]
        lines += ["", f"Level {key}", *columns(rows, "  ")]
    return lines


def _data_rows(datasets: Iterable[DatasetRecord]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("set", "node", "frames", "formulas", "labels (energies, forces, stresses)", "hash")]
    for dataset in datasets:
        formulas = ", ".join(f"{count} x {formula}" for formula, count in dataset.formulas.items())
        labels = "; ".join(
            f"{key} ({', '.join(str(entry['counts'][kind]) for kind in KINDS)})"
            for key, entry in dataset.levels.items()
        )
        row = (dataset.role, dataset.identifier, str(dataset.n_frames), formulas, labels or "none")
        rows.append((*row, dataset.content_hash[:12]))
    return rows

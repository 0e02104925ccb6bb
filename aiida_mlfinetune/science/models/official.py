"""The table of foundation models that the authors of MACE released: what, where, and under which licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from aiida_mlfinetune.common.errors import ModelError

__all__ = ("Licence", "OfficialModel", "read_official_models")

SHARED = {"title", "method", "level", "levels", "dataset", "n_elements", "elements", "licence", "references", "note"}
OWN = {"url", "mace", "note", "sha256"}


@dataclass(frozen=True)
class Licence:
    """A licence, as far as it tells what a user must know before using a model.

    Attributes:
        name: short name, such as ``ASL``.
        title: full name.
        commercial: whether commercial use is allowed; a licence that forbids it has to be accepted.
        reciprocal: whether what is derived from the model, such as a fine-tuned one, is under this licence too.
        address: of the text.
    """

    name: str
    title: str
    commercial: bool
    reciprocal: bool
    address: str


@dataclass(frozen=True)
class OfficialModel:
    """A foundation model in an official release.

    Attributes:
        name: such as ``mace-mp-0-medium``.
        title: as its authors call it, with the size.
        method: level of theory in words.
        levels: key of the level of theory by head; the key of a file with one head stands under ``""``.
        dataset: what it was trained on.
        n_elements: how many elements it knows.
        elements: which, where a source lists them; empty otherwise.
        licence: under which it was released.
        url: address of the file.
        sha256: of the file, where an official source states it; empty otherwise.
        mace_name: by which MACE itself knows the file; empty where it has none.
        references: what to cite.
        note: what to know before using it.
    """

    name: str
    title: str
    method: str
    levels: Mapping[str, str]
    dataset: str
    n_elements: int
    elements: tuple[str, ...]
    licence: Licence
    url: str
    sha256: str
    mace_name: str
    references: tuple[str, ...]
    note: str

    @property
    def filename(self) -> str:
        """Name of the file in the release."""
        return urlsplit(self.url).path.rsplit("/", 1)[-1]

    def levels_of(self, heads: list[str]) -> dict[str, str]:
        """Return the level key of each head of the file, as far as it is known."""
        if "" in self.levels:
            return {heads[0]: self.levels[""]} if len(heads) == 1 else {}
        return {head: self.levels[head] for head in heads if head in self.levels}


def read_official_models(path: Path) -> dict[str, OfficialModel]:
    """Return the models of a table by name.

    Raises:
        ModelError: an entry that is unknown, missing, or refers to a licence or reference that is not in the table.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    licences = {name: Licence(name=name, **entry) for name, entry in content["licences"].items()}
    table: dict[str, OfficialModel] = {}
    for family, entry in content["families"].items():
        shared = {key: value for key, value in entry.items() if key != "files"}
        for size, own in entry["files"].items():
            name = f"{family}-{size}"
            if unknown := (set(shared) - SHARED) | (set(own) - OWN):
                raise ModelError(f"the entry {name!r} of {path.name} holds unknown names: {sorted(unknown)}")
            try:
                table[name] = _model(name, size, shared, own, licences, content["references"])
            except KeyError as error:
                raise ModelError(f"the entry {name!r} of {path.name} lacks or does not know {error}") from error
    return table


def _model(
    name: str,
    size: str,
    shared: Mapping[str, Any],
    own: Mapping[str, Any],
    licences: Mapping[str, Licence],
    references: Mapping[str, str],
) -> OfficialModel:
    return OfficialModel(
        name=name,
        title=f"{shared['title']} {size}",
        method=shared["method"],
        levels={"": shared["level"]} if "level" in shared else dict(shared["levels"]),
        dataset=shared["dataset"],
        n_elements=shared["n_elements"],
        elements=tuple(shared.get("elements", ())),
        licence=licences[shared["licence"]],
        url=own["url"],
        sha256=own.get("sha256", ""),
        mace_name=own.get("mace", ""),
        references=tuple(references[key] for key in shared["references"]),
        note=" ".join(text for text in (shared.get("note", ""), own.get("note", "")) if text),
    )

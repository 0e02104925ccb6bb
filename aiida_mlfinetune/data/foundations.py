"""The table of known foundation models, and the only ways by which a model file becomes a node.

A model file is a pickle: reading one runs the code in it. A node is made from a file without opening it if it is one
that the package ships, by its checksum. A file is opened, to read what it is, only if the user asked for it: by
fetching an official model by its name (``data.fetching``), whose checksum is known from then on, or by saying that it
is trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiida import orm

import aiida_mlfinetune
from aiida_mlfinetune.common.errors import ModelError
from aiida_mlfinetune.common.jsonable import plain_json
from aiida_mlfinetune.data.fetching import OFFICIAL, fetched_by_sha256, fetched_file
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.programs.mace_passport import describe_model
from aiida_mlfinetune.science.models.official import OfficialModel
from aiida_mlfinetune.science.models.passport import Passport

FOLDER = Path(aiida_mlfinetune.__file__).parent / "foundations"


@dataclass(frozen=True)
class Foundation:
    """A model that this package knows.

    Attributes:
        name: such as ``ice-xtb``.
        path: of the file in the package.
        passport: what it is; ``passport.levels`` names the level of theory of each head.
        licence: under which the file may be used, as its passport states it.
    """

    name: str
    path: Path
    passport: Passport
    licence: str

    @property
    def elements(self) -> list[str]:
        """Chemical symbols that the model knows."""
        return self.passport.elements


def read_foundations(folder: Path) -> dict[str, Foundation]:
    """Return the foundations of a folder by name: each is ``NAME.model`` and its passport ``NAME.json``.

    Raises:
        ModelError: a passport that is none, or whose model file is missing.
    """
    table = {}
    for path in sorted(folder.glob("*.json")):
        try:
            passport = Passport.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ModelError(f"the passport {path} of a foundation cannot be read: {error}") from error
        model = path.with_suffix(".model")
        if not model.exists():
            raise ModelError(f"the foundation {path.stem!r} has a passport, but no file {model}")
        table[path.stem] = Foundation(path.stem, model, passport, str(passport.settings.get("licence", "")))
    return table


FOUNDATIONS: dict[str, Foundation] = read_foundations(FOLDER)
"""The foundations that the package ships, by name."""


def load_foundation(name: str) -> MaceModelData:
    """Return the stored node of a known foundation; it is made if this profile does not hold it yet.

    Args:
        name: of a foundation that the package ships, or of an official one that was fetched.

    Raises:
        ModelError: no foundation of this name, an official one that was not fetched yet, or a file that is not the one
            that its passport describes, or that was fetched.
    """
    if name in OFFICIAL and name not in FOUNDATIONS:
        path, record = fetched_file(name)
        return _official_node(OFFICIAL[name], path, record.sha256)
    if name not in FOUNDATIONS:
        raise ModelError(
            f"no foundation {name!r} is known: the package ships {sorted(FOUNDATIONS)}, and `aiida-mlfinetune model "
            "list` shows the official ones that can be fetched. Get the file of any other model, "
            "import it with `aiida-mlfinetune model import FILE --trust`, and pass the node as `foundation`"
        )
    foundation = FOUNDATIONS[name]
    return get_or_create(foundation.path.read_bytes(), foundation.passport)


def import_model(
    path: Path | str, *, trust: bool = False, levels: Mapping[str, str] | str | None = None
) -> MaceModelData:
    """Return the stored node of a model file.

    Args:
        path: of the file.
        trust: the user vouches for the file, so that it may be opened to read its passport.
        levels: the level of theory of each head, or of all heads; not needed where a table knows the file.

    Raises:
        ModelError: no such file, one of unknown checksum without ``trust``, or one that holds no MACE model.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"there is no model file {file}")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for foundation in FOUNDATIONS.values():
        if foundation.passport.sha256 == digest:
            return get_or_create(content, foundation.passport)
    if (official := fetched_by_sha256(digest)) is not None:
        return _official_node(official, file, digest, levels)
    if not trust:
        known = stored_models(digest)
        if known:
            return known[0]
        raise ModelError(
            f"{file} has the sha256 {digest}, which is not that of a known foundation, shipped or fetched. Model files "
            "are pickles, and opening one runs the code in it: if you know where this file comes from and trust it, "
            "import it with `aiida-mlfinetune model import FILE --trust`, or import_model(path, trust=True)"
        )
    fields = _described(file)
    return get_or_create(content, Passport.from_dict({**fields, "levels": _by_head(levels, fields["heads"])}))


def _official_node(
    model: OfficialModel, path: Path, digest: str, levels: Mapping[str, str] | str | None = None
) -> MaceModelData:
    """Return the stored node of an official model; its file is opened if there is none yet."""
    if not levels:
        known = [node for node in stored_models(digest) if node.passport.settings.get("foundation") == model.name]
        if known:
            return known[0]
    fields = _described(path)
    by_head = model.levels_of(fields["heads"]) | _by_head(levels, fields["heads"])
    settings = {"foundation": model.name, "source": model.url, "licence": model.licence.name}
    return get_or_create(path.read_bytes(), Passport.from_dict({**fields, "levels": by_head, "settings": settings}))


def _described(path: Path) -> dict[str, Any]:
    """Return what a trusted model file says about itself."""
    try:
        return describe_model(path)
    except Exception as error:  # unpickling a file that is no model raises whatever it likes
        raise ModelError(f"{path} cannot be read as a MACE model: {error}") from error


def _by_head(levels: Mapping[str, str] | str | None, heads: list[str]) -> dict[str, str]:
    return dict.fromkeys(heads, levels) if isinstance(levels, str) else dict(levels or {})


def get_or_create(content: bytes, passport: Passport) -> MaceModelData:
    """Return the stored model with these bytes and this passport, and make it if there is none.

    Raises:
        ModelError: the checksum in the passport is not that of the bytes.
    """
    wanted = plain_json(passport.to_dict())
    for node in stored_models(passport.sha256):
        if plain_json(node.passport.to_dict()) == wanted:
            return node
    model = MaceModelData(content=content, passport=passport)
    model.store()
    return model


def stored_models(sha256: str) -> list[MaceModelData]:
    """Return the models of this profile with a checksum, oldest first."""
    query = orm.QueryBuilder().append(MaceModelData, filters={"attributes.sha256": sha256}, tag="model")
    nodes: list[MaceModelData] = query.order_by({"model": {"id": "asc"}}).all(flat=True)
    return nodes

"""How a model was made, read from the graph."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlfinetune.data.dataset import DatasetData
from aiida_mlfinetune.data.fetching import OFFICIAL
from aiida_mlfinetune.data.foundations import FOUNDATIONS, Foundation, stored_models
from aiida_mlfinetune.data.model import MaceModelData
from aiida_mlfinetune.science.models.history import DatasetRecord, ModelHistory, ProcessRecord
from aiida_mlfinetune.science.models.passport import Passport

__all__ = ("foundation_history", "model_datasets", "model_history")

SETS = ("train", "valid", "test")
SETTINGS = (orm.Dict, orm.List, orm.Str, orm.Int, orm.Float, orm.Bool)
FROM_CHAIN = ("split", "heads")
"""Inputs of the work chain around a training that define the model, and that the job itself does not get."""
OF_THE_FILE = ("foundation", "source", "licence")
"""Settings in a passport that say where a file comes from, and not how it was trained."""


def model_history(node: MaceModelData, *, frame_hashes: bool = False) -> ModelHistory:
    """Return how a model was made, with the models that it was made from.

    Args:
        node: the model.
        frame_hashes: read the frames of its datasets, to tell which of them two datasets share.
    """
    passport = node.passport
    creator = node.creator
    label = f" {node.label}" if node.label else ""
    known = _known_by(passport)
    title = f"Model {node.pk}{label}" + (f" ({known})" if known and known != node.label else "")
    official = OFFICIAL.get(str(passport.settings.get("foundation", "")))
    references = official.references if official is not None else ()
    licence = str(passport.settings.get("licence", "")) or _shipped_licence(passport)
    if creator is None:
        return ModelHistory(
            name=title,
            passport=passport,
            origin=_origin(passport),
            licence=licence,
            settings=_told(passport),
            references=references,
            uuid=str(node.uuid),
        )
    parents = _inputs(creator, MaceModelData) | _baseline(passport)
    return ModelHistory(
        name=title,
        passport=passport,
        origin=f"made by {creator.process_label} ({creator.pk})",
        licence=licence,
        process=_process(creator),
        settings=_settings(creator),
        datasets=tuple(_dataset(role, data, frame_hashes) for role, data in model_datasets(node).items()),
        parents=tuple(
            (role, model_history(parent, frame_hashes=frame_hashes)) for role, parent in sorted(parents.items())
        ),
        references=references,
        uuid=str(node.uuid),
    )


def foundation_history(foundation: Foundation) -> ModelHistory:
    """Return what is known of a foundation that the package ships, without a database."""
    return ModelHistory(
        name=f"Foundation {foundation.name}",
        passport=foundation.passport,
        origin="shipped with aiida-mlfinetune",
        licence=foundation.licence,
        settings=_told(foundation.passport),
    )


def model_datasets(node: MaceModelData) -> dict[str, DatasetData]:
    """Return the datasets that a model was made from, by role; training, validation and test set first."""
    if node.creator is None:
        return {}
    found = _inputs(node.creator, DatasetData)
    order = [*(name for name in SETS if name in found), *sorted(set(found) - set(SETS))]
    return {role: found[role] for role in order}


def _inputs(process: orm.ProcessNode, kind: Any) -> dict[str, Any]:
    links = process.base.links.get_incoming(link_type=(LinkType.INPUT_CALC, LinkType.INPUT_WORK)).all()
    return {link.link_label.replace("__", "."): link.node for link in links if isinstance(link.node, kind)}


def _baseline(passport: Passport) -> dict[str, MaceModelData]:
    """Return the model that this one is a difference from: the chain subtracted it before the job got its frames."""
    baseline = passport.settings.get("baseline") or {}
    nodes = stored_models(str(baseline["sha256"])) if baseline.get("sha256") else []
    return {"baseline": nodes[0]} if nodes else {}


def _known_by(passport: Passport) -> str:
    """Return the name of a foundation that a file is, empty where it is none that is known."""
    for name, foundation in FOUNDATIONS.items():
        if foundation.passport.sha256 == passport.sha256:
            return name
    return str(passport.settings.get("foundation", ""))


def _origin(passport: Passport) -> str:
    if any(foundation.passport.sha256 == passport.sha256 for foundation in FOUNDATIONS.values()):
        return "shipped with aiida-mlfinetune"
    if source := passport.settings.get("source"):
        return f"the official release at {source}"
    return "imported from a file"


def _shipped_licence(passport: Passport) -> str:
    same = [entry.licence for entry in FOUNDATIONS.values() if entry.passport.sha256 == passport.sha256]
    return same[0] if same else ""


def _told(passport: Passport) -> dict[str, Any]:
    """Return what a passport tells about a training that is not in the graph."""
    return {name: value for name, value in passport.settings.items() if name not in OF_THE_FILE}


def _settings(process: orm.ProcessNode) -> dict[str, Any]:
    """Return the values among the inputs of a process, and those of the chain around it that define the model."""
    found = {}
    if process.caller is not None:
        chain = _inputs(process.caller, SETTINGS)
        found = {name: _plain(chain[name]) for name in FROM_CHAIN if name in chain}
    return found | {name: _plain(node) for name, node in sorted(_inputs(process, SETTINGS).items())}


def _plain(node: Any) -> Any:
    if isinstance(node, orm.Dict):
        return node.get_dict()
    return node.get_list() if isinstance(node, orm.List) else node.value


def _process(node: orm.ProcessNode) -> ProcessRecord:
    outcome = "finished" if node.is_finished_ok else f"ended with exit status {node.exit_status}"
    if source := node.base.caching.get_cache_source():
        outcome += f", from the cache of {source}"
    chain, parts = node.caller, []
    while chain is not None:
        parts.append(f"{chain.process_label} <{chain.pk}>, {chain.uuid}")
        chain = chain.caller
    codes = _inputs(node, orm.AbstractCode)
    return ProcessRecord(
        name=str(node.process_label),
        identifier=str(node.pk),
        uuid=str(node.uuid),
        entry_point=node.process_type or "",
        parts_of=tuple(parts),
        versions=_versions(node),
        code=", ".join(code.full_label for code in codes.values()),
        date=node.ctime.date().isoformat(),
        outcome=outcome,
        epochs=_epochs(node),
    )


def _versions(node: orm.ProcessNode) -> dict[str, str]:
    recorded = node.base.attributes.get("version", {})
    names = {"core": "aiida-core", "plugin": "aiida-mlfinetune"}
    found = {names.get(name, name): str(version) for name, version in recorded.items() if version}
    model = next((link.node for link in node.base.links.get_outgoing(MaceModelData, LinkType.CREATE).all()), None)
    if model is not None and model.passport.mace_version:
        found["mace-torch"] = model.passport.mace_version
    return found


def _epochs(node: orm.ProcessNode) -> int | None:
    links = node.base.links.get_outgoing(orm.ArrayData, LinkType.CREATE, "loss_curve").all_nodes()
    if not links or "epoch" not in links[0].get_arraynames():
        return None
    return int(links[0].get_array("epoch").max()) + 1


def _dataset(role: str, node: DatasetData, frame_hashes: bool) -> DatasetRecord:
    creator = node.creator
    return DatasetRecord(
        role=role,
        identifier=str(node.pk),
        uuid=str(node.uuid),
        n_frames=node.n_frames,
        formulas=node.base.attributes.get("formulas"),
        content_hash=node.content_hash,
        levels=node.levels,
        frame_hashes=tuple(node.frames.content_hashes()) if frame_hashes else (),
        made_by="imported" if creator is None else f"{creator.process_label} <{creator.pk}>",
    )
